"""How sure a number is: bootstrap by image, paired differences, McNemar's exact test, several seeds, several comparisons.

Questions about one image are not independent, so images are drawn, not questions (Efron 1979; clusters as in Davison and
Hinkley 1997, 3.8). Scores are formulas over sums of counts (benchmarks/base.py): one draw is one weighted sum.

With several seeds there is one estimator: the mean over seeds of a metric. Its interval and differences are of that mean.
A draw in which a metric is undefined (nothing to divide by) may lie anywhere: it counts at both ends of an interval and on
both sides of zero.

McNemar 1947, exact: of the questions two runs disagree on, p = P(at least as uneven a split | a fair coin). It takes
questions as independent, and finds too much where an image's answers are alike; the bootstrap's p does not. Holm 1979
corrects for the number of comparisons.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BadSetting
from .benchmarks.base import BadData, Benchmark, Metrics, Record
from .tally import Known, Tally, counted
from .tally import clusters_of as clusters_of

if TYPE_CHECKING:
    import numpy as np

DRAWS = 1000
LEVEL = 0.95
CHUNK = 100  # draws held in memory at once
KEPT = 1 << 28  # numbers of draws that are kept for the other tables
EXACT = 1000  # disagreements up to which McNemar's sum is one of whole numbers
FEW = 30
"""Images below which percentile intervals are known to be short: at 20 images, 92 % of them cover instead of 95 %."""


@dataclass(frozen=True)
class Interval:
    """Where the middle `LEVEL` of the draws lies. undefined: the share of draws in which the metric is undefined."""

    low: float
    high: float
    undefined: float = 0.0


@dataclass(frozen=True)
class Difference:
    """This run minus the other, on the questions both answered.

    Args:
        p: Two-sided, from the bootstrap by image.
        holm: p corrected for the comparisons of a table, where there are several.
        mcnemar: Exact, by question, where every answer is plainly right or wrong and each run has one seed; won and
            lost are the questions only this run, or only the other, got right.
    """

    value: float
    interval: Interval | None
    p: float | None
    mcnemar: float | None
    won: int
    lost: int
    n: int
    holm: float | None = None


def draws_of(clusters: int, draws: int, seed: int) -> Iterator["np.ndarray"]:
    """How often each cluster is drawn, CHUNK draws at a time; the same for the same seed."""
    import numpy as np

    random = np.random.default_rng(seed)
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        yield random.multinomial(clusters, np.full(clusters, 1 / clusters), size=size).astype(float)


def _drawn(clusters: int, draws: int, seed: int, known: Known | None) -> Iterable["np.ndarray"]:
    """The same, kept as small whole numbers where `known` is and they are not too many: drawing takes longest."""
    import numpy as np

    if known is None or clusters * draws > KEPT:
        return draws_of(clusters, draws, seed)
    if (clusters, draws, seed) not in known.drawn:
        known.drawn.clear()
        made = draws_of(clusters, draws, seed)
        known.drawn[clusters, draws, seed] = [some.astype(np.min_scalar_type(int(some.max()))) for some in made]
    return (some.astype(float) for some in known.drawn[clusters, draws, seed])


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
    known = Known() if known is None else known
    clusters = counted(benchmark, runs[0], known).clusters
    tally = Tally(benchmark, runs, clusters, known)
    limits = {metric.name: metric.limits for metric in benchmark.metrics_of}
    found: dict[str, list[float]] = {}
    if len(clusters) > 1:
        found = {name: [] for name, value in tally.whole().items() if value is not None}
    for weights in _drawn(len(clusters), draws, seed, known) if found else ():
        for metrics in tally.draws(weights):
            for name, values in found.items():
                if (value := metrics.get(name)) is not None:
                    values.append(value)
    return {name: middle(found.get(name, []), level, draws, limits[name]) for name in limits}


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
    known = Known() if known is None else known
    clusters = counted(benchmark, runs[0], known).clusters
    here, there = Tally(benchmark, runs, clusters, known), Tally(benchmark, others, clusters, known)
    values = _gaps(here.whole(), there.whole())
    spans = {metric.name: metric.limits and metric.limits[1] - metric.limits[0] for metric in benchmark.metrics_of}
    drawn: dict[str, list[float]] = {name: [] for name in values}
    many = draws if len(clusters) > 1 else 0
    for weights in _drawn(len(clusters), many, seed, known):
        for one, two in zip(here.draws(weights), there.draws(weights), strict=True):
            for name, gap in _gaps(one, two).items():
                if name in drawn:
                    drawn[name].append(gap)
    won, lost, plain = _disagreements(here, there, len(runs) == len(others) == 1)
    test, n = mcnemar(won, lost) if plain else None, len(runs[0])
    found = {}
    for name, value in values.items():
        limits = None if (span := spans.get(name)) is None else (-span, span)
        interval = middle(drawn[name], level, many, limits)
        found[name] = Difference(value, interval, sign_p(drawn[name], many), test, won, lost, n)
    return found


def shared(runs: Sequence[Sequence[Record]], first: int) -> tuple[list[Sequence[Record]], list[Sequence[Record]]]:
    """The records of the questions that every run answered, in the order of the first; split after `first` runs."""
    asked = [[record["id"] for record in records] for records in runs]
    if any(len(set(ids)) < len(ids) for ids in asked):
        raise BadData("A question was answered twice in one run; compare one method, decoding and seed at a time.")
    if all(ids == asked[0] for ids in asked):
        return list(runs[:first]), list(runs[first:])
    common = set(asked[0]).intersection(*asked[1:])
    order = [key for key in asked[0] if key in common]
    kept: list[Sequence[Record]] = []
    for records, ids in zip(runs, asked, strict=True):
        by_id = dict(zip(ids, records, strict=True))
        kept.append(records if order == ids else [by_id[key] for key in order])
    return kept[:first], kept[first:]


def _gaps(one: Metrics, two: Metrics) -> dict[str, float]:
    both = {name: (here, two.get(name)) for name, here in one.items()}
    return {name: here - there for name, (here, there) in both.items() if here is not None and there is not None}


def _disagreements(here: Tally, there: Tally, single: bool) -> tuple[int, int, bool]:
    """Questions won and lost, and whether all answers were plainly right or wrong; both hold them in one order."""
    one, two = here.right, there.right
    plain = single and all(bool(((each == 0) | (each == 1)).all()) for each in (one, two))
    return int((one > two).sum()), int((one < two).sum()), plain


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p of a split of won + lost disagreements under a fair coin; 1 where there is none."""
    n, fewer = won + lost, min(won, lost)
    if n <= EXACT:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    # The same sum from its largest term down, each from the one before: whole numbers of so many digits take minutes.
    term = math.exp(math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2))
    total = 0.0
    for k in range(fewer, -1, -1):
        total += term
        term *= k / (n - k + 1)
        if term < total * 1e-17:
            break
    return min(1.0, 2 * total)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, corrected so that the chance of one false find stays below the level (Holm 1979).

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than the one before it.
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def sign_p(gaps: Sequence[float], draws: int | None = None) -> float | None:
    """Two-sided p from draws of a difference: how rarely it falls on the other side of zero, never 0.

    `draws` is how many were made; those that are undefined count on both sides.
    """
    if not gaps:
        return None
    draws = len(gaps) if draws is None else draws
    undefined = draws - len(gaps)
    below, above = sum(gap <= 0 for gap in gaps), sum(gap >= 0 for gap in gaps)
    return min(1.0, 2 * (min(below, above) + undefined + 1) / (draws + 1))


def middle(
    values: Sequence[float], level: float = LEVEL, draws: int | None = None, limits: tuple[float, float] | None = None
) -> Interval | None:
    """The percentile interval of draws.

    Args:
        values: The draws in which the metric is defined.
        level: The share of draws inside.
        draws: How many draws were made; the others count at both ends.
        limits: The smallest and the largest value the metric can have, where there are such.

    Returns:
        None where nothing was drawn, or an end would lie among undefined draws of a metric without limits.
    """
    if not values:
        return None
    undefined = (len(values) if draws is None else draws) - len(values)
    lowest, highest = limits or (-math.inf, math.inf)
    ordered, tail = sorted(values), (1 - level) / 2
    low = quantile([lowest] * undefined + ordered, tail)
    high = quantile(ordered + [highest] * undefined, 1 - tail)
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return Interval(low, high, undefined / (len(values) + undefined))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    if place == low:
        return ordered[low]
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
