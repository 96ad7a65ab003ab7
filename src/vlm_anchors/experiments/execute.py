"""Answers what an experiment lacks, and writes one report when nothing is missing any more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..durable import write_whole
from ..evaluation.reporting import html, tables
from ..evaluation.reporting.text import terminal
from ..evaluation.runner.bundled import IMAGES, bundled_data
from ..evaluation.runner.run import evaluate
from ..models.load import load_quietly
from .cells import cells, decodings_of
from .experiment_file import BenchmarkEntry, Experiment

HTML, TEXT = "report.html", "report.txt"
WIDTH = 160
"""Of the text report: wide enough for intervals."""


def run_experiment(
    experiment: Experiment,
    *,
    ray_workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], Any] = lambda words: None,
) -> str | None:
    """Answers every cell that is missing, model by model; under torchrun or SLURM each rank its share.

    Args:
        experiment: What `read_experiment` gave.
        ray_workers: Answer in so many workers of Ray.
        progress: Called with (answered, of) within each evaluation.
        say: Takes what happens, in words.

    Returns:
        The report as text, once nothing is missing; None in a rank whose neighbours still answer.

    Raises:
        UserError: A model, a question file or a RUN is wrong.
    """
    cells(experiment)  # every question file is read before the first model is loaded
    for model in experiment.models:
        # Only the workers answer: the card is theirs.
        settings = {**model.settings, "device": "cpu"} if ray_workers else dict(model.settings)
        vlm = load_quietly(model.name, **settings)
        for entry in experiment.benchmarks:
            run = experiment.run_of(model, entry)
            data, images = _questions(experiment, entry)
            for decoding, seed in decodings_of(experiment, entry):
                added = evaluate(
                    vlm, entry.name, run, data=data, images=images, methods=list(experiment.methods_of(entry)),
                    split=entry.split, limit=entry.limit, protocol_name=entry.protocol, decoding=decoding, seed=seed,
                    max_new_tokens=entry.max_new_tokens, batch_size=entry.batch_size, ray_workers=ray_workers,
                    skip_bad=experiment.skip_bad, progress=progress, say=say,
                )  # fmt: skip
                say(f"{added} answers added to {run}")
        del vlm
    return report(experiment)


def _questions(experiment: Experiment, entry: BenchmarkEntry) -> tuple[Path, Path]:
    """Where question files and images are; drawn scenes lie beside the RUNs, once for all models."""
    if entry.data is not None and entry.images is not None:
        return entry.data, entry.images
    return bundled_data(entry.name, experiment.drawn, entry.scenes or IMAGES, split=entry.split, limit=entry.limit)


def report(experiment: Experiment) -> str | None:
    """Writes report.html and report.txt; None, and no file, where answers are missing."""
    if any(cell.missing for cell in cells(experiment)):
        return None
    runs = [experiment.run_of(model, entry) for model in experiment.models for entry in experiment.benchmarks]
    made = tables.tables(runs, against=experiment.against, metrics=experiment.metrics)
    text = terminal(made, WIDTH)
    write_whole(experiment.out / HTML, html.page(made))
    write_whole(experiment.out / TEXT, text)
    return text
