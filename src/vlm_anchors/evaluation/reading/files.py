"""Reading question files: every fault of one ends in a sentence with its line, what was expected and what to do."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from ...text_files import parse_json
from ...text_files import read_text as read_ordinary
from ..benchmarks.base import BadData, Question
from .schema import NO_FIELDS, short

OFFICIAL = Path(__file__).parent / "official_files.json"
OTHER_FILES = {
    "<!doctype": "a web page",
    "<html": "a web page",
    "<?xml": "an XML document",
    "version https://git-lfs": "a pointer of Git LFS",
}
LONGEST_NAME = 255
"""Bytes of a file's name, on every common file system."""
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_reads: ContextVar[set[Path] | None] = ContextVar("reads", default=None)


@contextmanager
def files_read() -> Iterator[set[Path]]:
    """Collects, while it is open, the question files that are found or read: those that a RUN's hash is made of."""
    found: set[Path] = set()
    token = _reads.set(found)
    try:
        yield found
    finally:
        _reads.reset(token)


def _note(paths: Iterable[Path]) -> None:
    if (found := _reads.get()) is not None:
        found.update(paths)


def rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of a JSON array or of JSON lines; which of the two it is, the first character tells.

    The place ("FILE, line 3" or "FILE, entry 3") is how errors name the row.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        places = [(f"{path}, entry {number}", row) for number, row in enumerate(_array(text, path), 1)]
    else:
        places = [(f"{path}, line {number}", row) for number, row in _lines(text, path)]
    return [(place, NO_FIELDS.check(row, place)) for place, row in places]


def read_text(path: Path) -> str:
    """The text of a file that must exist and hold something."""
    if not path.exists():
        raise BadData(
            f"There is no file {path}. Check the path, or download the official file (see docs/benchmarks.md)."
        )
    if path.is_dir():
        raise BadData(f"Expected a file; {path} is a folder. Name the file in it.")
    _note([path])
    text = read_ordinary(path, advice="Expected the official question file; unpack it if it is compressed.")
    if not text.strip():
        raise BadData(f"{path} is empty. Expected the official question file; download it again.")
    for begin, what in OTHER_FILES.items():
        if text.lstrip()[:40].lower().startswith(begin):
            raise BadData(f"{path} is {what}, saved in place of the file. Download the file itself.")
    return text


def read_json(path: Path) -> Any:
    """One JSON document."""
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as problem:
        raise BadData(_broken(path, problem)) from None


def read_object(path: Path, what: str) -> dict[str, Any]:
    """One JSON object; `what` says what it should be, for the error."""
    whole = read_json(path)
    if not isinstance(whole, dict):
        raise BadData(f"{path}: expected {what}; found {_kind_of(whole)}. Is it another benchmark's file?")
    return whole


def read_list(path: Path, what: str) -> list[Any]:
    """One JSON array; `what` says what it should be, for the error."""
    whole = read_json(path)
    if not isinstance(whole, list):
        raise BadData(f"{path}: expected {what}; found {_kind_of(whole)}. Is it another benchmark's file?")
    return whole


def _kind_of(value: Any) -> str:
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else short(value)


def _array(text: str, path: Path) -> list[Any]:
    try:
        return parse_json(text)
    except json.JSONDecodeError as problem:
        raise BadData(_broken(path, problem)) from None


def _broken(path: Path, problem: json.JSONDecodeError) -> str:
    where = f"line {problem.lineno}"
    if _has_comma_too_many(problem):
        return f"{path}, {where}: a comma stands before a closing bracket, which JSON does not allow. Remove the comma."
    if _is_cut_off(problem):
        return f"{path} is cut off in {where}: its JSON does not end. Download or write it again."
    if problem.msg == "Extra data":
        return f"{path} holds several JSON values from {where} on. Expected one JSON document here, not JSON lines."
    return f"{path} is not valid JSON in {where}: {problem.msg}. Expected one JSON document, or one JSON object a line."


def _has_comma_too_many(problem: json.JSONDecodeError) -> bool:
    before, after = problem.doc[: problem.pos].rstrip(), problem.doc[problem.pos :].lstrip()
    if after.startswith(","):
        before, after = ",", after[1:].lstrip()
    return before.endswith(",") and after[:1] in ("]", "}")


