"""`vlm-anchors methods`, `families` and `benchmarks`: what there is."""

from typing import Any

import typer

from . import options as given


def methods(json: given.Json = False) -> None:
    """The methods there are: name, one line, source, dials."""
    from ..methods import METHODS

    _show("methods", [_entry(entry) for entry in METHODS], json)


def families(json: given.Json = False) -> None:
    """The model families methods are tested on."""
    from ..families import FAMILIES

    rows = [
        {"name": family.name, "models": family.title, "acts on": family.site, "note": family.refused or family.note}
        for family in FAMILIES
    ]
    _show("families", rows, json)


def benchmarks(json: given.Json = False) -> None:
    """The benchmarks there are."""
    from ..benchmarks import BENCHMARKS

    _show("benchmarks", [_entry(entry) for entry in BENCHMARKS], json)


def _entry(entry: Any) -> dict[str, str]:
    return {"name": entry.name, "what it does": entry.summary, "source": entry.source}


def _show(kind: str, rows: list[dict[str, str]], json: bool) -> None:
    if json:
        given.print_json({kind: rows})
        return
    if not rows:
        typer.echo(f"There are no {kind} in this version.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
