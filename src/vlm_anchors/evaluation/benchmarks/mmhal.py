"""MMHal-Bench: 96 open questions of eight types, each answer rated by a language model.                arXiv 2309.14525

    score = mean rating, 0 to 6     hallucination = answers rated below 3 / answers

Script: eval_gpt4.py beside the data. The judge's prompt is not part of this package: give it as a text file with four {}
(image contents, question, human answer, model answer) to `vlm-anchors judge --rules`, which sends nothing without --send.
The judge sees that text alone, as the user's message, at temperature 0. A rating is "rating: " and a digit from 0 to 6,
case aside; a review with none or with several different ones is rated 0 by the script, and is unread here too. The
script's averages by type assume the file's order of questions; here types are read from the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..reading.files import of_split, question_files, read_text, rows, unique
from ..reading.official import in_file_order, json_array
from ..reading.schema import KEY, TEXT, WORDS, Schema, list_of, optional
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, pooled, ratio

ROW = Schema(
    question_type=WORDS,
    question_topic=optional(TEXT),
    image_id=optional(KEY),
    image_src=WORDS,
    image_content=list_of(TEXT),
    question=WORDS,
    gt_answer=TEXT,
)
JUDGE = {"role": "", "temperature": 0.0, "max_tokens": None}
"""How the script asks its judge."""
GOOD = 3  # ratings from here on are no hallucination


@dataclass(frozen=True)
class Mmhal(Benchmark):
    """MMHal-Bench; records are scored once they hold a "review"."""

    name = "mmhal"
    version = "2023-09 (96 questions)"
    source = "arXiv 2309.14525; huggingface.co/datasets/Shengcao1006/MMHal-Bench"
    licence = "said to be Apache-2.0, not confirmed"
    note = "The number depends on the judge, which tables name with its dates. Without reviews there is only the answer file."
    metrics_of = (Metric("score", "higher", "points"), Metric("hallucination", "lower"))
    truth = Schema(gt_answer=TEXT, image_content=list_of(TEXT))
    protocols = ("as-asked",)

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """response_template.json: question_type, question_topic, image_src, image_content, question, gt_answer."""
        path = question_files(data)[0]
        found = []
        for number, (place, row) in enumerate(rows(path)):
            ROW.check(row, place)
            try:
                name = PurePosixPath(unquote(urlsplit(row["image_src"]).path)).name
            except ValueError:  # an address with an unclosed bracket
                name = ""
            if not name:
                raise BadData(f"{place}: expected an address or name that ends with an image's name as 'image_src'.")
            truth = {key: row[key] for key in (*ROW.fields,) if key in row and key != "question"}
            found.append(Question(str(number), name, row["question"], row["question_type"], truth))
        return of_split(unique(found, data), split, data)

    def remark_on(self, records: Sequence[Record]) -> str:
        names = sorted({str(record["judge"]) for record in records if "judge" in record})
        return f"judge {' and '.join(names) or 'not recorded'}"

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For eval_gpt4.py: response.json, the template's fields with `model_answer`, in the order of the questions."""
        return {
            "response.json": json_array(
                {**r["truth"], "question": r["question"], "model_answer": r["answer"]} for r in in_file_order(records)
            )
        }

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        missing = [record["id"] for record in records if "review" not in record]
        if missing:
            raise BadData(
                f"Question {missing[0]} and {len(missing) - 1} more have no review. Let a judge read them: "
                f"vlm-anchors judge (see docs/benchmarks.md); `report --answers` writes the answer file without."
            )
        ratings = [rating(record["review"]) for record in records]
        return [
            {"n": 1, "rating": each or 0, "hallucinated": int((each or 0) < GOOD), "unread": int(each is None)}
            for each in ratings
        ]

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        return {"score": ratio(c["rating"], c["n"]), "hallucination": ratio(c["hallucinated"], c["n"])}


def rating(review: str) -> int | None:
    """The one rating a review names; None where it names none or several."""
    found = [number for number in range(7) if f"rating: {number}" in review.lower()]
    return found[0] if len(found) == 1 else None


def requests(records: Sequence[Record], template: Path) -> list[str]:
    """What the judge is asked about each record.

    Args:
        records: With answers, and the truth that `questions` gave them.
        template: A text file with four {}: image contents, question, human answer, model answer.

    Raises:
        BadData: The file has another number of {}.
    """
    pieces = read_text(template).split("{}")
    if len(pieces) != 5:
        raise BadData(
            f"{template}: expected the judge's prompt with four {{}} (image contents, question, human answer, model answer); "
            f"found {len(pieces) - 1}."
        )
    asked = []
    for record in records:
        truth = record["truth"]
        values = (", ".join(truth["image_content"]), record["question"], truth["gt_answer"], record["answer"], "")
        asked.append("".join(piece + value for piece, value in zip(pieces, values, strict=True)))
    return asked
