"""`vlm-anchors train` and `merge`: LoRA adapters trained on anchored sequences."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options, outputs
from .printing import say


@options.takes_model
def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="attanchor or attanchor-i2t, with parameters if you like; :tau=1 trains without."
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE_OR_DIR", help="Conversations: LLaVA-Instruct's JSON, or messages.")
    ],
    out: Annotated[Path, outputs.folder(help="The adapter's folder; run again to go on.")],
    model: options.Chosen,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Where image names count from. Default: beside the data."),
    ] = None,
    validation: Annotated[
        str, typer.Option("--validation", metavar="SHARE_OR_FILE", help="A share of the images, or data of its own.")
    ] = "0.05",
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out conversations that cannot be used; they are listed in skipped.txt."),
    ] = False,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Also train on conversations without an image, or with images in later turns."),
    ] = False,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", metavar="NAME", help="tinyllava-1b, llava-1.5-7b or qwen2.5-vl-3b: the paper's values."
        ),
    ] = "tinyllava-1b",
    tau: Annotated[float | None, typer.Option("--tau", help="Cosine from which a word is copied.")] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a value of the preset; repeat. Names: docs/training.md."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Seed of split, order and adapters.")] = None,
    json: options.Json = False,
) -> None:
    """Train LoRA adapters on anchored sequences.

    Run again after an interruption, it goes on; torchrun makes it several processes.
    """
    from transformers.utils import logging

    from ...training.presets import settings
    from ...training.run import train as run

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    chosen = settings(preset, **_values(changed or [], tau=tau, seed=seed))
    done = run(
        model.name, data, out, method=method, settings=chosen, images=images, validation=_share_or_file(validation),
        skip_bad=skip_bad, mixed=mixed, **model.settings,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)):
        return
    if json:
        options.print_json({**vars(done), "folder": str(done.folder)})
        return
    say(
        f"validation loss {done.best_loss:.4f} at step {done.best_step} of {done.steps}; the adapter is in {done.folder}"
    )
    say(f"vlm-anchors ask IMAGE QUESTION --model {done.folder}", err=True)


def _values(changed: list[str], **more: Any) -> dict[str, Any]:
    """`["rank=8", "batch-size=2"]` and options of their own as the settings' names and values."""
    from ...errors import BadSetting
    from ...registry import parse_value

    values = {name: value for name, value in more.items() if value is not None}
    for each in changed:
        name, equals, value = each.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadSetting(f"Expected --set NAME=VALUE; found {each!r}. Example: --set rank=8")
        values[name.strip().replace("-", "_")] = parse_value(value.strip())
    return values


def _share_or_file(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that train made.")],
    out: Annotated[Path, outputs.folder(help="Folder for the whole model.")],
    debug: options.Debug = False,
) -> None:
    """Merge an adapter into its base model: one ordinary folder.

    The folder keeps its method.
    """
    from ...training.merge import merge as run

    run(folder, out)
    say(f"The model is in {out}. Ask it: vlm-anchors ask IMAGE QUESTION --model {out}")
