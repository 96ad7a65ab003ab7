"""Runs to tables: numbers with intervals, differences with p-values, the share of unread answers, published figures.

Scores are made here, every time, from these alone. Rows are methods, tables are what may be compared: one
benchmark, data file, model, protocol and judge; groups (splits, sub-tasks) get a table each below the whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import UnknownName
from ...registry import did_you_mean
from .. import published, statistics
from ..benchmarks import BENCHMARKS
from ..benchmarks.base import BadData, Benchmark, Metric, Record, check_records, score
from .notes import left_out, notes_of, said_protocol, said_provenance, said_version
from .runs import Run, benchmark_of, named_once, read_run
from .table import Cell, Row, Table
from .table import as_json as as_json
from .table import from_json as from_json

Key = tuple[str, str]  # method, decoding


def key_of(record: Record) -> Key:
    """What makes a row: the method's SPEC and the decoding's."""
    return record.get("method", "none"), record.get("decoding", "greedy")


def tables(
    paths: Iterable[Path],
    against: str = "none",
    draws: int = statistics.DRAWS,
    groups: bool = True,
    everyone: bool = False,
    metrics: Sequence[str] = (),
    part: Callable[[Run], Run] = lambda run: run,
) -> list[Table]:
    """All tables of some runs.

    Args:
        paths: RUN folders.
        against: The method that others are compared with, or a RUN, on whose answers to the same questions the rows are.
        draws: Of the bootstrap.
        groups: Whether splits and sub-tasks get tables of their own.
        everyone: Shows the published figures of every model, not of the run's alone.
        metrics: Names of those to show, the headline first; all where there are none.
        part: Takes of a RUN what is to be reported.

    Raises:
        UserError: A folder is no RUN, its records cannot be scored, or a name is unknown.
    """
    paths = list(map(Path, paths))
    other = read_run(Path(against), scored=True) if (Path(against) / "run.json").is_file() else None
    if other is not None and any(path.resolve() == other.path.resolve() for path in paths):
        raise BadData(f"{other.path} would be compared with itself. Name another RUN, or a method, with --against.")
    together: dict[tuple[str, ...], list[Run]] = {}
    for path in named_once(paths):
        run = part(read_run(Path(path), scored=True))
        names = ("benchmark", "model", "revision", "protocol", "max_new_tokens", "data_sha256")
        data = (run.info.get(name) for name in names)
        same = (*("" if each is None else str(each) for each in data), run.judge)
        together.setdefault(same, []).append(run)
    made = []
    for runs in together.values():
        made.extend(_tables(runs, other or against, draws, groups, everyone, metrics))
    if other is None:
        _check_against(made, against)
    _check_metrics(made, metrics)
    return made


def _tables(
    runs: Sequence[Run], against: Run | str, draws: int, groups: bool, everyone: bool, metrics: Sequence[str]
) -> list[Table]:
    benchmark, info = benchmark_of(runs[0]), runs[0].info
    records = [record for run in runs for record in run.records]
    if not records:
        raise BadData(f"{runs[0].path} holds no answers to score for {benchmark.name}. Answer some questions first.")
    for seeds in by_key(records).values():
        for each in seeds.values():
            check_records(each, benchmark)
    other = _records_of(against, benchmark, records) if isinstance(against, Run) else []
    names = list(dict.fromkeys(record["group"] for record in records))
    runs_left_out = left_out(sum(run.torn for run in runs), [n for run in runs for n in run.info.get("skipped") or ()])
    wanted = ["", *names] if groups and len(names) > 1 else [""]
    made = []
    drawn: dict[Any, Any] = {}
    asked = _asked(runs)
    for group in wanted:
        here, there = ([one for one in each if not group or one["group"] == group] for each in (records, other))
        rows = rows_of(benchmark, here, by_key(there) if isinstance(against, Run) else against, draws, drawn)
        if not group:
            known = [asked.get((row.method, row.decoding)) for row in rows]
            rows = [
                replace(row, asked=None if many is None else max(many, row.n))
                for row, many in zip(rows, known, strict=True)
            ]
        used = chosen(benchmark, rows, metrics)
        if group or len(names) < 2:  # a mean over one group is the group's own number
            used = tuple(m for m in used if not m.name.startswith("mean_"))
        theirs = published.rows(benchmark.name, group or only_group(names), [m.name for m in used])
        model = str(info.get("model", "?"))
        made.append(
            Table(
                benchmark.name,
                said_version(benchmark, info, len({record["id"] for record in here})),
                group,
                model,
                said_protocol(benchmark.name, info),
                benchmark.remark_on(here),
                against if isinstance(against, str) else said_run(against, model),
                used,
                rows,
                theirs if everyone else published.of_model(theirs, model),
                notes_of(rows, used, benchmark.remark(), [] if group else runs_left_out),
                tuple(dict.fromkeys(filter(None, (said_provenance(run.info) for run in runs)))),
            )
        )
    return made


def _records_of(run: Run, benchmark: Benchmark, records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records to compare with. Raises `BadData` where the run answers other questions."""
    if benchmark_of(run).name != benchmark.name:
        raise BadData(
            f"{run.path} answers {benchmark_of(run).name}, not {benchmark.name}. Compare runs of one benchmark."
        )
    truths = {record["id"]: record["truth"] for record in records}
    shared = [record for record in run.records if record["id"] in truths]
    other = next((record for record in shared if record["truth"] != truths[record["id"]]), None)
    if not shared or other is not None:
        what = f"another question {other['id']!r}" if other else "none of these questions"
        raise BadData(f"{run.path} answers {what}. A comparison needs two runs over the same question files.")
    for seeds in by_key(run.records).values():
        for each in seeds.values():
            check_records(each, benchmark)
    return run.records


