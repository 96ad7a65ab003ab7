"""The figures, one function each; each takes tables or maps (measures.py) and returns a matplotlib Figure.

Colours are Okabe and Ito's, distinct for everyone; lines differ in dash and marker too, so that grey print will do.
Heat runs on "viridis" and "inferno", which rise evenly in lightness for all eyes.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadSetting

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from .measures import Table

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HEAT = "viridis"
OVER_IMAGE = "inferno"
GREY = "#666666"


def _figure(width: float, height: float) -> "Figure":
    """A figure that places its own labels; matplotlib is imported with the first one."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadSetting("Figures need matplotlib: pip install 'vlm-anchors[figures]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def _line(axes: Any, number: int, x: Sequence[float], y: Sequence[float], label: str, **more: Any) -> None:
    # With the eighth line the colours begin anew, beside other dashes and markers.
    other = (number + number // 7) % 7
    axes.plot(
        x, y, color=COLOURS[number % 7], linestyle=DASHES[other], marker=MARKERS[other], markersize=4,
        linewidth=1.6, label=label, **more,
    )  # fmt: skip


def _dress(axes: Any, x: str, y: str, layers: Sequence[int] | None = None) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if layers is not None:
        axes.set_xticks(_ticks(layers))


def _ticks(layers: Sequence[int]) -> list[int]:
    """Every layer where there is room, else every second, fourth or eighth, and the last."""
    step = next(step for step in (1, 2, 4, 8, 16) if len(layers) <= 16 * step)
    chosen = [layer for layer in layers if (layer - layers[0]) % step == 0]
    return [*(layer for layer in chosen if layers[-1] - layer >= step), layers[-1]]


def intensity_matrix(table: "Table", column: str = "visual") -> "Figure":
    """Fig. 1: mass of every head of every layer on the image (`measures.head_intensity`)."""
    layers, heads = (sorted({row[name] for row in table}) for name in ("layer", "head"))
    values = {(row["head"], row["layer"]): row[column] for row in table}
    figure = _figure(max(0.26 * len(layers), 3.4) + 1.6, max(0.22 * len(heads), 2.2) + 1.0)
    axes = figure.subplots()
    grid = [[values[head, layer] for layer in layers] for head in heads]
    drawn = axes.imshow(grid, cmap=HEAT, vmin=0, vmax=1, aspect="auto", origin="lower")
    axes.set_xticks([layers.index(layer) for layer in _ticks(layers)], map(str, _ticks(layers)))
    axes.set_yticks([heads.index(head) for head in _ticks(heads)], map(str, _ticks(heads)))
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("head")
    names = {"visual": "on the image", "system": "before the image", "words": "on words after it"}
    figure.colorbar(drawn, label=f"attention {names.get(column, column)}")
    return figure


def heat_strip(image: "Image.Image", maps: "Mapping[int, Any]", title: str = "") -> "Figure":
    """Where chosen layers look: heat maps (layer -> rows x columns) over the image, each scaled to its own maximum."""
    count = len(maps) + 1
    across = min(count, 7)
    down = -(-count // across)
    figure = _figure(1.55 * across, 1.9 * down + (0.3 if title else 0))
    every = figure.subplots(down, across, squeeze=False).ravel()
    for axes in every:
        axes.set_axis_off()
    every[0].imshow(image)
    every[0].set_title("image", fontsize=9)
    for axes, (layer, values) in zip(every[1:], maps.items(), strict=False):
        _overlay(axes, image, values)
        axes.set_title(f"layer {layer}\npeak {float(values.max()):.3f}", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _overlay(axes: Any, image: "Image.Image", values: Any, top: float | None = None) -> Any:
    """The image in grey with the map over it: bright where attention is. The colours take the square root, or one anchor
    would leave everything else dark."""
    import numpy as np
    from matplotlib.colors import PowerNorm

    width, height = image.size
    norm = PowerNorm(0.5, vmin=0, vmax=top or max(float(values.max()), 1e-9))
    axes.imshow(image.convert("L"), cmap="gray", extent=(0, width, height, 0), vmin=-80, vmax=255)
    return axes.imshow(
        np.asarray(values), cmap=OVER_IMAGE, alpha=0.62, extent=(0, width, height, 0), interpolation="nearest", norm=norm
    )  # fmt: skip


def before_after(image: "Image.Image", before: Any, after: Any, names: tuple[str, str], title: str = "") -> "Figure":
    """Fig. 6 and 7: the same layer's map with and without a method, on one scale."""
    figure = _figure(7.2, 3.1)
    every = figure.subplots(1, 3)
    every[0].imshow(image)
    every[0].set_title("image", fontsize=10)
    top = max(float(before.max()), float(after.max()), 1e-9)
    for axes, values, name in zip(every[1:], (before, after), names, strict=True):
        drawn = _overlay(axes, image, values, top)
        axes.set_title(f"{textwrap.fill(name, 28)}\n{float(values.sum()):.0%} on the image", fontsize=9)
    for axes in every:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=every[1:], label="attention to a patch", shrink=0.85)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def drift_curves(table: "Table", positive_layer: int | None = None) -> "Figure":
    """Fig. 2b: correlation of every layer's map with the negative and the positive anchor map (`measures.drift`).

    Args:
        table: As `measures.drift` makes it, of one image, or `measures.average` of several.
        positive_layer: The layer whose positive anchors were meant, marked in the figure; None = no mark.
    """
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    layers = [row["layer"] for row in table]
    names = {
        "to_negative": "with the negative anchor (first layer)",
        "to_positive": "with the positive anchor",
    }
    for number, (name, label) in enumerate(names.items()):
        values = [row[name] for row in table]
        _line(axes, number, layers, values, label)
        if f"{name}_se" in table[0]:
            spread = [1.96 * row[f"{name}_se"] for row in table]
            low, high = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(layers, low, high, color=COLOURS[number], alpha=0.18, linewidth=0)
    if positive_layer is not None:
        label = f"positive anchors: layer {positive_layer}"
        axes.axvline(positive_layer, color=GREY, linewidth=1, linestyle=":", label=label)
    _dress(axes, "decoder layer", "Pearson correlation of maps", layers)
    axes.set_ylim(min(-0.1, *(row[name] for row in table for name in names)) - 0.05, 1.05)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def share_curves(tables: "Mapping[str, Table]", column: str = "visual", counting: bool = True) -> "Figure":
    """Share of the words' attention on the image, layer by layer; a line a method (`measures.shares`)."""
    figure = _figure(5.6, 3.3)
    axes = figure.subplots()
    for number, (name, table) in enumerate(tables.items()):
        _line(axes, number, [row["layer"] for row in table], [row[column] for row in table], name)
    first = next(iter(tables.values()))
    if counting:
        level = first[0]["counting"]
        axes.axhline(level, color=GREY, linewidth=1, linestyle=":", label="if all tokens were alike")
    _dress(axes, "decoder layer", "share of attention on the image", [row["layer"] for row in first])
    axes.set_ylim(0, 1)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def anchor_table(image: "Image.Image", table: "Table", rows: int, columns: int) -> "Figure":
    """AttAnchor's copies: each word at the patch it was put behind (`anchor_distances.anchor_table`), with its cosine."""
    width, height = image.size
    figure = _figure(4.6, 4.6 * height / width)
    axes = figure.subplots()
    axes.imshow(image)
    axes.set_axis_off()
    stacked: dict[tuple[int, int], int] = {}
    for row in table:
        cell = row["row"], row["column"]
        above = stacked[cell] = stacked.get(cell, -1) + 1
        left, top = cell[1] * width / columns, cell[0] * height / rows
        if above == 0:
            box = {
                "width": width / columns,
                "height": height / rows,
                "fill": False,
                "edgecolor": "#e69f00",
                "linewidth": 2,
            }
            axes.add_patch(_rectangle((left, top), **box))
        right = left > width * 0.6
        axes.annotate(
            f"{row['word']} {row['cosine']:.2f}",
            (left + (width / columns if right else 0), top),
            xytext=(0, 2 + 13 * above), textcoords="offset points", fontsize=9, va="bottom",
            ha="right" if right else "left", annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip
    return figure


def crop(image: "Image.Image", box: Sequence[int]) -> "Figure":
    """An image, and the part of it (left, top, right, bottom, in pixels) that was cropped."""
    width, height = image.size
    figure = _figure(4.6, 4.6 * height / width)
    axes = figure.subplots()
    axes.imshow(image)
    axes.set_axis_off()
    left, top, right, bottom = box
    size = {"width": right - left, "height": bottom - top}
    axes.add_patch(_rectangle((left, top), **size, fill=False, edgecolor="#e69f00", linewidth=2))
    return figure


def _rectangle(corner: tuple[float, float], **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, style.pop("width"), style.pop("height"), **style)


def radar(scores: Mapping[str, Mapping[str, float]], baseline: str = "none") -> "Figure":
    """Methods over metrics: each axis is a metric as difference from the baseline, in its own points, 0 on the dashed ring.

    scores: method -> metric -> value, all where more is better. A radar flatters by area; the axes share one scale.
    """
    metrics = list(scores[baseline])
    if len(metrics) < 3:
        raise BadSetting(f"A radar needs three metrics or more; found {len(metrics)}. Use a table.")
    changes = {
        name: [values[metric] - scores[baseline][metric] for metric in metrics]
        for name, values in scores.items()
        if name != baseline
    }
    figure = _figure(6.0, 4.6)
    axes: Any = figure.add_subplot(projection="polar")
    around = [2 * math.pi * i / len(metrics) for i in range(len(metrics))]
    closed = [*around, around[0]]
    for number, (name, values) in enumerate(changes.items()):
        _line(axes, number, closed, [*values, values[0]], name)
    axes.plot(
        [2 * math.pi * i / 90 for i in range(91)], [0] * 91, color=GREY, linestyle="--", linewidth=1, label=baseline
    )
    low = min(0.0, *(value for values in changes.values() for value in values))
    high = max(0.0, *(value for values in changes.values() for value in values))
    room = max(high - low, 1e-9)
    axes.set_ylim(low - 0.35 * room, high + 0.1 * room)
    axes.set_xticks(around, metrics)
    for angle, label in zip(around, axes.get_xticklabels(), strict=True):
        side = math.cos(angle)
        label.set_horizontalalignment("left" if side > 0.1 else "right" if side < -0.1 else "center")
    axes.set_rlabel_position(180 / len(metrics))
    axes.tick_params(axis="y", labelsize=7)
    figure.suptitle(f"points more or less than {baseline}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def sweep(
    table: "Table", parameter: str, metrics: "Sequence[str] | Mapping[str, Sequence[str]]",
    baseline: Mapping[str, float] | None = None,
) -> "Figure":  # fmt: skip
    """One parameter moved (Fig. 5): metrics against its values; `METRIC_low` and `METRIC_high` in a row give its interval.

    metrics: Those of one pair of axes, or the label of each axis with its metrics: scores far apart hide each other's changes.
    """
    panels = metrics if isinstance(metrics, Mapping) else {"score (%)": metrics}
    figure = _figure(5.2 * len(panels), 3.2)
    rows = sorted(table, key=lambda row: row[parameter])
    x = [row[parameter] for row in rows]
    number = 0
    for axes, (label, own) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for metric in own:
            _line(axes, number, x, [row[metric] for row in rows], metric)
            if f"{metric}_low" in rows[0]:
                _band(axes, number, rows, parameter, metric)
            if baseline and metric in baseline:
                axes.axhline(
                    baseline[metric], color=COLOURS[number], linewidth=1, linestyle=":", label=f"{metric}, plain"
                )
            number += 1
        _dress(axes, parameter, label)
        axes.set_xticks(_apart(x))
        axes.set_xticks(x, minor=True)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _apart(values: Sequence[float]) -> list[float]:
    """Of rising values those that can be written below an axis side by side; the first and the last are kept."""
    room = (values[-1] - values[0]) / 12
    kept = [values[0]]
    for value in values[1:]:
        if value - kept[-1] >= room and (values[-1] - value >= room or value == values[-1]):
            kept.append(value)
    return kept


def losses(tables: "Mapping[str, Table]", best: Mapping[str, int] | None = None) -> "Figure":
    """Loss against training step, a line a run; rows hold `step` and `loss`, and where measured `validation`."""
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    for number, (name, table) in enumerate(tables.items()):
        axes.plot(
            [row["step"] for row in table], [row["loss"] for row in table],
            color=COLOURS[number], alpha=0.45, linewidth=1, label=f"{name}, training",
        )  # fmt: skip
        measured = [row for row in table if row.get("validation") is not None]
        if measured:
            _line(
                axes,
                number,
                [row["step"] for row in measured],
                [row["validation"] for row in measured],
                f"{name}, validation",
            )
        if best and name in best:
            axes.axvline(best[name], color=COLOURS[number], linewidth=1, linestyle=":", label=f"{name}, best")
    _dress(axes, "step", "loss (nats a token)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def selection(tables: "Mapping[float, Table]", best: Mapping[float, float]) -> "Figure":
    """AttAnchor's Theorem 4 and Corollary 1: quality of its anchors against tau, and with patches turned away.

    Args:
        tables: For each alignment (1.0 = the model as it is), `theory.over_scenes` of `theory.quality`.
        best: The best tau at each alignment.
    """
    figure = _figure(9.0, 3.5)
    left, right = figure.subplots(1, 2, sharey=True)
    whole = tables[1.0]
    for number, (name, label) in enumerate({"precision": "precision", "recall": "recall", "f1": "F1"}.items()):
        rows = [row for row in whole if row[name] is not None and row["tau"] < 1]
        _line(left, number, [row["tau"] for row in rows], [row[name] for row in rows], label)
        _band(left, number, rows, "tau", name)
    left.axvline(best[1.0], color=GREY, linewidth=1, linestyle=":", label=f"best tau {best[1.0]:g}")
    for number, (alignment, table) in enumerate(tables.items(), 2):
        rows = [row for row in table if row["f1"] is not None and row["tau"] < 1]
        f1 = [row["f1"] for row in rows]
        _line(right, number, [row["tau"] for row in rows], f1, f"alignment {alignment:g}: best tau {best[alignment]:g}")
        _band(right, number, rows, "tau", "f1")
    _dress(left, "tau (cosine)", "share of anchors, or F1")
    _dress(right, "tau (cosine)", "F1")
    left.set_ylim(0, 1.02)
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    return figure


def pulls(table: "Table") -> "Figure":
    """AttAnchor's Theorem 1, layer by layer: the score that a word and its copy give to the patch, and the share of pairs in
    which the copy's is higher (`theory.over_scenes` of `theory.pulled`)."""
    figure = _figure(9.0, 3.5)
    left, right = figure.subplots(1, 2)
    layers = [row["layer"] for row in table]
    for number, (name, label) in enumerate({"logit_word": "from the word", "logit_copy": "from its copy"}.items()):
        _line(left, number, layers, [row[name] for row in table], label)
        _band(left, number, table, "layer", name)
    names = {"logit_rises": "score", "weight_rises": "weight", "lift_rises": "weight, beyond fewer keys"}
    for number, (name, label) in enumerate(names.items(), 2):
        _line(right, number, layers, [row[name] for row in table], label)
        _band(right, number, table, "layer", name)
    right.axhline(0.5, color=GREY, linewidth=1, linestyle=":", label="as often as not")
    _dress(left, "decoder layer", "attention score to the patch (logit)", layers)
    _dress(right, "decoder layer", "share of pairs, copy above word", layers)
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    return figure


def _band(axes: Any, number: int, rows: "Table", x: str, name: str) -> None:
    """The interval from `NAME_low` to `NAME_high`."""
    low, high = ([row[f"{name}_{end}"] for row in rows] for end in ("low", "high"))
    axes.fill_between([row[x] for row in rows], low, high, color=COLOURS[number % 7], alpha=0.18, linewidth=0)
