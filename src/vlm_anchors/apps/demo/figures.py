"""The demo's drawings: where the attention went, layer by layer; and the picture of the whole for the README."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .cases import METHODS, Case, DemoQuestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"none": "#0072b2", "clva": "#d55e00"}  # distinct for everyone, also in grey print
NAMES = {"none": "plain", "clva": "CLVA"}


def draw_shares(axes: Any, asked: tuple[DemoQuestion, ...], ink: str = "black", limits: Any = None) -> None:
    """Share of the question's attention on visual tokens against the layer; a line a method, a dash a question.

    limits: Of the shares that are drawn; by default what these questions need, so that a difference shows.
    """
    for asked_one, line in zip(asked, ("-", (0, (4, 2))), strict=False):
        for method in METHODS:
            shares = asked_one.replies[method].shares
            axes.plot(range(1, len(shares) + 1), shares, linestyle=line, color=COLOURS[method], linewidth=1.6)
    axes.set_ylim(*(limits or limits_of(asked)))
    axes.set_xlabel("decoder layer", color=ink)
    axes.set_ylabel("attention on the image", color=ink)
    axes.set_xticks(range(1, len(asked[0].replies["none"].shares) + 1))
    axes.tick_params(colors=ink, labelsize=8)
    axes.grid(axis="y", color=ink, alpha=0.15)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)


def limits_of(asked: Sequence[DemoQuestion]) -> tuple[float, float]:
    """The tenths that hold every share of these questions."""
    shares = [share for one in asked for reply in one.replies.values() for share in reply.shares]
    return math.floor(10 * min(shares)) / 10, math.ceil(10 * max(shares)) / 10 or 0.1


def figure_of_shares(case: Case, ink: str = "black") -> "Figure":
    """The chart of one scene."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(5.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    draw_shares(axes, case.asked, ink)
    there, absent = case.asked
    handles = [Line2D([], [], color=COLOURS[method], label=NAMES[method]) for method in METHODS]
    handles += [
        Line2D([], [], color=ink, linestyle="-", label=f"about the {there.thing}"),
        Line2D([], [], color=ink, linestyle=(0, (4, 2)), label=f"about the {absent.thing}"),
    ]
    axes.legend(handles=handles, fontsize=8, frameon=False, labelcolor=ink, ncols=2, loc="lower left")
    return figure


def overview(cases: list[Case]) -> "Figure":
    """All scenes: the image, what was asked and answered, and where the attention went. For print: black on white."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.9 * len(cases)))
    grid = figure.subplots(
        len(cases), 3, squeeze=False, width_ratios=(1, 1.9, 1.5),
        gridspec_kw={"left": 0.01, "right": 0.985, "top": 0.97, "bottom": 0.07, "wspace": 0.09, "hspace": 0.36},
    )  # fmt: skip
    limits = limits_of([one for case in cases for one in case.asked])
    for case, (left, middle, right) in zip(cases, grid, strict=True):
        left.imshow(case.image, interpolation="nearest")
        left.set_axis_off()
        middle.set_axis_off()
        _write_answers(middle, case)
        draw_shares(right, case.asked, limits=limits)
    return figure


def _write_answers(axes: Any, case: Case) -> None:
    y = 0.95
    for asked, line in zip(case.asked, ("solid line", "dashed line"), strict=True):
        axes.text(0, y, asked.question, fontsize=14, weight="bold", va="top")
        truth = "it is there" if asked.present else "it is not there"
        axes.text(0, y - 0.11, f"{truth} ({line})", fontsize=10.5, color="#555555", va="top")
        for at, method in enumerate(METHODS):
            reply = asked.replies[method]
            mark = "right" if asked.right(method) else "wrong"
            margin = "" if reply.margin is None else f", yes - no = {reply.margin:+.2f}"
            text = textwrap.shorten(reply.answer.text, 24, placeholder=" ...") or "(nothing)"
            said = f"{NAMES[method]}: {text} ({mark}{margin})"
            axes.text(0.03, y - 0.21 - 0.11 * at, said, fontsize=12.5, color=COLOURS[method], va="top")
        y -= 0.5
