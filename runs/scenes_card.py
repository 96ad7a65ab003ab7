"""Puts a trained model in its place and writes its card.

python runs/scenes_card.py DIR    copies DIR/model (made by `python -m tools.scenes_model.train`) into the package
python runs/scenes_card.py        writes the card from the folder's training.json and results/scenes_model.json
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "src" / "vlm_anchors" / "scenes" / "model"
RESULT = ROOT / "results" / "scenes_model.json"

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, tiny, synthetic, hallucination]
---
# scenes: a very small LLaVA that knows drawn scenes

A `LlavaForConditionalGeneration` of {millions} million parameters ({mebibytes} MiB in bfloat16), trained from nothing on drawn
scenes: emoji and simple shapes for the 80 COCO categories on textured grounds, 128 x 128 pixels. It answers whether something is
there, how many, what colour and where, and describes an image. It is bundled with vlm-anchors so that every method can be
run, looked at and tested in seconds on any machine, with no download.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(folder)             # no code of ours is needed
model = AutoModelForImageTextToText.from_pretrained(folder)
```

## What it is not

- **It does not know photographs.** About one it says fluent, confident nonsense.
- **It is no evidence for or against any method.** It is far from the models that the papers study; among other
  things, part of its training pulls image features towards word embeddings, which real models do not have. That a method runs and
  does what it says can be seen here; that it helps cannot.
- Its tokenizer knows {words} words. Others become `<unk>`; questions far from those it was trained on are answered anyhow.
- It has no knowledge of people, places or text, and follows no instructions beyond those questions.

## How good it is

Held-out scenes, greedy, float32, value [95 % interval]; all figures and how they were made: `results/scenes_model.json`.
It was trained on the same kind of images, so none of this can be set beside figures on real photographs.

{figures}

Questions that compare two objects, and yes/no questions about count, colour or side, are little better than chance; captions of
crowded scenes now and then name an object twice.

It hallucinates the way larger models do: it says yes more often to what usually stands beside what is there. Scenes hold tiny and
faded objects whose label is kept, as COCO's annotations do, which teaches guessing from company.

## How it was made

`runs/scenes_model.sh DIR` makes it again from the repository (another machine's clock ends it at other steps; the recipe is the
same). Object sets are drawn from a pairwise maximum-entropy model of COCO's category counts. The vision tower was trained
first on what lies on each patch; then everything together on eight questions and a caption an image, with the patch labels and an
alignment of projected patches with word embeddings as helping losses. {training}

- Vision tower: CLIP ViT, 6 layers, width 192, patches of 16 pixels: 64 visual tokens.
- Decoder: Llama, 12 layers, width 192, 6 heads.
- Prompt: `A chat about an image. USER: <image>\\nIs there a dog? ASSISTANT:`, by the processor's chat template.

Licence: Apache-2.0. Training images were drawn with Noto Color Emoji (SIL OFL 1.1) and shapes of our own; counts come from the
COCO 2014 annotations (CC BY 4.0). See NOTICE and LICENSE-noto-emoji.txt beside the sprites.
"""


def cell(values: list[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def figures(result: dict) -> str:
    """The tables of the card."""
    lines = ["| POPE's questions, absent objects drawn | F1 | accuracy | yes ratio |", "|---|---|---|---|"]
    for split, row in result["pope"].items():
        lines.append(
            f"| {split} ({row['questions']}) | "
            + " | ".join(cell(row[k]) for k in ("f1", "accuracy", "yes_ratio"))
            + " |"
        )
    told = result["captions"]
    lines += ["", f'| "{told["prompt"]}" ({told["images"]} images) | |', "|---|---|"]
    names = {"chair_i": "CHAIR-i (wrong mentions)", "chair_s": "CHAIR-s (captions with one)", "recall": "objects named"}
    lines += [f"| {name} | {cell(told[key])} |" for key, name in names.items()]
    lines += [
        f"| words, median | {told['words_median']:.0f} |",
        f"| captions that say a sentence twice | {told['with_a_repeated_sentence']} |",
        "",
        "| exact answers | right | always the commonest answer |",
        "|---|---|---|",
    ]
    names = {"colour": "colour", "position": "position (ninths)", "count": "count (one to four, balanced)"}
    names["yes_no_on_count_colour_place"] = "yes/no on count, colour, place"
    lines += [
        f"| {name} ({result[k]['questions']}) | {cell(result[k]['accuracy'])} | {result[k]['majority']:.3f} |"
        for k, name in names.items()
    ]
    return "\n".join(lines)


def card() -> None:
    """Writes README.md; refuses figures that were measured on other weights."""
    weights = (FOLDER / "model.safetensors").read_bytes()
    result = json.loads(RESULT.read_text())
    if result["weights_sha256"] != hashlib.sha256(weights).hexdigest():
        raise SystemExit(f"{RESULT.name} was measured on other weights; run runs/scenes_model.sh first")
    made = json.loads((FOLDER / "training.json").read_text())
    training = (
        f"Seed {made['seed']}, {made['images']:,} scenes, {made['minutes']:.0f} minutes on two CPU cores shared with other work "
        f"({made['answers_steps']:,} steps of 32 images in the second stage), {made['hard']:.0%} of the absent objects "
        f"frequent ones or usual company, torch {made['torch']}."
    )
    training += " " + made["notes"] if "notes" in made else ""
    words = len(json.loads((FOLDER / "tokenizer.json").read_text())["model"]["vocab"])
    values = {"millions": f"{len(weights) / 2e6:.1f}", "mebibytes": f"{len(weights) / 2**20:.0f}", "words": words}
    (FOLDER / "README.md").write_text(CARD.format(figures=figures(result), training=training, **values))


def install(trained: Path) -> None:
    """Copies the trained folder, and what is known of its training, to where the package looks for it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(trained / "model", FOLDER)
    shutil.copy(trained / "training.json", FOLDER)
    for path in FOLDER.iterdir():  # safetensors writes for its owner alone
        path.chmod(0o644)


if __name__ == "__main__":
    install(Path(sys.argv[1])) if sys.argv[1:] else card()
