"""Processes that answer one RUN at the same time share out its questions in one and the same way.

Each rank answers every n-th batch. Where two processes count ranks or batches differently, both answer some questions and
neither answers others. So RUN/processes.json says how those share that are at work, and one that shares otherwise is
refused until they have ended. Their locks end with them, so that a killed process refuses nobody.
"""

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...durable import AppendedLines, exclusive, is_locked, require_ordinary
from ...errors import BadRun
from ...text_files import parse_json

FILE = "processes.json"
NAMES = {
    "processes": "another number of processes",
    "batch_size": "another --batch-size",
    "questions": "other questions",
}
"""What a share depends on, as the error names it."""


def shares_of(ids: Iterable[str], batch_size: int) -> dict[str, Any]:
    """What the batches depend on, and so each rank's share of them."""
    digest = sha256()
    for each in ids:
        digest.update(each.encode("utf-8", "surrogatepass") + b"\0")
    return {"batch_size": batch_size, "questions": digest.hexdigest()}


def join(run: Path, records: AppendedLines, ours: Mapping[str, Any]) -> None:
    """Locks this process's records.

    Raises:
        BadRun: Another process holds them, or is at work on the RUN with other shares; nothing is held then.
    """
    require_ordinary(records.path)
    with exclusive(run / FILE) as file:  # one process at a time looks at the others' locks
        records.__enter__()
        try:
            theirs = _read(file)
            if theirs == ours:
                return
            others = (other for other in sorted(run.glob("records*.jsonl")) if other != records.path)
            if any(map(is_locked, others)):
                raise BadRun(
                    f"{run} is being answered by other processes, with {_difference(theirs, ours)}: some questions would "
                    f"be answered twice. Wait for them, or choose another --out."
                )
            _write(file, run / FILE, ours)
        except BaseException:
            records.__exit__()
            raise


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    name = next((name for name in NAMES if theirs.get(name) != ours.get(name)), "processes")
    known = [str(each.get(name)) for each in (theirs, ours)]
    numbers = f" ({known[0]}; here {known[1]})" if name != "questions" and name in theirs and name in ours else ""
    return NAMES[name] + numbers


def _read(file: int) -> dict[str, Any]:
    """How the last processes shared; empty where nobody knows, or where one was killed while it wrote."""
    os.lseek(file, 0, os.SEEK_SET)
    try:
        found = parse_json(os.read(file, 4096))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: int, path: Path, shares: Mapping[str, Any]) -> None:
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps(shares).encode() + b"\n")
    except OSError as problem:
        raise BadRun(
            f"Cannot write {path}: {problem.strerror}. What was answered before is kept; make room and run again."
        ) from problem
