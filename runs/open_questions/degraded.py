"""c: where do degraded images turn anchors from help to harm, and do the cosines tell?

    python runs/open_questions/degraded.py [--scenes 100]      -> results/open_degraded.json, a quarter of an hour on one core

Four kinds of degradation at five strengths, on the bundled model as it is. Each condition has the plain model's accuracy, what
anchors change at two tau, and statistics of the cosines.
"""

import io

import numpy as np
from asking import CALIBRATED, asked_about, begun, write
from cosines import calibrated, examined
from PIL import Image, ImageFilter

import vlm_anchors as va
from vlm_anchors.scenes import render

TAUS = (0.3, CALIBRATED)
STRENGTHS = {
    "blur": (0.5, 1, 2, 3, 5),  # sigma in pixels of 128
    "noise": (8, 16, 32, 64, 96),  # sigma in steps of 256
    "jpeg": (60, 30, 15, 8, 3),  # quality
    "low light": (0.6, 0.4, 0.25, 0.15, 0.08),  # what is left of the light, with noise of sigma 4
}


def degraded(image, kind, strength, seed):
    """The image at one strength of one kind."""
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(strength))
    if kind == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=strength)
        return Image.open(file).convert("RGB")
    pixels, draw = np.asarray(image, dtype=np.float32), np.random.default_rng(seed)
    light, sigma = (1, strength) if kind == "noise" else (strength, 4)
    return Image.fromarray(np.clip(pixels * light + draw.normal(0, sigma, pixels.shape), 0, 255).astype(np.uint8))


def condition(vlm, about, kind, strength):
    """Answers and cosines of every scene at one strength."""

    def image(scene):
        return degraded(render(scene), kind, strength, scene.seed)

    images = render if kind is None else image
    tau = calibrated(vlm, [scene for scene, _ in about], images)
    found = {"stand_out": tau.stand_out, "concern": tau.concern, **examined(vlm, about, TAUS, images)}
    return {"kind": kind or "none", "strength": strength, **found}


def main():
    given = begun(__doc__, scenes=100, seed=0)
    vlm, about = va.load("scenes"), asked_about(given.scenes, given.seed)
    conditions = [(None, 0), *((kind, one) for kind, strengths in STRENGTHS.items() for one in strengths)]
    rows = []
    for kind, strength in conditions:
        rows.append(condition(vlm, about, kind, strength))
        print(kind, strength, rows[-1]["plain"]["accuracy"], rows[-1]["cosines"], flush=True)
        write("degraded", seed=given.seed, scenes=given.scenes, calibrated_tau=CALIBRATED, rows=rows)


main()
