"""Files that survive a kill: lines that are appended whole, read back without a torn last one, and files written at once."""

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import BadData, BadRun, BadSetting
from .text_files import parse_line, require_regular

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)
"""What the system answers when a disk, a quota or a file-size limit is full."""
_LOCKED_BYTE = 1 << 40
"""Windows locks bytes, and nobody may read a locked one: this one no file has."""
_BESIDE = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)")


class AppendedLines:
    """A file of JSON lines, held by one process in a `with` block.

    Nothing is changed before the first `append`, which cuts off a torn last line.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        self._mended = False

    def __enter__(self) -> "AppendedLines":
        self._file = open_ordinary(self.path)
        if not lock(self._file):
            self._close()
            raise BadRun(f"{self.path} is being written by another process. Wait for it, or choose another folder.")
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Whole lines, flushed to the disk before this returns; where the disk is full, none of them.

        Raises:
            BadRun: The lines cannot be written.
        """
        assert self._file is not None, "append inside the with block"
        if not self._mended:
            drop_torn_line(self.path)
            self._mended = True
        lines, before = b"".join(as_line(row) for row in rows), os.fstat(self._file).st_size
        try:
            while lines:
                lines = lines[os.write(self._file, lines) :]
            os.fsync(self._file)
        except OSError as problem:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise BadRun(
                f"Cannot write {self.path}: {problem.strerror}. What was answered before is kept; make room and run again."
            ) from problem


def require_ordinary(path: Path) -> None:
    """Raises `BadRun` where a path that exists is a link, a pipe or a folder."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise BadRun(f"Expected an ordinary file at {path}; found a link, a pipe or a folder. Choose another folder.")


def open_ordinary(path: Path) -> int:
    """An ordinary file, made where it is missing, opened for reading and appending."""
    require_ordinary(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)


@contextlib.contextmanager
def exclusive(path: Path, seconds: float = 60) -> Iterator[int]:
    """An open file that no other process has open in this way during the block; waits for one that has.

    Raises:
        BadRun: Another process kept it that long.
    """
    file = open_ordinary(path)
    try:
        until = time.monotonic() + seconds
        while not lock(file):
            if time.monotonic() > until:
                raise BadRun(f"{path} is held by another process. Wait for it, or choose another folder.")
            time.sleep(0.01)
        yield file
    finally:
        os.close(file)


def as_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of UTF-8; text that UTF-8 cannot hold (half of a surrogate pair) is written as JSON escapes."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def lock(file: int) -> bool:
    """Takes an open file for this process, until it is closed; False where another process has it."""
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(file: int) -> bool:
    try:
        import msvcrt
    except ImportError:  # a system that knows no locks
        return True
    os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether another process holds the file."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not lock(file)
    finally:
        os.close(file)


def drop_torn_line(file: Path) -> bool:
    """Cuts off what follows the last line break: a line that was being written when the power went."""
    with file.open("r+b") as handle:
        end = start = handle.seek(0, os.SEEK_END)
        while start:
            handle.seek(start := max(start - (1 << 16), 0))
            if (found := handle.read(1 << 16).rfind(b"\n")) >= 0:
                start += found + 1
                break
        if start == end:
            return False
        handle.truncate(start)
    return True


def iterate_lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(line number, row with an id); None in place of a half-written last line. Any other broken line is refused."""
    require_regular(file)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = parse_line(line)
            except json.JSONDecodeError:
                if not line.endswith(b"\n"):
                    yield number, None
                    return
                raise BadData(
                    f"{file}, line {number}: not a whole record. Only a last line may be torn; remove this one."
                ) from None
            if not isinstance(row, dict) or "id" not in row:
                raise BadData(
                    f"{file}, line {number}: expected a record with an id; found {str(row)[:40]!r}. Remove the line."
                )
            yield number, row


def read_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """(rows with an id, half-written lines left out: 0 or 1). Any other broken line is refused."""
    rows = [row for _, row in iterate_lines(file)]
    return [row for row in rows if row is not None], rows.count(None)


def write_whole(file: Path, text: str | bytes) -> None:
    """A file that is there whole or not at all; one that holds the same already is left alone.

    Raises:
        BadSetting: The file cannot be written.
    """
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data:
            return
        with beside.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, file)
    except OSError as problem:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise BadSetting(
            f"Cannot write {file}: {problem.strerror or problem}. Make room or choose another place; nothing was lost."
        ) from problem


def clear_leftovers(folder: Path) -> None:
    """Removes what `write_whole` left below a folder when its process was killed."""
    for path in folder.rglob(".*") if folder.is_dir() else ():
        found = _BESIDE.fullmatch(path.name)
        if found and path.is_file() and not path.is_symlink() and not _is_running(int(found["pid"])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # asking there would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True
