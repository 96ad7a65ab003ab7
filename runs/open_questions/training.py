"""Short trainings of the bundled model: LoRA on the decoder, a method of its own at each step; the tower is frozen."""

import dataclasses
import math
import random

import torch
from asking import OUT
from transformers.modeling_outputs import BaseModelOutputWithPooling

import vlm_anchors as va
from vlm_anchors.inputs.images import read_image
from vlm_anchors.scenes import draw, sample
from vlm_anchors.scenes.questions import absent, exists
from vlm_anchors.training.collate import Collator
from vlm_anchors.training.lora import lora_config

BATCH, RATE, RANK = 12, 5e-4, 32


def training_scenes(count, seed=1):
    """Scenes that no question is asked about, drawn once."""
    scenes, folder = sample(count, seed, split="train"), OUT / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        if not image_of(scene).exists():
            draw.save(scene, image_of(scene))
    return scenes


def image_of(scene):
    return OUT / "images" / f"{scene.seed}.png"


def row(scene, qa):
    """A question and its answer, as the collator reads them."""
    said = [{"role": "user", "content": qa.question}, {"role": "assistant", "content": qa.answer}]
    return {"images": [str(image_of(scene))], "messages": said}


def named(scenes, lacking=None):
    """(scene, name, there): two objects that are there and two that are not, of each scene.

    lacking: scene -> names that the latter are drawn from; None: as the bundled model was trained.
    """
    found = []
    for scene in scenes:
        rng = random.Random(scene.seed)
        found += [(scene, rng.choice(sorted(scene.present)), True) for _ in range(2)]
        names = sorted(lacking(scene)) if lacking else []
        found += [(scene, rng.choice(names) if names else absent(rng, scene), False) for _ in range(2)]
    return found


def existence(found):
    """Their questions and answers, as the collator reads them."""
    rng = random.Random(0)
    return [row(scene, exists(rng, scene, name)) for scene, name, _ in found]


@torch.no_grad()
def encoded(vlm, scene):
    """What the tower makes of a scene's image, before the projector: (patches, width)."""
    pixels = vlm.processor.image_processor(read_image(str(image_of(scene))), return_tensors="pt")["pixel_values"]
    return vlm.model.base_model.vision_tower(pixels).last_hidden_state[0, 1:]


class Batches:
    """Batches of rows as the collator makes them, the features of tower and projector, which are frozen, made once."""

    def __init__(self, vlm, seen):
        self.collator = Collator(vlm)
        with torch.no_grad():
            project = vlm.model.base_model.multi_modal_projector
            self.features = {str(image_of(scene)): project(encoded(vlm, scene)) for scene in seen}

    def __call__(self, rows):
        batch = self.collator(rows)
        batch.pop("pixel_values")
        output = BaseModelOutputWithPooling(pooler_output=[self.features[row["images"][0]] for row in rows])
        return {**batch, "mm_encoder_outputs": {"image": output}}


def finetuned(scenes, rows, method_at, steps, seed=0):
    """The bundled model after `steps` batches of rows, LoRA on the decoder merged.

    Args:
        scenes: Whose images the rows show.
        rows: As `row` makes them.
        method_at: (step, steps) -> the method whose anchors the batch gets, or None.
        steps: Batches.
        seed: Of the order, the adapters' start and the dropout.
    """
    from peft import get_peft_model

    torch.manual_seed(seed)
    vlm = va.load("scenes")
    batches = Batches(vlm, scenes)
    config = lora_config(vlm, projector="frozen", rank=RANK, alpha=2 * RANK, dropout=0.05)
    model = get_peft_model(vlm.model, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.003)
    drawn = random.Random(seed)
    order = [
        at for _ in range(math.ceil(steps * BATCH / len(rows))) for at in drawn.sample(range(len(rows)), len(rows))
    ]
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 4) * 0.5 * (1 + math.cos(math.pi * step / steps))
        taken = [rows[at] for at in order[step * BATCH : (step + 1) * BATCH]]
        batch, method = batches(taken), method_at(step, steps)
        if method is not None:
            batch = method.prepare((model, vlm.processor), batch, strict=False)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 5 == 0:
            print(f"step {step}: {float(loss):.3f}", flush=True)
    return dataclasses.replace(vlm, model=model.merge_and_unload().eval())
