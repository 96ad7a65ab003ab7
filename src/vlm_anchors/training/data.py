"""Conversations to train on: LLaVA-Instruct's JSON and the messages format, all checked before a model is loaded.

    {"id": "7", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nIs it red?"},
                                                    {"from": "gpt", "value": "Yes."}]}
    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "Is it red?"}, {"role": "assistant", "content": "Yes."}]}

A file holds a list of these or one a line. The images of a conversation stand before its first question, wherever the
data has them: that is how LLaVA was trained, how `va.ask` asks, and words before an image find no patch to stand at.
"""

import hashlib
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import AnchorsWarning, BadData
from ..evaluation.benchmarks.files import find_image

MARK = "<image>"
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
SHAPES = (
    '{"image": ..., "conversations": [{"from": "human", "value": ...}, ...]} or {"images": [...], "messages": [...]}'
)


class Turn(NamedTuple):
    """What one side says: role "system", "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """One row of the data. where: file and place in it, for a reader's eyes. images: paths."""

    where: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]

    def row(self) -> dict[str, Any]:
        """As a row of a data set: image paths, and messages whose images stand before the first question."""
        return {
            "images": list(self.images),
            "messages": [{"role": turn.role, "content": turn.text} for turn in self.turns],
        }


class Bad(NamedTuple):
    """A row that cannot be used: its place, the kind of fault in a few words, and the fault itself."""

    where: str
    kind: str
    fault: str


class _Fault(Exception):
    def __init__(self, kind: str, fault: str):
        self.kind, self.fault = kind, fault


def read_data(data: Path, images: Path | None = None, skip_bad: bool = False) -> tuple[list[Conversation], list[Bad]]:
    """The conversations of a file, or of all .json and .jsonl files of a folder; and what had to be left out.

    images: the folder that image names count from; the data's own by default. Raises `BadData` that names the first bad row
    and counts the others; with skip_bad they are left out with a warning.
    """
    files = _files(data)
    folder = images or (data if data.is_dir() else data.parent)
    if not folder.is_dir():
        raise BadData(
            f"There is no image folder {folder}. Name the one that the data's image names count from by --images."
        )
    look_up, seen = find_image(folder), dict[str, str]()
    good, bad = list[Conversation](), list[Bad]()

    def find(name: str) -> str:
        if name not in seen:
            seen[name] = str(_readable(name, look_up))
        return seen[name]

    for file in files:
        for where, entry in _entries(file):
            try:
                if isinstance(entry, _Fault):
                    raise entry
                good.append(_conversation(where, entry, find))
            except _Fault as fault:
                bad.append(Bad(where, fault.kind, fault.fault))
    _settle(data, len(good), bad, skip_bad)
    return good, bad


