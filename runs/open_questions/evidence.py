"""Why does a model trained with anchors read an anchor as evidence, and what helps?

    python runs/open_questions/evidence.py [--steps 60] [--scenes 100]      -> results/open_evidence.json, half an hour, one core

The bundled model is trained alike on existence questions, plain or with anchors in several ways, and asked about scenes of
the test split with anchors, without, and with the asked word's anchor forced in beside its best patch. What a forced anchor
moves is what the model reads into it. Run again after a kill, it goes on.
"""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import torch
from asking import CALIBRATED, METRICS, OUT, Tally, answers, asked_about, begun, inputs_about, span, write
from training import encoded, existence, finetuned, named, training_scenes

import vlm_anchors as va
from vlm_anchors.interventions.insertion.batch import _pads_left
from vlm_anchors.interventions.insertion.plan import PAUSE, Copies, insert
from vlm_anchors.parameters import parameter
from vlm_anchors.scenes import coco, render

TAU = CALIBRATED


@dataclass(frozen=True)
class Noisy(va.AttAnchor):
    """Each word anchors beside a random patch with this probability, whatever its cosine."""

    share: float = parameter(0.3, 0, 1)

    def chosen(self, prompts):
        copies = super().chosen(prompts)
        if copies.cosine.numel() == 0:
            return copies
        moved = (torch.rand(copies.chosen.shape) < self.share) & prompts.words.valid
        patches = prompts.patches.valid.sum(1, keepdim=True)
        at = (torch.rand(copies.chosen.shape) * patches).long()
        host = torch.where(moved, prompts.patches.place.gather(1, at), copies.host)
        return dataclasses.replace(copies, host=host, chosen=copies.chosen | moved)


@dataclass(frozen=True)
class EveryObject(va.AttAnchor):
    """The words of all objects anchor where they reach tau, asked or not: what a caption of the image could hold."""

    def anchored(self, prompts):
        with torch.no_grad():
            own, words = self.chosen(prompts), torch.tensor(object_ids(prompts.tokenizer))
            table = torch.nn.functional.normalize(prompts.model.get_input_embeddings()(words).float(), dim=-1)
            features = prompts.features[prompts.row.gather(1, prompts.patches.place)].float()
            cosine = table @ torch.nn.functional.normalize(features, dim=-1).transpose(1, 2)
            best = cosine.masked_fill(~prompts.patches.valid[:, None], -torch.inf).max(-1)
            asked = (prompts.ids[:, :, None] == words).any(1)
            chosen = (best.values >= self.tau) & ~asked
            host = prompts.patches.place.gather(1, best.indices)
        added = (torch.full_like(host, PAUSE), host, chosen, torch.zeros_like(chosen), best.values)
        kept = (own.source, own.host, own.chosen, own.advances, own.cosine)
        copies = Copies(*(torch.cat(pair, 1) for pair in zip(kept, added, strict=True)))
        inserted = prompts.inserted(copies, of_patch=False)
        if copies.change:
            plan = insert(prompts.ids.shape[1], copies, _pads_left(prompts.tensors.get("attention_mask")))
            word = plan.column - own.source.shape[1]
            ids = torch.where(word >= 0, words[word.clamp(min=0)], inserted["input_ids"])
            inserted["input_ids"] = ids
        return inserted


def object_ids(tokenizer):
    """Tokens of the objects' names."""
    return sorted({one for name in coco.CATEGORIES for one in tokenizer(name, add_special_tokens=False)["input_ids"]})


@torch.no_grad()
def likely(vlm, tau):
    """A function scene -> objects whose name would anchor in it, of the untrained model."""
    names = [vlm.processor.tokenizer(name, add_special_tokens=False)["input_ids"] for name in coco.CATEGORIES]
    table = torch.nn.functional.normalize(vlm.model.get_input_embeddings().weight.float(), dim=-1)

    def of(scene):
        features = vlm.model.base_model.multi_modal_projector(encoded(vlm, scene))
        best = (table @ torch.nn.functional.normalize(features.float(), dim=-1).T).amax(1)
        return {name for name, ids in zip(coco.CATEGORIES, names, strict=True) if float(best[ids].max()) >= tau}

    return of


ANCHORS = va.AttAnchor(tau=TAU)
AT_END = va.AttAnchor(tau=TAU, place="image")
ARMS = {
    "plain": lambda step, steps: None,
    "as published": lambda step, steps: ANCHORS,
    "every object's word": lambda step, steps: EveryObject(tau=TAU),
    "hard negatives": lambda step, steps: ANCHORS,
    "random words": lambda step, steps: Noisy(tau=TAU, share=0.3),
    "tau falls": lambda step, steps: va.AttAnchor(tau=0.5 + (TAU - 0.5) * step / max(steps - 1, 1)),
    "at the image's end": lambda step, steps: AT_END,
}
ASKED_WITH = {"every object's word": EveryObject(tau=TAU), "at the image's end": AT_END}


