"""Records to tables: numbers with intervals, differences with p-values, the share of unread answers, published figures.

A run is a folder with run.json and records.jsonl (records.RANK.jsonl of shards are read together), and reviews.jsonl where
a judge was asked. Scores are made here, every time, from these alone. Rows are methods, tables are what may be compared: one
benchmark, data file, model, protocol and judge; groups (splits, sub-tasks) get a table each below the whole.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...durable import read_lines
from ...errors import UnknownName
from ...registry import did_you_mean
from .. import published, statistics
from ..benchmarks import BENCHMARKS
from ..benchmarks.base import BadData, Benchmark, Metric, Record, check_records, score
from ..benchmarks.protocols import protocol, protocols
from ..judging import reviews
from ..published import PublishedRow

Key = tuple[str, str]  # method, decoding


@dataclass(frozen=True)
class Run:
    """A folder of answers: what was run, and the records with their reviews; torn counts half-written last lines left out."""

    path: Path
    info: Mapping[str, Any]
    records: list[dict[str, Any]]
    torn: int = 0

    @property
    def judge(self) -> str:
        """The model that reviewed the answers; empty where none did."""
        return next((str(record["judge"]) for record in self.records if "judge" in record), "")


@dataclass(frozen=True)
class Cell:
    """One number as shown (fractions times 100): mean over seeds, its interval, deviation over seeds, and the difference."""

    value: float | None
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    difference: statistics.Difference | None = None


@dataclass(frozen=True)
class Row:
    """One method under one decoding. unread is a share, 0..1; seconds a mean over answers."""

    method: str
    decoding: str
    seeds: tuple[int | None, ...]
    n: int
    unread: float
    seconds: float | None
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, and what the papers print beside them."""

    benchmark: str
    version: str
    group: str
    model: str
    protocol: str
    remark: str
    against: str
    metrics: tuple[Metric, ...]
    rows: list[Row]
    published: list[PublishedRow] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.benchmark}{' / ' + self.group if self.group else ''} · {self.model}"


def read_run(path: Path) -> Run:
    """A run's folder. A half-written last line (power cut) is dropped; any other broken line is refused."""
    if not (path / "run.json").is_file():
        raise BadData(f"{path} is no run: it has no run.json. Give a folder that `vlm-anchors eval --out` wrote.")
    try:
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise BadData(
            f"{path / 'run.json'} is not valid JSON in line {problem.lineno}: {problem.msg}. Run eval again."
        ) from None
    files = sorted(path.glob("records*.jsonl"))
    if not files:
        raise BadData(f"{path} holds no records.jsonl. Answer some questions first: vlm-anchors eval ... --out {path}")
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    torn = 0
    for file in files:
        rows, dropped = read_lines(file)
        torn += dropped
        for row in rows:
            kept.setdefault(reviews.key_of(row), row)
    return Run(path, info, reviews.beside(list(kept.values()), reviews.read(path)), torn)


def key_of(record: Record) -> Key:
    """What makes a row: the method's SPEC and the decoding's."""
    return record.get("method", "none"), record.get("decoding", "greedy")


def benchmark_of(run: Run) -> Benchmark:
    """The benchmark a run names, as SPEC, with the word lists that lie beside its data."""
    spec = run.info.get("benchmark")
    if not isinstance(spec, str):
        raise BadData(
            f"{run.path / 'run.json'} names no benchmark; found {spec!r}. Expected a SPEC such as chair:lemma=fixed."
        )
    benchmark = BENCHMARKS.build(spec)
    data = run.info.get("data")
    return benchmark.at(Path(data)) if isinstance(data, str) and Path(data).exists() else benchmark


