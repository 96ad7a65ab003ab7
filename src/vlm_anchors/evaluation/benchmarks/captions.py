"""Captions and instruction answers against references: BLEU, METEOR, CIDEr, ROUGE-L, BERTScore.

    BLEU: sacrebleu, corpus level, 0..100      CIDEr, ROUGE-L: pycocoevalcap, mean over captions
    METEOR: version 1.5, corpus level, its matches counted by pycocoevalcap's jar (Denkowski and Lavie 2014)
    BERTScore: bert-score, F1, only where asked for

Captions go through pycocoevalcap's PTB tokenizer (needs Java) for all but BLEU and BERTScore, which have their own.
CIDEr weighs words by how rare they are among these very references: on a handful of captions it means little.
"""

import functools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import MissingPackage, UnknownName
from ..reading.files import of_split, question_files, read_object, read_text, rows, unique
from ..reading.language import install
from ..reading.official import json_array, number_or_text
from ..reading.schema import KEY, NUMBER, OBJECT, TEXT, WORDS, Schema, either, list_of, optional
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, pooled
from .protocols import DESCRIBE

KNOWN = ("bleu", "rouge_l", "cider", "meteor", "bertscore")
REFERENCE_KEYS = ("references", "captions", "caption", "answers", "answer", "response", "text")
QUESTION_KEYS = ("question", "instruction", "prompt")
IMAGE_KEYS = ("image", "image_id", "file_name")
ROW = Schema(
    dict.fromkeys(IMAGE_KEYS, optional(KEY)) | dict.fromkeys(QUESTION_KEYS, optional(WORDS)),
    split=optional(WORDS),
    id=optional(KEY),
    question_id=optional(KEY),
)
REFERENCES = either(WORDS, list_of(WORDS, 1))
TURN = Schema(value=TEXT)
COCO_FILE = Schema(images=list_of(OBJECT), annotations=list_of(OBJECT))
COCO_IMAGE = Schema(id=NUMBER, file_name=WORDS)
COCO_CAPTION = Schema(image_id=NUMBER, caption=WORDS)


@dataclass(frozen=True)
class Captions(Benchmark):
    """Sentence metrics on any caption or instruction file; `metrics` is a list divided by semicolons."""

    metrics: str = "bleu;rouge_l;cider;meteor"

    name = "captions"
    version = "1"
    source = "sacrebleu; github.com/salaniz/pycocoevalcap; arXiv 1904.09675 (BERTScore)"
    licence = "of the data used"
    note = "A row with several conversations counts once for each answer."
    metrics_of = (
        Metric("bleu", "higher", "percent"),
        Metric("rouge_l", "higher"),
        Metric("cider", "higher", "points"),
        Metric("meteor", "higher"),
        Metric("bertscore", "higher"),
    )
    truth = Schema(references=list_of(TEXT, 1))
    protocols = ("as-asked", "describe")

    def __post_init__(self):
        for name in self.wanted:
            if name not in KNOWN:
                raise UnknownName(f"captions has no metric {name!r}. Known: {', '.join(KNOWN)}.")

    @property
    def wanted(self) -> list[str]:
        return [name.strip() for name in self.metrics.split(";") if name.strip()]

    def remark(self) -> str:
        return f"metrics {self.metrics}"

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """COCO captions, LLaVA conversations, or rows with image and caption, captions, answer or references."""
        found: list[Question] = []
        for path in question_files(data):
            found.extend(
                _coco(path) if _is_coco(path) else [q for place, row in rows(path) for q in _row(row, path, place)]
            )
        return of_split(unique(found, data), split, data)

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For COCO's caption evaluation: captions_results.json, [{"image_id", "caption"}]."""
        rows_ = ({"image_id": number_or_text(r["id"]), "caption": r["answer"]} for r in records)
        return {"captions_results.json": json_array(rows_)}

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        counts: list[Counts] = [{"n": 1, "unread": int(not record["answer"].strip())} for record in records]
        answers = [record["answer"] for record in records]
        references = [list(record["truth"]["references"]) for record in records]
        tokenized = None
        for name in self.wanted:
            if name in ("rouge_l", "cider", "meteor") and tokenized is None:
                tokenized = tokenize(answers, references)
            found = self._found(name, answers, references, tokenized)
            for each, more in zip(counts, found, strict=True):
                each.update(more)
        return counts

    def _found(self, name: str, answers: list[str], references: list[list[str]], tokenized: Any) -> list[Counts]:
        if name == "bleu":
            return bleu_counts(answers, references)
        if name == "meteor":
            return meteor_counts(*tokenized)
        values = bertscore(answers, references) if name == "bertscore" else coco_metric(name, *tokenized)
        return [{name: value} for value in values]

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        metrics: Metrics = {name: c[name] / c["n"] if name in c else None for name in KNOWN}
        metrics["bleu"] = bleu_of(c) if "bleu" in self.wanted else None
        metrics["meteor"] = meteor_of(c) if "meteor" in self.wanted else None
        return metrics


