"""What the vision tower says about the scenes, computed once: the tower is not trained here."""

from pathlib import Path

import numpy as np
import torch

from tools.scenes_model.forward import tower
from tools.scenes_model.packing import LABELS, SIDE, patch_labels
from vlm_anchors.scenes import draw, sample, smollm2


class Features:
    """`scenes`, `features` (n, 64, 192) float16 and patch `labels` (n, 3, 64) of a split, kept in two .npy files."""

    def __init__(self, folder: Path, n: int, split: str = "train", seed: int = 0):
        self.scenes = sample(n, seed, split=split)
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / f"{split}.done"
        if not (done.exists() and int(done.read_text()) >= n):
            _compute(self.scenes, folder, split)
            done.write_text(str(n))
        self.features = np.load(folder / f"{split}.features.npy", mmap_mode="r")
        self.labels = np.load(folder / f"{split}.labels.npy", mmap_mode="r")

    def of(self, i: int) -> torch.Tensor:
        """Patch features (64, 192) of a scene in float32."""
        return torch.from_numpy(np.array(self.features[i])).float()


def _compute(scenes, folder: Path, split: str, batch: int = 32) -> None:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(smollm2.TOWER, dtype=torch.float32).eval()
    width = model.config.vision_config.hidden_size
    files = [folder / f"{split}.{name}.npy" for name in ("features", "labels")]
    open_map = np.lib.format.open_memmap
    features = open_map(files[0], mode="w+", dtype=np.float16, shape=(len(scenes), SIDE * SIDE, width))
    labels = open_map(files[1], mode="w+", dtype=np.uint8, shape=(len(scenes), LABELS, SIDE * SIDE))
    for at in range(0, len(scenes), batch):
        pixels = []
        for i, scene in enumerate(scenes[at : at + batch], at):
            picture, owner = draw.drawn(scene)
            pixels.append(picture)
            labels[i] = patch_labels(scene, owner)
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            features[at : at + batch] = tower(model, images).half().numpy()
