"""One metric of several settings over the same bootstrap draws of images, so that each setting is drawn once and any two of them
can be compared, paired by image. The numbers are those of `evaluation.statistics`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..evaluation import statistics
from ..evaluation.benchmarks.base import Benchmark, Metric, Record, check_records
from ..evaluation.statistics import DRAWS, LEVEL, Interval

SURE = 0.99
"""Level of the interval by which a setting is dropped: of a hundred that are as good as the best, one is."""


@dataclass(frozen=True)
class Gain:
    """One setting minus another.

    Attributes:
        value: The difference.
        interval: Where the middle 95 % of the draws lie; None from one image alone.
        p: Two-sided, of the same draws.
    """

    value: float
    interval: Interval | None
    p: float | None


@dataclass(frozen=True)
class Objective:
    """What is made as large, or as small, as it can be."""

    benchmark: Benchmark
    metric: Metric

    @property
    def sign(self) -> int:
        return -1 if self.metric.better == "lower" else 1

    def is_worse(self, gain: Gain | None) -> bool:
        """Whether a difference lies surely on the worse side of zero."""
        if gain is None or gain.interval is None:
            return False
        return (gain.interval.high if self.sign > 0 else -gain.interval.low) < 0

    def is_better(self, gain: Gain | None) -> bool:
        """Whether a difference lies surely on the better side of zero."""
        if gain is None or gain.interval is None:
            return False
        return (gain.interval.low if self.sign > 0 else -gain.interval.high) > 0

    def words(self) -> str:
        return f"{self.metric.name} ({self.metric.better} is better)"


class Draws:
    """The objective of some records, as it is and in every draw of images."""

    def __init__(self, objective: Objective, records: Sequence[Record]):
        check_records(records, objective.benchmark)
        self.objective, self.records = objective, records
        self.clusters = statistics.clusters_of(objective.benchmark, records)
        self._tally = statistics.Tally(objective.benchmark, [records], self.clusters)

    @property
    def score(self) -> float | None:
        return self._tally.whole().get(self.objective.metric.name)

    @cached_property
    def values(self) -> list[float | None]:
        """The objective in each draw; empty where there is one image alone."""
        name = self.objective.metric.name
        if len(self.clusters) < 2:
            return []
        weights = statistics.draws_of(len(self.clusters), DRAWS, 0)
        return [metrics.get(name) for some in weights for metrics in self._tally.draws(some)]

    def interval(self, level: float = LEVEL) -> Interval | None:
        known = [value for value in self.values if value is not None]
        return statistics.middle(known, level, len(self.values), self.objective.metric.limits)

    def minus(self, other: "Draws", level: float = LEVEL) -> Gain | None:
        """The difference to another setting on the same questions; None where one of them is undefined."""
        here, there = self.score, other.score
        if here is None or there is None:
            return None
        pairs = zip(self.values, other.values, strict=True)
        gaps = [one - two for one, two in pairs if one is not None and two is not None]
        limits = self.objective.metric.limits
        span = None if limits is None else (limits[0] - limits[1], limits[1] - limits[0])
        many = len(self.values)
        return Gain(here - there, statistics.middle(gaps, level, many, span), statistics.sign_p(gaps, many))
