"""f: projectors, and which statistics of their cosines go with what anchors change.

    python runs/open_questions/projectors.py [--scenes 100]      -> results/open_projectors.json, an hour on one core

The bundled MLP; its patches pooled 2 x 2 (as in Qwen's merger) and 4 x 4; learned queries that attend to all patches (a
resampler, as Flamingo's and the first Qwen-VL's). First as they are made, then trained on together with the decoder.
"""

import torch
from asking import asked_about, begun, write
from cosines import calibrated, examined
from joint import trained
from torch import nn
from training import training_scenes

import vlm_anchors as va

TAU = 0.3


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


class Resampled(nn.Module):
    """Learned queries attend to all patches before the projector; at first each to a few at random."""

    def __init__(self, projector, queries, heads=6):
        super().__init__()
        width, patches = projector.linear_1.in_features, 64
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.places = nn.Parameter(torch.randn(patches, width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        with torch.no_grad():  # what a query reads is a patch, not a random map of it
            self.attention.in_proj_weight[2 * width :] = torch.eye(width)
            self.attention.out_proj.weight.copy_(torch.eye(width))
        self.projector = projector

    def forward(self, features):
        keys = self.norm(features) + self.places
        queries = self.queries.expand(len(features), -1, -1)
        return self.projector(self.attention(queries, keys, features, need_weights=False)[0])


PROJECTORS = {  # tokens a side of the image, and what is put in the MLP's place
    "MLP": (8, lambda projector: projector),
    "MLP, pooled 2 x 2": (4, lambda projector: Pooled(projector, 2)),
    "MLP, pooled 4 x 4": (2, lambda projector: Pooled(projector, 4)),
    "resampled, 16 queries": (4, lambda projector: Resampled(projector, 16)),
}
TRAINED = ("MLP", "MLP, pooled 2 x 2", "resampled, 16 queries")


def with_projector(name):
    """The bundled model with one of them, and its number of image tokens."""
    vlm, (side, made) = va.load("scenes"), PROJECTORS[name]
    base = vlm.model.base_model
    base.multi_modal_projector = made(base.multi_modal_projector)
    vlm.processor.patch_size *= 8 // side
    return vlm, side * side


def main():
    given = begun(__doc__, scenes=100, train=64, steps=500, seed=0)
    about, scenes, rows = asked_about(given.scenes), training_scenes(given.train), []
    arms = [(name, 0) for name in PROJECTORS] + [(name, given.steps) for name in TRAINED]
    for name, steps in arms:
        torch.manual_seed(given.seed)
        vlm, tokens = with_projector(name)
        if steps:
            trained(vlm, name, steps, seed=given.seed, rates=(3.0, 1.0))
        tau = round(calibrated(vlm, scenes).tau, 3)
        found = examined(vlm, about, sorted({TAU, tau}))
        rows.append({"projector": name, "steps": steps, "tokens": tokens, "tenth": tau, **found})
        print(name, steps, tau, found["cosines"], found["plain"]["accuracy"], found["anchors"], flush=True)
        write("projectors", seed=given.seed, tau=TAU, scenes=given.scenes, rows=rows)


if __name__ == "__main__":
    main()
