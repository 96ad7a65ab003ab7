"""Runs the demo: a table on the terminal, a page and images in a folder, and what to type next."""

import argparse
import sys
import textwrap
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.verdicts import FADES, deep_layers, intermediate_layers
from ...document import save_figure
from ...durable import write_whole
from ...errors import AnchorsWarning, BadSetting, UserError
from ...methods.clva import CLVA
from ...models.load import BUNDLED, load_quietly
from ...scenes import draw
from ...scenes.questions import article
from .cases import METHODS, REPEATS, Case, DemoQuestion, ask_all, ratio
from .demo_page import write_page
from .figures import NAMES, figure_of_shares, overview

EDITED = "mean over the layers that CLVA edits"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vlm_anchors.apps.demo", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write into")
    parser.add_argument("--model", default=BUNDLED, help="'scenes' (bundled), a Hugging Face id, or a folder")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    try:
        run(options.model, options.out, console)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(model: str, out: Path, console: Console) -> None:
    """Ask, measure, print and write."""
    began = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(
            f"Cannot write into {out}: {error.strerror or error}. Choose another folder with --out."
        ) from error
    console.print(
        "\n[bold]Does the model look, or does it guess?[/bold]\n\n"
        "Three drawn scenes that the model has not seen in training. About each, two questions: for an object\n"
        "that is there, and for one that is not there but in photographs usually stands beside what is.\n"
        "Each goes to the plain model and to the same model with CLVA, which strengthens the attention\n"
        "that deeper layers pay to the image.\n"
    )
    vlm = load_quietly(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        cases = ask_all(vlm)
    console.print(table(cases))
    console.print(
        '[dim]yes - no: logit of "yes" less logit of "no" before the first word; above 0 it leans to yes.\n'
        f"on the image: share of the question's attention that lands on the image, {EDITED}.[/dim]\n"
    )
    sentences = verdict(cases)
    for sentence in sentences:
        console.print(escape(sentence))
    commands = next_commands(cases, out, model)
    files = write(cases, out, sentences, commands, model)
    console.print(f"\n[bold]Look at the page:[/bold] {files[0]}  (opens in any browser, needs no network)")
    console.print("and the images:   " + ", ".join(str(file) for file in files[1:]))
    console.print("\n[bold]Type next:[/bold]")
    for command in commands:
        console.print("  " + escape(command), soft_wrap=True)
    console.print(f"\n[dim]Done in {time.perf_counter() - began:.0f} seconds.[/dim]")


def table(cases: list[Case]) -> Table:
    """One row a question and method."""
    shown = Table("", "Is there ... in the image?", "truth", "", "answer", "", "yes - no", "on the image", "seconds")
    for case in cases:
        for asked in case.asked:
            for method in METHODS:
                first = method == METHODS[0]
                reply = asked.replies[method]
                right = asked.right(method)
                shown.add_row(
                    case.name if first and asked is case.asked[0] else "",
                    article(asked.thing) if first else "",
                    ("yes" if asked.present else "no") if first else "",
                    NAMES[method],
                    escape(textwrap.shorten(reply.answer.text, 32, placeholder=" ...")) or "(nothing)",
                    "[green]right[/green]" if right else "[red]wrong[/red]",
                    "" if reply.margin is None else f"{reply.margin:+.2f}",
                    f"{100 * edited_share(asked, method):.0f} %",
                    f"{reply.seconds:.3f}",
                    end_section=not first and asked is case.asked[-1],
                )
    return shown


def edited_share(asked: DemoQuestion, method: str) -> float:
    """Mean share on visual tokens over the layers CLVA edited; over all layers where it says nothing."""
    first, last = asked.replies["clva"].answer.effects.get("clva", {}).get("layers") or (1, None)
    shares = asked.replies[method].shares[first - 1 : last]
    return sum(shares) / max(len(shares), 1)


def verdict(cases: list[Case]) -> list[str]:
    """What came out, in sentences, whatever its sign."""
    asked = [each for case in cases for each in case.asked]
    right = {method: sum(each.right(method) for each in asked) for method in METHODS}
    mended = sum(each.right("clva") and not each.right("none") for each in asked)
    broken = sum(each.right("none") and not each.right("clva") for each in asked)
    before, after = (100 * sum(edited_share(each, method) for each in asked) / len(asked) for method in METHODS)
    if mended == broken == 0:
        change = "CLVA changed no answer from right to wrong or from wrong to right."
    else:
        change = f"CLVA mended {mended} and broke {broken}."
    return [
        f"Right answers: plain {right['none']} of {len(asked)}, CLVA {right['clva']} of {len(asked)}. {change}",
        f"In the layers that CLVA edits, the attention on the image went from {before:.0f} % to {after:.0f} %. "
        f"Answering took {ratio(cases):.2f} times the plain model's time (median of {REPEATS} answers to each question, after a "
        "first one that does not count); vlm-anchors bench measures it with an interval.",
        f"{drift(asked)} Six questions prove nothing: this shows what a method does; whether it helps has to be "
        "measured, on a real model.",
    ]


def drift(asked: list[DemoQuestion]) -> str:
    """Whether the plain model's deep layers look away from the image, as `diagnose` tests it: in one sentence."""
    shares = [each.replies["none"].shares for each in asked]
    layers = [sum(layer) / len(layer) for layer in zip(*shares, strict=True)]
    before, deep = intermediate_layers(len(layers), CLVA().positive(len(layers))), deep_layers(len(layers))
    middle, end = (100 * sum(layers[one - 1] for one in part) / len(part) for part in (before, deep))
    found = f"{middle:.0f} % in layers {before[0]}-{before[-1]}, {end:.0f} % in layers {deep[0]}-{deep[-1]}"
    if end >= FADES * middle:
        return (
            "CLVA repairs attention that drifts away from the image in deep layers; here nothing drifts "
            f"(plain, on the image: {found}), so there is little for it to repair."
        )
    return f"Here the plain model's attention does drift away from the image: {found}."


def next_commands(cases: list[Case], out: Path, model: str) -> list[str]:
    """Commands that work as they stand."""
    absent = cases[0].asked[-1].question
    chosen = "" if model == BUNDLED else f" --model {model}"
    image, start = out / f"{cases[0].name}.png", f"{_command()} "
    return [
        f'{start}ask {image} "Please describe this image in detail."{chosen}',
        f'{start}compare {image} "{absent}" --method none --method clva --method clva:alpha=50,beta=0{chosen}',
        f"{start}methods clva",
        f"{start}--help",
    ]


def _command() -> str:
    """How the command is called from here: as installed in the environment that runs the demo."""
    installed = Path(sys.executable).parent / "vlm-anchors"
    try:
        return str(installed.relative_to(Path.cwd()))
    except ValueError:
        return "vlm-anchors"


def write(cases: list[Case], out: Path, sentences: list[str], commands: list[str], model: str) -> list[Path]:
    """Page, scenes and figures; returns their paths, the page first."""
    page = out / "index.html"
    write_whole(page, write_page(cases, sentences, commands, model))
    files = [page]
    for case in cases:
        draw.save(case.scene, out / f"{case.name}.png")
        save_figure(figure_of_shares(case), out / f"{case.name}-attention.png")
        files += [out / f"{case.name}.png", out / f"{case.name}-attention.png"]
    save_figure(overview(cases), out / "overview.png", dpi=130)
    return [*files, out / "overview.png"]


if __name__ == "__main__":
    sys.exit(main())
