"""The commands, one line each: what they are called and where they are."""

from typing import Annotated

import typer

from .asking import ask, compare
from .benching import bench
from .calibrating import calibrate
from .catalogues import benchmarks, families, methods
from .diagnosing import diagnose
from .drawing import scenes
from .evaluating import evaluate, report
from .looking import look

app = typer.Typer(
    help="Vision-language models that keep looking at the image: ask, compare methods, see what they did.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


app.command()(ask)
app.command()(compare)
app.command()(look)
app.command()(diagnose)
app.command()(methods)
app.command()(families)
app.command()(benchmarks)
app.command()(bench)
app.command()(calibrate)
app.command("eval")(evaluate)
app.command()(report)
app.add_typer(scenes, name="scenes")
