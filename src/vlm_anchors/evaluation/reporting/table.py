"""A table: rows of methods with numbers, intervals and differences; as JSON and back, as plain values, as a DataFrame."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import MissingPackage
from .. import statistics
from ..benchmarks.base import Metric
from ..published import PublishedRow


@dataclass(frozen=True)
class Cell:
    """One number as shown (fractions times 100): mean over seeds, its interval, deviation over seeds, and the difference.

    undefined: the share of bootstrap draws in which the number, or its difference, is undefined.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    difference: statistics.Difference | None = None
    undefined: float = 0.0


@dataclass(frozen=True)
class Row:
    """One method under one decoding.

    Args:
        n: Questions answered under each seed.
        asked: Questions there were, where that is known.
        unread: Share of answers, 0..1.
        seconds: Mean over answers.
        wordless: Share of answers without a yes or no word, where the dialect reads every answer.
        images: What the bootstrap draws.
    """

    method: str
    decoding: str
    seeds: tuple[int | None, ...]
    n: int
    unread: float
    seconds: float | None
    cells: dict[str, Cell]
    asked: int | None = None
    wordless: float | None = None
    images: int | None = None


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, and what the papers print beside them. made_with: date, commit, device and versions of a run."""

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
    made_with: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.benchmark}{' / ' + self.group if self.group else ''} · {self.model}"

    def values(self) -> list[dict[str, Any]]:
        """One dictionary a row; a metric's numbers are in the unit that its name says ("f1 %"), as tables show them."""
        return [self._values(row) for row in self.rows]

    def _values(self, row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {
            "benchmark": self.benchmark,
            "group": self.group,
            "model": self.model,
            "method": row.method,
            "decoding": row.decoding,
            "seeds": len(row.seeds),
            "n": row.n,
            "of": row.n if row.asked is None else row.asked,
            "images": row.images,
            "unread %": 100 * row.unread,
            "no yes/no %": None if row.wordless is None else 100 * row.wordless,
            "seconds an answer": row.seconds,
        }
        for metric in self.metrics:
            name = metric.name if metric.unit == "points" else f"{metric.name} %"
            cell = row.cells[metric.name]
            gap = cell.difference
            found |= {
                name: cell.value,
                f"{name} low": cell.low,
                f"{name} high": cell.high,
                f"{name} deviation": cell.deviation,
                f"{name} against {self.against}": gap and gap.value,
                f"{name} p": gap and gap.p,
                f"{name} p Holm": gap and gap.holm,
            }
        return found

    def to_dataframe(self) -> Any:
        """The rows of `values` as a pandas DataFrame.

        Raises:
            MissingPackage: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingPackage(
                'A DataFrame needs pandas, which is not installed. Run: pip install "vlm-anchors[tables]"'
            ) from None
        return pandas.DataFrame(self.values())


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
                "made_with": tuple(table.get("made_with", ())),
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
