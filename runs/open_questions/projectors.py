"""f: projectors, and which statistics of their cosines go with what anchors change.

    python runs/open_questions/projectors.py [--scenes 8]      -> results/open_projectors.json, a minute on one core

The bundled MLP; the same with its patches pooled 2 x 2 (as in Qwen's merger) and 4 x 4. Nothing is trained.
"""

from alignment import TAU, asked
from asking import asked_about, begun, write
from torch import nn

import vlm_anchors as va


class Pooled(nn.Module):
    """A projector whose patches are averaged over side x side blocks."""

    def __init__(self, projector, side):
        super().__init__()
        self.projector, self.side = projector, side

    def forward(self, features):
        patches = self.projector(features)
        rows = int(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (rows, rows))
        return nn.functional.avg_pool2d(grid, self.side).flatten(2).transpose(1, 2)


def pooled(side):
    """The bundled model with fewer image tokens."""
    vlm = va.load("scenes")
    if side > 1:
        base = vlm.model.base_model
        base.multi_modal_projector = Pooled(base.multi_modal_projector, side)
        vlm.processor.patch_size *= side
    return vlm


def main():
    given = begun(__doc__, scenes=8)
    about, rows = asked_about(given.scenes), []
    for name, side in (("MLP", 1), ("MLP, pooled 2 x 2", 2), ("MLP, pooled 4 x 4", 4)):
        rows.append({"projector": name, "tokens": 64 // side**2, **asked(pooled(side), about)})
        print(name, rows[-1]["cosines"], rows[-1]["plain"]["accuracy"], rows[-1]["anchors"]["difference"], flush=True)
    left = (
        "Resampled queries were not run: they must be trained first, and so was no decoder trained on pooled patches."
    )
    write("projectors", seed=0, tau=TAU, scenes=given.scenes, **{"not run": left}, rows=rows)


if __name__ == "__main__":
    main()
