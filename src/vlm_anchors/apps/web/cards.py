"""What the page shows, as HTML. Everything a person or a model wrote is escaped; images are inside, as data."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from ...analysis import measures, plots
from ...document import png, svg
from ...errors import UserError
from .visit import Card, Visit

if TYPE_CHECKING:
    from PIL import Image

    from ...analysis.study import Seen
    from ...types import Answer

SHOWN = 512
"""Pixels of an image's longer side on the page."""
WAITING = '<p class="empty">Press <b>Ask</b>: the answers appear here side by side, word by word.</p>'
NO_MAPS = '<p class="empty">After an answer: where each layer and head looked, word by word.</p>'
NO_CURVES = '<p class="empty">After an answer: how much of the attention lands on the image, layer by layer.</p>'
NO_POSTS = (
    '<p class="empty">AttAnchor copies words of the question into the image, each behind the patch that it resembles most. '
    "Tick <b>attanchor</b> and ask: its anchors are listed here.</p>"
)


def problem(error: "UserError | str") -> str:
    """A sentence that says what is wrong."""
    return f'<p class="problem" role="alert">{html.escape(str(error))}</p>'


def answers(visit: Visit) -> str:
    """The answers side by side; once all are whole, their words can be clicked."""
    if not visit.cards:
        return WAITING
    text = "".join(_answer(visit, number, card) for number, card in enumerate(visit.cards))
    return f'<div class="cards" aria-live="polite">{text}</div>'


def _answer(visit: Visit, number: int, card: Card) -> str:
    text = html.escape(card.text)
    if visit.study is not None and card.seen is not None:
        text = _words(card.seen, number, visit.word[1] if visit.word[0] == number else None)
    elif card.answer is None and not card.problem:
        text += '<span class="cursor"></span>'
    failed = problem(card.problem) if card.problem else ""
    did = f'<p class="soft">{_did(card.answer)}</p>' if card.answer is not None else ""
    return f'<section class="look"><h3>{html.escape(card.name)}</h3><p class="words">{text}</p>{failed}{did}</section>'


def _words(seen: "Seen", card: int, pressed: int | None) -> str:
    """The answer with a button for each word that has a map."""
    buttons = "".join(_button(word, card, at, at == pressed) for at, word in enumerate(seen.words))
    rest = html.escape(seen.answer.text[len("".join(seen.words).strip()) :])
    return (buttons + rest) or "(nothing)"


def _button(word: str, card: int, at: int, pressed: bool) -> str:
    text, space = html.escape(word.strip()) or "␣", " " if word[:1].isspace() else ""
    return f'{space}<button type="button" data-card="{card}" data-at="{at}" aria-pressed="{str(pressed).lower()}">{text}</button>'


def _did(answer: "Answer") -> str:
    from ...generation.effects_text import in_words

    parts = [f"{answer.seconds:.2f} s"]
    if answer.yes_no is not None:
        parts.append(f"yes − no {answer.yes_no[0] - answer.yes_no[1]:+.2f}")
    if answer.effects:
        parts.append(in_words(dict(answer.effects)))
    return html.escape(" · ".join(parts))


def maps(visit: Visit) -> str:
    """The chosen word's heat map for each method, on one scale or each on its own."""
    if visit.study is None:
        return NO_MAPS
    grid, at, layer, head = visit.study.grid, visit.word[1], visit.layer, visit.head
    values = [_map_of(seen, at, layer, head) for seen in visit.study.seen]
    top = max((float(each.max()) for each in values if each is not None), default=0.0)
    drawn = []
    for seen, weights in zip(visit.study.seen, values, strict=True):
        if weights is None:
            text = f"This answer has no word {at + 1} whose map was kept."
            drawn.append(
                f'<section class="look"><h3>{html.escape(seen.name)}</h3><p class="caption">{text}</p></section>'
            )
            continue
        word = seen.words[at].strip() if seen.words else ""
        which = f"head {head}" if head else "mean over heads"
        text = html.escape(
            f"“{word}”, layer {layer}, {which}: {float(weights.sum()):.1%} of its attention on the image, "
            f"at most {float(weights.max()):.1%} on one patch."
        )
        own = float(weights.max())
        picture = png(heat(grid.image, grid.grid(weights), own if visit.own_scale else top))
        drawn.append(
            f'<section class="look"><h3>{html.escape(seen.name)}</h3><img alt="{text}" src="{picture}">'
            f'{_scale(own, "this map’s own scale") if visit.own_scale else ""}<p class="caption">{text}</p></section>'
        )
    part = "" if grid.whole else '<p class="soft">Of an image cut into tiles the tile that shows it whole is drawn.</p>'
    shared = "" if visit.own_scale else _scale(top, "one scale for all")
    return f'<div class="cards">{"".join(drawn)}</div>{shared}{part}'