def fingerprint(data: Path) -> str:
    """SHA-256 of what `read_data` reads: the file, or the files of a folder in order; not of the images."""
    digest = hashlib.sha256()
    for file in _files(data):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def split_by_image(
    conversations: list[Conversation], share: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(training, validation): about `share` of the images, at least one of each; no image is on both sides."""
    names = sorted({one.images[0] for one in conversations})
    if len(names) < 2:
        raise BadData(
            f"Expected conversations about two images or more, to keep some for validation; found {len(names)}. "
            "Give validation data of their own by --validation FILE."
        )
    random.Random(seed).shuffle(names)
    kept = set(names[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return [one for one in conversations if one.images[0] not in kept], [
        one for one in conversations if one.images[0] in kept
    ]


def _files(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    if not data.exists():
        raise BadData(f"No data at {data}. Expected a .json or .jsonl file of conversations, or a folder of them.")
    found = sorted(path for path in data.iterdir() if path.suffix in (".json", ".jsonl"))
    if not found:
        raise BadData(f"{data} holds no .json or .jsonl file. Expected conversations: {SHAPES}.")
    return found


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every row; a line that is no JSON comes as a fault of its own."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{file} cannot be read: {error}. Expected UTF-8 text.") from error
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadData(
                f"{file} is broken JSON on line {error.lineno}, column {error.colno}: {error.msg}. One list cannot be read "
                "past a fault; mend it, or write one conversation a line, where --skip-bad can leave out the broken ones."
            ) from error
        for number, row in enumerate(rows, 1):
            id = row.get("id") if isinstance(row, dict) else None
            yield f"{file.name}, entry {number}" + (f" (id {id})" if id is not None else ""), row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file.name}, line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            yield where, _Fault("broken JSON", f"broken JSON ({error.msg}, column {error.colno})")


def _conversation(where: str, row: Any, find: Any) -> Conversation:
    if not isinstance(row, dict) or not ("conversations" in row or "messages" in row):
        raise _Fault("no conversation", f"no conversation in it; expected {SHAPES}")
    turns, inside = _turns(row["conversations"] if "conversations" in row else row["messages"])
    _check_order(turns)
    named = row.get("images", row.get("image"))
    names = inside or (named if isinstance(named, list) else [] if named is None else [named])
    if not names or "" in names:
        raise _Fault("no image", "no image; anchors stand in one")
    first = next(at for at, turn in enumerate(turns) if turn.role == "user")
    turns[first] = _unmarked(turns[first], len(names))
    for at, turn in enumerate(turns):
        if MARK in turn.text:
            raise _Fault(
                "image mark out of place", f"{MARK} in turn {at + 1}; images stand before the first question only"
            )
    if not all(isinstance(name, str) for name in names):
        raise _Fault("missing image", f"an image that is no file name but {type(names[0]).__name__}")
    return Conversation(where, tuple(find(name) for name in names), tuple(turns))


def _turns(written: Any) -> tuple[list[Turn], list[Any]]:
    """The turns of either format, and the images that a message holds itself."""
    turns, inside = list[Turn](), list[Any]()
    for each in written if isinstance(written, list) else []:
        role = ROLES.get(str(each.get("role", each.get("from")))) if isinstance(each, dict) else None
        content = each.get("content", each.get("value")) if isinstance(each, dict) else None
        if role is None or not isinstance(content, (str, list)):
            raise _Fault("no conversation", f"a turn that is none: {json.dumps(each)[:80]}; expected {SHAPES}")
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            shown = [part for part in parts if part.get("type") == "image"]
            if shown and any(turn.role == "user" for turn in turns):
                raise _Fault(
                    "image mark out of place", "an image in a later turn; images stand before the first question only"
                )
            inside += [name for part in shown if (name := part.get("path", part.get("image"))) is not None]
            content = "".join(str(part.get("text") or "") for part in parts if part.get("type") == "text")
        turns.append(Turn(role, content))
    return turns, inside


def _check_order(turns: list[Turn]) -> None:
    said = turns[1:] if turns and turns[0].role == "system" else turns
    if not any(turn.role == "assistant" and turn.text.strip() for turn in said):
        raise _Fault("no answer", "a conversation without an answer")
    if len(said) % 2 or any(turn.role != ("user", "assistant")[at % 2] for at, turn in enumerate(said)):
        roles = ", ".join(turn.role for turn in turns)
        raise _Fault(
            "turns out of order", f"turns out of order ({roles[:80]}); expected user, assistant, user, assistant"
        )
    empty = next((turn.role for turn in said if not turn.text.replace(MARK, "").strip()), None)
    if empty is not None:
        raise _Fault("no answer" if empty == "assistant" else "no question", f"an empty turn of the {empty}")


def _unmarked(turn: Turn, images: int) -> Turn:
    """Without the marks of images: they stand before the text, and the chat template writes them."""
    marks = turn.text.count(MARK)
    if marks not in (0, images):
        raise _Fault("image mark out of place", f"{images} images but {MARK} {marks} times")
    return Turn(turn.role, turn.text.replace(MARK, "").strip())


def _readable(name: str, look_up: Any) -> Path:
    """The file, if it is there and begins as an image does; its pixels are read when its turn comes."""
    from PIL import Image

    try:
        path = Path(name) if Path(name).is_file() else look_up(name)
    except BadData as error:
        raise _Fault("missing image", str(error).rstrip(".")) from error
    try:
        with Image.open(path):
            return path
    except Exception as error:  # Pillow's readers raise whatever a broken header makes them raise
        raise _Fault("unreadable image", f"the image {path} cannot be read ({type(error).__name__})") from error


def _settle(data: Path, good: int, bad: list[Bad], skip_bad: bool) -> None:
    total = good + len(bad)
    if total == 0:
        raise BadData(f"{data} holds no conversation. Expected {SHAPES}.")
    if not bad:
        return
    first, kinds = bad[0], ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in bad).items())
    sentence = f"{len(bad)} of {total} conversations in {data} cannot be used ({kinds}); "
    sentence += f"the first is {first.where}: {first.fault}."
    if not good or not skip_bad:
        raise BadData(
            f"{sentence} {'Mend the data.' if not good else 'Mend them, or train on the others with --skip-bad.'}"
        )
    warnings.warn(f"{sentence} They are left out, as --skip-bad asks.", AnchorsWarning, stacklevel=3)