def asked_words(questions, tensors, tokenizer):
    """A mask of the asked objects' words, so that nothing else can anchor."""
    mask = torch.zeros_like(tensors["input_ids"], dtype=torch.bool)
    for row, one in enumerate(questions):
        own = torch.tensor(tokenizer(one.name, add_special_tokens=False)["input_ids"])
        mask[row] = torch.isin(tensors["input_ids"][row], own)
    return mask


def examined(vlm, about, method):
    """Tallies with anchors, without, and with the asked word's anchor forced; and which questions' words anchored."""
    tallies, own = {name: Tally() for name in ("anchors", "none", "forced")}, []
    forced = va.AttAnchor(tau=0.0, place=method.place)
    for scene, questions in about:
        tensors, known = inputs_about(vlm, render(scene), questions), {}
        asked = asked_words(questions, tensors, vlm.processor.tokenizer)
        for name, chosen in (("anchors", method), ("none", va.Plain()), ("forced", forced)):
            same = None if isinstance(chosen, EveryObject) else known
            more = {"anchorable": asked} if name == "forced" else {}
            yes, words, _ = answers(vlm, tensors, [chosen], same, **more)
            tallies[name].add(questions, yes, words)
            if name == "anchors":
                own.append(
                    [bool(set(one.name.split()) & set(each)) for one, each in zip(questions, words, strict=True)]
                )
    return tallies, own


def effect(tallies, about, there):
    """Points by which a forced anchor raises the share of yes, of questions on objects that are there, or are not."""
    table = []
    for (_, questions), none, made in zip(about, tallies["none"].yes, tallies["forced"].yes, strict=True):
        rows = [at for at, one in enumerate(questions) if one.there == there]
        table.append([sum(made[at] - none[at] for at in rows), len(rows)])
    return span(lambda c: 100 * c[..., 0] / np.maximum(c[..., 1], 1), [np.array(table)])


def false_yes(tallies, own, about):
    """Of absent objects whose word anchors (and of the others): asked, answered yes with anchors, and without."""
    told = {"anchored": [0, 0, 0], "others": [0, 0, 0]}
    for (_, questions), flags, yes, without in zip(
        about, own, tallies["anchors"].yes, tallies["none"].yes, strict=True
    ):
        for one, flag, said, plainly in zip(questions, flags, yes, without, strict=True):
            if not one.there:
                counts = told["anchored" if flag else "others"]
                counts[0] += 1
                counts[1] += said
                counts[2] += plainly
    return told


def association(rows, vlm):
    """Of a set of training questions: how many with an anchor of the asked word, and how often the answer is yes."""
    told = {"anchored": [0, 0], "others": [0, 0]}
    of = likely(vlm, TAU)
    known = {}
    for scene, name, there in rows:
        if scene.seed not in known:
            known[scene.seed] = of(scene)
        counts = told["anchored" if name in known[scene.seed] else "others"]
        counts[0] += 1
        counts[1] += there
    return told


def run(arm, given, scenes, about, base):
    """One arm's result, made once."""
    file = OUT / "evidence" / f"{arm.replace(' ', '-')}-{given.steps}-{given.train}-{given.scenes}-{given.seed}.json"
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    lacking = None
    if arm.startswith("hard"):
        of = likely(base, TAU)
        lacking = lambda scene: of(scene) - scene.present  # noqa: E731
    vlm = base
    if arm != "untrained":
        vlm = finetuned(scenes, existence(named(scenes, lacking)), ARMS[arm], given.steps, given.seed)
    tallies, own = examined(vlm, about, ASKED_WITH.get(arm, ANCHORS))
    told = {
        "arm": arm,
        "with anchors": tallies["anchors"].report(tallies["none"]),
        "without": tallies["none"].report(),
        "false yes": false_yes(tallies, own, about),
        "forced": {"absent": effect(tallies, about, False), "there": effect(tallies, about, True)},
        "counts": tallies["anchors"].counts,
        "training": association(named(scenes, lacking), base) if arm in ("as published", "hard negatives") else None,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told), "utf-8")
    return told


def main():
    arms = {"nargs": "+", "choices": list(ARMS), "help": "in this order, plain first"}
    given = begun(__doc__, [("--arms", arms)], steps=60, scenes=100, train=256, seed=0)
    about, scenes, base = asked_about(given.scenes), training_scenes(given.train), va.load("scenes")
    rows, plain = [], None
    for arm in ("untrained", *(given.arms or ARMS)):
        rows.append(run(arm, given, scenes, about, base))
        if arm == "plain":
            plain = np.array(rows[-1]["counts"])
        print(arm, rows[-1]["with anchors"]["accuracy"], rows[-1]["false yes"], rows[-1]["forced"], flush=True)
        told = [{key: value for key, value in one.items() if key != "counts"} for one in rows]
        if plain is not None:
            for one, made in zip(told, rows, strict=True):
                both = [np.array(made["counts"]), plain]
                one["against plain"] = {name: span(of, both) for name, of in METRICS.items()}
        sizes = {"steps": given.steps, "training scenes": given.train, "asked scenes": given.scenes}
        write("evidence", seed=given.seed, tau=TAU, **sizes, arms=told)


if __name__ == "__main__":
    main()