def tables(
    paths: Iterable[Path],
    against: str = "none",
    draws: int = statistics.DRAWS,
    groups: bool = True,
    everyone: bool = False,
) -> list[Table]:
    """All tables of some runs. `everyone` shows the published figures of every model, not of the run's alone."""
    together: dict[tuple[str, ...], list[Run]] = {}
    for path in named_once(paths):
        run = read_run(Path(path))
        names = ("benchmark", "model", "revision", "protocol", "max_new_tokens", "data_sha256")
        data = (run.info.get(name) for name in names)
        same = (*("" if each is None else str(each) for each in data), run.judge)
        together.setdefault(same, []).append(run)
    made = []
    for runs in together.values():
        made.extend(_tables(runs, against, draws, groups, everyone))
    _check_against(made, against)
    return made


def named_once(paths: Iterable[Path]) -> list[Path]:
    """The runs' folders; raises `BadData` where one was named twice, under whatever name."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if (other := found.get(path.resolve())) is not None:
            same = f"{path} was named twice" if other == path else f"{other} and {path} are the same RUN"
            raise BadData(f"Expected different RUNs; {same}, and its answers would count twice. Name it once.")
        found[path.resolve()] = path
    return list(found.values())


def _tables(runs: Sequence[Run], against: str, draws: int, groups: bool, everyone: bool) -> list[Table]:
    benchmark, info = benchmark_of(runs[0]), runs[0].info
    records = [record for run in runs for record in run.records]
    if not records:
        raise BadData(f"{runs[0].path} holds no answers to score for {benchmark.name}. Answer some questions first.")
    torn = sum(run.torn for run in runs)
    names = list(dict.fromkeys(record["group"] for record in records if "group" in record))
    wanted = ["", *names] if groups and len(names) > 1 else [""]
    made = []
    for group in wanted:
        here = [record for record in records if not group or record["group"] == group]
        rows = rows_of(benchmark, here, against, draws)
        used = tuple(m for m in benchmark.metrics_of if any(row.cells[m.name].value is not None for row in rows))
        if group or len(names) < 2:  # a mean over one group is the group's own number
            used = tuple(m for m in used if not m.name.startswith("mean_"))
        theirs = published.rows(benchmark.name, group or only_group(names), [m.name for m in used])
        model = str(info.get("model", "?"))
        made.append(
            Table(
                benchmark.name,
                benchmark.version,
                group,
                model,
                said_protocol(benchmark.name, info),
                benchmark.remark_on(here),
                against,
                used,
                rows,
                theirs if everyone else published.of_model(theirs, model),
                notes_of(rows, torn if not group else 0),
            )
        )
    return made


def only_group(names: Sequence[str]) -> str:
    """With one group alone, the whole is that group."""
    known = {place[1] for place in published.PLACES.values()}
    return names[0] if len(names) == 1 and names[0] in known else ""


def rows_of(benchmark: Benchmark, records: Sequence[Record], against: str, draws: int) -> list[Row]:
    """One row a method and decoding, in order of appearance."""
    runs = by_key(records)
    known: statistics.Known = {}
    made = []
    for key, seeds in runs.items():
        answers = list(seeds.values())
        for each in answers:
            check_records(each, benchmark)
        scores = [score(benchmark, each, statistics.counted(benchmark, each, known)) for each in answers]
        means = statistics.average([each.metrics for each in scores])
        ranges, gaps = {}, {}
        if same_questions(seeds):
            ranges = statistics.intervals(benchmark, answers, draws, known=known)
        if (base := base_of(runs, key, against)) is not None:
            gaps = statistics.differences(benchmark, answers, list(base.values()), draws, known=known)
        cells = {m.name: cell_of(m, means[m.name], ranges.get(m.name), gaps.get(m.name)) for m in benchmark.metrics_of}
        n = sum(each.n for each in scores)
        unread = sum(each.unread for each in scores) / n
        made.append(Row(*key, tuple(seeds), n // len(scores), unread, mean_seconds(seeds), cells))
    return made


def by_key(records: Sequence[Record]) -> dict[Key, dict[int | None, list[Record]]]:
    """Records by method and decoding, then by seed."""
    found: dict[Key, dict[int | None, list[Record]]] = {}
    for record in records:
        found.setdefault(key_of(record), {}).setdefault(record.get("seed"), []).append(record)
    return found


def base_of(
    runs: Mapping[Key, dict[int | None, list[Record]]], key: Key, against: str
) -> dict[int | None, list[Record]] | None:
    """The run to compare with: the asked-for method under the same decoding, else under its only one; not a run with itself."""
    method, decoding = key
    if method == against:
        return None
    if (against, decoding) in runs:
        return runs[(against, decoding)]
    others = [other for other in runs if other[0] == against]
    return runs[others[0]] if len(others) == 1 else None


def same_questions(seeds: Mapping[int | None, Sequence[Record]]) -> bool:
    """Averaging over seeds needs the same questions under each."""
    return len({frozenset(record["id"] for record in records) for records in seeds.values()}) == 1


def cell_of(
    metric: Metric,
    mean: tuple[float | None, float | None],
    interval: statistics.Interval | None,
    gap: statistics.Difference | None,
) -> Cell:
    """A number with what belongs to it, on the scale that is shown."""
    scale = 100 if metric.unit == "fraction" else 1
    low, high = (interval.low * scale, interval.high * scale) if interval else (None, None)
    if gap is not None:
        span = gap.interval and statistics.Interval(gap.interval.low * scale, gap.interval.high * scale)
        gap = statistics.Difference(gap.value * scale, span, gap.p, gap.mcnemar, gap.won, gap.lost, gap.n)
    value, deviation = (None if each is None else each * scale for each in mean)
    return Cell(value, low, high, deviation, gap)


def mean_seconds(seeds: Mapping[int | None, Sequence[Record]]) -> float | None:
    """Seconds an answer, where the records tell."""
    known = [record["seconds"] for records in seeds.values() for record in records if record.get("seconds") is not None]
    return sum(known) / len(known) if known else None


def said_protocol(benchmark: str, info: Mapping[str, Any]) -> str:
    """The protocol in words; its name alone where it is none of ours. Another longest answer than its own is told."""
    name, tokens = info.get("protocol"), info.get("max_new_tokens")
    known = {each.name for each in protocols(benchmark)}
    said = protocol(benchmark, name).describe() if name in known else str(name or "not recorded")
    return said if tokens is None else f"{said}; asked with {tokens} new tokens instead (--max-new-tokens)"


def notes_of(rows: Sequence[Row], torn: int) -> tuple[str, ...]:
    """What a reader must know before comparing the rows."""
    notes = []
    if len({row.n for row in rows}) > 1:
        notes.append("The rows answer different numbers of questions; differences use the questions both answered.")
    if torn:
        notes.append(f"{torn} half-written line(s) at the end of a file were left out; run eval again to answer them.")
    return tuple(notes)


def _check_against(made: Sequence[Table], against: str) -> None:
    methods = sorted({row.method for table in made for row in table.rows})
    if against != "none" and against not in methods:
        raise UnknownName(f"No run of the method {against!r} to compare with.{did_you_mean(against, methods)}")


def as_json(made: Sequence[Table]) -> str:
    """Every number of every table, one JSON document."""
    return json.dumps([asdict(table) for table in made], indent=1, ensure_ascii=False)


def from_json(data: Iterable[Mapping[str, Any]]) -> list[Table]:
    """The tables that `as_json` wrote, from the parsed document."""
    return [
        Table(
            **{
                **table,
                "metrics": tuple(Metric(**metric) for metric in table["metrics"]),
                "rows": [_row(row) for row in table["rows"]],
                "published": [PublishedRow(**{**row, "notes": tuple(row["notes"])}) for row in table["published"]],
                "notes": tuple(table["notes"]),
            }
        )
        for table in data
    ]


def _row(data: Mapping[str, Any]) -> Row:
    cells = {name: Cell(**{**cell, "difference": _gap(cell["difference"])}) for name, cell in data["cells"].items()}
    return Row(**{**data, "seeds": tuple(data["seeds"]), "cells": cells})


def _gap(data: Mapping[str, Any] | None) -> statistics.Difference | None:
    span = data and data["interval"] and statistics.Interval(**data["interval"])
    return statistics.Difference(**{**data, "interval": span}) if data else None
