"""Conversations to train on: LLaVA-Instruct's JSON and the messages format, all checked before a model is loaded.

    {"id": "7", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nIs it red?"},
                                                    {"from": "gpt", "value": "Yes."}]}
    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "Is it red?"}, {"role": "assistant", "content": "Yes."}]}

A file holds a list of these or one a line. The images of a turn stand before its words, wherever the data has them: that
is how LLaVA was trained, how `va.ask` asks, and words before an image find no patch to stand at. Rows without an image
and rows with an image in a later turn are read where they are asked for (mixed=True): the first are trained on without
anchors, of the second the first question alone takes them.
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
from ..evaluation.reading.files import find_image
from ..inputs.images import FORMATS
from ..text_files import parse_json, read_text, require_regular

MARK = "<image>"
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
SHAPES = (
    '{"image": ..., "conversations": [{"from": "human", "value": ...}, ...]} or {"images": [...], "messages": [...]}'
)


class Turn(NamedTuple):
    """What one side says: role "system", "user" or "assistant"; `images` stand before its words."""

    role: str
    text: str
    images: int = 0


@dataclass(frozen=True)
class Conversation:
    """One row of the data.

    Args:
        where: File and place in it, for a reader's eyes.
        images: Paths.
    """

    where: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]

    def row(self) -> dict[str, Any]:
        """As a row of a data set: image paths, and messages with the number of images before each."""
        messages = [{"role": turn.role, "content": turn.text, "images": turn.images} for turn in self.turns]
        return {"images": list(self.images), "messages": messages}


class Bad(NamedTuple):
    """A row that cannot be used: its place, the kind of fault in a few words, and the fault itself."""

    where: str
    kind: str
    fault: str


class _Fault(Exception):
    def __init__(self, kind: str, fault: str):
        self.kind, self.fault = kind, fault


def read_data(
    data: Path, images: Path | None = None, skip_bad: bool = False, mixed: bool = False
) -> tuple[list[Conversation], list[Bad]]:
    """The conversations of a file, or of all .json and .jsonl files of a folder; and what had to be left out.

    Args:
        data: The file or folder.
        images: The folder that image names count from; the data's own by default.
        skip_bad: Leave out rows that cannot be used, with a warning.
        mixed: Also take rows without an image, and rows with an image in a later turn.

    Raises:
        BadData: A row cannot be used; the first is named and the others are counted.
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
                good.append(_conversation(where, entry, find, mixed))
            except _Fault as fault:
                bad.append(Bad(where, fault.kind, fault.fault))
    settle(data, len(good), bad, skip_bad)
    return good, bad


def fingerprint(data: Path) -> str:
    """SHA-256 of what `read_data` reads: the file, or the files of a folder in order; not of the images."""
    digest = hashlib.sha256()
    for file in _files(data):
        require_regular(file)
        digest.update(file.read_bytes())
    return digest.hexdigest()


