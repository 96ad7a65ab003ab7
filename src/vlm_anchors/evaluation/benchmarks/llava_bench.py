"""LLaVA-Bench: open questions, judged against GPT-4's answers by a language model.                 arXiv 2304.08485

    score = 100 * mean of the judge's marks for the answer / mean of its marks for the reference

Script: LLaVA eval_gpt_review_bench.py and summarize_gpt_review.py. The judge's rules are not part of this package: give
LLaVA's llava/eval/table/rule.json to `vlm-anchors judge`, which sends nothing without --send.
A review whose first line is not two numbers is unread; the script counts it as marks of -1 and -1, which is reproduced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reading.files import of_split, question_files, read_object, rows, unique
from ..reading.official import in_file_order, json_lines
from ..reading.schema import KEY, WORDS, Kind, Schema, either, list_of
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, pooled

ROW = Schema(question_id=KEY, image=WORDS, text=WORDS, category=WORDS)


@dataclass(frozen=True)
class LlavaBench(Benchmark):
    """LLaVA-Bench (in the wild, COCO); records are scored once they hold a "review"."""

    name = "llava-bench"
    version = "in-the-wild (60 questions), COCO (90)"
    source = "arXiv 2304.08485; github.com/haotian-liu/LLaVA"
    licence = "not confirmed"
    note = "The number depends on the judge, which tables name with its dates. Without reviews there is only the answer file."
    metrics_of = (
        Metric("relative", "higher", "percent", bounded=False),
        Metric("reference_mark", "neither", "points"),
        Metric("mark", "higher", "points"),
    )
    truth = Schema(question_id=KEY)
    protocols = ("llava",)

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """questions.jsonl: question_id, image, text, category; groups are the categories."""
        paths = [p for p in question_files(data) if "question" in p.stem] or question_files(data)[:1]
        found = []
        for path in paths:
            for place, row in rows(path):
                ROW.check(row, place)
                truth = {"question_id": row["question_id"]}
                found.append(Question(str(row["question_id"]), row["image"], row["text"], row["category"], truth))
        return of_split(unique(found, data), split, data)

    def remark_on(self, records: Sequence[Record]) -> str:
        names = sorted({str(record["judge"]) for record in records if "judge" in record})
        days = sorted({str(record["reviewed"])[:10] for record in records if "reviewed" in record})
        when = f", reviews of {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
        return f"judge {' and '.join(names) or 'not recorded'}{when}"

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For eval_gpt_review_bench.py: answers.jsonl as LLaVA writes it, in the order of the questions."""
        return {"answers.jsonl": json_lines(map(answer_of, in_file_order(records)))}

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        missing = [record["id"] for record in records if "review" not in record]
        if missing:
            raise BadData(
                f"Question {missing[0]} and {len(missing) - 1} more have no review. Let a judge read them: "
                f"vlm-anchors judge (see docs/benchmarks.md); `report --answers` writes the answer file without."
            )
        counts = []
        for record in records:
            reference, mark = marks(record["review"])
            counts.append({"n": 1, "reference": reference, "mark": mark, "unread": int(mark == -1)})
        return counts

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        # The script rounds the means to three places, then takes their ratio.
        reference, mark = round(c["reference"] / c["n"], 3), round(c["mark"] / c["n"], 3)
        relative = round(mark / reference * 100, 1) if reference else None
        return {"relative": relative, "reference_mark": round(reference * 10, 1), "mark": round(mark * 10, 1)}


def answer_of(record: Record) -> dict[str, Any]:
    """A line of LLaVA's answer file."""
    return {
        "question_id": record["truth"]["question_id"],
        "prompt": record["question"],
        "text": record["answer"],
        "answer_id": f"{record['id']}-{record.get('method', 'none')}",
        "model_id": record.get("model", ""),
        "metadata": {},
    }


def marks(review: str) -> tuple[float, float]:
    """The two numbers on the first line (parse_score); (-1, -1) where there are none."""
    words = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, mark = (float(word) for word in words)
    except ValueError:
        return -1.0, -1.0
    return reference, mark


def content(question: Record, reference: str, caption: str | Sequence[str], rule: Mapping[str, str]) -> str:
    """What the judge is asked, word for word as the script puts it together."""
    shown = caption if isinstance(caption, str) else "\n".join(caption)
    role = rule["role"]
    return (
        f"[Context]\n{shown}\n\n[Question]\n{question['question']}\n\n"
        f"[{role} 1]\n{reference}\n\n[End of {role} 1]\n\n"
        f"[{role} 2]\n{question['answer']}\n\n[End of {role} 2]\n\n"
        f"[System]\n{rule['prompt']}\n\n"
    )


def requests(records: Sequence[Record], data: Path, rules: Path) -> list[str]:
    """What the judge is asked about each record. `data` holds context.jsonl and answers_gpt4.jsonl; rules: table/rule.json."""
    table = read_object(rules, "LLaVA's rules, an object with a role and a prompt for each category")
    captions = _column(data / "context.jsonl", "image", "caption", either(WORDS, list_of(WORDS, 1)))
    references = _column(data / "answers_gpt4.jsonl", "question_id", "text", WORDS)
    asked = []
    for record in records:
        rule = table.get(f"llava_bench_{record['group']}")
        if not isinstance(rule, dict) or not all(WORDS.fits(rule.get(name)) for name in ("role", "prompt")):
            raise BadData(
                f"{rules} has no rule 'llava_bench_{record['group']}' with a role and a prompt. Give LLaVA's "
                f"llava/eval/table/rule.json."
            )
        if str(record["image"]) not in captions or record["id"] not in references:
            raise BadData(
                f"{data} has no context or reference answer for question {record['id']}. Take all files of one set."
            )
        asked.append(content(record, references[record["id"]], captions[str(record["image"])], rule))
    return asked


def _column(path: Path, key: str, value: str, kind: Kind) -> dict[str, Any]:
    schema = Schema({key: KEY, value: kind})
    return {str(schema.check(row, place)[key]): row[value] for place, row in rows(path)}