def _row(row: Mapping[str, Any], path: Path, place: str) -> list[Question]:
    """The questions of one row: one, or one for each answer of a conversation."""
    ROW.check(row, place)
    image = next((str(row[key]) for key in IMAGE_KEYS if row.get(key) is not None), None)
    group = row.get("split") or path.stem
    key = next((row[name] for name in ("id", "question_id") if row.get(name) is not None), _number_of(place))
    if "conversations" in row:
        return _conversation(row["conversations"], str(key), image, group, place)
    name = next((each for each in REFERENCE_KEYS if each in row), None)
    if name is None:
        found = ", ".join(map(repr, row))
        raise BadData(f"{place}: expected one of {', '.join(REFERENCE_KEYS)}; found {found}.")
    value = Schema({name: REFERENCES}).check(row, place)[name]
    text = next((row[each] for each in QUESTION_KEYS if row.get(each)), DESCRIBE)
    return [
        Question(f"{group}/{key}", image, text, group, {"references": value if isinstance(value, list) else [value]})
    ]


def _number_of(place: str) -> str:
    """The number of a line or entry, where a row has no id."""
    return place.rpartition(" ")[2]


def _conversation(turns: Any, key: str, image: str | None, group: str, place: str) -> list[Question]:
    """LLaVA's instruction format: human and gpt in turn; each pair is a question of its own, without what was said before."""
    if not list_of(OBJECT, 2).fits(turns):
        raise BadData(
            f"{place}: expected {list_of(OBJECT, 2).words} in the field 'conversations'; found {str(turns)[:40]}."
        )
    found = []
    for number in range(0, len(turns) - 1, 2):
        asked, said = (TURN.check(turn, place, "conversations.")["value"] for turn in turns[number : number + 2])
        asked = asked.replace("<image>", "").strip()
        if not asked or not said.strip():
            raise BadData(
                f"{place}: turn {number + (2 if asked else 1)} of 'conversations' is empty. Remove it or fill it."
            )
        found.append(Question(f"{group}/{key}/{number // 2}", image, asked, group, {"references": [said]}))
    return found


def _is_coco(path: Path) -> bool:
    text = read_text(path).lstrip()
    return text.startswith("{") and '"annotations"' in text and '"images"' in text


def _coco(path: Path) -> list[Question]:
    """captions_val2014.json: five captions an image."""
    whole = COCO_FILE.check(read_object(path, "COCO's captions"), str(path))
    names: dict[int, str] = {}
    for number, image in enumerate(whole["images"], 1):
        COCO_IMAGE.check(image, f"{path}, image {number}")
        names[image["id"]] = image["file_name"]
    captions: dict[int, list[str]] = {}
    for number, note in enumerate(whole["annotations"], 1):
        place = f"{path}, annotation {number}"
        if COCO_CAPTION.check(note, place)["image_id"] not in names:
            raise BadData(f"{place}: no image has the id {note['image_id']}. Is the file cut or edited?")
        captions.setdefault(note["image_id"], []).append(note["caption"])
    return [Question(str(key), names[key], DESCRIBE, path.stem, {"references": all_}) for key, all_ in captions.items()]


def bleu_counts(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Counts]:
    """sacrebleu's matches, totals and lengths of each caption: sums of them give the corpus score."""
    metric = _sacrebleu().BLEU(effective_order=True)
    counts = []
    for answer, wanted in zip(answers, references, strict=True):
        found = metric.sentence_score(answer, list(wanted))
        each: Counts = {"answer_length": found.sys_len, "reference_length": found.ref_len}
        each |= {f"match{i}": value for i, value in enumerate(found.counts)}
        each |= {f"total{i}": value for i, value in enumerate(found.totals)}
        counts.append(each)
    return counts


def bleu_of(sums: Mapping[str, float]) -> float:
    """The corpus BLEU-4 of summed counts, smoothed as sacrebleu does by default."""
    match = [int(sums[f"match{i}"]) for i in range(4)]
    total = [int(sums[f"total{i}"]) for i in range(4)]
    lengths = {"sys_len": int(sums["answer_length"]), "ref_len": int(sums["reference_length"])}
    return _sacrebleu().BLEU.compute_bleu(match, total, **lengths, smooth_method="exp").score