def _map_of(seen: "Seen", at: int, layer: int, head: int) -> "Float[Tensor, ' v'] | None":
    """Attention of the row that chose word `at` to each visual token; None where nothing was kept of it."""
    if at >= len(seen.after):
        return None
    weights = seen.after[at].last[seen.after[at].layers.index(layer)]
    if head and head > len(weights):  # of a large model's later words only the mean over heads is kept
        return None
    return weights[head - 1] if head else weights.mean(0)


def _scale(top: float, whose: str) -> str:
    return (
        f'<p class="scale"><span>0</span><i></i><span>{top:.1%}</span> of the word’s attention on one patch; '
        f"{whose}, its colours by the square root</p>"
    )


def heat(image: "Image.Image", values: Float[Tensor, "rows columns"], top: float) -> "Image.Image":
    """The image in grey with a map over it, bright where attention is, in colours that rise evenly in lightness."""
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    size = fitted(image)
    under = np.asarray(image.convert("L").resize(size), dtype=np.float32)[..., None]
    share = (values / max(top, 1e-9)).clamp(0, 1).sqrt().numpy()
    over = Image.fromarray((colormaps[plots.OVER_IMAGE](share)[..., :3] * 255).astype(np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )
    mixed = 0.38 * (80 + under * 175 / 255) + 0.62 * np.asarray(over, dtype=np.float32)
    return Image.fromarray(mixed.astype(np.uint8))


def fitted(image: "Image.Image") -> tuple[int, int]:
    """Width and height with the same proportions, the longer `SHOWN`."""
    scale = SHOWN / max(image.size)
    return max(round(image.width * scale), 1), max(round(image.height * scale), 1)


def curves(visit: Visit) -> str:
    """The share of the question's attention on the image, a line a method."""
    if visit.study is None:
        return NO_CURVES
    figure = plots.share_curves({seen.name: measures.shares(seen.after[0]) for seen in visit.study.seen})
    return (
        f'<div class="figure">{svg(figure)}</div><p class="soft">How much of the question’s attention lands on the image, mean '
        "over heads and words, after each method’s edit. Dotted: what it would be if all tokens were alike.</p>"
    )


def anchor_table(visit: Visit) -> str:
    """AttAnchor's copies over the image, and as a table."""
    tables = visit.study.anchor_table if visit.study is not None else {}
    if visit.study is None or not tables:
        return NO_POSTS
    grid, text = visit.study.grid, []
    for spec, table in tables.items():
        if not table:
            text.append(
                f"<p><b>{html.escape(spec)}</b>: no word resembles a patch enough; a lower tau copies more.</p>"
            )
            continue
        rows = "".join(
            f"<tr><td>{html.escape(row['word'])}</td><td class=number>{row['cosine']:.2f}</td>"
            f"<td class=number>{row['before']} → {row['after']}</td></tr>"
            for row in table
        )
        picture = ""
        if grid.whole:
            figure = plots.anchor_table(grid.image, table, grid.rows, grid.columns)
            picture = f'<img alt="Anchors of {html.escape(spec)}" src="{png(figure)}">'
        text.append(
            f'<section class="look"><h3>{html.escape(spec)}</h3>{picture}<div class="wide"><table><tr><th>word</th>'
            f"<th>cosine with its patch</th><th>tokens between them</th></tr>{rows}</table></div></section>"
        )
    return f'<div class="cards">{"".join(text)}</div>'


def method(name: str, summary: str, source: str) -> str:
    """What a group of parameters belongs to."""
    return f'<p class="method">{html.escape(name)}</p><p class="soft">{html.escape(f"{summary} ({source})")}</p>'


def notice(sentence: str) -> str:
    """Something to know."""
    return f'<p class="soft">{html.escape(sentence)}</p>'


def picture(image: "Image.Image | None", note: str) -> str:
    """The image that is asked about and, below it, where another one is dropped."""
    from PIL import Image

    shown = '<p class="empty">No image yet.</p>'
    if image is not None:
        way = Image.Resampling.NEAREST if max(image.size) < SHOWN else Image.Resampling.LANCZOS
        shown = (
            f'<img class="chosen" alt="the image that is asked about" src="{png(image.resize(fitted(image), way))}">'
        )
    upload = (
        '<label class="drop"><input type="file" accept="image/*">Drop an image here, or <u>choose a file</u></label>'
    )
    return shown + note + upload


def thumbnails(images: "Sequence[tuple[Image.Image, str]]", pressed: int | None) -> str:
    """Examples to click, each with what is in it."""
    return notice("Drawn scenes to try:") + _buttons("thumbnails", [
        f'<button type="button" data-at="{at}" aria-pressed="{str(at == pressed).lower()}" title="{html.escape(text)}">'
        f'<img alt="{html.escape(text)}" src="{png(image)}"></button>'
        for at, (image, text) in enumerate(images)
    ])  # fmt: skip


def suggestions(questions: Sequence[str]) -> str:
    """Questions to click."""
    return _buttons("suggestions", [
        f'<button type="button" data-text="{html.escape(question)}">{html.escape(question)}</button>'
        for question in questions
    ])  # fmt: skip


def _buttons(name: str, buttons: list[str]) -> str:
    return f'<div class="{name}">{"".join(buttons)}</div>'
