"""What the vision tower says about the scenes, computed once: the tower is not trained here."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from tools.scenes_model.forward import tower
from tools.scenes_model.packing import LABELS, SIDE, patch_labels
from vlm_anchors.durable import write_whole
from vlm_anchors.scenes import draw, sample, smollm2


class Features:
    """`scenes`, `features` (n, 64, 192) float16 and patch `labels` (n, 3, 64) of a split, kept in two .npy files.

    A stamp beside them, written last, says how many there are, and of which scenes and which tower.
    """

    def __init__(self, folder: Path, n: int, split: str = "train", seed: int = 0):
        self.scenes = sample(n, seed, split=split)
        folder.mkdir(parents=True, exist_ok=True)
        files, stamp = [folder / f"{split}.{name}.npy" for name in ("features", "labels")], folder / f"{split}.done"
        what = {"seed": seed, "tower": [smollm2.sha256(file) for file in smollm2.tower_files()]}
        kept = _read(stamp)
        if kept.pop("images", 0) < n or kept != what:
            fresh = [file.with_suffix(".new") for file in files]
            _compute(self.scenes, *fresh)
            stamp.unlink(missing_ok=True)  # it is not of the files that come now
            for new, file in zip(fresh, files, strict=True):
                os.replace(new, file)
            write_whole(stamp, json.dumps({"images": n, **what}) + "\n")
        self.features, self.labels = (np.load(file, mmap_mode="r") for file in files)

    def of(self, i: int) -> torch.Tensor:
        """Patch features (64, 192) of a scene in float32."""
        return torch.from_numpy(np.array(self.features[i])).float()


def _read(stamp: Path) -> dict:
    """Empty where there is none that says enough; earlier ones were a bare number."""
    try:
        kept = json.loads(stamp.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _compute(scenes, features_file: Path, labels_file: Path, batch: int = 32) -> None:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(smollm2.TOWER, dtype=torch.float32).eval()
    width = model.config.vision_config.hidden_size
    open_map = np.lib.format.open_memmap
    features = open_map(features_file, mode="w+", dtype=np.float16, shape=(len(scenes), SIDE * SIDE, width))
    labels = open_map(labels_file, mode="w+", dtype=np.uint8, shape=(len(scenes), LABELS, SIDE * SIDE))
    for at in range(0, len(scenes), batch):
        pixels = []
        for i, scene in enumerate(scenes[at : at + batch], at):
            picture, owner = draw.drawn(scene)
            pixels.append(picture)
            labels[i] = patch_labels(scene, owner)
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            features[at : at + batch] = tower(model, images).half().numpy()
    features.flush()
    labels.flush()
