"""`vlm-anchors scenes`: draw scenes, export the bundled benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from . import options, outputs
from .printing import say

scenes = typer.Typer(help="Draw images with known content; export the bundled benchmarks.", no_args_is_help=True)

Out = Annotated[Path, outputs.folder(help="Folder to write into; made if it is not there.")]


@scenes.command()
def render(
    objects: Annotated[
        Path,
        typer.Option("--objects", metavar="FILE", help='JSON: {"name": ["cup", "fork", ...], ...} gives name.png.'),
    ],
    out: Out,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Another seed, other places and sizes.")] = 0,
    debug: options.Debug = False,
) -> None:
    """Draw given lists of objects, one image a list."""
    from ...scenes import render_files

    paths = render_files(objects, out, seed)
    say(f"{len(paths)} images in {out}")


@scenes.command()
def export(
    out: Out,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", metavar="NAME", help="pope, chair or mme. Default: all three.")
    ] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", min=1, help="How many scenes are asked about.")] = 500,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Another seed, other scenes and questions.")] = 0,
    debug: options.Debug = False,
) -> None:
    """Write the bundled benchmarks in the official file formats, for other tools: questions, annotations and images."""
    from ...evaluation.runner.bundled import BUNDLED
    from ...evaluation.runner.bundled import export as write

    folder = write(out, benchmark or BUNDLED, images, seed)
    say(f"{', '.join(benchmark or BUNDLED)} and {images} images in {folder}")
