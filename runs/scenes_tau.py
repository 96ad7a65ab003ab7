"""AttAnchor's tau for the bundled model, by the papers' own rule: python runs/scenes_tau.py -> results/scenes_tau.json

The tau at which a tenth of the words anchor, over the benchmarks' questions about scenes of the training split.
"""

import json
import random
import tempfile
from pathlib import Path

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes import draw
from vlm_anchors.scenes import questions as ask

SCENES = 200


def samples(folder):
    """Each scene with a question on what is there, one on what is not, and the one that asks for a caption."""
    rng = random.Random(0)
    for scene in scenes.sample(SCENES, seed=0, split="train"):
        image = folder / f"{scene.seed}.png"
        draw.save(scene, image)
        for name in (sorted(scene.present)[0], ask.absent(rng, scene)):
            yield image, ask.POPE.format(a=ask.article(name))
        yield image, ask.CHAIR


vlm = va.load("scenes")
with tempfile.TemporaryDirectory() as folder:
    found = va.calibrate(vlm, samples(Path(folder)))
told = {"command": "runs/scenes_tau.py", "scenes": SCENES, "split": "train", "seed": 0, **found.as_dict()}
file = Path(__file__).parent.parent / "results" / "scenes_tau.json"
file.write_text(json.dumps({**told, **provenance(vlm.device)}, indent=1) + "\n", "utf-8")
print(f"tau {found.tau:g} anchors {found.share(found.tau):.1%} of {len(found.cosines)} words", found.concern)
