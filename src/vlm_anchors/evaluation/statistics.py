"""How sure a number is: bootstrap by image, paired differences, McNemar's exact test, several seeds.

Questions about one image are not independent, so images are drawn, not questions (Efron 1979; clusters as in Davison and
Hinkley 1997, 3.8). Scores are formulas over sums of counts (benchmarks/base.py): one draw is one weighted sum.

McNemar 1947, exact: of the questions two runs disagree on, p = P(at least as uneven a split | a fair coin). It takes
questions as independent; the bootstrap's p does not. Both are shown.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..errors import BadSetting
from .benchmarks.base import BadData, Benchmark, Counts, Metrics, Record

if TYPE_CHECKING:
    import numpy as np

DRAWS = 1000
LEVEL = 0.95
CHUNK = 100  # draws held in memory at once


@dataclass(frozen=True)
class Interval:
    """Where the middle `LEVEL` of the draws lies."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """This run minus the other, on the questions both answered.

    p: two-sided, from the bootstrap by image. mcnemar: exact, where every answer is plainly right or wrong and each
    run has one seed; won and lost are the questions only this run, or only the other, got right.
    """

    value: float
    interval: Interval | None
    p: float | None
    mcnemar: float | None
    won: int
    lost: int
    n: int


class Tally:
    """Counts by cluster, group and key, averaged over seeds; clusters are kept in a given order."""

    def __init__(
        self,
        benchmark: Benchmark,
        runs: Sequence[Sequence[Record]],
        clusters: Sequence[str],
        known: "Known | None" = None,
    ):
        import numpy as np

        self.benchmark = benchmark
        place = {cluster: i for i, cluster in enumerate(clusters)}
        cells: dict[tuple[str, str], np.ndarray] = {}
        self.right: dict[str, float] = {}
        for records in runs:
            for record, counts in zip(records, counted(benchmark, records, known), strict=True):
                row = place[benchmark.cluster(record)]
                self.right[record["id"]] = (
                    self.right.get(record["id"], 0.0) + counts["right"] if "right" in counts else math.nan
                )
                for key, value in counts.items():
                    cell = (record["group"], key)
                    if cell not in cells:
                        cells[cell] = np.zeros(len(clusters))
                    cells[cell][row] += value / len(runs)
        self.cells = list(cells)
        self.table = np.stack([cells[cell] for cell in self.cells], axis=1)

    def metrics(self, sums: "np.ndarray") -> Metrics | None:
        """The formulas over one draw's sums; None where nothing was drawn."""
        parts: dict[str, dict[str, float]] = {}
        for (group, key), value in zip(self.cells, sums.tolist(), strict=True):
            parts.setdefault(group, {})[key] = value
        parts = {group: counts for group, counts in parts.items() if counts.get("n", counts.get("responses", 1)) > 0}
        return self.benchmark.formulas(parts) if parts else None


Known: TypeAlias = dict[int, tuple[Sequence[Record], list[Counts]]]


def counted(benchmark: Benchmark, records: Sequence[Record], known: Known | None) -> list[Counts]:
    """The counts of a list of records, made once a list where `known` is kept: some take a minute of Java."""
    if known is None:
        return benchmark.counts(records)
    if id(records) not in known:
        known[id(records)] = records, benchmark.counts(records)  # the list is held, so that its id stays its own
    return known[id(records)][1]


def clusters_of(benchmark: Benchmark, records: Sequence[Record]) -> list[str]:
    """Every cluster once, in order of first appearance."""
    return list(dict.fromkeys(benchmark.cluster(record) for record in records))


def draws_of(clusters: int, draws: int, seed: int) -> Iterator["np.ndarray"]:
    """How often each cluster is drawn, CHUNK draws at a time; the same for the same seed."""
    import numpy as np

    random = np.random.default_rng(seed)
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        yield random.multinomial(clusters, np.full(clusters, 1 / clusters), size=size).astype(float)


def intervals(
    benchmark: Benchmark,
    runs: Sequence[Sequence[Record]],
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    known: Known | None = None,
) -> dict[str, Interval | None]:
    """An interval for every metric. `runs` holds one list of records a seed, over the same questions."""
    check(draws, level)
    clusters = clusters_of(benchmark, runs[0])
    tally = Tally(benchmark, runs, clusters, known)
    found: dict[str, list[float]] = {metric.name: [] for metric in benchmark.metrics_of}
    for weights in draws_of(len(clusters), draws, seed):
        for sums in weights @ tally.table:
            for name, value in (tally.metrics(sums) or {}).items():
                if value is not None:
                    found[name].append(value)
    return {name: middle(values, level) if len(clusters) > 1 else None for name, values in found.items()}


