"""a: what anchors cost as image tokens grow, and how many there are.

    python runs/open_questions/cost.py [--rounds 3] [--groups 8]      -> results/open_cost.json, five minutes on one core

Cost: a LLaVA with random weights (8 layers of width 384) whose tower sees larger and larger images; thread seconds and
bytes, interleaved with the plain model on the same prompt. How many words anchor at one tau is counted, and compared with
the tau that anchors as many as at 576. Quality: the bundled model with 1, 4 and 9 scenes in one prompt (64, 256, 576 tokens).
"""

import random
import statistics

import numpy as np
import torch
import transformers as hf
from asking import CALIBRATED, begun, span, write, yes_ids

import vlm_anchors as va
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.interventions.insertion.batch import read_prompts
from vlm_anchors.profiling.shapes import Shape, prompt
from vlm_anchors.profiling.timing import PARTS, measure
from vlm_anchors.scenes import coco, render, sample
from vlm_anchors.scenes.questions import POPE, article

SIDES = (8, 16, 24, 32, 48)
LAYERS, WORDS, NEW_TOKENS, WIDTH, PATCH = 8, 40, 4, 384, 14
SHARE = 0.1
"""Of the words that anchor at 576 image tokens, which fixes tau."""


def shape_of(side):
    """A LLaVA of random weights whose images are side x side patches."""

    def config():
        vision = hf.CLIPVisionConfig(
            hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
            image_size=PATCH * side, patch_size=PATCH, projection_dim=256,
        )  # fmt: skip
        text = hf.LlamaConfig(
            vocab_size=32064, max_position_embeddings=4096, hidden_size=WIDTH, intermediate_size=1024,
            num_hidden_layers=LAYERS, num_attention_heads=6, num_key_value_heads=6,
        )  # fmt: skip
        return hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000, vision_feature_layer=-2)

    return Shape(f"{side * side}", config, side * side, WORDS, NEW_TOKENS, "float32")


def built(side):
    """Model and inputs."""
    torch.manual_seed(0)
    shape = shape_of(side)
    model = hf.AutoModelForImageTextToText.from_config(shape.config(), dtype=torch.float32, attn_implementation="sdpa")
    return model.eval(), prompt(model, shape, 1)


@torch.no_grad()
def best_cosines(model, inputs):
    """Each word's best cosine over the patches before it, highest first."""
    prompts = read_prompts("attanchor", model, inputs)
    return prompts.cosine().amax(-1)[prompts.words.valid].sort(descending=True).values.tolist()


def middle(values, draws=2000):
    """[median, low, high], the middle 95 % of medians of draws of rounds."""
    drawn = np.random.default_rng(0).choice(values, (draws, len(values)))
    return [round(float(x), 4) for x in (statistics.median(values), *np.percentile(np.median(drawn, 1), [2.5, 97.5]))]


def cost(side, tau, rounds):
    model, inputs = built(side)
    cosines = best_cosines(model, inputs)
    anchors = sum(cosine >= tau for cosine in cosines)
    own = (cosines[max(round(SHARE * len(cosines)), 1) - 1] + cosines[max(round(SHARE * len(cosines)), 1)]) / 2
    spec = f"attanchor:tau={own:.4f}"
    plain, anchored = measure(model, inputs, [spec], new_tokens=NEW_TOKENS, rounds=rounds, warm=1)
    ratios = {
        part: middle([a / b for a, b in zip(anchored.seconds[part], plain.seconds[part], strict=True)])
        for part in PARTS
    }
    bits = 2 * LAYERS * WIDTH * 4  # bytes a token in the cache
    return {
        "image tokens": side * side,
        "words": len(cosines),
        "tau": round(own, 4),
        "anchors at this tau": sum(cosine >= own for cosine in cosines),
        "anchors at the tau of 576": anchors,
        "seconds": {part: middle(plain.seconds[part]) for part in PARTS},
        "ratio": ratios,
        "peak bytes": plain.peak_bytes,
        "peak ratio": round(anchored.peak_bytes / plain.peak_bytes, 4),
        "cache bytes": (side * side + WORDS + 4) * bits,
    }


@torch.no_grad()
def quality(groups, taus, seed=0):
    """Accuracy about objects of any of 1, 4 or 9 scenes in one prompt; as many questions on absent objects."""
    vlm, rng = va.load("scenes"), random.Random(seed)
    scenes = sample(9 * groups, seed)
    yes, no = yes_ids(vlm)
    rows = []
    for images in (1, 4, 9):
        counts = {name: [] for name in ("plain", *taus)}
        anchors = {tau: [] for tau in taus}
        for group in range(groups):
            shown = scenes[9 * group : 9 * group + images]
            there = sorted({name for scene in shown for name in scene.present})
            lacking = sorted(set(coco.CATEGORIES) - set(there))
            asked = [(name, True) for name in rng.sample(there, min(2, len(there)))]
            asked += [(name, False) for name in rng.sample(lacking, len(asked))]
            pictures = [render(scene) for scene in shown]
            samples = [read_sample(pictures, POPE.format(a=article(name))) for name, _ in asked]
            tensors = prepare(vlm, samples).tensors
            for name in counts:
                method = va.AttAnchor(tau=1.0 if name == "plain" else name)
                prepared = method.prepare(vlm, tensors)
                logits = vlm.model(**prepared).logits[:, -1]
                said = (logits[:, yes] > logits[:, no]).tolist()
                right = sum(one == there for one, (_, there) in zip(said, asked, strict=True))
                counts[name].append([right, len(asked) - right])
                if name in anchors:
                    anchors[name] += [len(one["attanchor"]["anchors"]) for one in prepared.effects]
        tables = {name: np.array(each) for name, each in counts.items()}

        def accuracy(c):
            return 100 * c[..., 0] / c.sum(-1)

        for name, table in tables.items():
            row = {"image tokens": 64 * images, "tau": name, "groups": groups, "questions": int(table.sum())}
            row["accuracy"] = span(accuracy, [table])
            if name != "plain":
                row["difference"] = span(accuracy, [table, tables["plain"]])
                row["anchors a question"] = round(statistics.mean(anchors[name]), 2)
            rows.append(row)
        print(f"{images} images", flush=True)
    return rows


def main():
    given = begun(__doc__, rounds=3, groups=8)
    model, inputs = built(24)
    cosines = best_cosines(model, inputs)
    tau = cosines[round(SHARE * len(cosines)) - 1]
    about = {"shape": f"{LAYERS} layers, width {WIDTH}, float32, batch 1, {NEW_TOKENS} new tokens", "seed": 0}
    about |= {"rounds": given.rounds, "tau_of_576": round(tau, 4)}
    rows, seen = [], quality(given.groups, (0.3, CALIBRATED))
    for side in SIDES:
        rows.append(cost(side, tau, given.rounds))
        write("cost", **about, cost=rows, quality=seen)


main()
