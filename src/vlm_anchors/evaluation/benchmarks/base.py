"""What a benchmark is: questions, how answers are read, and scores that are sums over records.

A scorer turns every record into a few counts; a score is a formula over the sums of those counts. So the same code gives
the published number (sum over all), the bootstrap (sum over resampled images) and the paired test (one count a record).
"""

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from ...errors import BadData, BadParameter, UnknownName
from ...registry import did_you_mean
from ..reading.schema import KEY, NO_FIELDS, OBJECT, TEXT, WORDS, Schema, nullable

Record: TypeAlias = Mapping[str, Any]
Counts: TypeAlias = dict[str, float]
Metrics: TypeAlias = dict[str, float | None]

NEEDED = ("id", "image", "group", "truth", "answer")
RECORD = Schema(id=KEY, image=nullable(TEXT), group=WORDS, truth=OBJECT, answer=TEXT)


@dataclass(frozen=True)
class Question:
    """One question as its file has it, before any protocol adds words to it.

    Args:
        id: Unique in the benchmark.
        image: The name the data uses, None where there is none.
        group: Split or sub-task, the rows of a table.
        truth: What the scorer needs to judge an answer; it can be written as JSON.
    """

    id: str
    image: str | None
    text: str
    group: str
    truth: Mapping[str, Any]

    def record(self, answer: str, **more: Any) -> dict[str, Any]:
        """The line of records.jsonl a scorer can work from alone."""
        return {
            "id": self.id,
            "image": self.image,
            "question": self.text,
            "group": self.group,
            "truth": dict(self.truth),
            "answer": answer,
            **more,
        }


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark.

    Args:
        unit: "fraction" is 0..1 and shown times 100; "percent" and "points" are shown as they are.
        bounded: a fraction or percent lies between 0 and 1, or 100.
    """

    name: str
    better: Literal["higher", "lower", "neither"]
    unit: Literal["fraction", "percent", "points"] = "fraction"
    bounded: bool = True

    @property
    def limits(self) -> tuple[float, float] | None:
        """The smallest and the largest value there can be; None where there are none."""
        if not self.bounded or self.unit == "points":
            return None
        return 0.0, 100.0 if self.unit == "percent" else 1.0

    def shown(self, value: float | None) -> float | None:
        """The value as tables show it."""
        return value if value is None or self.unit != "fraction" else 100 * value


@dataclass(frozen=True)
class Score:
    """Numbers on the scale of the official script. None: undefined, the official script divides by zero there.

    wordless: answers without a yes or no word, where the dialect reads every answer; None where it does not.
    """

    metrics: Metrics
    n: int
    unread: int
    parts: Mapping[str, "Score"] = field(default_factory=dict)
    note: str = ""
    wordless: int | None = None


class Benchmark(ABC):
    """One benchmark; its parameters (dialect, word list) are the fields of a frozen dataclass.

    Args:
        name, version, source, licence, note: Shown in the catalogue.
        metrics_of: Every number it reports, the first is the headline.
        protocols: Names in `protocols.py`, the first is the default.
        yes_no: Its records hold the yes and no logits.
        truth: The fields that scoring needs in the truth of a record.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]
    note: ClassVar[str]
    metrics_of: ClassVar[tuple[Metric, ...]]
    protocols: ClassVar[tuple[str, ...]] = ("as-asked",)
    yes_no: ClassVar[bool] = False
    truth: ClassVar[Schema] = NO_FIELDS

    @abstractmethod
    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """Every question of a file or folder in the official layout; `split` keeps the groups that contain the word."""

    @abstractmethod
    def counts(self, records: Sequence[Record]) -> list[Counts]:
        """One dictionary of counts a record, in order. "right" (0..1) and "unread" (0 or 1) mean the same everywhere."""

    @abstractmethod
    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        """The metrics, from the summed counts of each group."""

    def at(self, data: Path) -> "Benchmark":
        """The benchmark with word lists that lie beside the data taken as its parameters; itself where it needs none."""
        return self

    def spec(self) -> str:
        """The SPEC that builds it again, parameters that differ from their defaults: for run.json, after `at`."""
        fields = [field for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]  # type: ignore[arg-type]
        parameters = [f"{field.name}={_written(getattr(self, field.name))}" for field in fields]
        return self.name + (":" + ",".join(parameters) if parameters else "")

    def truth_of(self, group: str) -> Schema:
        """The fields of the truth of a record in a group."""
        return self.truth

    def cluster(self, record: Record) -> str:
        """What is resampled as one by the bootstrap: the image, or the question where there is none."""
        return str(record["image"] or record["id"])

    def remark(self) -> str:
        """The dialect or variant, printed beside every number."""
        return ""

    def remark_on(self, records: Sequence[Record]) -> str:
        """The remark, with what only the records know (who judged them)."""
        return self.remark()

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """File name -> text, as the official scorer or server takes one method's answers; pure. `BadData` without a format."""
        raise BadData(
            f"{self.name} has no official format for answers. They stand in records.jsonl, one a line, as 'answer'."
        )

    def score(self, records: Iterable[Record]) -> Score:
        """A pure function of the records: nothing is read, sampled or remembered."""
        return score(self, list(records))


