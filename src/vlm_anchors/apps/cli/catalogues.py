"""`vlm-anchors methods`, `families` and `benchmarks`: what there is."""

import inspect
from typing import Annotated, Any

import typer

from . import options as given


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method: its dials and what they do.")
    ] = None,
    json: given.Json = False,
) -> None:
    """The methods there are; with a NAME, that method's dials."""
    from ...interventions.method import spelled
    from ...methods import METHODS

    if name is None:
        _show("methods", [_entry(entry) for entry in METHODS], json)
        return
    entry = METHODS.get(name)
    dials = METHODS.dials(name)
    presets = [{**one._asdict(), "dials": dict(one.dials)} for one in getattr(entry.load(), "presets", ())]
    if json:
        given.print_json({**_entry(entry), "dials": dials, "presets": presets})
        return
    typer.echo(f"{entry.name}: {entry.summary} ({entry.source})")
    typer.echo(f"\n{inspect.getdoc(inspect.getmodule(entry.load()))}\n")
    typer.echo(inspect.getdoc(entry.load()))
    typer.echo(f"\nDefaults: {entry.name}:{spelled(dials)}" if dials else "\nIt has no dials.")
    if presets:
        typer.echo(f"\nPresets, as {entry.name}:preset=MODEL/TASK, other dials after it:")
        _show("presets", [{**one, "dials": spelled(one["dials"]) or "its defaults"} for one in presets], json)


def families(json: given.Json = False) -> None:
    """The model families methods are tested on."""
    from ...models.families import FAMILIES

    rows = [
        {"name": family.name, "models": family.title, "acts on": family.site, "note": family.refused or family.note}
        for family in FAMILIES
    ]
    _show("families", rows, json)


def benchmarks(json: given.Json = False) -> None:
    """The benchmarks there are."""
    from ...evaluation.benchmarks import BENCHMARKS

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

    table = Table(box=None, pad_edge=False)
    for title in rows[0]:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