def _is_cut_off(problem: json.JSONDecodeError) -> bool:
    """Whether the text ends where more was expected, or in the middle of a string, a number or a word."""
    rest = problem.doc[problem.pos :].strip()
    words = ("true", "false", "null", "-")
    return not rest or "Unterminated" in problem.msg or any(word.startswith(rest) for word in words)


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Lines end with a line feed alone: other signs that end lines elsewhere may stand in a JSON string."""
    lines = text.split("\n")
    last = max(number for number, line in enumerate(lines, 1) if line.strip())
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line)
        except json.JSONDecodeError as problem:
            raise BadData(_broken_line(text, path, number, last, problem)) from None


def _broken_line(text: str, path: Path, number: int, last: int, problem: json.JSONDecodeError) -> str:
    line = problem.doc.strip()
    if line.endswith(",") and _is_json(line[:-1]):
        return (
            f"{path}, line {number}: a comma follows the object. Expected one JSON object a line without commas between "
            f"them, or one JSON array in [ ]."
        )
    if _has_comma_too_many(problem):
        return f"{path}, line {number}: a comma stands before a closing bracket, which JSON does not allow. Remove the comma."
    if number == 1 and last > 1 and _is_cut_off(problem) and (line == "{" or _is_json(text)):
        return f"{path}, line 1: expected one whole JSON object a line, or a JSON array; found an object spread over lines."
    if number == last and _is_cut_off(problem):
        return f"{path} is cut off in line {number}: its JSON does not end. Download or write it again."
    return f"{path}, line {number}: expected one JSON object a line; found {short(line)} ({problem.msg})."


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except json.JSONDecodeError:
        return False
    return True


def unique(questions: Iterable[Question], path: Path) -> list[Question]:
    """The questions, none of them twice by id."""
    seen: dict[str, int] = {}
    kept = list(questions)
    for place, question in enumerate(kept, 1):
        if question.id in seen:
            raise BadData(
                f"{path}: the id {question.id!r} stands at question {seen[question.id]} and again at {place}. "
                f"Each question needs an id of its own; remove the copy."
            )
        seen[question.id] = place
    if not kept:
        raise BadData(f"{path} holds no question. Expected the official question file; download it again.")
    return kept


def of_split(questions: list[Question], split: str | None, path: Path) -> list[Question]:
    """Those whose group is, or contains, the split asked for."""
    if split is None:
        return questions
    kept = [q for q in questions if q.group == split] or [q for q in questions if split in q.group]
    if not kept:
        groups = ", ".join(sorted({q.group for q in questions}))
        raise BadData(f"{path} has no split {split!r}. It has: {groups}.")
    return kept


def find_image(folder: Path) -> Callable[[str], Path]:
    """A function from the name a question uses to a file: by name, else with another ending (.jpg asked for, .png there).

    A name with folders in it ("VD/map/0_1.png") is also found below a folder of another name; a bare name anywhere.
    Names that lead out of the folder are refused, hidden files are passed over.
    """
    if not folder.is_dir():
        raise BadData(f"There is no image folder {folder}. Give the folder that holds the benchmark's images.")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."):
            by_stem.setdefault(path.stem, []).append(path)

    def find(name: str) -> Path:
        check_inside(name)
        exact = folder / name
        if exact.is_file():
            return exact
        wanted = Path(name).with_suffix("").parts
        hits = [
            p
            for p in by_stem.get(wanted[-1], [])
            if p.relative_to(folder).with_suffix("").parts[-len(wanted) :] == wanted
        ]
        if not hits:
            images = sum(map(len, by_stem.values()))
            raise BadData(f"The image {name} is not in {folder}, nor with another ending ({images} images there).")
        if len(hits) > 1:
            raise BadData(
                f"The image {name} is not in {folder} by name; {hits[0]} and {hits[1]} both could be it. Keep one."
            )
        return hits[0]

    return find


def check_inside(name: str) -> None:
    """Raises `BadData` for an image name that is absolute, climbs out of its folder or names nothing."""
    path = PurePath(name.replace("\\", "/"))
    if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in path.parts):
        raise BadData(
            f"Expected the name of an image; found {short(name)}, longer than file systems take. Correct the data."
        )
    if path.is_absolute() or ".." in path.parts or not path.name or PureWindowsPath(name).drive or "\0" in name:
        raise BadData(
            f"Expected the name of an image in the image folder; found {short(name)}, which leads elsewhere. Correct the data."
        )


def missing_images(questions: Iterable[Question], folder: Path) -> list[str]:
    """Names of images the questions need that are not there; empty where all are."""
    find, missing = find_image(folder), []
    for name in dict.fromkeys(q.image for q in questions if q.image is not None):
        check_inside(name)
        try:
            find(name)
        except BadData:
            missing.append(name)
    return missing


def question_files(data: Path, endings: Sequence[str] = (".json", ".jsonl")) -> list[Path]:
    """The file itself, or those in a folder, sorted. Hidden files and RUN folders inside are passed over."""
    if data.exists() and not data.is_dir():
        return [data]
    if not data.is_dir():
        raise BadData(f"There is no file or folder {data}. Give the official question file or the folder it lies in.")
    runs = {file.parent for file in data.rglob("run.json")}
    found = sorted(
        path
        for path in data.rglob("*")
        if path.suffix in endings and not path.name.startswith(".") and runs.isdisjoint(path.parents)
    )
    _note(found)
    if not found:
        raise BadData(
            f"The folder {data} holds no {' or '.join(endings)} file. Give the folder with the official question files."
        )
    return found


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose names match, sorted. Hidden ones, such as macOS's `._a.json`, are passed over."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def sha256(data: Path, read: Iterable[Path] | None = None) -> str:
    """Hash of a file; of a folder, of the names and contents of its files, or of those among them that were read."""
    if not data.is_dir():
        return _digest(data)
    files = data.rglob("*") if read is None else read
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file() and path.is_relative_to(data)):
        digest.update(f"{path.relative_to(data).as_posix()}\0".encode())
        digest.update(bytes.fromhex(_digest(path)))
    return digest.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@functools.cache
def official_files() -> dict[str, dict[str, str]]:
    """SHA-256 -> benchmark, file name and source of the official files we know."""
    return json.loads(OFFICIAL.read_text(encoding="utf-8"))


def identify(path: Path) -> str | None:
    """Which official file this is, by its hash; None where it is none we know."""
    known = official_files().get(sha256(path))
    return f"{known['file']} of {known['source']}" if known else None
