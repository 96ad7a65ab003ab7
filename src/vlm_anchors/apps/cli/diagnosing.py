"""`vlm-anchors diagnose`: whether a model meets the methods' premises."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options, outputs
from .printing import console as new_console

LEGEND = """
on image, first token: share of the words' attention there; counting: that on the image if all tokens were alike.
to negative, to positive: correlation of the layer's map with the anchors' maps (Fig. 2b). entropy: of the sensitive
heads' map, nats. anchors on asked: share of a layer's anchors that lie on the object asked about."""


@options.takes_model
def diagnose(
    model: options.Chosen,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="A folder of images. Without it: drawn scenes, objects known."),
    ] = None,
    questions: options.Questions = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=2, help="At most so many images.")] = 100,
    out: Annotated[Path | None, outputs.file(help="Write the drift curves, .png, .svg or .pdf.")] = None,
    json: options.Json = False,
) -> None:
    """Does this model meet the methods' premises?

    A verdict for each with its number, and the parameters that follow.
    """
    from .calibrating import read_questions, sample_images

    options.can_draw_into(out)
    paths = None if images is None else sample_images(images)[:limit]
    asked = read_questions(questions) if questions is not None else []
    vlm = model.load()
    from ...analysis import premises, samples, verdicts

    probes = samples.from_scenes(limit, asked) if paths is None else samples.from_folder(paths, asked)
    seen = premises.observe(vlm, probes, _progress(len(probes)))
    tau, concern = premises.suggested_tau(vlm, probes)
    summary = {"model": vlm.name, "revision": vlm.revision, "images": str(images) if images else "drawn scenes"}
    summary |= verdicts.as_dict(seen, tau, concern)
    if json:
        options.print_json(summary)
    else:
        _show(summary)
    if out is not None:
        _draw(seen, out)


def _progress(total: int) -> Any:
    import sys

    def say(done: int) -> None:
        ended = done == total
        if sys.stderr.isatty():
            print(f"\r{done} of {total} questions", end="\n" if ended else "", file=sys.stderr, flush=True)
        elif ended or done % 40 == 0:
            print(f"{done} of {total} questions", file=sys.stderr)

    return say


def _draw(seen: Any, out: Path) -> None:
    from ...analysis import measures, plots
    from ...document import save_figure

    save_figure(plots.drift_curves(measures.average(seen.drift), seen.positive_layer), out)


def _show(summary: dict[str, Any]) -> None:
    from rich.table import Table

    console = new_console(highlight=False, soft_wrap=True)
    console.print(
        f"{summary['model']}, {summary['questions']} questions about {summary['images']}. Does each premise hold here?\n"
    )
    words = {True: "yes", False: "no ", None: "?  "}
    for one in summary["verdicts"]:
        rests = "all methods rest" if one["method"] == "all" else f"{one['method']} rests"
        console.print(f'{words[one["holds"]]}  "{one["premise"]}" ({rests} on it)', style="bold")
        console.print(f"     {one['meaning']}: {one['number']}")
    console.print()
    known = "on_asked" in summary["layers"][-1]
    names = ["layer", "on image", "counting", "first token", "to negative", "to positive", "entropy"]
    layers = Table(*names, *(["anchors on asked"] if known else []), box=None, pad_edge=False)
    for row in summary["layers"]:
        shares = [f"{row[name]:.2f}" for name in ("visual", "counting", "first")]
        curves = [f"{row[name]:+.2f}" for name in ("to_negative", "to_positive")]
        last = [f"{row['on_asked']:.2f}" if "on_asked" in row else "-"] if known else []
        layers.add_row(str(row["layer"]), *shares, *curves, f"{row['entropy_normalised']:.2f}", *last)
    console.print(layers)
    console.print(LEGEND)
    absent = "The drift that CLVA repairs is " + ("present" if summary["drift"] else "absent") + " in this model."
    console.print(f"\n{absent}")
    parameters = summary["suggestion"]
    console.print(f"Parameters to try: {parameters['clva']}\n  {parameters['clva_why']}")
    if parameters["attanchor"]:
        console.print(
            f"  {parameters['attanchor']} anchors a tenth of the words of these yes/no questions; for other questions: calibrate."
        )
    elif parameters["attanchor_why"]:
        console.print(f"No tau for AttAnchor: {parameters['attanchor_why']}")
