"""Options that several commands share, and the models behind them."""

import functools
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .printing import say

if TYPE_CHECKING:
    from ...models.vlm import Vlm

Words = Annotated[
    list[str], typer.Argument(metavar="IMAGE... QUESTION", help="One or more image files, then the question.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="SPEC", help="Repeat for each method, or a,b. Default: none and clva."),
]
Questions = Annotated[
    Path | None,
    typer.Option("--questions", metavar="FILE", help="One question a line, each asked of every image."),
]
_MODEL = "'scenes' (bundled), a Hugging Face id, or a folder."
Model = Annotated[str, typer.Option("--model", help=_MODEL)]
Decoding = Annotated[
    str | None, typer.Option("--decoding", metavar="SPEC", help="greedy, beam:num_beams=5, nucleus:top_p=0.9 or opera.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest answer, in tokens.")]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="S", min=0, max=2**63 - 1, help="Seed of nucleus sampling.")
]
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
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", metavar="MAP", help="Spread over several devices: auto, balanced, ...")
]
Quantization = Annotated[
    str | None, typer.Option("--quantization", metavar="BITS", help="4bit or 8bit, by bitsandbytes on NVIDIA cards.")
]
Pixels = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Bound of the area images are scaled to (Qwen's families).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Chosen:
    """The model a user named, loaded when a command has checked the rest of its input."""

    name: str
    settings: dict[str, Any]

    def load(self) -> "Vlm":
        from ...models.load import load_quietly

        return load_quietly(self.name, **self.settings)

    def shape_settings(self) -> tuple[str | None, str | None]:
        """Device and dtype of random weights. Raises `BadSetting` for a setting that those do not have."""
        from ...errors import BadSetting

        given = [name for name, one in self.settings.items() if one not in (None, False)]
        lost = next((name for name in given if name not in ("device", "dtype")), None)
        if lost is not None:
            option = {"attn_implementation": "attn"}.get(lost, lost).replace("_", "-")
            raise BadSetting(
                f"--{option} goes with --model; random weights of a --shape take --device and --dtype alone."
            )
        return self.settings["device"], self.settings["dtype"]


SETTINGS = {
    "device": (Device, None),
    "dtype": (Dtype, None),
    "attn_implementation": (Attention, None),
    "revision": (Revision, None),
    "device_map": (DeviceMap, None),
    "quantization": (Quantization, None),
    "min_pixels": (Pixels, None),
    "max_pixels": (Pixels, None),
    "trust_remote_code": (TrustRemoteCode, False),
}


def takes_model(command: Callable[..., None], name: str | None = "scenes") -> Callable[..., None]:
    """The command with the options that choose a model, after its own; they reach it as `model`, a `Chosen`.

    name: The model where none is named; None: the command goes on without one, and the name is empty.
    """

    @functools.wraps(command)
    def run(*, model: str | None, debug: bool, **options: Any) -> None:
        settings = {name: options.pop(name) for name in SETTINGS}
        command(model=Chosen(model or "", settings), **options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [one.replace(kind=keyword) for one in inspect.signature(command).parameters.values() if one.name != "model"]
    kind = Model if name is not None else Annotated[str | None, typer.Option("--model", help=_MODEL)]
    shared = {"model": (kind, name), **SETTINGS, "debug": (Debug, False)}
    own += [inspect.Parameter(name, keyword, annotation=kind, default=value) for name, (kind, value) in shared.items()]
    run.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in own}
    return run


def each_method(methods: list[str] | None) -> list[str]:
    """One SPEC an item: `a,b` names two methods, while `clva:alpha=5,beta=0` is one with two parameters.

    A name that ends with .json is a settings file, as `va.save` and `tune` write it.
    """
    items = [_of_file(Path(item)) if item.endswith(".json") else item for item in methods or []]
    return [spec for item in items for spec in re.split(r",(?=[a-z][a-z0-9-]*(?:[:+,]|$))", item)]


def _of_file(file: Path) -> str:
    """The SPEC in a settings file."""
    from ...errors import BadSetting
    from ...text_files import read_object

    advice = "Expected a settings file such as the anchors.json that tune writes, or a SPEC such as clva:alpha=5."
    method = read_object(file, BadSetting, advice).get("method")
    if not isinstance(method, str):
        raise BadSetting(f"{file} names no method. {advice}")
    return method


def split_words(words: list[str]) -> tuple[list[str], str]:
    """The image files and the question, which comes last."""
    from ...errors import BadQuestion

    if len(words) < 2:
        raise BadQuestion(
            f"Expected one or more images and then a question; found only {words[0]!r}. "
            "Example: vlm-anchors ask kitchen.png 'Is there a fork?'"
        )
    return words[:-1], words[-1]


def can_draw() -> None:
    """Refuse, before anything is computed, where figures cannot be drawn."""
    from ...errors import BadSetting

    if importlib.util.find_spec("matplotlib") is None:
        raise BadSetting("Figures need matplotlib: pip install 'vlm-anchors[figures]'.")


def can_draw_into(file: Path | None) -> None:
    """Refuse, before anything is computed, a file that is no figure's; None is no file."""
    from ...errors import BadSetting

    if file is None:
        return
    can_draw()
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise BadSetting(f"Cannot write {file}. Expected a file ending in .png, .svg or .pdf.")
    file.parent.mkdir(parents=True, exist_ok=True)


def progress() -> Any:
    """A bar on a terminal, a plain line now and then elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar: Any = tqdm(unit="question", file=sys.stderr)

        def draw(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        return draw

    def say(done: int, of: int) -> None:
        if done == of or done * 10 // of != (done - 1) * 10 // of:
            print(f"{done} of {of} questions", file=sys.stderr, flush=True)

    return say


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line."""
    say(json.dumps(value, ensure_ascii=False))
