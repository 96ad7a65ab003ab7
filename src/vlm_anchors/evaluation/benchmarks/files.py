"""Reading question files: every way one can be wrong ends in a sentence with the line, what was expected and what to do."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import BadData, Question

OFFICIAL = Path(__file__).parent / "official_files.json"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line or place, object) of a JSON array or of JSON lines; which of the two it is, the first character tells."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return [(place, _object(row, path, f"entry {place}")) for place, row in enumerate(_array(text, path), 1)]
    return [(line, row) for line, row in _lines(text, path)]


def read_text(path: Path) -> str:
    """The text of a file that must exist and hold something."""
    if not path.exists():
        raise BadData(
            f"There is no file {path}. Check the path, or download the official file (see docs/benchmarks.md)."
        )
    if path.is_dir():
        raise BadData(f"Expected a file; {path} is a folder. Name the file in it.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadData(
            f"{path} is not UTF-8 text. Expected the official question file; unpack it if it is compressed."
        ) from None
    if not text.strip():
        raise BadData(f"{path} is empty. Expected the official question file; download it again.")
    return text


def read_json(path: Path) -> Any:
    """One JSON document."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as problem:
        raise BadData(_broken(path, problem)) from None


def _array(text: str, path: Path) -> list[Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise BadData(_broken(path, problem)) from None


def _broken(path: Path, problem: json.JSONDecodeError) -> str:
    where = f"line {problem.lineno}"
    if problem.pos >= len(problem.doc.rstrip()) - 1 or "Unterminated" in problem.msg:
        return f"{path} is cut off in {where}: its JSON does not end. Download or write it again."
    if problem.msg == "Extra data":
        return f"{path} holds several JSON values from {where} on. Expected one JSON document here, not JSON lines."
    return f"{path} is not valid JSON in {where}: {problem.msg}. Expected one JSON document, or one JSON object a line."


def _lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise BadData(_broken_line(text, path, number, len(lines), problem)) from None
        yield number, _object(row, path, f"line {number}")


def _broken_line(text: str, path: Path, number: int, last: int, problem: json.JSONDecodeError) -> str:
    if number == 1 and text.lstrip().startswith("{"):
        return f"{path}, line 1: expected one whole JSON object a line, or a JSON array; found an object spread over lines."
    if number == last:
        return f"{path} is cut off in line {number}: its JSON does not end. Download or write it again."
    found = _short(text.splitlines()[number - 1])
    return f"{path}, line {number}: expected one JSON object a line; found {found} ({problem.msg})."


def _object(row: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadData(f"{path}, {where}: expected an object with named fields; found {_short(row)}.")
    return row


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def need(row: Mapping[str, Any], keys: Sequence[str], path: Path, line: int) -> None:
    """Raises where a field is missing, and names those that are there."""
    missing = [key for key in keys if key not in row]
    if missing:
        found = ", ".join(map(repr, row)) or "none"
        raise BadData(
            f"{path}, line {line}: expected the field {missing[0]!r}; found {found}. Is it another benchmark's file?"
        )


def word(row: Mapping[str, Any], key: str, allowed: Sequence[str], path: Path, line: int) -> str:
    """A field that must be one of a few words, exactly."""
    value = row[key]
    if value not in allowed:
        raise BadData(
            f"{path}, line {line}: {key!r} must be {' or '.join(map(repr, allowed))}; found {_short(value)}. Correct it."
        )
    return value


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
    """
    if not folder.is_dir():
        raise BadData(f"There is no image folder {folder}. Give the folder that holds the benchmark's images.")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS:
            by_stem.setdefault(path.stem, []).append(path)

    def find(name: str) -> Path:
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


def missing_images(questions: Iterable[Question], folder: Path) -> list[str]:
    """Names of images the questions need that are not there; empty where all are."""
    find, missing = find_image(folder), []
    for name in dict.fromkeys(q.image for q in questions if q.image is not None):
        try:
            find(name)
        except BadData:
            missing.append(name)
    return missing


def question_files(data: Path, endings: Sequence[str] = (".json", ".jsonl")) -> list[Path]:
    """The file itself, or those in a folder, sorted."""
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise BadData(f"There is no file or folder {data}. Give the official question file or the folder it lies in.")
    found = sorted(path for path in data.rglob("*") if path.suffix in endings)
    if not found:
        raise BadData(
            f"The folder {data} holds no {' or '.join(endings)} file. Give the folder with the official question files."
        )
    return found


def sha256(data: Path) -> str:
    """Hash of a file; of a folder, of its files' names and contents in order."""
    digest = hashlib.sha256()
    if data.is_file():
        digest.update(data.read_bytes())
        return digest.hexdigest()
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(data).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def official_files() -> dict[str, dict[str, str]]:
    """SHA-256 -> benchmark, file name and source of the official files we know."""
    return json.loads(OFFICIAL.read_text(encoding="utf-8"))


def identify(path: Path) -> str | None:
    """Which official file this is, by its hash; None where it is none we know."""
    known = official_files().get(sha256(path))
    return f"{known['file']} of {known['source']}" if known else None
