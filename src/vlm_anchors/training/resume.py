"""A run goes on where it was killed, if it is the same run."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..durable import write_whole
from ..errors import BadSetting
from ..text_files import read_object

FIXED = ("model", "revision", "method", "data_sha256", "validation", "settings")
FILE = "training.json"


def settle(out: Path, settings_now: Mapping[str, Any], first: bool) -> None:
    """Writes OUT/training.json, or checks that what it says still holds; raises `BadSetting` with the difference.

    first: of several processes the one that writes.
    """
    if out.exists() and not out.is_dir():
        raise BadSetting(f"{out} is a file; --out names a folder. Choose another name.")
    file = out / FILE
    if file.exists():
        before = read_object(file, BadSetting, "Restore it, or choose another --out.")
        _compare(out, before, settings_now)
    elif first:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(settings_now, indent=1) + "\n")
    if first:
        for torn in _checkpoints(out, whole=False):
            shutil.rmtree(torn, ignore_errors=True)


def _compare(out: Path, before: Mapping[str, Any], settings_now: Mapping[str, Any]) -> None:
    if "result" in before:
        raise BadSetting(f"{out} holds a finished run. Load it with va.load({str(out)!r}), or choose another --out.")
    for name in FIXED:
        old, new = before.get(name), settings_now[name]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and any(old.get(key) != new[key] for key in new):
            name = next(key for key in new if old.get(key) != new[key])
            old, new = old.get(name), new[name]
        raise BadSetting(
            f"{out} was begun with {name} = {old!r}; this is {new!r}. Give the same settings to go on, or another --out."
        )


def last_checkpoint(out: Path) -> str | None:
    """The last checkpoint that was written to its end; None before there is one."""
    whole = _checkpoints(out, whole=True)
    return str(max(whole, key=_step)) if whole else None


def _checkpoints(out: Path, whole: bool) -> list[Path]:
    return [folder for folder in (out / "checkpoints").glob("checkpoint-*") if _is_whole(folder) == whole]


def _is_whole(folder: Path) -> bool:
    """The trainer writes its state last."""
    try:
        json.loads((folder / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _step(folder: Path) -> int:
    step = folder.name.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1