def chosen(benchmark: Benchmark, rows: Sequence[Row], names: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics that are defined, or those named, in that order; in the unit that is shown."""
    order = {name: place for place, name in enumerate(names)}
    used = [m for m in benchmark.metrics_of if any(row.cells[m.name].value is not None for row in rows)]
    if names:
        used = sorted((m for m in used if m.name in order), key=lambda m: order[m.name])
    return tuple(replace(m, unit="percent") if m.unit == "fraction" else m for m in used)


def only_group(names: Sequence[str]) -> str:
    """With one group alone, the whole is that group."""
    known = {place[1] for place in published.PLACES.values()}
    return names[0] if len(names) == 1 and names[0] in known else ""


Runs = Mapping[Key, dict[int | None, list[Record]]]


def rows_of(
    benchmark: Benchmark,
    records: Sequence[Record],
    against: Runs | str,
    draws: int,
    drawn: dict[Any, Any] | None = None,
) -> list[Row]:
    """One row a method and decoding, in order of appearance; compared with a method, or with another run's.

    `drawn`: the bootstrap's draws, kept from one table to the next.
    """
    runs = by_key(records)
    known = statistics.Known(drawn={} if drawn is None else drawn)
    made = []
    for key, seeds in runs.items():
        answers = list(seeds.values())
        scores = [score(benchmark, each, statistics.counted(benchmark, each, known).counts) for each in answers]
        means = statistics.average([each.metrics for each in scores])
        ranges, gaps = {}, {}
        if same_questions(seeds):
            ranges = statistics.intervals(benchmark, answers, draws, known=known)
        base = base_of(runs, key, against) if isinstance(against, str) else twin_of(against, key)
        if base is not None:
            gaps = statistics.differences(benchmark, answers, list(base.values()), draws, known=known)
        cells = {m.name: cell_of(m, means[m.name], ranges.get(m.name), gaps.get(m.name)) for m in benchmark.metrics_of}
        n = sum(each.n for each in scores)
        wordless = [each.wordless for each in scores if each.wordless is not None]
        made.append(
            Row(
                *key,
                tuple(seeds),
                n // len(scores),
                sum(each.unread for each in scores) / n,
                mean_seconds(seeds),
                cells,
                wordless=sum(wordless) / n if wordless else None,
                images=len(statistics.counted(benchmark, answers[0], known).clusters),
            )
        )
    return corrected(made)


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with Holm's p of each metric, where a table makes several comparisons."""
    cells = [dict(row.cells) for row in rows]
    for name in cells[0]:
        gaps = [(each, gap) for each in cells if (gap := each[name].difference) is not None and gap.p is not None]
        ps = statistics.holm([gap.p for _, gap in gaps if gap.p is not None])
        for (each, gap), p in zip(gaps, ps, strict=True):
            if len(gaps) > 1:
                each[name] = replace(each[name], difference=replace(gap, holm=p))
    return [replace(row, cells=each) for row, each in zip(rows, cells, strict=True)]


def by_key(records: Sequence[Record]) -> dict[Key, dict[int | None, list[Record]]]:
    """Records by method and decoding, then by seed."""
    found: dict[Key, dict[int | None, list[Record]]] = {}
    for record in records:
        key, seed = key_of(record), record.get("seed")
        seeds = found.get(key)
        if seeds is None:
            seeds = found[key] = {}
        if seed in seeds:
            seeds[seed].append(record)
        else:
            seeds[seed] = [record]
    return found


def twin_of(runs: Runs, key: Key) -> dict[int | None, list[Record]] | None:
    """The other run's answers of the same method and decoding, else its only ones."""
    return runs.get(key) or (next(iter(runs.values())) if len(runs) == 1 else None)


def base_of(runs: Runs, key: Key, against: str) -> dict[int | None, list[Record]] | None:
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
    if len(seeds) == 1:
        return True
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
    undefined = interval.undefined if interval else 0.0
    if gap is not None:
        span = gap.interval
        if span is not None:
            undefined = max(undefined, span.undefined)
            span = replace(span, low=span.low * scale, high=span.high * scale)
        gap = replace(gap, value=gap.value * scale, interval=span)
    value, deviation = (None if each is None else each * scale for each in mean)
    return Cell(value, low, high, deviation, gap, undefined)


def mean_seconds(seeds: Mapping[int | None, Sequence[Record]]) -> float | None:
    """Seconds an answer, where the records tell."""
    known = [record["seconds"] for records in seeds.values() for record in records if record.get("seconds") is not None]
    return sum(known) / len(known) if known else None


def said_run(run: Run, model: str) -> str:
    """What a run is called in a table of another: by its model, or by its folder where that is the same."""
    other = str(run.info.get("model", "?"))
    return other if other != model else run.path.name


def _asked(runs: Sequence[Run]) -> dict[Key, int]:
    """How many questions there were, by method and decoding: as the runs that hold such answers say, else nobody knows."""
    found: dict[Key, int] = {}
    for run in runs:
        if isinstance(questions := run.info.get("questions"), int):
            for key in {key_of(record) for record in run.records}:
                found[key] = max(found.get(key, questions), questions)
    return found


def _check_metrics(made: Sequence[Table], names: Sequence[str]) -> None:
    """Each name is a metric of one of the benchmarks."""
    benchmarks: list[Any] = [BENCHMARKS.get(name).load() for name in {table.benchmark for table in made}]
    known = [metric.name for benchmark in benchmarks for metric in benchmark.metrics_of]
    for name in names:
        if name not in known:
            raise UnknownName(f"No metric {name!r}.{did_you_mean(name, dict.fromkeys(known))}")


def _check_against(made: Sequence[Table], against: str) -> None:
    methods = sorted({row.method for table in made for row in table.rows})
    if against != "none" and against not in methods:
        raise UnknownName(f"No run of the method {against!r} to compare with.{did_you_mean(against, methods)}")