def difference(
    benchmark: Benchmark,
    runs: Sequence[Sequence[Record]],
    others: Sequence[Sequence[Record]],
    metric: str,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference | None:
    """`runs` minus `others` in one metric, on the questions all of them answered; None where they share none."""
    return differences(benchmark, runs, others, draws, level, seed).get(metric)


def differences(
    benchmark: Benchmark,
    runs: Sequence[Sequence[Record]],
    others: Sequence[Sequence[Record]],
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    known: Known | None = None,
) -> dict[str, Difference]:
    """Every metric that both sides define, from the same draws."""
    check(draws, level)
    runs, others = shared([*runs, *others], len(runs))
    if not runs[0]:
        return {}
    clusters = clusters_of(benchmark, runs[0])
    here, there = Tally(benchmark, runs, clusters, known), Tally(benchmark, others, clusters, known)
    values = _gaps(here.metrics(here.table.sum(0)), there.metrics(there.table.sum(0)))
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for weights in draws_of(len(clusters), draws, seed) if len(clusters) > 1 else ():
        for one, two in zip(weights @ here.table, weights @ there.table, strict=True):
            for name, gap in _gaps(here.metrics(one), there.metrics(two)).items():
                drawn.setdefault(name, []).append(gap)
    won, lost, plain = _disagreements(here, there, len(runs) == len(others) == 1)
    test, n = mcnemar(won, lost) if plain else None, len(runs[0])
    return {
        name: Difference(value, middle(drawn[name], level), sign_p(drawn[name]), test, won, lost, n)
        for name, value in values.items()
    }


def shared(runs: Sequence[Sequence[Record]], first: int) -> tuple[list[Sequence[Record]], list[Sequence[Record]]]:
    """The records of the questions that every run answered, in the order of the first; split after `first` runs."""
    common = set.intersection(*({record["id"] for record in records} for records in runs))
    order = [record["id"] for record in runs[0] if record["id"] in common]
    kept: list[Sequence[Record]] = []
    for records in runs:
        by_id = {record["id"]: record for record in records}
        if len(by_id) < len(records):
            raise BadData("A question was answered twice in one run; compare one method, decoding and seed at a time.")
        same = order == [record["id"] for record in records]
        kept.append(records if same else [by_id[key] for key in order])
    return kept[:first], kept[first:]


def _gaps(one: Metrics | None, two: Metrics | None) -> dict[str, float]:
    one, two = one or {}, two or {}
    both = {name: (here, two.get(name)) for name, here in one.items()}
    return {name: here - there for name, (here, there) in both.items() if here is not None and there is not None}


def _disagreements(here: Tally, there: Tally, single: bool) -> tuple[int, int, bool]:
    """Questions won and lost, and whether all answers were plainly right or wrong."""
    pairs = [(here.right[key], there.right[key]) for key in here.right]
    plain = single and all(one in (0, 1) and two in (0, 1) for one, two in pairs)
    return sum(one > two for one, two in pairs), sum(one < two for one, two in pairs), plain


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p of a split of won + lost disagreements under a fair coin; 1 where there is none."""
    n, fewer = won + lost, min(won, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def sign_p(gaps: Sequence[float]) -> float | None:
    """Two-sided p from draws of a difference: how rarely it falls on the other side of zero, never 0."""
    if not gaps:
        return None
    below, above = sum(gap <= 0 for gap in gaps), sum(gap >= 0 for gap in gaps)
    return min(1.0, 2 * (min(below, above) + 1) / (len(gaps) + 1))


def middle(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The percentile interval of draws."""
    if not values:
        return None
    ordered = sorted(values)
    tail = (1 - level) / 2
    return Interval(quantile(ordered, tail), quantile(ordered, 1 - tail))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and the sample standard deviation; None for one seed."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def check(draws: int, level: float) -> None:
    """Refuses settings that make no interval."""
    if not (isinstance(draws, int) and 20 <= draws <= 100_000):
        raise BadSetting(f"draws must be a whole number from 20 to 100000; found {draws!r}. 1000 is usual.")
    if not 0.5 <= level < 1:
        raise BadSetting(f"level must be at least 0.5 and below 1; found {level!r}. 0.95 is usual.")


def average(scores: Sequence[Mapping[str, float | None]]) -> dict[str, tuple[float | None, float | None]]:
    """(mean, standard deviation) over seeds of every metric; undefined where one seed's is."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for name in scores[0]:
        values = [score[name] for score in scores]
        known = [value for value in values if value is not None]
        found[name] = mean_and_deviation(known) if len(known) == len(values) else (None, None)
    return found
