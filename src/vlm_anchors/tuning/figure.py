"""The score over each parameter that was searched, with intervals, beside the plain model's."""

from typing import TYPE_CHECKING, Any

from ..analysis.plots import COLOURS, GREY, MARKERS
from ..errors import BadSetting
from ..parameters import parameters_of
from ..specs import spec_of_all
from .result import TunedMethod, Tuning
from .search import Measured
from .space import Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels side by side."""


def score_over_parameters(tuning: Tuning) -> "Figure":
    """One panel a parameter that was varied; a point is a setting on the validation images it was asked about.

    Hollow points were dropped early, after fewer questions; the star is a method's best setting, the band the plain model.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadSetting("Figures need matplotlib: pip install 'vlm-anchors[figures]'.") from error
    panels = [(one, place) for one in tuning.methods for place in varied(one)]
    panels = panels or [(one, (0, "")) for one in tuning.methods]
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.6 * across + 0.6, 2.9 * down + 0.5), layout="constrained")
    every = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    for number, (axes, (one, place)) in enumerate(zip(every, panels, strict=False)):
        _panel(axes, tuning, one, place)
        axes.set_ylabel(_label(tuning) if number % across == 0 else "")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def varied(one: TunedMethod) -> list[Place]:
    """The parameters in which the settings of a method differ."""
    settings = one.searched.chosen.settings
    places = [(at, name) for at, part in enumerate(settings[0]) for name in parameters_of(part)]
    return [place for place in places if len({repr(_value(setting, place)) for setting in settings}) > 1]


def _value(setting: Any, place: Place) -> Any:
    return getattr(setting[place[0]], place[1]) if place[1] else spec_of_all(setting)


def _label(tuning: Tuning) -> str:
    metric = tuning.objective.metric
    arrow = {"higher": "↑", "lower": "↓"}[metric.better]
    return f"{metric.name}{' %' if metric.unit == 'fraction' else ''} {arrow}, validation images"


def _panel(axes: Any, tuning: Tuning, one: TunedMethod, place: Place) -> None:
    metric, best = tuning.objective.metric, one.searched.best
    measured = [each for each in one.searched.measured if each.score is not None]
    values = [_value(each.setting, place) for each in measured]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    ranked = sorted(
        values, key=lambda value: (isinstance(value, tuple), value if isinstance(value, tuple) else str(value))
    )
    names = [] if numeric else list(dict.fromkeys(map(_name, ranked)))
    for each, value in zip(measured, values, strict=True):
        x = value if numeric else names.index(_name(value))
        _point(axes, metric.shown, each, x, each is best)
    plain = tuning.plain[0]
    if plain.score is not None:
        axes.axhline(metric.shown(plain.score), color=COLOURS[1], linestyle="--", linewidth=1.2, label="plain")
    if plain.interval is not None:
        axes.axhspan(
            metric.shown(plain.interval.low), metric.shown(plain.interval.high), color=COLOURS[1], alpha=0.12, linewidth=0
        )  # fmt: skip
    if not numeric:
        axes.set_xticks(range(len(names)), names, fontsize=7, rotation=30 if max(map(len, names), default=0) > 6 else 0)
        axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"{one.searched.chosen.tunable.names[place[0]]}: {place[1] or 'setting'}")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _point(axes: Any, shown: Any, each: Measured, x: Any, best: bool) -> None:
    score, span = shown(each.score), each.interval
    spread = None
    if span is not None:
        spread = [[max(score - shown(span.low), 0.0)], [max(shown(span.high) - score, 0.0)]]
    colour = GREY if each.dropped else COLOURS[0]
    label = "best" if best else "dropped early" if each.dropped else "setting"
    known = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        [x], [score], yerr=spread, color=COLOURS[2] if best else colour, marker="*" if best else MARKERS[0],
        markersize=11 if best else 5, markerfacecolor="none" if each.dropped else None, capsize=2, linewidth=1,
        linestyle="none", alpha=1.0 if best else 0.75, zorder=3 if best else 2, label=None if label in known else label,
    )  # fmt: skip


def _name(value: Any) -> str:
    if value is None:
        return "default"
    return f"{value[0]}-{value[1]}" if isinstance(value, tuple) and len(value) == 2 else str(value)
