"""The page of `vlm-anchors look`: answers side by side, a slider over layers, a map for every word, the table behind it.

One HTML file: data, script and figures are inside, nothing is fetched. look_page.js moves what is shown.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..document import document, png
from .study import Seen, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .capture import Trace

MAX_CELLS = 6_000_000
"""Numbers (one byte each) of one method's maps on the page; words at the end of longer answers get no map."""


def write_page(
    study: Study, figures: "Mapping[str, Figure]", commands: Sequence[str], did: Sequence[str] | None = None
) -> str:
    """The page as text.

    Args:
        figures: Caption -> figure.
        commands: What to type next.
        did: What each method did, in words.
    """
    summary = did or ["–"] * len(study.seen)
    data = json.dumps(page_data(study), separators=(",", ":")).replace("<", "\\u003c")
    part = f'<p class="soft">{_about_tiles(study)}</p>' if not study.grid.whole else ""
    drawn = "\n".join(
        f'<figure><img alt="{html.escape(caption)}" src="{png(figure)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, figure in figures.items()
    )
    body = f"""<h1>Where did it look?</h1>
<p class="lead">“{html.escape(study.question)}”, asked of <b>{html.escape(study.model)}</b>.</p>
<h2>Answers</h2>
<div class="wide"><table><tr><th>method</th><th>answer</th><th>yes − no</th><th>what it did</th></tr>
{"".join(_row(one, what) for one, what in zip(study.seen, summary, strict=True))}</table></div>
<h2>Where it looked</h2>
<p>Click a word: of the answer, to see where the model looked when it chose it; of the question, where it looked when it read
it. The slider moves through the decoder's layers. Bright patches got more attention.</p>
<div class="controls"><label for="layer">Layer</label>
<input type="range" id="layer" min="0" max="{len(study.plain.before[0].layers) - 1}" step="1" value="0">
<output id="layer-shown" for="layer"></output>
<label><input type="checkbox" id="same"> same colours in all layers</label></div>
<p class="words asked"><span class="soft">question</span> <span id="asked"></span></p>
<div id="methods"></div>{part}
<h2>The table behind it</h2>
<p id="table-title" class="soft"></p>
<div class="wide"><table id="shares"></table></div>
<p class="soft">Shares of the attention of the chosen word, mean over heads, after the method's edit: on the image, on what
stands before it in the prompt, and (the rest) on other words. Entropy: how widely the map is spread, in nats; lower is more
pointed.</p>
<h2>Figures</h2>
{drawn}
<h2>What to type next</h2>
<pre>{html.escape(chr(10).join(commands))}</pre>
<script type="application/json" id="data">{data}</script>"""
    return document("vlm-anchors: where did it look?", body, _asset("look_page.css"), _asset("look_page.js"))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _about_tiles(study: Study) -> str:
    shown, visual = study.grid.rows * study.grid.columns, study.grid.visual
    return f"The model cut the image into tiles; drawn are the {shown} of {visual} visual tokens that show it whole."


def _row(one: Seen, did: str) -> str:
    answer = one.answer
    margin = "" if answer.yes_no is None else f"{answer.yes_no[0] - answer.yes_no[1]:+.2f}"
    text = html.escape(answer.text) or "(nothing)"
    return (
        f'<tr><td class="method">{html.escape(one.name)}</td><td>{text}</td><td class="number">{margin}</td>'
        f'<td class="soft">{html.escape(did)}</td></tr>\n'
    )


def page_data(study: Study) -> dict[str, Any]:
    """What look_page.js reads: the image, the grid, and for each method its words and maps as bytes."""
    return {
        "image": png(study.grid.image),
        "size": list(study.grid.image.size),
        "grid": [study.grid.rows, study.grid.columns],
        "layers": list(study.plain.before[0].layers),
        "asked": list(study.asked[-min(one.after[0].weights.shape[2] for one in study.seen) :]),
        "methods": [_method(study, one) for one in study.seen],
    }


def _method(study: Study, one: Seen) -> dict[str, Any]:
    """Rows are the question's words, then the answer's. maps: row, layer, patch; a byte is the share of the map's peak."""
    traces = _within(study, one)
    rows = [_rows(trace, at == 0) for at, trace in enumerate(traces)]
    weights, masses = (torch.cat([row[i] for row in rows]) for i in (0, 1))
    maps = study.grid.grid(weights).flatten(-2)
    peaks = maps.amax(-1, keepdim=True).clamp(min=1e-12)
    entropy = _entropy(weights)
    return {
        "name": one.name,
        "words": list(one.words[: len(traces)]),
        "first": len(weights) - len(traces),
        "maps": base64.b64encode((maps / peaks * 255).round().to(torch.uint8).numpy().tobytes()).decode(),
        "peaks": _rounded(peaks[..., 0]),
        "visual": _rounded(masses[..., 0]),
        "system": _rounded(masses[..., 1]),
        "entropy": _rounded(entropy),
    }


def _within(study: Study, one: Seen) -> "tuple[Trace, ...]":
    layers, cells = len(one.after[0].layers), study.grid.rows * study.grid.columns
    room = max(MAX_CELLS // (layers * cells) - one.after[0].weights.shape[2], 1)
    return one.after[:room]


def _rows(trace: "Trace", prompt: bool) -> "tuple[Float[Tensor, 'm l v'], Float[Tensor, 'm l 2']]":
    """Mean over heads of each row's map and masses; the prompt's last row twice: as its last word, and as the row that
    chooses the answer's first."""
    kept = trace.weights.shape[2]
    weights = trace.weights.mean(1).transpose(0, 1)
    masses = torch.stack([mass.mean(1)[:, -kept:].T for mass in (trace.visual, trace.system)], -1)
    if prompt:
        weights, masses = (torch.cat([values, values[-1:]]) for values in (weights, masses))
    return weights, masses


def _entropy(weights: "Float[Tensor, 'm l v']") -> "Float[Tensor, 'm l']":
    """Eq. 5 of the map normalised to sum 1, in nats."""
    share = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    return -torch.xlogy(share, share).sum(-1)


def _rounded(values: Float[Tensor, "m l"]) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
