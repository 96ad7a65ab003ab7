"""How good the bundled model is on scenes it never saw: POPE, CHAIR, colour, position and count, with intervals.

    python -m tools.scenes_model.measure FOLDER --out FILE.json

Answers come from plain transformers `generate`, greedy, in float32; nothing of this package acts on the model."""

import argparse
import collections
import functools
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm_anchors.evaluation.benchmarks.chair import Chair
from vlm_anchors.evaluation.statistics import draws_of, middle
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes import draw, pope, questions
from vlm_anchors.scenes.questions import QA
from vlm_anchors.scenes.scene import Scene, sample

Table = dict[str, np.ndarray]  # sums by image, (images,) each: what the bootstrap resamples


class Asker:
    """A saved folder, answering many questions in batches."""

    def __init__(self, folder: str | Path, batch: int = 64):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.batch = batch

    def answers(self, asked: list[tuple[Scene, str]], tokens: int) -> list[str]:
        """The model's text for each (scene, question)."""
        picture = functools.lru_cache(maxsize=4096)(lambda scene: draw.render(scene))
        found: list[str] = []
        for at in range(0, len(asked), self.batch):
            part = asked[at : at + self.batch]
            prompts = [self.processor.apply_chat_template(_chat(text), add_generation_prompt=True) for _, text in part]
            images = [picture(scene) for scene, _ in part]
            inputs = self.processor(images=images, text=prompts, padding=True, return_tensors="pt")
            with torch.inference_mode():
                out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            found += self.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return found


