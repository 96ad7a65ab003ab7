"""Files that survive a kill: lines that are appended whole, read back without a torn last one, and files written at once."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from .errors import BadData, BadRun


class AppendedLines:
    """A file of JSON lines, held by one process in a `with` block. Entering drops a torn last line."""

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO | None = None

    def __enter__(self) -> "AppendedLines":
        self._file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BadRun(
                f"{self.path} is being written by another process. Wait for it, or choose another folder."
            ) from None
        drop_torn_line(self.path)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Whole lines, flushed to the disk before this returns."""
        assert self._file is not None, "append inside the with block"
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())


def drop_torn_line(file: Path) -> bool:
    """Cuts off what follows the last line break: a line that was being written when the power went."""
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return False
    with file.open("r+b") as handle:
        handle.truncate(whole)
    return True


def read_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """(rows with an id, half-written lines left out: 0 or 1). Any other broken line is refused."""
    lines = file.read_bytes().split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            if number == len(lines):  # no line break after it: it was being written
                return rows, 1
            raise BadData(
                f"{file}, line {number}: not a whole record. Only a last line may be torn; remove this one."
            ) from None
        if not isinstance(row, dict) or "id" not in row:
            raise BadData(
                f"{file}, line {number}: expected a record with an id; found {str(row)[:40]!r}. Remove the line."
            )
        rows.append(row)
    return rows, 0


def write_whole(file: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    os.replace(beside, file)
