"""`vlm-anchors ask` and `vlm-anchors compare`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...generation.effects_text import in_words
from . import options
from .printing import console as new_console
from .printing import say, visible

SHORT = 2.0
"""Seconds of a pass up to which `compare` warms up each method."""

if TYPE_CHECKING:
    from ...models.vlm import Vlm
    from ...specs import Decoding
    from ...types import Answer


@options.takes_model
def ask(
    words: options.Words,
    model: options.Chosen,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="SPEC",
            help="A method with its parameters: clva, clva:alpha=5,beta=0. Default: what the model was trained with, else none.",
        ),
    ] = None,
    decoding: options.Decoding = None,
    max_new_tokens: options.MaxNewTokens = 128,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Ask a model one question about one or more images."""
    images, question = options.split_words(words)
    method = options.each_method(method)
    chosen, tokens = _seeded(_only(method) if method else "none", decoding, seed)
    pictures = _read(images, question)
    vlm = model.load()
    from ...generation.generate import ask as ask_model

    answer = ask_model(
        vlm,
        pictures,
        question,
        method=chosen if method else None,
        decoding=tokens,
        max_new_tokens=max_new_tokens,
    )
    if json:
        options.print_json({**_asked(vlm, images, question), **as_dict(answer)})
        return
    say(answer.text)
    if answer.effects:
        say(f"{answer.method}: {in_words(answer.effects)}", err=True)


def _only(methods: list[str]) -> str:
    from ...errors import BadSetting

    if len(methods) > 1:
        raise BadSetting(
            f"ask takes one --method; found {len(methods)}: {', '.join(methods)}. To ask with each of them: "
            f"vlm-anchors compare. To ask with all at once, join them by +: {'+'.join(methods)}"
        )
    return methods[0]


@options.takes_model
def compare(
    words: options.Words,
    model: options.Chosen,
    method: options.Methods = None,
    decoding: options.Decoding = None,
    max_new_tokens: options.MaxNewTokens = 128,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Ask the same question with several methods: one row a method."""
    images, question = options.split_words(words)
    runs = [_seeded(each, decoding, seed) for each in options.each_method(method) or ["none", "clva"]]
    pictures = _read(images, question)
    vlm = model.load()
    from ...generation.generate import ask as ask_model

    _warm_up(vlm, pictures, question, runs)
    answers = [
        ask_model(vlm, pictures, question, method=chosen, decoding=tokens, max_new_tokens=max_new_tokens)
        for chosen, tokens in runs
    ]
    if json:
        options.print_json({**_asked(vlm, images, question), "answers": [as_dict(answer) for answer in answers]})
    else:
        _print_table(answers)


def _warm_up(vlm: "Vlm", pictures: list[Any], question: str, runs: Sequence[tuple[Any, Any]]) -> None:
    """A first pass pays for much that later ones do not: the model's own, and each method's. No row should carry it.

    Where a pass takes seconds this matters little, and would take as long as the answers.
    """
    if ask_briefly(vlm, pictures, question, "none", None) < SHORT:
        for chosen, tokens in runs:
            ask_briefly(vlm, pictures, question, chosen, tokens)


def ask_briefly(vlm: "Vlm", pictures: list[Any], question: str, method: Any, decoding: Any) -> float:
    """Seconds of an answer of two tokens, the second a decoding step; its warnings come with the answer that is shown."""
    import warnings

    from ...generation.generate import ask as ask_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ask_model(vlm, pictures, question, method=method, decoding=decoding, max_new_tokens=2).seconds


def as_dict(answer: "Answer") -> dict[str, Any]:
    """The answer as plain values. `yes_no` holds the logits of both words at the first step, and their difference.

    A word that the method cut has no logit: None, since JSON knows no infinity.
    """
    yes_no = None
    if answer.yes_no is not None:
        yes, no = answer.yes_no
        summary = {"yes": yes, "no": no, "margin": yes - no}
        yes_no = {name: value if math.isfinite(value) else None for name, value in summary.items()}
    return {
        "method": answer.method,
        "decoding": answer.decoding,
        "answer": answer.text,
        "tokens": list(answer.tokens),
        "seconds": answer.seconds,
        "effects": dict(answer.effects),
        "yes_no": yes_no,
        "prompt": answer.prompt,
    }


def _seeded(method: str, decoding: str | None, seed: int | None) -> tuple[list[Any], "Decoding"]:
    """Methods and decoding, before a model is loaded: a wrong SPEC is refused at once."""
    import dataclasses
    import warnings

    from ...errors import AnchorsWarning
    from ...generation.decodings import Nucleus
    from ...specs import choose

    methods, tokens = choose(method, decoding)
    if seed is not None and isinstance(tokens, Nucleus):
        tokens = dataclasses.replace(tokens, seed=seed)
    elif seed is not None:
        warnings.warn(
            f"--seed changes nothing under {tokens.spec()}: only nucleus draws.", AnchorsWarning, stacklevel=2
        )
    return list(methods), tokens


def _read(images: list[str], question: str) -> list[Any]:
    """Images and question are checked before a model is loaded, which may take minutes."""
    from ...inputs.images import read_image
    from ...inputs.prompt_builder import check_question

    check_question(question)
    return [read_image(image) for image in images]


def _asked(vlm: "Vlm", images: list[str], question: str) -> dict[str, Any]:
    return {"model": vlm.name, "revision": vlm.revision, "images": images, "question": question}


def _print_table(answers: list["Answer"]) -> None:
    from rich.table import Table

    table = Table(
        "method", "answer", "yes - no", "seconds", "what it did", show_lines=any("\n" in a.text for a in answers)
    )
    for answer in answers:
        margin = "" if answer.yes_no is None else margins(*answer.yes_no)
        name = answer.method if answer.decoding == "greedy" else f"{answer.method}, {answer.decoding}"
        did = in_words(dict(answer.effects)) if answer.effects else "-"
        table.add_row(*map(visible, (name, answer.text, margin, f"{answer.seconds:.2f}", did)))
    new_console().print(table)
    if any(answer.yes_no is not None for answer in answers):
        say('yes - no: logit of "yes" less logit of "no" at the first token; above 0 the model leans to yes.')
    if any(answer.yes_no is not None and margins(*answer.yes_no) == "-" for answer in answers):
        say('-: the method cut "yes", "no" or both from the first token, and what is cut has no logit.')


def margins(yes: float, no: float) -> str:
    """The difference of both logits; a dash where one of them was cut."""
    return f"{yes - no:+.2f}" if math.isfinite(yes) and math.isfinite(no) else "-"
