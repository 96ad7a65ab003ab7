"""`vlm-anchors methods`, `families` and `benchmarks`: what there is."""

import inspect
from typing import Annotated, Any

import typer

from . import options
from .printing import console as new_console
from .printing import say


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method, or decoding: its parameters and what they do.")
    ] = None,
    json: options.Json = False,
) -> None:
    """The methods there are, with the decodings that are remedies too; with a NAME, that one's parameters."""
    from ...generation.decodings import DECODINGS
    from ...methods import METHODS
    from ...parameters import spelled

    if name is None:
        published = [entry for entry in DECODINGS if hasattr(entry.load(), "presets")]
        _show("methods", [_entry(entry) for entry in (*METHODS, *published)], json)
        return
    catalogue = DECODINGS if name in DECODINGS else METHODS
    entry, parameters = catalogue.get(name), catalogue.parameters(name)
    presets = [{**one._asdict(), "parameters": dict(one.parameters)} for one in getattr(entry.load(), "presets", ())]
    if json:
        options.print_json({**_entry(entry), "parameters": parameters, "presets": presets})
        return
    say(f"{entry.name}: {entry.summary} ({entry.source})")
    say(f"\n{inspect.getdoc(inspect.getmodule(entry.load()))}\n")
    say(inspect.getdoc(entry.load()))
    say(f"\nDefaults: {entry.name}:{spelled(parameters)}" if parameters else "\nIt has no parameters.")
    if presets:
        say(f"\nPresets, as {entry.name}:preset=MODEL/TASK, other parameters after it:")
        _show("presets", [{**one, "parameters": spelled(one["parameters"]) or "its defaults"} for one in presets], json)


def families(json: options.Json = False) -> None:
    """The model families methods are tested on."""
    from ...models.families import FAMILIES

    rows = [
        {"name": family.name, "models": family.title, "acts on": family.target, "note": family.refused or family.note}
        for family in FAMILIES
    ]
    _show("families", rows, json)


def benchmarks(json: options.Json = False) -> None:
    """The benchmarks there are."""
    from ...evaluation.benchmarks import BENCHMARKS

    _show("benchmarks", [_entry(entry) for entry in BENCHMARKS], json)


def _entry(entry: Any) -> dict[str, str]:
    return {"name": entry.name, "what it does": entry.summary, "source": entry.source}


def _show(kind: str, rows: list[dict[str, str]], json: bool) -> None:
    if json:
        options.print_json({kind: rows})
        return
    if not rows:
        say(f"There are no {kind} in this version.")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in rows[0]:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    new_console().print(table)
