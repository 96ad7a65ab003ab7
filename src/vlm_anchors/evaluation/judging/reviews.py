"""What a judge said of a RUN's answers: RUN/reviews.jsonl, one line a review, beside records that it never touches.

    {"id", "method", "decoding", "seed": the answer    "review": text    "judge": model    "url": address    "date": UTC}

One RUN has one judge: marks of two are not comparable.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...durable import read_lines
from ...errors import BadData, BadRun

FILE = "reviews.jsonl"
NEEDED = ("review", "judge", "date")

Key = tuple[str, str, str, int | None]


def key_of(row: Mapping[str, Any]) -> Key:
    """What is answered, and reviewed, once: (question id, method, decoding, seed)."""
    return row["id"], row.get("method", "none"), row.get("decoding", "greedy"), row.get("seed")


def read(run: Path) -> dict[Key, dict[str, Any]]:
    """The reviews of a RUN; empty where there are none. A half-written last line is left out."""
    file = run / FILE
    if not file.is_file():
        return {}
    found: dict[Key, dict[str, Any]] = {}
    for row in read_lines(file)[0]:
        missing = [name for name in NEEDED if not isinstance(row.get(name), str)]
        if missing:
            raise BadData(
                f"{file}: the review of {row['id']!r} has no {missing[0]!r}. Remove the line and judge again."
            )
        found.setdefault(key_of(row), row)
    judges = sorted({row["judge"] for row in found.values()})
    if len(judges) > 1:
        raise BadRun(
            f"{file} holds reviews of two judges, {judges[0]!r} and {judges[1]!r}, whose marks are not comparable. Keep one's "
            f"lines, and judge the rest again."
        )
    return found


def beside(records: list[dict[str, Any]], reviews: Mapping[Key, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records, each with its "review", "judge" and "reviewed" (when) where there is one."""
    if not reviews:
        return records
    joined = []
    for record in records:
        one = reviews.get(key_of(record))
        more = {} if one is None else {"review": one["review"], "judge": one["judge"], "reviewed": one["date"]}
        joined.append({**record, **more})
    return joined