def _written(value: Any) -> str:
    """A parameter's value as a SPEC has it."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if "," in text:
        raise BadParameter(
            f"{text!r} cannot be written in a SPEC, where commas divide parameters. Use a path without a comma."
        )
    return text


def one_of(benchmark: Benchmark, parameter: str, known: Iterable[str]) -> None:
    """Refuses a parameter that is none of the words there are."""
    value, names = getattr(benchmark, parameter), list(known)
    if value not in names:
        raise UnknownName(f"{benchmark.name} has no {parameter} {value!r}.{did_you_mean(str(value), names)}")


def switch(benchmark: Benchmark, parameter: str) -> None:
    """Refuses a parameter that is neither true nor false."""
    value = getattr(benchmark, parameter)
    if not isinstance(value, bool):
        raise BadParameter(f"{parameter} of {benchmark.name} must be true or false; found {value!r}.")


def score(benchmark: Benchmark, records: Sequence[Record], counts: Sequence[Counts] | None = None) -> Score:
    """All numbers of a benchmark over one method's records, whole and by group.

    `counts`: where they are known already, of records that were checked.
    """
    if counts is None:
        check_records(records, benchmark)
        counts = benchmark.counts(records)
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(record["group"], []).append(index)
    sums = {group: total([counts[i] for i in rows]) for group, rows in groups.items()}
    parts = {}
    if len(groups) > 1:
        parts = {group: _one(benchmark, {group: sums[group]}, len(rows)) for group, rows in groups.items()}
    whole = _one(benchmark, sums, len(records))
    return replace(whole, parts=parts, note=benchmark.remark_on(records))


def _one(benchmark: Benchmark, sums: Mapping[str, Counts], n: int) -> Score:
    unread = sum(int(counts.get("unread", 0)) for counts in sums.values())
    known = [int(counts["wordless"]) for counts in sums.values() if "wordless" in counts]
    return Score(benchmark.formulas(sums), n, unread, note=benchmark.remark(), wordless=sum(known) if known else None)


def total(counts: Iterable[Mapping[str, float]]) -> Counts:
    """Sum of counts, key by key."""
    sums: Counts = {}
    for each, times in _with_times(list(counts)):
        for key, value in each.items():
            sums[key] = sums.get(key, 0) + value * times
    return sums


def _with_times(counts: Sequence[Mapping[str, float]]) -> Iterable[tuple[Mapping[str, float], int]]:
    """Counts that are one object together, where all are whole numbers, whose sums do not depend on the order."""
    kinds = {id(each): each for each in counts}
    if len(kinds) < len(counts) and all(isinstance(value, int) for each in kinds.values() for value in each.values()):
        times = Counter(map(id, counts))
        return [(each, times[key]) for key, each in kinds.items()]
    return [(each, 1) for each in counts]


def pooled(parts: Mapping[str, Mapping[str, float]]) -> Counts:
    """The counts of all groups together."""
    return total(parts.values())


def ratio(above: float, below: float) -> float | None:
    """A quotient, None where it is undefined."""
    return above / below if below else None


def check_records(records: Sequence[Record], benchmark: Benchmark, needed: Sequence[str] = NEEDED) -> None:
    """Raises `BadData` where records cannot be scored: none, a field missing or of another kind, an id twice."""
    name = benchmark.name
    if not records:
        raise BadData(f"There are no answers to score for {name}; answer some questions first.")
    usual = needed is NEEDED
    truths: set[tuple[str, int]] = set()  # checked already, with their groups: equal truths are often one object
    for line, record in enumerate(records, 1):
        if usual and _is_plain(record) and (record["group"], id(record.get("truth"))) in truths:
            continue
        missing = [key for key in needed if key not in record]
        if missing:
            raise BadData(
                f"Record {line} of {name} has no {' and no '.join(map(repr, missing))}; a record needs {', '.join(needed)}."
            )
        place = f"Record {line} of {name}"
        RECORD.check(record, place)
        benchmark.truth_of(record["group"]).check(record["truth"], f"{place} ({record['id']!r})", "truth.")
        truths.add((record["group"], id(record["truth"])))
    if len({record["id"] for record in records}) == len(records):
        return
    again = [key for key, times in Counter(record["id"] for record in records).items() if times > 1]
    if again:
        raise BadData(
            f"The id {again[0]!r} was answered twice in {name}; score one method, decoding and seed at a time."
        )


def _is_plain(record: Record) -> bool:
    """Whether the fields of `RECORD` but the truth hold what nearly every record's do, seen at a glance."""
    key, image, group = record.get("id"), record.get("image", 0), record.get("group")
    return (
        type(key) is str
        and bool(key.strip())
        and type(group) is str
        and (image is None or type(image) is str)
        and type(record.get("answer")) is str
    )
