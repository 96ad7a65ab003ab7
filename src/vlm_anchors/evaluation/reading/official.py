"""Writing answers as official scripts read them; each benchmark says which file holds what (`Benchmark.answer_files`)."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..benchmarks.base import BadData, Record


class ScoredElsewhere(BadData):
    """Answers to a test split, which its server alone can score."""


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def json_array(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON array, an object a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def in_file_order(records: Sequence[Record]) -> list[Record]:
    """Records by the number their ids end with, which is their place in the question file.

    Scripts that go by line need it: records stand in the order of answering, images together and shards one after the
    other. Where an id ends without a number the order stays as it is.
    """
    numbers = [re.search(r"\d+$", str(record["id"])) for record in records]
    if not all(numbers):
        return list(records)
    places = [int(number.group()) for number in numbers if number]
    return [record for _, record in sorted(zip(places, records, strict=True), key=lambda pair: pair[0])]


def by_group(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each split or sub-task, in the order of the question file."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record)
    return {group: in_file_order(members) for group, members in groups.items()}


def scored_elsewhere(name: str) -> ScoredElsewhere:
    """Why there is no score: answers to a test split are known to its server alone."""
    return ScoredElsewhere(
        f"The answers to this split of {name} are known to its server alone. Write the file it takes with "
        f"vlm-anchors report RUN --answers DIR, and send it there."
    )


def number_or_text(key: str) -> int | str:
    """An id as official files have it: a number where it is one."""
    return int(key) if str(key).isdecimal() else key


def safe_name(text: str, longest: int = 150) -> str:
    """A name any file system takes: letters, digits and .=+_- stay, the rest becomes "-"."""
    name = re.sub(r"[^A-Za-z0-9.=+_-]+", "-", text).strip("-.") or "-"
    return name if len(name) <= longest else f"{name[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
