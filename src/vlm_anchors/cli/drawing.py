"""`vlm-anchors scenes`: draw scenes, export the bundled benchmarks, remake the bundled model."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as given
from . import outputs

scenes = typer.Typer(help="Draw images with known content; remake the bundled model.", no_args_is_help=True)

Out = Annotated[Path, outputs.folder(help="Folder to write into; made if it is not there.")]


@scenes.command()
def render(
    objects: Annotated[
        Path,
        typer.Option("--objects", metavar="FILE", help='JSON: {"name": ["cup", "fork", ...], ...} gives name.png.'),
    ],
    out: Out,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Another seed, other places and sizes.")] = 0,
    debug: given.Debug = False,
) -> None:
    """Draw given lists of objects, one image a list."""
    from ..scenes import render_files

    paths = render_files(objects, out, seed)
    typer.echo(f"{len(paths)} images in {out}")


@scenes.command()
def export(
    out: Out,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", metavar="NAME", help="pope, chair or mme. Default: all three.")
    ] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", min=1, help="How many scenes are asked about.")] = 500,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Another seed, other scenes and questions.")] = 0,
    debug: given.Debug = False,
) -> None:
    """Write the bundled benchmarks in the official file formats, for other tools: questions, annotations and images."""
    from ..runner.bundled import BUNDLED
    from ..runner.bundled import export as write

    folder = write(out, benchmark or BUNDLED, images, seed)
    typer.echo(f"{', '.join(benchmark or BUNDLED)} and {images} images in {folder}")


@scenes.command()
def train(
    out: Out,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Time for training; drawing the scenes comes on top.")
    ] = 75.0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of scenes and weights.")] = 0,
    debug: given.Debug = False,
) -> None:
    """Remake the bundled model from nothing. Run again after an interruption, it goes on where it was."""
    from ..scenes.train import train as train_scenes

    folder = train_scenes(out, seed=seed, minutes=minutes)
    typer.echo(f"The model is in {folder}. Ask it: vlm-anchors ask IMAGE QUESTION --model {folder}")
