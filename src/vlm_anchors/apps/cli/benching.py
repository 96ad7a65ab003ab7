"""`vlm-anchors bench`: what methods cost, as ratios to the plain model in one run."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options, outputs
from .printing import console as new_console

_ONE_OF_THEM = "Expected --model or --shape, one of them. Example: vlm-anchors bench --shape mid --method clva"


@functools.partial(options.takes_model, name=None)
def bench(
    method: Annotated[
        list[str], typer.Option("--method", metavar="SPEC", help="A method; literal:SPEC for its full-matrix form.")
    ],
    model: options.Chosen,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Random weights: llava-1.5-7b, tinyllava-1b, qwen2.5-vl-3b or mid.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="B", min=1, help="With --questions: this one alone, not a curve.")
    ] = 1,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=3, help="Interleaved rounds.")] = 15,
    new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", metavar="N", min=2)] = None,
    questions: Annotated[
        int | None,
        typer.Option("--questions", metavar="Q", min=2, help="Instead: questions a second, Q an image, prefix shared."),
    ] = None,
    padded: Annotated[
        bool,
        typer.Option("--padded", help="Give the plain model a prompt as long as the method, an attanchor, makes it."),
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, max=1024, help="CPU threads.")] = None,
    out: Annotated[Path | None, outputs.file(help="Write the result as JSON.")] = None,
    json: options.Json = False,
) -> None:
    """Time and memory of methods, as ratios to the plain model.

    All methods and the plain model run in turns, round after round, so that a busy machine slows them alike.
    """
    import sys

    import torch

    from ...profiling import timing as run
    from ...provenance import provenance

    method = options.each_method(method)
    run.check(method, (run.Greedy,)) if questions else run.check(method)
    if threads:
        torch.set_num_threads(threads)
    if questions:
        summary = _questions(model, shape, method, questions, batch_size, rounds)
        _finish(summary, out, json, _show_questions)
        return
    network, processor, inputs, tokens, name, published, asked = _subject(model, shape, batch_size)
    tokens = new_tokens or tokens
    plain = run.padded(network, inputs, _only(method)) if padded else inputs
    rows = run.measure(
        network, inputs, method, new_tokens=tokens, rounds=rounds, plain=plain, processor=processor, asked=asked,
        progress=lambda done: print(f"round {done + 1} of {rounds}", file=sys.stderr) if done >= 0 else None,
    )  # fmt: skip
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    summary = {
        **provenance(network.device),
        "subject": name, "dtype": str(network.dtype).removeprefix("torch."), "batch size": batch_size,
        "prompt tokens": int(inputs["input_ids"].shape[1]),
        "plain prompt tokens": int(plain["input_ids"].shape[1]), "new tokens": tokens, "rounds": rounds,
        "seconds of": run.clock_of(network.device)[0], "published": published, "rows": list(run.summary(rows, weights)),
    }  # fmt: skip
    _finish(summary, out, json, _show)


def _only(methods: list[str]) -> str:
    from ...errors import BadSetting

    if len(methods) > 1 or not methods[0].startswith("attanchor") or "+" in methods[0]:
        raise BadSetting(
            f"--padded compares with a prompt as long as one method makes it: expected one attanchor; found {', '.join(methods)}."
        )
    return methods[0]


def _finish(summary: dict[str, Any], out: Path | None, json: bool, show: Any) -> None:
    from ...durable import write_whole

    if json:
        options.print_json(summary)
    else:
        show(summary)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, _dump(summary))


def _questions(
    model: options.Chosen,
    shape: str | None,
    method: list[str],
    each: int,
    size: int,
    rounds: int,
) -> dict[str, Any]:
    import sys

    from ...errors import BadSetting
    from ...profiling import questions
    from ...provenance import provenance

    if model.name and shape:
        raise BadSetting(_ONE_OF_THEM)
    if model.name:
        vlm = model.load()
    else:
        device, dtype = model.shape_settings()
        vlm = questions.shape_vlm(shape or "mid", device or "cpu", dtype)

    def progress(done: int) -> None:
        print(f"round {done + 1} of {rounds}", file=sys.stderr)

    only: dict[str, Any] = {} if size == 1 else {"batch_sizes": (size,), "images": -(-size // each)}
    tables = [questions.measure(vlm, spec, questions=each, rounds=rounds, progress=progress, **only) for spec in method]
    return {**provenance(vlm.device), "subject": vlm.name, "dtype": str(vlm.dtype), "rounds": rounds, "tables": tables}


def _show_questions(summary: dict[str, Any]) -> None:
    from rich.table import Table

    for each in summary["tables"]:
        table = Table(
            "way", "questions a second", "speed-up", "95 % interval", "same answers", box=None, pad_edge=False
        )
        for row in each["rows"]:
            low, high = row["interval"]
            speed = f"{row['questions a second']:.2f}"
            table.add_row(row["way"], speed, f"x{row['speed-up']:.2f}", f"{low:.2f} to {high:.2f}", row["same answers"])
        head = f"{summary['subject']}, {each['method']}, {each['questions an image']} questions an image"
        new_console().print(f"{head}, seconds of {each['seconds of']} time")
        new_console().print(table)


def _subject(model: options.Chosen, shape: str | None, batch: int) -> Any:
    """(model, processor, inputs, new tokens, name, published ratios, (loaded model, questions)) of a shape, or of a model on
    a drawn scene; a shape has no questions."""
    from ...errors import BadSetting

    if bool(model.name) == bool(shape):
        raise BadSetting(_ONE_OF_THEM)
    import torch

    from ...profiling import questions, shapes

    if not model.name:
        assert shape is not None
        device, dtype = model.shape_settings()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network, built = shapes.build(shape, device, dtype)
        processor = questions.shape_processor(network) if network.config.model_type == "llava" else None
        inputs = shapes.prompt(network, built, batch)
        return network, processor, inputs, built.new_tokens, f"shape {shape}", built.published, None
    from ...generation.generate import read_sample
    from ...inputs.prompt_builder import prepare
    from ...scenes import render, sample

    vlm = model.load()
    question = "Please describe this image in detail."
    samples = [read_sample(render(scene), question) for scene in sample(batch, seed=0)]
    return vlm.model, vlm.processor, prepare(vlm, samples).tensors, 32, f"model {model.name}", "", (vlm, samples)


def _dump(summary: dict[str, Any]) -> str:
    import json

    return json.dumps(summary, indent=1) + "\n"


def _show(summary: dict[str, Any]) -> None:
    from rich.table import Table

    console = new_console()
    table = Table("method", "part", "seconds", "ratio", "95 % interval", "memory", box=None, pad_edge=False)
    for row in summary["rows"]:
        memory = f"x{row['memory ratio']:.4f}, {row['peak bytes'] / 2**20:.1f} MiB beside the weights"
        for part in ("first token", "decoding", "total"):
            low, high = row[part]["interval"]
            cells = f"{row[part]['seconds']:.3f}", f"x{row[part]['ratio']:.3f}", f"{low:.3f} to {high:.3f}"
            first = part == "first token"
            table.add_row(row["method"] if first else "", part, *cells, memory if first else "")
    console.print(f"{summary['subject']}, {summary['dtype']}, batch {summary['batch size']}, {summary['device']}")
    console.print(table)
    seconds = f"seconds of {summary['seconds of']} time"
    console.print(
        f"Median of {summary['rounds']} interleaved rounds, {seconds}, ratio to greedy with its 95 % interval."
    )
    if summary["published"]:
        console.print(f"Published, theirs: {summary['published']}")
