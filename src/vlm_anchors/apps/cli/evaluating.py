"""`vlm-anchors eval`, `report` and `lmms-task`: answers to questions, tables of them, and the questions for lmms-eval."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options, outputs
from .printing import say

Name = Annotated[str, typer.Argument(metavar="BENCHMARK", help="A name or SPEC: pope, chair:lemma=fixed, ...")]
Data = Annotated[Path | None, outputs.source("--data", metavar="FILE_OR_DIR", help="Official question files.")]
Images = Annotated[Path | None, outputs.source("--images", metavar="DIR", help="Their images.")]
Split = Annotated[str | None, typer.Option("--split", metavar="S", help="Part of the questions.")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="The first N questions.")]
How = Annotated[str | None, typer.Option("--protocol", metavar="P", help="How questions are put.")]
NewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", metavar="N", help="Longest answer, in tokens. Default: the protocol's."),
]
Ray = Annotated[
    int | None, typer.Option("--ray", metavar="N", min=1, help="Answer in N workers of Ray, here or on its cluster.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out questions whose images cannot be read; the report counts them.")
]


@options.takes_model
def evaluate(
    model: options.Chosen,
    benchmark: Name,
    out: Annotated[Path, outputs.folder(metavar="RUN", help="Folder of the answers; run again to go on.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="SPEC",
            help="none, clva, clva:alpha=5, ... Default: what the model was trained with, else none.",
        ),
    ] = None,
    data: Data = None,
    images: Images = None,
    split: Split = None,
    limit: Limit = None,
    protocol: How = None,
    decoding: options.Decoding = None,
    seed: options.Seed = None,
    max_new_tokens: NewTokens = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="B", min=1)] = 16,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="Prefill every question from its beginning.")] = False,
    ray: Ray = None,
    skip_bad: SkipBad = False,
    engine: Annotated[
        str, typer.Option("--engine", metavar="SPEC", help="transformers, or vllm where it is installed: docs/vllm.md.")
    ] = "transformers",
) -> None:
    """Answer a benchmark's questions. Resumes when run again; shards under torchrun. Without --data: bundled scenes."""
    from ...errors import BadSetting
    from ...evaluation.runner.run import evaluate as run
    from ...evaluation.runner.run import plan, refuse_other_run, shortened

    both_or_neither(data, images)
    method = options.each_method(method)
    if split is not None and not split.strip():
        raise BadSetting("Expected --split as a part of the questions; found an empty word. Leave it out for all.")
    shortened(plan(benchmark, method or [], protocol, decoding)[1], max_new_tokens)
    answer_with = _engine(engine, out)
    if ray or answer_with:  # only the workers or the engine answer: the card is theirs
        model = replace(model, settings={**model.settings, "device": "cpu"})
    vlm = model.load()
    refuse_other_run(vlm, benchmark, out, protocol, max_new_tokens)
    data, images = questions_of(benchmark, data, images, out, split, limit)
    added = run(
        vlm, benchmark, out, data=data, images=images, methods=method or None, split=split, limit=limit,
        protocol_name=protocol, decoding=decoding, seed=seed, max_new_tokens=max_new_tokens, batch_size=batch_size,
        reuse=not no_reuse, ray_workers=ray, answer_with=answer_with, progress=options.progress(), skip_bad=skip_bad,
        say=lambda words: print(words, file=sys.stderr),
    )  # fmt: skip
    print(f"{added} answers added to {out}. Next: vlm-anchors report {out}", file=sys.stderr)


def _engine(spec: str, out: Path) -> Any:
    """What makes another engine answer; None for transformers."""
    from ...errors import UnknownName
    from ...registry import did_you_mean, parse_spec

    name, settings = parse_spec(spec)
    if name == "vllm":
        from ...integrations.vllm.answerer import VllmAnswerer

        return lambda answerer: VllmAnswerer.of(answerer, out / "vllm-model", **settings)
    if name != "transformers" or settings:
        raise UnknownName(f"No engine {spec!r}.{did_you_mean(name, ['transformers', 'vllm'])}")
    return None


def lmms_task(
    benchmark: Name,
    out: Annotated[Path, outputs.folder(help="Folder of task files, for lmms-eval's --include_path.")],
    data: Data = None,
    images: Images = None,
    split: Split = None,
    limit: Limit = None,
    protocol: How = None,
    debug: options.Debug = False,
) -> None:
    """Write a benchmark as a task of lmms-eval, scored by our scorers. Without --data: bundled scenes."""
    from ...evaluation.runner.run import plan
    from ...integrations.lmms_eval.tasks import write_task

    both_or_neither(data, images)
    plan(benchmark, [], protocol, None)
    data, images = questions_of(benchmark, data, images, out, split, limit)
    task = write_task(benchmark, out, data=data, images=images, split=split, limit=limit, protocol_name=protocol)
    say(f"python -m lmms_eval --model vlm_anchors --model_args method=clva --tasks {task} --include_path {out}")


