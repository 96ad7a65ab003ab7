"""The commands: what they are called, under which heading `--help` lists them, and where they are."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .asking import ask, compare
from .benching import bench
from .calibrating import calibrate
from .catalogues import benchmarks, families, methods
from .diagnosing import diagnose
from .drawing import scenes
from .evaluating import evaluate, lmms_task, report, score, unpack
from .experiment import run
from .exporting import export_vllm
from .judging import judge
from .looking import look
from .serving import serve
from .training import merge, train
from .tuning import tune
from .web import app as web_app


class Grouped(TyperGroup):
    """Lists commands under their headings. typer does that for rich markup only, whose import every `--help` would pay."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        commands: dict[str, Any] = dict(self.commands)
        for name, command in commands.items():
            row = (name, command.get_short_help_str(formatter.width - 16))
            headings.setdefault(command.rich_help_panel, []).append(row)
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Grouped,
    help="Vision-language models that keep looking at the image: ask, compare methods, see what they did.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from ...provenance import versions

        for name, found in versions().items():
            typer.echo(f"{name} {found or 'is not installed'}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the versions that matter to a bug report.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None: ...


HEADINGS: dict[str, dict[str, Any]] = {
    "Ask and look": {"ask": ask, "compare": compare, "look": look, "app": web_app},
    "Serve": {"serve": serve},
    "Measure": {
        "eval": evaluate,
        "judge": judge,
        "run": run,
        "report": report,
        "bench": bench,
        "score": score,
        "lmms-task": lmms_task,
        "unpack": unpack,
    },
    "Fit to a model": {
        "diagnose": diagnose,
        "calibrate": calibrate,
        "tune": tune,
        "train": train,
        "merge": merge,
        "export-vllm": export_vllm,
    },
    "What there is": {"methods": methods, "families": families, "benchmarks": benchmarks},
}
for heading, commands in HEADINGS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=heading)(command)
app.add_typer(scenes, name="scenes", rich_help_panel="What there is")
