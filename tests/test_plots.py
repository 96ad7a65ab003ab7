"""Every figure draws what it is given, labels its axes, and nothing sticks out; bad input is a sentence."""

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from vlm_anchors.analysis import plots
from vlm_anchors.errors import BadSetting

LAYERS = range(1, 33)
HEADS = [{"layer": layer, "head": head, "visual": 0.5} for layer in LAYERS for head in range(1, 33)]
SHARES = [{"layer": layer, "visual": 0.4, "counting": 0.6} for layer in LAYERS]
DRIFT = [
    {"layer": layer, "to_negative": 0.5, "to_positive": -0.2, "to_negative_se": 0.1, "to_positive_se": 0.1}
    for layer in LAYERS
]
SCORES = {"none": {"POPE": 86.0, "MME": 60.0, "AMBER": 81.0}, "clva": {"POPE": 87.0, "MME": 59.0, "AMBER": 81.0}}
SWEEP = [{"alpha": alpha, "F1": 80.0, "F1_low": 79.0, "F1_high": 81.0} for alpha in (0, 5, 14)]
LOSS = [{"step": step, "loss": 2.0, "validation": 2.1 if step % 2 else None} for step in range(6)]
POSTS = [{"word": "dog", "row": 0, "column": 7, "cosine": 0.3}, {"word": "cat", "row": 0, "column": 7, "cosine": 0.2}]
IMAGE, MAP = Image.new("RGB", (90, 60), "teal"), torch.rand(8, 8)
CHOSEN = [
    {"tau": tau, **{f"{name}{end}": value for name in ("precision", "recall", "f1") for end in ("", "_low", "_high")}}
    for tau, value in ((0.0, 0.3), (0.5, 0.8), (1.0, None))
]
PULLED = [
    {"layer": layer, **{f"{name}{end}": 0.5 for name in ("logit_word", "logit_copy", "logit_rises", "weight_rises",
                                                        "lift_rises") for end in ("", "_low", "_high")}}
    for layer in LAYERS
]  # fmt: skip
CROWDED = [{"tau": tau, "F1": 80.0} for tau in (0.08, 0.1, 0.12, 0.14, 0.16, 0.2, 0.3, 0.5, 1.0)]
LONG = ("none", "attanchor:tau=0.135,tokens=all+clva:alpha=5")
FIGURES = {
    "intensity": lambda: plots.intensity_matrix(HEADS),
    "strip": lambda: plots.heat_strip(IMAGE, dict.fromkeys(range(1, 9), MAP), "where layers look"),
    "before and after": lambda: plots.before_after(IMAGE, MAP, 0 * MAP, ("plain", "CLVA"), "layer 3"),
    "drift": lambda: plots.drift_curves(DRIFT, 14),
    "shares": lambda: plots.share_curves({"none": SHARES, "clva": SHARES}),
    "anchor_table": lambda: plots.anchor_table(IMAGE, POSTS, 8, 8),
    "radar": lambda: plots.radar(SCORES),
    "long names": lambda: plots.before_after(IMAGE, MAP, MAP, LONG, "decoder layer 3"),
    "crowded parameter": lambda: plots.sweep(CROWDED, "tau", ["F1"]),
    "sweep": lambda: plots.sweep(SWEEP, "alpha", ["F1"], baseline={"F1": 79.5}),
    "sweep of two kinds": lambda: plots.sweep(SWEEP, "alpha", {"F1 (%)": ["F1"], "again (%)": ["F1"]}),
    "selection": lambda: plots.selection({1.0: CHOSEN, 0.5: CHOSEN}, {1.0: 0.5, 0.5: 0.5}),
    "pulls": lambda: plots.pulls(PULLED),
    "losses": lambda: plots.losses({"tau = 1": LOSS, "tau = 0.12": LOSS}, {"tau = 1": 3}),
}


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    """A figure after it was laid out, which is when places are known."""
    figure = FIGURES[request.param]()
    figure.draw_without_rendering()
    return figure


def test_nothing_sticks_out_of_the_frame(drawn):
    assert isinstance(drawn, Figure)
    inside = drawn.bbox
    for axes in drawn.axes:
        box = axes.get_tightbbox()
        if box is not None:
            assert box.x0 >= inside.x0 - 2 and box.x1 <= inside.x1 + 2
            assert box.y0 >= inside.y0 - 2 and box.y1 <= inside.y1 + 2


def test_words_do_not_overlap(drawn):
    """Titles of neighbours, and the numbers below an axis."""
    titles = [axes.title for axes in drawn.axes if axes.get_title()]
    rows = [titles, *([label for label in axes.get_xticklabels() if label.get_text()] for axes in drawn.axes)]
    for row in rows:
        boxes = [words.get_window_extent() for words in row]
        assert [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)] == []


@pytest.mark.parametrize("name", ["intensity", "drift", "shares", "sweep", "selection", "pulls", "losses"])
def test_axes_are_labelled(name):
    for axes in FIGURES[name]().axes[: 2 if name in ("selection", "pulls") else 1]:
        assert axes.get_xlabel() and axes.get_ylabel()


def test_a_radar_of_two_is_refused():
    with pytest.raises(BadSetting, match="A radar needs three metrics or more; found 2"):
        plots.radar({"none": {"a": 1.0, "b": 2.0}, "clva": {"a": 1.0, "b": 2.0}})


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(BadSetting, match=r"Figures need matplotlib: pip install 'vlm-anchors\[figures\]'"):
        plots.share_curves({"none": SHARES})


@pytest.mark.parametrize(
    ("count", "expected"), [(4, [1, 2, 3, 4]), (32, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 32])]
)
def test_ticks_end_with_the_last_layer(count, expected):
    assert plots._ticks(range(1, count + 1)) == expected


def test_every_line_of_many_looks_its_own_way():
    axes = plots._figure(4, 3).subplots()
    for number in range(24):
        plots._line(axes, number, [1, 2], [1, 2], str(number))
    image_mass = {(line.get_color(), line.get_marker()) for line in axes.get_lines()}
    assert len(image_mass) == 24


def test_training_steps_are_whole_numbers():
    figure = FIGURES["losses"]()
    figure.draw_without_rendering()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_kinds_of_scores_have_axes_of_their_own():
    figure = FIGURES["sweep of two kinds"]()
    assert [axes.get_ylabel() for axes in figure.axes] == ["F1 (%)", "again (%)"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [1, 1]
