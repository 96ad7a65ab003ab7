"""What the open questions share: POPE's questions about scenes, their answers under several methods, intervals over scenes.

A scene is read once for all its questions and methods. An answer is yes if the first token's logit of yes is above that of no.
"""

import argparse
import json
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import vlm_anchors as va
from vlm_anchors.errors import AnchorsWarning
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.models.vision import encode_images
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes import pope, render, sample
from vlm_anchors.scenes.questions import POPE, article
from vlm_anchors.specs import choose

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "runs" / "out" / "open_questions"
DRAWS = 2000
CALIBRATED = json.loads((ROOT / "results" / "scenes_tau.json").read_text("utf-8"))["tau"]


def begun(page, more=(), **numbers):
    """The command line's numbers, `--NAME` with a default each; from here on one thread, and no warnings of ours.

    more: (name, what `add_argument` takes) of options that are no numbers.
    """
    parser = argparse.ArgumentParser(description=page, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, how in more:
        parser.add_argument(name, **how)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AnchorsWarning)
    return parser.parse_args()


@dataclass(frozen=True)
class Asked:
    """One question about a scene. weight: in how many of POPE's three splits it stands."""

    name: str
    there: bool
    weight: int


def asked_about(count, seed=0, split="test"):
    """[(scene, its questions)] of the first `count` scenes."""
    scenes = sample(count, seed, split=split)
    found = {scene.seed: defaultdict(int) for scene in scenes}
    for rows in pope.questions(scenes, seed).values():
        for scene, name, there in rows:
            found[scene.seed][name, there] += 1
    return [(scene, [Asked(*key, weight) for key, weight in found[scene.seed].items()]) for scene in scenes]


@dataclass
class Tally:
    """Sums of each scene: right and wrong answers, anchors; and of questions about absent objects by their own word.

    counts: (true yes, false no, false yes, true no), each question as often as it stands in a split.
    absent: (questions whose object's word anchored, of them answered yes, the others, of them answered yes), once each.
    """

    counts: list = field(default_factory=list)
    anchors: list = field(default_factory=list)
    absent: list = field(default_factory=list)
    yes: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def add(self, questions, yes, words):
        counts, absent = np.zeros(4, int), np.zeros(4, int)
        for one, said, anchored in zip(questions, yes, words, strict=True):
            counts[(0 if said else 1) if one.there else (2 if said else 3)] += one.weight
            if not one.there:
                at = 0 if set(one.name.split()) & set(anchored) else 2
                absent[at] += 1
                absent[at + 1] += said
        self.counts.append(counts.tolist())
        self.absent.append(absent.tolist())
        self.anchors.append(float(np.mean([len(each) for each in words])))
        self.yes.append([bool(said) for said in yes])

    def report(self, plain=None):
        """Accuracy, F1 and yes ratio in percent with 95 % intervals, paired differences from `plain`, and the counts."""
        table = np.array(self.counts)
        told = {"scenes": len(table), "questions": sum(map(len, self.yes))}
        told |= {name: span(of, [table]) for name, of in METRICS.items()}
        if plain is not None:
            both = [table, np.array(plain.counts)]
            told["difference"] = {name: span(of, both) for name, of in METRICS.items()}
        told["anchors a question"] = round(float(np.mean(self.anchors)), 2)
        anchored, yes, others, others_yes = np.array(self.absent).sum(0).tolist()
        told["absent"] = {"anchored": anchored, "anchored yes": yes, "others": others, "others yes": others_yes}
        return told


METRICS = {
    "accuracy": lambda c: 100 * (c[..., 0] + c[..., 3]) / c.sum(-1),
    "f1": lambda c: 100 * 2 * c[..., 0] / np.maximum(2 * c[..., 0] + c[..., 1] + c[..., 2], 1),
    "yes": lambda c: 100 * (c[..., 0] + c[..., 2]) / c.sum(-1),
}


def span(of, tables, draws=DRAWS, seed=0):
    """[value, low, high] of a formula of sums over scenes; of two tables, of the difference, with the same draws."""
    scenes = len(tables[0])
    weights = np.random.default_rng(seed).multinomial(scenes, [1 / scenes] * scenes, size=draws)
    whole = [of(table.sum(0)) for table in tables]
    drawn = [of(weights @ table) for table in tables]
    value, spread = (whole[0], drawn[0]) if len(tables) == 1 else (whole[0] - whole[1], drawn[0] - drawn[1])
    return [round(float(each), 3) for each in (value, *np.percentile(spread, [2.5, 97.5]))]