@functools.cache
def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise install("sacrebleu", "BLEU") from None
    return sacrebleu


Tokenized = tuple[dict[int, list[str]], dict[int, list[str]]]
LINE_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
LAST = "endofcaptions"


def one_line(text: str) -> str:
    """The text with a blank for every line break that Python or Java knows, and a "?" for half of a surrogate pair.

    The tokenizer takes a caption a line and joins its output to the captions by line number: a break that only Java
    sees shifts every later caption by one, in silence. Java is given UTF-8, which holds no half of a pair.
    """
    return LINE_BREAK.sub(" ", text).encode("utf-8", "replace").decode("utf-8")


def tokenize(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Tokenized:
    """(references, answers) by number, through pycocoevalcap's PTB tokenizer."""
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError:
        raise install("pycocoevalcap", "CIDEr, ROUGE-L or METEOR") from None
    if shutil.which("java") is None:
        raise MissingPackage(
            "CIDEr, ROUGE-L and METEOR need Java for their tokenizer. Install a Java runtime, or metrics=bleu."
        )
    tokenizer = PTBTokenizer()
    return _lines_kept(tokenizer, references), _lines_kept(tokenizer, [[answer] for answer in answers])


def _lines_kept(tokenizer: Any, texts: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    """The tokenized texts by number. A last line that does not come back last shows that lines were shifted."""
    rows = {i: [{"caption": one_line(each)} for each in many] for i, many in enumerate(texts)}
    found = tokenizer.tokenize({**rows, -1: [{"caption": LAST}]})
    if found.pop(-1, None) != [LAST]:
        raise BadData(
            "The PTB tokenizer returned another number of lines than it was given captions. Expected a line a caption; "
            "look for control characters in the answers and references, and remove them."
        )
    return found


def coco_metric(name: str, references: dict[int, list[str]], answers: dict[int, list[str]]) -> list[float]:
    """One pycocoevalcap score a caption."""
    if name == "rouge_l":
        from pycocoevalcap.rouge.rouge import Rouge as Scorer
    else:
        from pycocoevalcap.cider.cider import Cider as Scorer
    _, each = Scorer().compute_score(references, answers)
    return [float(value) for value in each]


def meteor_counts(references: dict[int, list[str]], answers: dict[int, list[str]]) -> list[Counts]:
    """What METEOR's jar counts in each caption, 23 numbers; their sums give the corpus score."""
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    # Its own compute_score adds these up in Java; the bootstrap needs the parts.
    return [meteor_line(meteor._stat(answers[key][0], references[key])) for key in references]


def meteor_line(line: str) -> Counts:
    """The jar's 23 numbers by place. A caption that is its reference is no fragment: its one chunk does not count."""
    numbers = [float(value) for value in line.split()]
    if numbers[20] == 1 and numbers[21] == numbers[0] and numbers[22] == numbers[1]:
        numbers[20] = 0.0
    return {f"meteor{i}": value for i, value in enumerate(numbers)}


def meteor_of(sums: Mapping[str, float]) -> float:
    """METEOR 1.5 of summed counts, with its parameters for English: F (1 - gamma frag^beta)."""
    alpha, beta, gamma, delta, weights = 0.85, 0.2, 0.6, 0.75, (1.0, 0.6, 0.8, 0.6)
    c = [sums[f"meteor{i}"] for i in range(23)]
    shares = []
    for side in (0, 1):  # the answer's words, then the reference's
        content, function = c[side] - c[side + 2], c[side + 2]
        matched = sum(
            w * (delta * c[4 + 4 * i + side] + (1 - delta) * c[6 + 4 * i + side]) for i, w in enumerate(weights)
        )
        length = delta * content + (1 - delta) * function
        shares.append(matched / length if length else 0.0)
    precision, recall = shares
    if not precision or not recall:
        return 0.0
    fragments = c[20] / ((c[21] + c[22]) / 2)
    return precision * recall / (alpha * precision + (1 - alpha) * recall) * (1 - gamma * fragments**beta)


def bertscore(answers: Sequence[str], references: Sequence[list[str]]) -> list[float]:
    """F1 of bert-score, best reference, English model."""
    try:
        from bert_score import score
    except ImportError:
        raise MissingPackage(
            "BERTScore needs bert-score, which is not installed. Run: pip install bert-score"
        ) from None
    return score(list(answers), list(references), lang="en")[2].tolist()