def both_or_neither(data: Path | None, images: Path | None) -> None:
    from ...errors import BadSetting

    if (data is None) != (images is None):
        raise BadSetting(
            "Expected --data and --images together (or neither, for the bundled scenes); found one of them."
        )


def questions_of(
    benchmark: str, data: Path | None, images: Path | None, out: Path, split: str | None, limit: int | None
) -> tuple[Path, Path]:
    """Where question files and images are: as given, or the bundled ones, which are written below `out`."""
    from ...evaluation.runner.batches import check_limit
    from ...evaluation.runner.bundled import bundled_data

    check_limit(limit)
    if data is None or images is None:
        return bundled_data(benchmark, out, split=split, limit=limit)
    return data, images


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that eval wrote.")],
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="METHOD_OR_RUN", help="What is compared with: a method, or another model's RUN."
        ),
    ] = "none",
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="NAMES", help="accuracy,f1: those, in that order. Default: all.")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, md, latex, csv, json or html.")
    ] = "table",
    out: Annotated[Path | None, outputs.file(help="Write there instead of stdout.")] = None,
    answers: Annotated[
        Path | None,
        outputs.folder("--answers", help="Write official answer files too, a folder a benchmark and method."),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Tables of what was answered, published figures beside them.

    Intervals, paired differences, unread answers; a row a method.
    """
    from ...durable import write_whole
    from ...errors import UnknownName
    from ...evaluation.reading.official import ScoredElsewhere
    from ...evaluation.reporting import html as report_page
    from ...evaluation.reporting import sheets, tables
    from ...evaluation.reporting import text as report_text
    from ...evaluation.reporting.runs import read_info
    from ...registry import did_you_mean

    def with_runs(made: Any) -> str:
        """The tables and the birth certificates of the runs they come from."""
        reported_runs = [read_info(run) for run in runs]
        return json.dumps({"runs": reported_runs, "tables": json.loads(tables.as_json(made))}, indent=1) + "\n"

    forms: dict[str, Any] = {
        "table": report_text.terminal, "md": report_text.markdown, "json": with_runs, "html": report_page.page,
        "latex": sheets.latex, "csv": sheets.comma_separated,
    }  # fmt: skip
    if format not in forms:
        raise UnknownName(f"No format {format!r}.{did_you_mean(format, forms)}")
    if answers:  # before the tables, which a judge may have to come before
        _write_answers(runs, answers)
    names = [name.strip() for name in (metrics or "").split(",") if name.strip()]
    try:
        text = forms[format](tables.tables(runs, against=against, metrics=names))
    except ScoredElsewhere as error:
        if not answers:
            raise
        print(error, file=sys.stderr)  # the file that its server takes is written
        return
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text)
    else:
        say(text, nl=not text.endswith("\n"))


def score(
    benchmark: Name,
    answers: Annotated[
        Path, outputs.source("--answers", metavar="FILE_OR_DIR", help="Answers in the benchmark's official format.")
    ],
    data: Annotated[Path, outputs.source("--data", metavar="FILE_OR_DIR", help="The questions that they answer.")],
    out: Annotated[Path, outputs.folder(metavar="RUN", help="Folder of the answers, for report.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Whose answers they are, as tables name it.")],
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="The method, as tables name it.")] = "none",
    decoding: Annotated[
        str, typer.Option("--decoding", metavar="NAME", help="The decoding, as tables name it.")
    ] = "not stated",
    split: Split = None,
    debug: options.Debug = False,
) -> None:
    """Read answers that another program wrote, so that report scores them. No model runs."""
    from ...errors import BadSetting
    from ...evaluation.runner.import_answers import import_answers

    for option, name in {"--model": model, "--method": method, "--decoding": decoding}.items():
        if not name.strip():
            raise BadSetting(f"Expected a name for the tables; {option} is empty.")
    added = import_answers(
        benchmark, answers, out, data=data, model=model, method=method, decoding=decoding, split=split
    )
    print(f"{added} answers added to {out}. Next: vlm-anchors report {out}", file=sys.stderr)


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="MMBench's TSV, which holds its images.")],
    out: Annotated[Path, outputs.folder(help="Folder of the images, for eval's --images.")],
    debug: options.Debug = False,
) -> None:
    """Write the images inside an MMBench file into a folder."""
    from ...evaluation.benchmarks.choice import unpack_images

    count = unpack_images(file, out)
    print(
        f"{count} images lie in {out}. Next: vlm-anchors eval mmbench --data {file} --images {out} --out RUN",
        file=sys.stderr,
    )


def _write_answers(runs: list[Path], folder: Path) -> None:
    from ...evaluation.reporting.answer_files import answer_files, write_answer_files

    for place, count in write_answer_files(answer_files(runs, folder)).items():
        print(f"{count} answer {'file lies' if count == 1 else 'files lie'} in {place}", file=sys.stderr)
