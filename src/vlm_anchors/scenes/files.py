"""`vlm-anchors scenes render`: given lists of objects in a JSON file -> one PNG file a list."""

import difflib
import json
from pathlib import Path

from ..durable import write_whole
from ..errors import UserError
from ..text_files import parse_json, read_text
from .coco import CATEGORIES
from .scene import MOST_OBJECTS, from_objects

SHAPE = '{"name": ["cup", "fork", ...], ...}'
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")


class BadObjects(UserError):
    """An object list that cannot be drawn."""


def render_files(objects_file: str | Path, out_dir: str | Path, seed: int = 0) -> list[Path]:
    """Draws every list of a file: {"kitchen": ["cup", "fork"]} -> out_dir/kitchen.png. A name that ends like an image file
    (the official POPE names do) loses that ending. The same name, list and seed give the same image.

    Raises:
        UserError: The file or a list in it is no list of drawable objects, or the folder cannot be written.
    """
    from . import draw

    lists, folder = read_lists(Path(objects_file)), Path(out_dir)
    scenes = {_file_name(name): from_objects(objects, seed) for name, objects in lists.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, scene in scenes.items():
            write_whole(folder / name, draw.as_png(scene))
    except OSError as error:
        raise BadObjects(f"Cannot write into {folder}: {error.strerror or error}. Choose another folder.") from error
    return [folder / name for name in scenes]


def read_lists(path: Path) -> dict[str, list[str]]:
    """The checked content of an objects file."""
    try:
        lists = parse_json(read_text(path, BadObjects, f"Expected JSON: {SHAPE}."), object_pairs_hook=_once)
    except FileNotFoundError as error:
        raise BadObjects(f"There is no file {path}. Expected JSON: {SHAPE}.") from error
    except OSError as error:
        raise BadObjects(f"Cannot read {path}: {error.strerror or error}.") from error
    except json.JSONDecodeError as error:
        where = f" (line {error.lineno}, column {error.colno})"
        raise BadObjects(f"{path} is not valid JSON{where}. Expected {SHAPE}.") from error
    if not isinstance(lists, dict):
        raise BadObjects(f"{path} holds a JSON {_kind(lists)}. Expected {SHAPE}.")
    if not lists:
        raise BadObjects(f"{path} names no image. Expected {SHAPE}.")
    files: dict[str, str] = {}
    for name, objects in lists.items():
        _check_name(name)
        _check_objects(name, objects)
        other = files.setdefault(_file_name(name).lower(), name)
        if other != name:
            raise BadObjects(f"{other!r} and {name!r} would both be written to {_file_name(name)}. Rename one.")
    return lists


def _once(pairs: list[tuple[str, object]]) -> dict:
    """json.loads keeps the last of two equal names in silence; an image that is missing without a word helps nobody."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise BadObjects(f"The name {name!r} stands twice in the file. Rename one.")
        found[name] = value
    return found


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else "object")


def _check_name(name: str) -> None:
    bad = not name.strip() or name.strip(". ") == "" or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name)
    if bad or len(name.encode()) > 200:
        shown = repr(name if len(name) <= 60 else name[:57] + "...")
        raise BadObjects(f"{shown} cannot name a file. Use letters, digits, dots, dashes and underscores.")


def _check_objects(name: str, objects: object) -> None:
    if not isinstance(objects, list):
        raise BadObjects(f'{name!r} holds a JSON {_kind(objects)}. Expected a list of objects, like ["cup", "fork"].')
    if not 1 <= len(objects) <= MOST_OBJECTS:
        raise BadObjects(f"{name!r} lists {len(objects)} objects. Expected 1 to {MOST_OBJECTS}.")
    for thing in objects:
        if thing not in CATEGORIES:
            close = difflib.get_close_matches(thing.lower(), CATEGORIES, 1) if isinstance(thing, str) else []
            hint = f" Did you mean {close[0]!r}?" if close else " Expected one of the 80 COCO categories."
            shown = json.dumps(thing) if len(json.dumps(thing)) <= 60 else json.dumps(thing)[:57] + "..."
            raise BadObjects(f"{name!r} lists {shown}, which is no object that can be drawn.{hint}")


def _file_name(name: str) -> str:
    stem = next(
        (name[: -len(end)] for end in IMAGE_ENDINGS if name.lower().endswith(end) and len(name) > len(end)), name
    )
    return stem + ".png"