def split_by_image(
    conversations: list[Conversation], share: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(training, validation): about `share` of the images, at least one of each; no image is on both sides."""
    names = sorted({_subject(one) for one in conversations})
    if len(names) < 2:
        raise BadData(
            f"Expected conversations about two images or more, to keep some for validation; found {len(names)}. "
            "Give validation data of their own by --validation FILE."
        )
    random.Random(seed).shuffle(names)
    kept = set(names[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return [one for one in conversations if _subject(one) not in kept], [
        one for one in conversations if _subject(one) in kept
    ]


def _subject(one: Conversation) -> str:
    """What a conversation is about: its first image, or itself where it has none."""
    return one.images[0] if one.images else one.where


def _files(data: Path) -> list[Path]:
    if data.exists() and not data.is_dir():
        return [data]
    if not data.exists():
        raise BadData(f"No data at {data}. Expected a .json or .jsonl file of conversations, or a folder of them.")
    found = sorted(path for path in data.iterdir() if path.suffix in (".json", ".jsonl") and path.name[0] != ".")
    if not found:
        raise BadData(f"{data} holds no .json or .jsonl file. Expected conversations: {SHAPES}.")
    return found


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every row; a line that is no JSON comes as a fault of its own."""
    try:
        text = read_text(file, advice="Convert it to UTF-8.")
    except OSError as error:
        raise BadData(f"{file} cannot be read: {error.strerror or error}.") from error
    if text.lstrip().startswith("["):
        try:
            rows = parse_json(text)
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
            yield where, parse_json(line)
        except json.JSONDecodeError as error:
            yield where, _Fault("broken JSON", f"broken JSON ({error.msg}, column {error.colno})")


def _conversation(where: str, row: Any, find: Any, mixed: bool) -> Conversation:
    if not isinstance(row, dict) or not ("conversations" in row or "messages" in row):
        raise _Fault("no conversation", f"no conversation in it; expected {SHAPES}")
    turns, inside = _turns(row["conversations"] if "conversations" in row else row["messages"])
    _check_order(turns)
    named = row.get("images", row.get("image"))
    names = inside or (named if isinstance(named, list) else [] if named is None else [named])
    if "" in names or not (names or mixed):
        also = "" if "" in names else "; --mixed trains on such rows too, without anchors"
        raise _Fault("no image", f"no image; anchors stand in one{also}")
    if not all(isinstance(name, str) for name in names):
        raise _Fault("missing image", f"an image that is no file name but {type(names[0]).__name__}")
    placed = tuple(_placed(turns, len(names), mixed))
    return Conversation(where, tuple(find(name) for name in names), placed)


def _placed(turns: list[Turn], images: int, mixed: bool) -> Iterator[Turn]:
    """The turns without marks, each with the number of its images; images that no mark places stand in the first question."""
    first = next(at for at, turn in enumerate(turns) if turn.role == "user")
    counts = [turn.images + turn.text.count(MARK) for turn in turns]
    if sum(counts) == 0:
        counts[first] = images
    if counts[first] != sum(counts) and not (mixed and sum(counts) == images):
        raise _misplaced(turns, counts, first)
    if sum(counts) != images:
        raise _Fault("image mark out of place", f"{images} images but {MARK} {sum(counts)} times")
    for turn, count in zip(turns, counts, strict=True):
        if count and turn.role != "user":
            raise _misplaced(turns, counts, first)
        yield Turn(turn.role, turn.text.replace(MARK, "").strip() if count else turn.text, count)


def _misplaced(turns: list[Turn], counts: list[int], first: int) -> _Fault:
    at = next(at for at, count in enumerate(counts) if count and at != first)
    what = "an image in a later turn" if turns[at].images else f"{MARK} in turn {at + 1}"
    advice = "; --mixed takes images before later questions too" if turns[at].role == "user" else ""
    return _Fault("image mark out of place", f"{what}; images stand before the first question only{advice}")


def _turns(entries: Any) -> tuple[list[Turn], list[Any]]:
    """The turns of either format, and the images that a message holds itself."""
    turns, inside = list[Turn](), list[Any]()
    for each in entries if isinstance(entries, list) else []:
        role = ROLES.get(str(each.get("role", each.get("from")))) if isinstance(each, dict) else None
        content = each.get("content", each.get("value")) if isinstance(each, dict) else None
        if role is None or not isinstance(content, (str, list)):
            raise _Fault("no conversation", f"a turn that is none: {json.dumps(each)[:80]}; expected {SHAPES}")
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            shown = [part for part in parts if part.get("type") == "image"]
            inside += [name for part in shown if (name := part.get("path", part.get("image"))) is not None]
            content = "".join(str(part.get("text") or "") for part in parts if part.get("type") == "text")
            turns.append(Turn(role, content, len(shown)))
        else:
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


def _readable(name: str, look_up: Any) -> Path:
    """The file, if it is there and begins as an image does; its pixels are read when its turn comes."""
    from PIL import Image

    try:
        path = Path(name) if Path(name).is_file() else look_up(name)
    except BadData as error:
        raise _Fault("missing image", str(error).rstrip(".")) from error
    try:
        require_regular(path)
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]):
            return path
    except Exception as error:  # Pillow's readers raise whatever a broken header makes them raise
        raise _Fault("unreadable image", f"the image {path} cannot be read ({type(error).__name__})") from error


def settle(data: Path, good: int, bad: list[Bad], skip_bad: bool) -> None:
    """Refuses bad rows, or says that they are left out."""
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
