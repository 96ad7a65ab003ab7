"""`anchors.json`: a method that travels with a model, every parameter written out.

A default that changes in a later version does not change a model that was tuned or trained before: the file holds all
parameters, those at their defaults too.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..durable import write_whole
from ..errors import BadSetting
from ..models.adapter import ANCHORS
from ..parameters import name_of, spelled
from ..specs import MethodLike, choose
from ..text_files import read_object
from ..version import __version__


def save(method: MethodLike, folder: "str | Path", source: str = "") -> Path:
    """Write a method into a model's folder; `va.load(folder)` and `vlm-anchors serve` then apply it by default.

    Args:
        method: A method, a SPEC such as "clva:alpha=5", or a list of those that compose.
        folder: The model's folder, or an adapter's; made if it is not there. What `anchors.json` says of a base model stays.
        source: Where the values come from, such as "tuned on POPE, 200 questions"; kept for the reader.

    Returns:
        The file that was written.

    Raises:
        UserError: The SPEC is wrong, the folder cannot be written, or an `anchors.json` in it cannot be read.
    """
    methods, _ = choose(method)
    place = Path(folder).expanduser()
    file = place / ANCHORS
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"Cannot write {file}: {error}. Choose a folder that can be written.") from error
    kept = base_in(place)
    content = {"method": whole_spec(methods), "source": source, "vlm-anchors": __version__, **kept}
    write_whole(file, json.dumps(content, indent=1) + "\n")
    return file


def base_in(folder: Path) -> dict[str, Any]:
    """What an `anchors.json` in the folder says of a base model; `save` keeps it.

    Raises:
        BadSetting: The file is broken.
    """
    file = folder / ANCHORS
    known = read_object(file, BadSetting, "Remove it, or choose another folder.") if file.exists() else {}
    return {key: known[key] for key in ("model", "revision") if key in known}


def whole_spec(methods: Any) -> str:
    """The methods as one SPEC with all their parameters; "none" where there is none."""
    return "+".join(_whole(method) for method in methods) or "none"


def _whole(method: Any) -> str:
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    return f"{name_of(method)}:{spelled(values)}" if values else name_of(method)
