"""Answers what an experiment lacks, and writes one report when nothing is missing any more."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..durable import write_whole
from ..evaluation.reporting import html, tables
from ..evaluation.reporting.runs import Run
from ..evaluation.reporting.text import terminal
from ..evaluation.runner.bundled import IMAGES, bundled_data
from ..evaluation.runner.run import evaluate
from ..models.load import load_quietly
from ..models.settings import device_of, quantization_of
from .cells import ExperimentCell, cells, decodings_of
from .experiment import BenchmarkEntry, Experiment

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
    # Only the workers of Ray answer: the card is theirs.
    loading = [{**model.loading, **({"device": "cpu"} if ray_workers else {})} for model in experiment.models]
    for settings in loading:  # what is not here is said before the first model has answered
        quantization_of(settings.get("quantization"), device_of(settings.get("device")))
    for model, settings in zip(experiment.models, loading, strict=True):
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
    count = entry.scenes or IMAGES
    return bundled_data(entry.name, experiment.drawn(count), count, split=entry.split, limit=entry.limit)


def report(experiment: Experiment) -> str | None:
    """Writes report.html and report.txt; None, and no file, where answers are missing."""
    found = cells(experiment)
    if any(cell.missing for cell in found):
        return None
    names = [model.name for model in experiment.models]
    runs: dict[Path, dict[Any, ExperimentCell]] = {}
    for cell in found:
        runs.setdefault(experiment.run_of(cell.model, cell.benchmark), {})[cell.method, cell.decoding, cell.seed] = cell

    def asked_for(run: Run) -> Run:
        """What the file asks for of a RUN, which may hold more."""
        known = runs[run.path]
        some = next(iter(known.values()))
        records = []
        for record in run.records:
            cell = known.get((record["method"], record["decoding"], record.get("seed")))
            if cell is not None and record["id"] in cell.ids:
                records.append(record)
        info = {**run.info, "questions": some.questions, "skipped": list(some.skipped)}
        if names.count(some.model.name) > 1:  # one model under two settings is two models to a reader
            info["model"] = some.model.folder
        return replace(run, info=info, records=records)

    made = tables.tables(runs, against=experiment.against, metrics=experiment.metrics, part=asked_for)
    text = terminal(made, WIDTH)
    write_whole(experiment.out / HTML, html.page(made))
    write_whole(experiment.out / TEXT, text)
    return text