def _chat(text: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def yes_no(rows: list[tuple[Scene, str, bool]], said: dict[tuple[int, str], bool]) -> Table:
    """True and false, positive and negative, by image."""
    order = {scene.seed: i for i, scene in enumerate(dict.fromkeys(scene for scene, _, _ in rows))}
    table = {key: np.zeros(len(order)) for key in ("tp", "fp", "tn", "fn")}
    for scene, name, there in rows:
        yes = said[scene.seed, name]
        table[("tp" if there else "fp") if yes else ("fn" if there else "tn")][order[scene.seed]] += 1
    return table


YES_NO: dict[str, Callable[[Table], np.ndarray]] = {
    "f1": lambda t: 2 * t["tp"] / (2 * t["tp"] + t["fp"] + t["fn"]),
    "accuracy": lambda t: (t["tp"] + t["tn"]) / (t["tp"] + t["tn"] + t["fp"] + t["fn"]),
    "precision": lambda t: t["tp"] / (t["tp"] + t["fp"]),
    "recall": lambda t: t["tp"] / (t["tp"] + t["fn"]),
    "yes_ratio": lambda t: (t["tp"] + t["fp"]) / (t["tp"] + t["tn"] + t["fp"] + t["fn"]),
}
CHAIR: dict[str, Callable[[Table], np.ndarray]] = {
    "chair_i": lambda t: t["absent"] / t["mentions"],
    "chair_s": lambda t: t["captions_absent"] / t["n"],
    "recall": lambda t: t["recalled"] / t["present"],
}
SHARE: dict[str, Callable[[Table], np.ndarray]] = {"accuracy": lambda t: t["right"] / t["asked"]}


def intervals(table: Table, figures: dict[str, Callable], draws: int = 2000) -> dict[str, list[float]]:
    """Each figure as [value, low, high]: a 95 % percentile bootstrap over images, as in reports."""
    weights = np.concatenate([*draws_of(len(next(iter(table.values()))), draws, seed=0)])
    whole = {key: value.sum() for key, value in table.items()}
    drawn = {key: weights @ value for key, value in table.items()}
    found = {}
    for name, figure in figures.items():
        span = middle(figure(drawn).tolist())
        found[name] = [round(float(x), 4) for x in (figure(whole), span.low, span.high)]
    return found


def captions(scenes: list[Scene], texts: list[str]) -> Table:
    """CHAIR's sums by image, as `vlm-anchors eval chair:lemma=fixed` counts them."""
    records = [
        {"answer": text, "truth": {"objects": sorted(scene.present)}} for scene, text in zip(scenes, texts, strict=True)
    ]
    counts = Chair(lemma="fixed").counts(records)
    return {key: np.array([each[key] for each in counts], dtype=float) for key in counts[0]}


def repeated(text: str) -> bool:
    """Whether a caption says a sentence twice."""
    sentences = [part.strip().lower() for part in text.split(".") if part.strip()]
    return len(sentences) > len(set(sentences))


def colours(scenes: list[Scene]) -> Iterator[tuple[Scene, QA]]:
    """One question a scene about an object that is the only one of its category and tinted."""
    for scene in scenes:
        for thing in questions.single(scene):
            if thing.colour:
                yield (
                    scene,
                    QA(f"What is the color of the {thing.name} in the image?", thing.colour.capitalize(), "colour"),
                )
                break


def positions(scenes: list[Scene]) -> Iterator[tuple[Scene, QA]]:
    """One question a scene about an object that is the only one of its category."""
    for scene in scenes:
        for thing in questions.single(scene)[:1]:
            yield scene, QA(f"Where is the {thing.name} in the image?", thing.position.capitalize(), "position")


def counted(scenes: list[Scene]) -> list[tuple[Scene, QA]]:
    """At most one question a scene, one to four equally often, so that always guessing one number gives 25 %."""
    found: dict[int, list[tuple[Scene, QA]]] = {n: [] for n in (1, 2, 3, 4)}
    for scene in scenes:
        fitting = [name for name, n in scene.counts.items() if n in found]
        if fitting:
            name = min(fitting, key=lambda name: (len(found[scene.counts[name]]), name))
            n = scene.counts[name]
            text = f"How many {questions.plural(name)} are there in the image?"
            found[n].append((scene, QA(text, questions.NUMBERS[n].capitalize(), "count")))
    least = min(map(len, found.values()))
    return [row for rows in found.values() for row in rows[:least]]


def share_right(asker: Asker, asked: list[tuple[Scene, QA]]) -> dict:
    """Exact answers, beside what always giving the commonest answer would get."""
    texts = asker.answers([(scene, qa.question) for scene, qa in asked], tokens=5)
    right = np.array([text.strip() == qa.answer for text, (_, qa) in zip(texts, asked, strict=True)], dtype=float)
    commonest = collections.Counter(qa.answer for _, qa in asked).most_common(1)[0][1] / len(asked)
    found = intervals({"right": right, "asked": np.ones(len(asked))}, SHARE)
    return {"questions": len(asked), **found, "majority": round(commonest, 4)}


def measure(folder: str | Path, images: int = 500, seed: int = 0, split: str = "test") -> dict:
    """All figures. `images` scenes with at least three categories for POPE and captions, as many of any kind else."""
    began, asker = time.monotonic(), Asker(folder)
    scenes = sample(4 * images, seed, split=split)
    crowded = [scene for scene in scenes if len(scene.present) >= 3][:images]
    made = pope.questions(crowded, seed)
    pairs = list(dict.fromkeys((scene, name) for rows in made.values() for scene, name, _ in rows))
    texts = asker.answers(
        [(scene, questions.POPE.format(a=questions.article(name))) for scene, name in pairs], tokens=3
    )
    said = {(scene.seed, name): text.strip() == "Yes" for (scene, name), text in zip(pairs, texts, strict=True)}
    unread = sum(text.strip() not in ("Yes", "No") for text in texts)
    told = asker.answers([(scene, questions.CHAIR) for scene in crowded], tokens=160)
    words = [len(text.split()) for text in told]
    mme = [(scene, qa) for scene in scenes[:images] if (qa := questions.yesno(random.Random(scene.seed), scene))]
    return {
        "pope": {
            split: {"questions": len(rows), **intervals(yes_no(rows, said), YES_NO)} for split, rows in made.items()
        },
        "pope_unread": unread,
        "captions": {
            "prompt": questions.CHAIR,
            "images": len(crowded),
            **intervals(captions(crowded, told), CHAIR),
            "words_median": float(np.median(words)),
            "words_quartiles": [float(x) for x in np.percentile(words, [25, 75])],
            "with_a_repeated_sentence": sum(map(repeated, told)),
            "examples": [
                {"present": list(s.counts), "caption": text} for s, text in list(zip(crowded, told, strict=True))[:5]
            ],
        },
        "colour": share_right(asker, list(colours(scenes[:images]))),
        "position": share_right(asker, list(positions(scenes[:images]))),
        "count": share_right(asker, counted(scenes)),
        "yes_no_on_count_colour_place": share_right(asker, mme),
        "seconds": round(time.monotonic() - began),
    }


def how(folder: str | Path, seed: int, split: str) -> dict:
    """What was measured and how, with the versions, device and commit."""
    return provenance(
        command="runs/scenes_model.sh",
        weights_sha256=hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest(),
        scenes={"split": split, "seed": seed},
        decoding="greedy, float32, plain transformers generate",
        intervals="95 %, percentile bootstrap over images, 2000 draws",
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the bundled model on held-out scenes.")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {
        **how(given.folder, given.seed, given.split),
        **measure(given.folder, given.images, given.seed, given.split),
    }
    text = json.dumps(found, indent=1) + "\n"
    if given.out:
        given.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
