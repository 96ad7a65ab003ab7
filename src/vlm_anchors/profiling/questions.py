"""Questions a second: several questions an image, batched with a shared prefix, against one at a time.

The loop that most repositories have asks question by question. Here both answer the same questions in one run, their
answers are compared, and the ratio is taken inside each round.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..evaluation.runner.answer import answer_batch
from ..generation.decodings import Greedy
from ..generation.plan import GenerationPlan
from ..inputs.prompt_builder import Sample
from ..models.vlm import Vlm
from .timing import check, clock_of, median_interval

NAMES = ("cup", "fork", "dog", "car", "person", "bench", "chair", "bottle", "cat", "book", "bowl", "clock")


def drawn_samples(images: int, questions: int) -> list[Sample]:
    """POPE's question about `questions` objects in each of `images` scenes."""
    from ..scenes import render, sample
    from ..scenes.questions import POPE, article

    samples = []
    for number, scene in enumerate(sample(images, seed=0)):
        image = render(scene)
        for which in range(questions):
            name = NAMES[(number + which) % len(NAMES)]
            samples.append(Sample((image,), POPE.format(a=article(name)), f"{number}/{which}"))
    return samples


def shape_vlm(name: str, device: str, dtype: str | None) -> Vlm:
    """A shape with random weights and a processor for its image size, so that whole questions can be asked."""
    from ..models.families import family_of
    from .shapes import build

    model, _ = build(name, device, dtype)
    processor = shape_processor(model)
    model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return Vlm(model, processor, family_of(model.config), f"shape {name}")


def shape_processor(model: Any) -> Any:
    """A processor for a shape's image size, with the words of the bundled model."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from ..scenes import tinyllava

    words, vision = tinyllava.tokenizer(), model.config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False),
        tokenizer=words, patch_size=vision.patch_size, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=tinyllava.CHAT_TEMPLATE,
    )  # fmt: skip


def measure(
    vlm: Vlm, method: str, *, images: int = 4, questions: int = 6, new_tokens: int = 4,
    batch_sizes: Sequence[int] = (6, 12, 24), rounds: int = 5, progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:  # fmt: skip
    """Questions a second one at a time, and for each batch size the ratio to it, with and without a shared prefix."""
    check([method], (Greedy,))
    run = GenerationPlan.of(vlm, method, "greedy", new_tokens)
    samples = drawn_samples(images, questions)
    ways: dict[str, tuple[int, bool]] = {"one at a time": (1, False)}
    for size in batch_sizes:
        ways[f"batch {size}"] = (size, False)
        ways[f"batch {size}, prefix shared"] = (size, True)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, list[str]] = {}
    for done in range(-1, rounds):
        for way, (size, reuse) in ways.items():
            spent, texts = _ask_all(run, samples, size, reuse)
            answers[way] = texts
            if done >= 0:
                seconds[way].append(spent)
        progress(done)
    base = "one at a time"
    rows = []
    for way in ways:
        ratios = [alone / this for alone, this in zip(seconds[base], seconds[way], strict=True)]
        same = sum(a == b for a, b in zip(answers[way], answers[base], strict=True))
        rows.append(
            {
                "way": way,
                "questions a second": len(samples) / statistics.median(seconds[way]),
                "speed-up": statistics.median(ratios),
                "interval": median_interval(ratios),
                "same answers": f"{same} of {len(samples)}",
            }
        )
    summary = {"method": method, "images": images, "questions an image": questions, "new tokens": new_tokens}
    return {**summary, "seconds of": clock_of(vlm.device)[0], "rows": rows}


def _ask_all(run: GenerationPlan, samples: Sequence[Sample], size: int, reuse: bool) -> tuple[float, list[str]]:
    clock = clock_of(run.vlm.device)[1]
    began = clock()
    texts: list[str] = []
    for start in range(0, len(samples), size):
        texts += [answer.text for answer in answer_batch(run, samples[start : start + size], reuse)]
    if run.vlm.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began, texts