def inputs_about(vlm, image, questions):
    """Inputs of all questions about one image, encoded once."""
    samples = [read_sample(image, POPE.format(a=article(one.name))) for one in questions]
    tensors = prepare(vlm, samples).tensors
    encoded = encode_images(vlm.model.base_model, {"pixel_values": tensors.pop("pixel_values")[:1]})
    output = encoded["mm_encoder_outputs"]["image"]
    (features,) = output.pooler_output
    output = type(output)(pooler_output=[features] * len(samples))
    return {**tensors, "mm_encoder_outputs": {"image": output}}


def yes_ids(vlm):
    """Ids of "yes" and "no" at the beginning of an answer."""
    tokenizer = vlm.processor.tokenizer
    return [tokenizer(f"{word}", add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")]


def fresh(tensors):
    """The inputs with containers of their own."""
    output = tensors["mm_encoder_outputs"]["image"]
    return {**tensors, "mm_encoder_outputs": {"image": type(output)(pooler_output=list(output.pooler_output))}}


@torch.no_grad()
def answers(vlm, tensors, methods, known=None, **options):
    """(yes or no, words that anchored, effects) of each row, under methods that are chosen already.

    known: answers of these rows by their token ids, for methods that insert and remove words only; grows. options: what
    else `prepare` takes.
    """
    prepared, effects = fresh(tensors), [{}] * len(tensors["input_ids"])
    for method in methods:
        if "prepare" in method.active_hooks():
            prepared = method.prepare(vlm, prepared, **options)
            effects = [{**one, **two} for one, two in zip(effects, prepared.effects, strict=True)]
    inside = [one for one in methods if one.active_hooks() - {"prepare"}]
    known = {} if known is None or any(one.spec().startswith("prune") for one in methods) else known
    real = zip(prepared["input_ids"], prepared["attention_mask"].bool(), strict=True)
    keys = [(row, *ids[mask].tolist()) for row, (ids, mask) in enumerate(real)]
    wanted = [row for row, key in enumerate(keys) if key not in known]
    if wanted:
        with va.attach(vlm, inside):
            logits = vlm.model(**rows_of(prepared, wanted)).logits[:, -1]
        yes, no = yes_ids(vlm)
        said = (logits[:, yes] > logits[:, no]).tolist()
        known.update(zip((keys[row] for row in wanted), said, strict=True))
    words = [[anchor["word"] for anchor in one.get("attanchor", {}).get("anchors", [])] for one in effects]
    return [known[key] for key in keys], words, effects


def rows_of(prepared, rows):
    """Some rows of prepared inputs; all of them as they are, since methods inside the model look at what was prepared."""
    if len(rows) == len(prepared["input_ids"]):
        return prepared
    output = prepared["mm_encoder_outputs"]["image"]
    features = [output.pooler_output[row] for row in rows]
    tensors = {name: each[rows] for name, each in prepared.items() if name != "mm_encoder_outputs"}
    return {**tensors, "mm_encoder_outputs": {"image": type(output)(pooler_output=features)}}


def ask(vlm, about, specs, images=None, save=None, reuse=True):
    """Name -> Tally of each SPEC (or list of methods).

    images: what is shown for a scene; by default its drawing. reuse: answer equal prompts once. save: called with the
    tallies after every fourth scene, so that a run that is stopped leaves what it has.
    """
    chosen = {name: choose(spec)[0] for name, spec in specs.items()}
    tallies = {name: Tally() for name in specs}
    for done, (scene, questions) in enumerate(about, 1):
        tensors, known = inputs_about(vlm, (images or render)(scene), questions), {}
        for name, methods in chosen.items():
            began = time.process_time()
            yes, words, _ = answers(vlm, tensors, methods, known if reuse else None)
            tallies[name].seconds.append((time.process_time() - began) / len(questions))
            tallies[name].add(questions, yes, words)
        if save and (done % 4 == 0 or done == len(about)):
            save(tallies)
    return tallies


def write(name, **content):
    """results/open_NAME.json with its certificate."""
    file = ROOT / "results" / f"open_{name}.json"
    told = {"command": f"python runs/open_questions/{name}.py", **content, **provenance("cpu")}
    file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    print(file)
