"""Text and JSON from files that a user names, read within bounds. Imports nothing heavy.

Reading a pipe waits for whoever writes into it, and a device such as /dev/zero never ends: neither is opened.
"""

import json
import stat
from pathlib import Path
from typing import Any

from .errors import BadData, UserError

MOST_BYTES = 16 << 30
"""Of one file. The largest training data in use have about a gigabyte."""


def expand(name: str | Path) -> Path:
    """The path, `~` replaced by the home folder; left as it is where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def require_regular(file: Path, error: type[UserError] = BadData) -> None:
    """Raises `error` where a path that exists is no ordinary file, or a file larger than any data in use."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise error(f"Expected an ordinary file; {file} is {_kind(status.st_mode)}. Write its content to a file first.")
    if status.st_size > MOST_BYTES:
        raise error(f"{file} has {status.st_size >> 30} GiB; at most {MOST_BYTES >> 30} are read. Choose another file.")


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")


def read_text(file: Path, error: type[UserError] = BadData, advice: str = "Restore the file.") -> str:
    """The text of an ordinary UTF-8 file. An `OSError` of a file that is missing passes through, with its name.

    Raises:
        UserError: As `error`, ending with `advice`: the file is a pipe, a device or a folder, or no UTF-8 text.
    """
    require_regular(file, error)
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"{file} is not UTF-8 text. {advice}") from None


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads`, where every fault of the text is a `json.JSONDecodeError` with its place.

    Text that is nested too deeply and numbers of thousands of digits raise other errors in the standard library.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        fault = "nested too deeply"
    except UnicodeDecodeError:
        fault = "not UTF-8 text"
    except ValueError:
        fault = "a number of too many digits"
    raise json.JSONDecodeError(fault, text.decode("utf-8", "replace") if isinstance(text, bytes) else text, 0)


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def parse_line(line: bytes) -> Any:
    """`parse_json` of one line, in half the time: of the value and a line break alone, as nearly every line is."""
    try:
        text = line.decode()
        value, end = _scan(text, 0)
        if end == len(text) or (end == len(text) - 1 and text[end] == "\n"):
            return value
    except (StopIteration, ValueError, RecursionError):
        pass
    return parse_json(line)


def read_object(file: Path, error: type[UserError] = BadData, advice: str = "Restore it.") -> dict[str, Any]:
    """The JSON object in a file; what else is there raises `error`, which ends with `advice`."""
    try:
        found = parse_json(read_text(file, error, advice))
    except json.JSONDecodeError as problem:
        raise error(f"{file} is not valid JSON in line {problem.lineno}: {problem.msg}. {advice}") from None
    except OSError as problem:
        raise error(f"{file} cannot be read: {problem.strerror or problem}. {advice}") from problem
    if not isinstance(found, dict):
        raise error(f"{file} holds no JSON object. {advice}")
    return found
