"""The figures of the documentation: true colours, and colour bars whose lightness rises from end to end."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
FIGURES = sorted(DOCS.rglob("*.png"))
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
BARS = {"before-after-clva.png": False, "app.png": True}
"""Figures with a colour bar, and whether it lies."""


@pytest.mark.parametrize("file", FIGURES, ids=lambda file: file.name)
def test_colours_are_true(file):
    """A palette of 96 colours gives neighbours on a colour bar one colour, and one colour to two places on it."""
    with Image.open(file) as image:
        assert image.mode in ("RGB", "RGBA"), f"{file.name} has a palette; save it as RGB"
        assert file.stat().st_size < 600_000 and image.width >= 600


def bar_of(pixels, lying):
    """The luminance along the colour bar: the thin strip whose colours change along it and not across it."""
    strips = pixels.transpose(1, 0, 2) if not lying else pixels
    best = np.zeros(0)
    for at in range(3, len(strips) - 3):
        strip, beside = strips[at], strips[at + 2]
        changes = np.abs(np.diff(strip @ LUMINANCE))
        plain = (strip.min(-1) > 245) | (np.abs(strip - beside).max(-1) > 3) | (np.append(changes, 0) > 30)
        ends = np.flatnonzero(np.concatenate(([True], plain, [True])))
        lengths = np.diff(ends) - 1
        which = int(lengths.argmax())
        run = strip[ends[which] : ends[which] + lengths[which]]
        if len(run) > len(best) and len(np.unique(run, axis=0)) > 0.3 * len(run) and np.ptp(run @ LUMINANCE) > 100:
            best = run @ LUMINANCE
    return best


@pytest.mark.parametrize(("name", "lying"), BARS.items())
def test_the_lightness_of_a_colour_bar_is_monotone(name, lying):
    pixels = np.asarray(Image.open(DOCS / "figures" / name).convert("RGB"), dtype=float)
    bar = bar_of(pixels, lying)
    assert len(bar) > 60, f"no colour bar found in {name}"
    rising = bar if bar[-1] > bar[0] else bar[::-1]
    inner = rising[3:-3]  # the ends blend with their frame
    assert (np.diff(inner) > -1.5).all() and inner[-1] - inner[0] > 100


def test_a_palette_would_be_found():
    """The fault that the test is for: a bar of 8 colours in a wrong order."""
    from matplotlib import colormaps

    values = np.linspace(0, 1, 200)
    colours = (colormaps["magma"](values)[:, :3] * 255)[:, None].repeat(12, 1)
    canvas = np.full((240, 60, 3), 255.0)
    canvas[20:220, 20:32] = colours
    assert (np.diff(bar_of(canvas, lying=False)[3:-3]) > -1.5).all()
    canvas[100:120, 20:32] = canvas[30, 20]
    assert not len(bar := bar_of(canvas, lying=False)) or len(bar) < 150 or (np.diff(bar) < -1.5).any()
