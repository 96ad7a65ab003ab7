"""Projector and decoder of the bundled model trained further, together, on its own questions; the vision tower stays.

Captions are left out. The questions and their packing behind one image are those the model was made with
(tools/scenes_model). An arm that was trained once is read from runs/out; one that was stopped goes on from its last checkpoint.
"""

import math
import os
import random
import sys
import time

import numpy as np
import torch
from asking import OUT, ROOT
from torch.nn.functional import cross_entropy

from vlm_anchors.scenes import questions, tinyllava

sys.path.insert(0, str(ROOT))
from tools.scenes_model import forward, packing

IMAGES, BATCH, RATE, SAVED = 6000, 8, 3e-4, 50


def trained(vlm, name, steps, *, seed=0, rates=(1.0, 1.0), more=None):
    """Trains the model in place and returns what it was trained with.

    Args:
        vlm: The model; its projector may be another one than the bundled.
        name: Of the arm, for its checkpoint.
        steps: Batches of 8 images, eight questions each. The rate warms up over 20 and falls to nothing.
        seed: Of the order of the images and of their questions.
        rates: Of projector and decoder, as multiples of 3e-4.
        more: (projected patches (b, patches, width), categories of the 8 x 8 patches (b, 64), 0 = ground) -> added to the loss.
    """
    base = vlm.model.base_model
    parts = base.multi_modal_projector, base.language_model
    weights = {f"{at}.{key}": value for at, part in enumerate(parts) for key, value in part.named_parameters()}
    groups = [{"params": [*part.parameters()], "scale": scale} for part, scale in zip(parts, rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    file = OUT / "joint" / f"{name.replace(' ', '-')}-{steps}-{seed}.pt"
    done = restored(file, weights, optimiser)
    if done < steps:
        store = packing.Store(OUT / "joint" / "images", IMAGES, seed=2)
        store.render(0, 1, lambda *_: None)
        packer, began = packing.Packer(tinyllava.tokenizer(), tinyllava.SYSTEM), time.monotonic()
        for step in range(done, steps):
            for group in optimiser.param_groups:
                share = min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
                group["lr"] = RATE * group["scale"] * share
            loss = losses(vlm.model, store, packer, (seed, step), more)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            if step % 20 == 0 or step + 1 == steps:
                print(f"{name}, step {step}: {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
            if (step + 1) % SAVED == 0 or step + 1 == steps:
                saved(file, weights, optimiser, step + 1)
    vlm.model.eval()
    return {"steps": steps, "images a step": BATCH, "training scenes": IMAGES, "rate": RATE, "rates": list(rates)}


def losses(model, store, packer, key, more):
    """The loss of one batch, which depends on its key alone: of the answers, and what `more` adds."""
    pixels, labels, scenes = store.batch(np.random.default_rng(key), BATCH)
    rng = random.Random(repr(key))
    batch = packer.pack([questions.training_set(rng, scene)[:-1] for scene in scenes])
    with torch.no_grad():
        patches = forward.tower(model, pixels)
    visual = forward.project(model, patches)
    at = batch.targets >= 0
    logits = model.lm_head(forward.decode(model, visual, batch))
    weights = batch.weights[at]
    loss = (cross_entropy(logits, batch.targets[at], reduction="none") * weights).sum() / weights.sum()
    return loss if more is None else loss + more(visual, labels[:, 0].long())


def saved(file, weights, optimiser, step):
    """A checkpoint, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {"weights": {key: value.detach() for key, value in weights.items()}, "step": step}
    torch.save({**kept, "optimiser": optimiser.state_dict()}, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


def restored(file, weights, optimiser):
    """Reads a checkpoint where there is one; the steps that lie behind."""
    if not file.exists():
        return 0
    kept = torch.load(file, weights_only=True)
    optimiser.load_state_dict(kept["optimiser"])
    with torch.no_grad():
        for key, value in kept["weights"].items():
            weights[key].copy_(value)
    return kept["step"]
