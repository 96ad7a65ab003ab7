"""LLaVA-Bench: open questions, judged against GPT-4's answers by a language model.                 arXiv 2304.08485

    score = 100 * mean of the judge's marks for the answer / mean of its marks for the reference

Script: LLaVA eval_gpt_review_bench.py and summarize_gpt_review.py. The judge's rules are not part of this package: give
LLaVA's llava/eval/table/rule.json. Nothing is sent anywhere unless `judge` is called with an address and `send=True`.
A review whose first line is not two numbers is unread; the script counts it as marks of -1 and -1, which is reproduced.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, pooled
from .files import need, of_split, question_files, read_json, rows, unique

ROLE = "You are a helpful and precise assistant for checking the quality of the answer."


@dataclass(frozen=True)
class LlavaBench(Benchmark):
    """LLaVA-Bench (in the wild, COCO); records are scored once they hold a "review"."""

    name = "llava-bench"
    version = "in-the-wild (60 questions), COCO (90)"
    source = "arXiv 2304.08485; github.com/haotian-liu/LLaVA"
    licence = "not confirmed"
    note = (
        "The number depends on the judge: name the model and its date. Without reviews only the answer file is written."
    )
    metrics_of = (
        Metric("relative", "higher", "percent"),
        Metric("reference_mark", "neither", "points"),
        Metric("mark", "higher", "points"),
    )
    protocols = ("llava",)

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """questions.jsonl: question_id, image, text, category; groups are the categories."""
        paths = [p for p in question_files(data) if "question" in p.stem] or question_files(data)[:1]
        found = []
        for path in paths:
            for line, row in rows(path):
                need(row, ("question_id", "image", "text", "category"), path, line)
                truth = {"question_id": row["question_id"]}
                found.append(Question(str(row["question_id"]), row["image"], row["text"], row["category"], truth))
        return of_split(unique(found, data), split, data)

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        missing = [record["id"] for record in records if "review" not in record]
        if missing:
            raise BadData(
                f"Question {missing[0]} and {len(missing) - 1} more have no review. LLaVA-Bench is scored by a judge: "
                f"write the answer file and judge it (see docs/benchmarks.md)."
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


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible chat endpoint. The key is read from the environment variable `key_variable`."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    max_tokens: int = 1024
    timeout: float = 120.0

    def ask(self, text: str) -> str:
        """One review."""
        messages = [{"role": "system", "content": ROLE}, {"role": "user", "content": text}]
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return json.load(reply)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, TimeoutError, KeyError, ValueError) as problem:
            raise BadData(
                f"The judge at {self.url} gave no review ({problem}). Check the address, the model name {self.model!r} and "
                f"the key in {self.key_variable}; run again to go on."
            ) from None


def review(
    records: Sequence[Record], data: Path, rules: Path, judge: Judge | Callable[[str], str], send: bool = False
) -> list[dict[str, Any]]:
    """The records with a "review" each. `data` holds context.jsonl and answers_gpt4.jsonl; `send` must be said aloud.

    Questions, answers and captions leave this machine for the judge's address; records reviewed before are not sent again.
    """
    if not send:
        raise BadData(
            "Judging sends questions and answers to another machine and may cost money; say so with send=True."
        )
    ask = judge.ask if isinstance(judge, Judge) else judge
    table = read_json(rules)
    captions = {row["image"]: row["caption"] for _, row in rows(data / "context.jsonl")}
    references = {str(row["question_id"]): row["text"] for _, row in rows(data / "answers_gpt4.jsonl")}
    done = []
    for record in records:
        rule = table.get(f"llava_bench_{record['group']}")
        if rule is None:
            raise BadData(
                f"{rules} has no rule 'llava_bench_{record['group']}'. Give LLaVA's llava/eval/table/rule.json."
            )
        if "review" in record:
            done.append(dict(record))
            continue
        if record["image"] not in captions or record["id"] not in references:
            raise BadData(
                f"{data} has no context or reference answer for question {record['id']}. Take all files of one set."
            )
        text = content(record, references[record["id"]], captions[record["image"]], rule)
        done.append({**record, "review": ask(text)})
    return done


def write_answers(records: Sequence[Record], path: Path) -> None:
    """LLaVA's answer file: question_id, prompt, text, answer_id, model_id, metadata."""
    lines = []
    for record in records:
        row = {
            "question_id": record["truth"]["question_id"],
            "prompt": record["question"],
            "text": record["answer"],
            "answer_id": f"{record['id']}-{record.get('method', 'none')}",
            "model_id": record.get("model", ""),
            "metadata": {},
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
