"""Answers with anchors and without, and statistics of the cosines that anchors are chosen by."""

import random

import numpy as np
import torch
from asking import Tally, answers, fresh, inputs_about

import vlm_anchors as va
from vlm_anchors.analysis.anchor_distances import prompts_of
from vlm_anchors.scenes import render
from vlm_anchors.scenes.questions import CHAIR, POPE, absent, article

HEAT = 0.1
"""Of the softmax over patches whose entropy is taken."""


@torch.no_grad()
def rows_about(vlm, tensors, questions):
    """One row a question: (there, best cosine of the object's words, how far above the mean patch in sigmas, entropy, others).

    others: best cosines of the question's other words.
    """
    prompts = prompts_of(vlm, fresh(tensors))
    cosine, words = prompts.cosine(), prompts.ids.gather(1, prompts.words.place)
    found = []
    for row, one in enumerate(questions):
        own = torch.tensor(vlm.processor.tokenizer(one.name, add_special_tokens=False)["input_ids"])
        valid = prompts.words.valid[row]
        named = torch.isin(words[row], own) & valid
        of = cosine[row][named]
        of = of[of.amax(1).argmax()]
        share = (of / HEAT).softmax(0)
        entropy = float(-(share * share.clamp(min=1e-12).log()).sum() / np.log(len(of)))
        others = cosine[row][valid & ~named].amax(1).tolist()
        found.append((one.there, float(of.max()), float((of.max() - of.mean()) / of.std()), entropy, others))
    return found


def separation(rows):
    """How often an object that is there has a higher best cosine than one that is not (0.5 is chance)."""
    there, absent = ([best for present, best, *_ in rows if present == wanted] for wanted in (True, False))
    pairs = np.array(there)[:, None] - np.array(absent)[None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def statistics(rows):
    """Spread, separation, peak and entropy of a set of questions' cosines."""
    every = [best for _, best, *_ in rows] + [one for *_, others in rows for one in others]
    low, high = np.percentile(every, [10, 90])
    there = [row for row in rows if row[0]]
    told = {
        "spread": high - low,
        "separation": separation(rows),
        "there": np.mean([best for _, best, *_ in there]),
        "absent": np.mean([best for present, best, *_ in rows if not present]),
        "peak": np.mean([peak for _, _, peak, *_ in rows]),
        "entropy": np.mean([entropy for _, _, _, entropy, _ in rows]),
    }
    return {name: round(float(value), 4) for name, value in told.items()}


def examined(vlm, about, taus, images=render):
    """The plain model's answers, what anchors change at each tau, and statistics of the cosines.

    images: what is shown for a scene; by default its drawing.
    """
    tallies, rows = {name: Tally() for name in ("plain", *taus)}, []
    for scene, questions in about:
        tensors, known = inputs_about(vlm, images(scene), questions), {}
        rows += rows_about(vlm, tensors, questions)
        for name, tally in tallies.items():
            yes, words, _ = answers(vlm, tensors, [va.AttAnchor(tau=1.0 if name == "plain" else name)], known)
            tally.add(questions, yes, words)
    plain = tallies.pop("plain")
    anchors = {f"{tau:g}": tally.report(plain) for tau, tally in tallies.items()}
    return {"cosines": statistics(rows), "plain": plain.report(), "anchors": anchors}


def calibrated(vlm, scenes, images=render):
    """What `calibrate` finds on the questions that results/scenes_tau.json is made from."""
    rng, asked = random.Random(0), []
    for scene in scenes:
        image, names = images(scene), (sorted(scene.present)[0], absent(rng, scene))
        asked += [(image, text) for text in (*(POPE.format(a=article(name)) for name in names), CHAIR)]
    return va.calibrate(vlm, asked)
