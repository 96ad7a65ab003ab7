"""Where commands write. A place that cannot be written is refused while the command line is read, before any work."""

import os
import tempfile
from pathlib import Path
from typing import Any

import typer


def folder(option: str = "--out", *, metavar: str = "DIR", help: str) -> Any:
    """An option that names a folder to write into, made if it is not there."""
    return typer.Option(option, metavar=metavar, help=help, parser=lambda text: writable_folder(option, text))


def file(option: str = "--out", *, metavar: str = "FILE", help: str) -> Any:
    """An option that names a file to write; its folder is made if it is not there."""
    return typer.Option(option, metavar=metavar, help=help, parser=lambda text: _file(option, text))


def source(option: str, *, metavar: str, help: str) -> Any:
    """An option that names a file or folder to read; an empty name would be the working folder."""
    return typer.Option(
        option, metavar=metavar, help=help, parser=lambda text: _named(option, text, "a file or folder")
    )


def writable_folder(option: str, text: str) -> Path:
    """The folder that an option or argument names, if it can be written to."""
    from ...errors import BadSetting

    place = _named(option, text, "a folder to write into")
    if place.exists() and not place.is_dir():
        raise BadSetting(f"Expected a folder to write into; {option} {place} is a file. Choose another.")
    _require_writable(option, place)
    return place


def _file(option: str, text: str) -> Path:
    from ...errors import BadSetting

    place = _named(option, text, "a file to write")
    if place.is_dir():
        raise BadSetting(f"Expected a file to write; {option} {place} is a folder. Name a file in it.")
    if not place.exists():
        _require_writable(option, place.parent)
    elif not os.access(place, os.W_OK):
        raise BadSetting(f"Cannot write {place}: Permission denied. Choose another file with {option}.")
    return place


def _named(option: str, text: str, what: str) -> Path:
    from ...errors import BadSetting

    if not str(text).strip():
        raise BadSetting(f"Expected the name of {what}; {option} is empty.")
    return Path(text)


def _require_writable(option: str, place: Path) -> None:
    """The folder, or what there is of it, takes a file; nothing is left behind."""
    from ...errors import BadSetting

    there = place
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        why = error.strerror or error
        raise BadSetting(f"Cannot write into {place}: {why}. Choose another folder with {option}.") from error
