"""Sums of counts by cluster (image), group and key: what numbers, intervals and differences are made of.

A million answers fall into few kinds with equal counts. Equal counts are one object here, so that each kind is summed at
once, and a list of records is counted once for all that is made of it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .benchmarks.base import Benchmark, Counts, Metrics, Record

if TYPE_CHECKING:
    import numpy as np


class RecordCounts:
    """The counts of a list of records, and their sums by cluster.

    Attributes:
        counts: One dictionary a record; equal ones are one object.
        clusters: Each cluster once, in order of first appearance.
        cells: (group, key) of each column of `table`.
        table: (clusters, cells), sums of the counts.
        right: (records,), how right each answer is.
    """

    def __init__(self, benchmark: Benchmark, records: Sequence[Record]):
        import numpy as np

        self.records = records  # held, so that its id, by which it is known, stays its own
        same: dict[tuple[Any, ...], Counts] = {}
        found = benchmark.counts(records)
        kinds = {id(each): same.setdefault(tuple(each.items()), each) for each in found}
        self.counts = [kinds[id(each)] for each in found]
        place: dict[str, int] = {}
        rows = np.fromiter(
            (place.setdefault(benchmark.cluster(record), len(place)) for record in records), int, len(records)
        )
        self.clusters = list(place)
        self.cells, self.table = _table(records, self.counts, rows, len(place))
        values = {id(each): each.get("right", math.nan) for each in same.values()}
        self.right = np.fromiter((values[id(each)] for each in self.counts), float, len(records))

    def sums(self, clusters: Sequence[str]) -> "np.ndarray":
        """`table` with its rows in another order of the clusters; those that are not among ours are zero."""
        import numpy as np

        if clusters == self.clusters:
            return self.table
        place = {cluster: row for row, cluster in enumerate(clusters)}
        table = np.zeros((len(clusters), self.table.shape[1]))
        table[[place[cluster] for cluster in self.clusters]] = self.table
        return table


def _table(
    records: Sequence[Record], counts: Sequence[Counts], rows: "np.ndarray", clusters: int
) -> "tuple[list[tuple[str, str]], np.ndarray]":
    """((group, key) of each column, sums of a cluster in each row)."""
    import numpy as np

    columns: dict[tuple[str, str], np.ndarray] = {}
    # Equal counts are one object: there are few kinds of answer, and each is summed at once.
    kinds: dict[tuple[str, int], int] = {}
    numbers = [
        kinds.setdefault((record["group"], id(each)), len(kinds)) for record, each in zip(records, counts, strict=True)
    ]
    examples = dict(zip(reversed(numbers), reversed(range(len(records))), strict=True))
    of_kind = np.split(rows[np.argsort(numbers, kind="stable")], np.cumsum(np.bincount(numbers))[:-1])
    for number, of_one in enumerate(of_kind):
        group, each = records[examples[number]]["group"], counts[examples[number]]
        for key, value in each.items():
            column = columns.setdefault((group, key), np.zeros(clusters))
            np.add.at(column, of_one, value)
    return list(columns), np.stack(list(columns.values()), axis=1)


@dataclass
class Known:
    """What several numbers of one table are made of, made once: counts, of which some take a minute of Java, and draws.

    Attributes:
        counted: By the id of the list of records.
        drawn: By clusters, draws and seed; of the size of `KEPT` at most. May be shared by tables.
    """

    counted: "dict[int, RecordCounts]" = field(default_factory=dict)
    drawn: "dict[tuple[int, int, int], list[np.ndarray]]" = field(default_factory=dict)


def counted(benchmark: Benchmark, records: Sequence[Record], known: Known | None) -> RecordCounts:
    """The counts of a list of records, made once a list where `known` is kept."""
    if known is None:
        return RecordCounts(benchmark, records)
    if id(records) not in known.counted:
        known.counted[id(records)] = RecordCounts(benchmark, records)
    return known.counted[id(records)]


def clusters_of(benchmark: Benchmark, records: Sequence[Record]) -> list[str]:
    """Every cluster once, in order of first appearance."""
    return list(dict.fromkeys(benchmark.cluster(record) for record in records))


class Tally:
    """Counts of each seed by cluster, group and key; clusters are kept in a given order."""

    def __init__(
        self,
        benchmark: Benchmark,
        runs: Sequence[Sequence[Record]],
        clusters: Sequence[str],
        known: "Known | None" = None,
    ):
        self.benchmark = benchmark
        self.answers = [counted(benchmark, records, known) for records in runs]
        self.seeds = [(each.cells, each.sums(clusters)) for each in self.answers]

    @property
    def right(self) -> "np.ndarray":
        """How right each question was answered, summed over seeds that hold them in one order; NaN where nobody says."""
        import numpy as np

        return np.sum([each.right for each in self.answers], axis=0)

    def draws(self, weights: "np.ndarray") -> Iterator[Metrics]:
        """The mean over seeds of each metric in each draw; a row of `weights` says how often each cluster is in it."""
        sums = [(cells, (weights @ table).tolist()) for cells, table in self.seeds]
        for draw in range(len(weights)):
            yield mean_of([self._metrics(cells, rows[draw]) for cells, rows in sums])

    def whole(self) -> Metrics:
        """The mean over seeds of each metric, every cluster once."""
        return mean_of([self._metrics(cells, table.sum(0).tolist()) for cells, table in self.seeds])

    def _metrics(self, cells: Sequence[tuple[str, str]], sums: Sequence[float]) -> Metrics:
        """The formulas over one seed's sums; nothing where nothing was drawn."""
        parts: dict[str, dict[str, float]] = {}
        for (group, key), value in zip(cells, sums, strict=True):
            parts.setdefault(group, {})[key] = value
        parts = {group: counts for group, counts in parts.items() if counts.get("n", counts.get("responses", 1)) > 0}
        return self.benchmark.formulas(parts) if parts else {}


def mean_of(seeds: Sequence[Metrics]) -> Metrics:
    """The mean over seeds of each metric; None where one seed's is undefined."""
    if len(seeds) == 1:
        return seeds[0]
    names = dict.fromkeys(name for metrics in seeds for name in metrics)
    values = {name: [metrics.get(name) for metrics in seeds] for name in names}
    return {
        name: None if None in each else math.fsum(v for v in each if v is not None) / len(each)
        for name, each in values.items()
    }
