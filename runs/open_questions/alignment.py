"""d: patches that are pulled further towards words: does the best tau move, does selection improve, do answers?

    python runs/open_questions/alignment.py [--scenes 100]      -> results/open_alignment.json, half an hour on one core

A loss like SEA's: each patch on an object has a cosine with every object's word, of which its own shall be the highest
(cross-entropy at temperature 0.07). It trains the projector alone, patches staying what they were for the decoder; or projector
and decoder together, beside the answers, against the same training without it.
"""

import itertools

import torch
from asking import CALIBRATED, asked_about, begun, write
from cosines import examined
from joint import trained
from torch.nn.functional import cross_entropy, normalize
from training import encoded, training_scenes

import vlm_anchors as va
from vlm_anchors.analysis import theory
from vlm_anchors.analysis.samples import Probe
from vlm_anchors.scenes import coco, pope, render, sample
from vlm_anchors.scenes.draw import drawn
from vlm_anchors.scenes.questions import POPE, article

TAU, HEAT, KEEP, RATE, ALONE = 0.3, 0.07, 1.0, 1e-3, 120
TAUS = sorted({*(round(0.05 * step, 2) for step in range(21)), 0.08, 0.12, 0.16})


def word_table(vlm):
    """The mean direction of the tokens of every object's name."""
    table = normalize(vlm.model.get_input_embeddings().weight.float(), dim=-1)
    ids = [vlm.processor.tokenizer(name, add_special_tokens=False)["input_ids"] for name in coco.CATEGORIES]
    return normalize(torch.stack([table[one].mean(0) for one in ids]), dim=-1)


def labels(scene, side=8):
    """The category that most of a patch shows; -100 where that is the ground."""
    owner = torch.from_numpy(drawn(scene)[1].astype("int64"))
    size = owner.shape[0] // side
    whose = owner.unfold(0, size, size).unfold(1, size, size).reshape(side * side, -1).mode(-1).values
    names = [-100, *(coco.CATEGORIES.index(thing.name) for thing in scene.objects)]
    return torch.tensor(names)[whose]


def pull(patches, words, wanted):
    """The loss of patches (n, width) whose objects are known; -100 is the ground."""
    return cross_entropy(normalize(patches.float(), dim=-1) @ words.T / HEAT, wanted)


def alone(vlm, scenes, steps):
    """Trains the projector in place, the decoder left as it is."""
    projector, words = vlm.model.base_model.multi_modal_projector, word_table(vlm).detach()
    tower = torch.cat([encoded(vlm, scene) for scene in scenes])
    wanted = torch.cat([labels(scene) for scene in scenes])
    with torch.no_grad():
        old = projector(tower)
    optimiser = torch.optim.Adam(projector.parameters(), lr=RATE)
    for _ in range(steps):
        new = projector(tower)
        moved = (new - old).pow(2).mean() / old.var()
        loss = pull(new, words, wanted) + KEEP * moved
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def together(vlm, name, given, pulled):
    """Trains projector and decoder in place on answers, beside them with the pull or without."""

    def more(patches, categories):
        wanted = categories.flatten() - 1
        return pull(patches.flatten(0, 1), word_table(vlm).detach(), wanted.masked_fill(wanted < 0, -100))

    trained(vlm, name, given.steps, seed=given.seed, more=more if pulled else None)


@torch.no_grad()
def kept(vlm, scenes):
    """The mean cosine of a model's patches with those of the bundled one."""
    both = (one.model.base_model.multi_modal_projector for one in (va.load("scenes"), vlm))
    old, new = (projector(torch.cat([encoded(vlm, scene) for scene in scenes])) for projector in both)
    return float(torch.nn.functional.cosine_similarity(new, old, dim=-1).mean())


def selection(vlm, count, seed=5):
    """Theorem 4 on scenes of three kinds of objects or more: the best tau, and precision, recall and F1 by tau."""
    scenes = [scene for scene in sample(3 * count, seed) if len(scene.present) >= 3][:count]
    tables = []
    for scene, rows in itertools.groupby(pope.questions(scenes, seed)["adversarial"], key=lambda row: row[0]):
        image, things = render(scene), tuple((thing.name, thing.box, thing.visibility) for thing in scene.objects)
        found = []
        for _, name, _ in rows:
            pair = theory.named_patches(vlm, Probe(image, POPE.format(a=article(name)), things, name))
            found += theory.selection(*pair, TAUS)
        tables.append(theory.added(found, "tau"))
    rows = theory.over_scenes(tables, "tau", theory.quality)
    return theory.best_tau(tables), [{key: row[key] for key in ("tau", "f1", "f1_low", "f1_high")} for row in rows]


ARMS = {
    "as it is": lambda vlm, scenes, given: None,
    "projector alone, pulled": lambda vlm, scenes, given: alone(vlm, scenes, ALONE),
    "trained further": lambda vlm, scenes, given: together(vlm, "align plain", given, False),
    "trained further, pulled": lambda vlm, scenes, given: together(vlm, "align pulled", given, True),
}


def main():
    given = begun(__doc__, scenes=100, selection=100, train=64, steps=300, seed=0)
    torch.manual_seed(given.seed)
    scenes, about, rows = training_scenes(given.train), asked_about(given.scenes), []
    for arm, train in ARMS.items():
        vlm = va.load("scenes")
        train(vlm, scenes, given)
        best, by_tau = selection(vlm, given.selection)
        found = examined(vlm, about, (TAU, CALIBRATED))
        rows.append({"arm": arm, "kept": kept(vlm, scenes), "best": best, "by tau": by_tau, **found})
        print(arm, rows[-1]["kept"], best, found["cosines"], found["anchors"], flush=True)
        sizes = {"alone steps": ALONE, "together steps": given.steps, "training scenes": given.train}
        write(
            "alignment",
            seed=given.seed,
            **sizes,
            scenes=given.scenes,
            **{"selection scenes": given.selection},
            rows=rows,
        )


if __name__ == "__main__":
    main()
