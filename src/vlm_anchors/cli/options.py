"""Options that several commands share, and the models behind them."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..types import Vlm

Words = Annotated[
    list[str], typer.Argument(metavar="IMAGE... QUESTION", help="One or more image files, then the question.")
]
Model = Annotated[str, typer.Option("--model", help="'scenes' (bundled), a Hugging Face id, or a folder.")]
Decoding = Annotated[
    str | None, typer.Option("--decoding", metavar="SPEC", help="greedy, beam:num_beams=5 or nucleus:top_p=0.9.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest answer, in tokens.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="S", help="Seed of nucleus sampling.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N. Default: cuda if there is one.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Attention = Annotated[
    str | None, typer.Option("--attn", help="Attention backend, as in transformers: sdpa, eager, ...")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hugging Face model.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that the model brings along. Only if you trust its authors."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def split_words(words: list[str]) -> tuple[list[str], str]:
    """The image files and the question, which comes last."""
    from ..errors import BadQuestion

    if len(words) < 2:
        raise BadQuestion(
            f"Expected one or more images and then a question; found only {words[0]!r}. "
            "Example: vlm-anchors ask kitchen.png 'Is there a fork?'"
        )
    return words[:-1], words[-1]


def load_model(model: str, **settings: Any) -> "Vlm":
    """`va.load` without the progress bars and notices transformers writes for a notebook."""
    from transformers.utils import logging

    from ..load import load

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load(model, **settings)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))
