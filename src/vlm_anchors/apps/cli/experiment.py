"""`vlm-anchors run`: an experiment in a file, answered, resumed and reported."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import evaluating, options, outputs
from .printing import say


def run(
    file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="Models, methods, decodings, benchmarks, seeds.")
    ],
    out: Annotated[
        Path | None, outputs.folder(help="Folder of answers and report; run again to go on. Default: the file's.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="The first N questions of each.")
    ] = None,
    device: options.Device = None,
    ray: evaluating.Ray = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List runs, questions and the estimated cost; answer nothing.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Answer an experiment: models x methods x decodings x benchmarks x seeds.

    Resumes when run again, shards under torchrun, ends in one report.
    """
    from ...experiments.cells import cells, listing
    from ...experiments.execute import HTML, TEXT, run_experiment
    from ...experiments.experiment_file import read_experiment

    experiment = read_experiment(file, out, limit, device)
    if dry_run:
        say(listing(cells(experiment)), nl=False)
        return
    text = run_experiment(
        experiment,
        ray_workers=ray,
        progress=options.progress(),
        say=lambda words: print(words, file=sys.stderr),
    )
    if text is None:
        print(
            f"Other processes still answer; the last one writes the report. Or run again: vlm-anchors run {file}",
            file=sys.stderr,
        )
        return
    say(text, nl=False)
    print(f"The report is {experiment.out / HTML}; as text, {experiment.out / TEXT}.", file=sys.stderr)
