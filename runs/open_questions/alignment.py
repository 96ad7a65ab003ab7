"""d: a projector that is pulled further towards words: does the best tau move, does selection improve, do answers?

    python runs/open_questions/alignment.py [--scenes 8]      -> results/open_alignment.json, two minutes on one core

A loss like SEA's on the projector alone: each patch on an object has a cosine with every object's word, of which its own shall
be the highest (cross-entropy at temperature 0.07); patches shall stay what they were for the decoder, which is not trained.
"""

import itertools

import torch
from asking import Tally, answers, asked_about, begun, inputs_about, write
from cosines import rows_about, statistics
from torch.nn.functional import cross_entropy, normalize
from training import encoded, training_scenes

import vlm_anchors as va
from vlm_anchors.analysis import theory
from vlm_anchors.analysis.samples import Probe
from vlm_anchors.scenes import coco, pope, render, sample
from vlm_anchors.scenes.draw import drawn
from vlm_anchors.scenes.questions import POPE, article

TAU, HEAT, KEEP, RATE = 0.3, 0.07, 1.0, 1e-3
STEPS = (0, 120)
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


def align(vlm, scenes, steps):
    """Trains the projector in place; returns the mean cosine of patches with what they were."""
    projector, words = vlm.model.base_model.multi_modal_projector, word_table(vlm).detach()
    tower = torch.cat([encoded(vlm, scene) for scene in scenes])
    wanted = torch.cat([labels(scene) for scene in scenes])
    with torch.no_grad():
        old = projector(tower)
    optimiser = torch.optim.Adam(projector.parameters(), lr=RATE)
    for _ in range(steps):
        new = projector(tower)
        moved = (new - old).pow(2).mean() / old.var()
        loss = cross_entropy(normalize(new, dim=-1) @ words.T / HEAT, wanted) + KEEP * moved
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float(torch.nn.functional.cosine_similarity(projector(tower), old, dim=-1).mean())


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


def asked(vlm, about):
    """Plain answers, answers with anchors, and the statistics of the cosines."""
    tallies, rows = {name: Tally() for name in ("plain", "anchors")}, []
    for scene, questions in about:
        tensors, known = inputs_about(vlm, render(scene), questions), {}
        rows += rows_about(vlm, tensors, questions)
        for name, tally in tallies.items():
            yes, words, _ = answers(vlm, tensors, [va.AttAnchor(tau=TAU if name == "anchors" else 1.0)], known)
            tally.add(questions, yes, words)
    plain = tallies["plain"]
    return {"cosines": statistics(rows), "plain": plain.report(), "anchors": tallies["anchors"].report(plain)}


def main():
    given = begun(__doc__, scenes=8, selection=8, train=64)
    torch.manual_seed(0)
    scenes, about, rows = training_scenes(given.train), asked_about(given.scenes), []
    for steps in STEPS:
        vlm = va.load("scenes")
        kept = align(vlm, scenes, steps)
        best, by_tau = selection(vlm, given.selection)
        rows.append({"steps": steps, "kept": kept, "best": best, "by tau": by_tau, **asked(vlm, about)})
        print(steps, kept, best, rows[-1]["cosines"], rows[-1]["anchors"]["difference"], flush=True)
        sizes = {"training scenes": given.train, "scenes": given.scenes, "selection scenes": given.selection}
        write("alignment", seed=0, tau=TAU, **sizes, rows=rows)


if __name__ == "__main__":
    main()
