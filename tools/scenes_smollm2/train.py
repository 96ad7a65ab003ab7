"""Trains projector and LoRA of `scenes-smollm2`: `python -m tools.scenes_smollm2.train --out DIR`.

Steps, each kept in DIR so that a killed run goes on: vision features of the scenes; the projector's start; text that the
untouched language model writes; then projector and LoRA together, several images a step. Every image is read once, its
questions stand behind one prefix. Training images are drawn without replacement, so the logged area under the ROC curve
("auc") of presence questions is that of unseen scenes. One thread: start it beside other work with `nice`."""

import argparse
import collections
import io
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from vlm_anchors.durable import write_whole
from vlm_anchors.errors import BadRun, UserError
from vlm_anchors.scenes import smollm2

from . import curriculum
from .decoder import LoRA, block_mask, decode
from .features import Features
from .projector import fit, projector

RATE, PROJECTOR = 8e-4, 0.15  # of the LoRA; the projector's as a part of it
STEADY = 0.3  # of the minutes before the rate falls
IMAGES_A_STEP, CHECKPOINT_SECONDS, LOG_STEPS = 4, 240, 10
LONG = ("short", "detail")


class Learner:
    """Decoder (frozen), LoRA and projector, and the losses of an image and of a text."""

    def __init__(self, model, words, start: nn.Sequential, rank: int = 16):
        self.decoder, self.words, self.projector = model.model.requires_grad_(False), words, start
        self.table = self.decoder.embed_tokens.weight
        self.lora = LoRA(self.decoder, rank)
        self.kept: dict[str, list[int]] = {}
        before, behind = smollm2.FRAME
        self.before, self.behind = self.ids("<|im_start|>user\n" + before), self.ids(behind)
        self.turn, self.end = self.ids("<|im_end|>\n<|im_start|>assistant\n"), self.ids("<|im_end|>")
        self.yes, self.no = self.ids("Yes")[0], self.ids("No")[0]

    def ids(self, text: str) -> list[int]:
        if text not in self.kept:
            self.kept[text] = self.words(text, add_special_tokens=False).input_ids
        return self.kept[text]

    def image_loss(self, patches: Tensor, asked, rng: random.Random, seen) -> Tensor:
        """Sum over the answers about one image; `seen` collects what to log."""
        segments, targets, weights, kinds = [], [], [], []
        for qa in asked:
            question, answer = self.ids(qa.question) + self.turn, self.ids(qa.answer) + self.end
            if len(answer) == 2 and rng.random() < 0.75:  # the end of a one-token answer is learnt quickly
                answer = answer[:1]
            weight = [1.5 / len(answer) if qa.kind in LONG else 1.0] * len(answer)
            if qa.kind not in LONG and len(answer) > 1:
                weight[-1] = 0.2
            lead = len(question) - 1
            segments.append(question + answer[:-1])
            targets += [-100] * lead + answer
            weights += [0.0] * lead + weight
            kinds += [""] * lead + [qa.kind] + ["word"] * (len(answer) - 1)
        prefix = torch.cat([self.table[self.before], self.projector(patches), self.table[self.behind]])
        x = torch.cat([prefix, self.table[[i for segment in segments for i in segment]]])
        mask, positions = block_mask(len(prefix), [len(segment) for segment in segments])
        target = torch.tensor(targets)
        at = (target >= 0).nonzero()[:, 0]
        logits = decode(self.decoder, self.lora, x, mask, positions, at + len(prefix)) @ self.table.T
        each = F.cross_entropy(logits, target[at], reduction="none")
        self._note(seen, logits.detach(), each.detach(), target[at], [kinds[i] for i in at.tolist()])
        return (each * torch.tensor(weights)[at]).sum()

    def _note(self, seen, logits, each, target, kinds) -> None:
        right = (logits.argmax(-1) == target).float().tolist()
        margin = (logits[:, self.yes] - logits[:, self.no]).tolist()
        for kind, good, loss, gap, wanted in zip(kinds, right, each.tolist(), margin, target.tolist(), strict=True):
            seen["word" if kind in LONG else kind].append(good)
            if kind == "existence":
                seen["loss"].append(loss)
                seen["yes" if wanted == self.yes else "no"].append(gap)

    def text_loss(self, prompt: str, said: list[int]) -> Tensor:
        """Mean over the tokens of an answer without an image."""
        lead = self.ids(f"<|im_start|>user\n{prompt}") + self.turn
        x = self.table[lead + said[:-1]]
        mask, positions = block_mask(len(x), [])
        hidden = decode(self.decoder, self.lora, x, mask, positions, torch.arange(len(lead) - 1, len(x)))
        return F.cross_entropy(hidden @ self.table.T, torch.tensor(said))

    def weights(self) -> dict[str, Tensor]:
        """What is shipped, in float16."""
        found = {
            f"projector.linear_{number}.{part}": getattr(self.projector[at], part)
            for number, at in ((1, 0), (2, 2))
            for part in ("weight", "bias")
        }
        return {name: value.detach().half().contiguous() for name, value in (found | self.lora.weights()).items()}


def rate(progress: float, step: int) -> float:
    """Warm-up over 15 steps, steady, then half a cosine down to 6 %."""
    fall = max(0.0, (progress - STEADY) / (1 - STEADY))
    return RATE * min(1.0, (step + 1) / 15) * (0.06 + 0.94 * 0.5 * (1 + math.cos(math.pi * fall)))


def area(positive, negative) -> float:
    """Area under the ROC curve."""
    apart = torch.tensor(positive)[:, None] - torch.tensor(negative)
    return float((apart > 0).float().mean() + 0.5 * (apart == 0).float().mean())


class Run:
    """The loop: optimiser, clock, log and checkpoint."""

    def __init__(self, learner: Learner, store: Features, texts: list[dict], out: Path, minutes: float):
        self.learner, self.store, self.texts, self.out, self.minutes = learner, store, texts, out, minutes
        self.groups = [
            {"params": list(learner.lora.parameters()), "part": 1.0},
            {"params": list(learner.projector.parameters()), "part": PROJECTOR},
        ]
        self.optimiser = torch.optim.AdamW(self.groups, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.step, self.elapsed = 0, 0.0
        self.order = random.Random(0).sample(range(len(store.scenes)), len(store.scenes))
        if (out / "checkpoint.pt").exists():
            kept = torch.load(out / "checkpoint.pt", weights_only=True)
            self._require_same(kept)
            learner.lora.load_state_dict(kept["lora"])
            learner.projector.load_state_dict(kept["projector"])
            self.optimiser.load_state_dict(kept["optimiser"])
            self.step, self.elapsed = kept["step"], kept["elapsed"]

    def _require_same(self, kept: dict) -> None:
        """Raises `BadRun` where the order of the images or the rate would not be the checkpoint's; more minutes may be given.

        A checkpoint made before these were kept is taken as it is.
        """
        images, minutes = kept.get("images", len(self.order)), kept.get("minutes", self.minutes)
        if images != len(self.order) or self.minutes < minutes:
            raise BadRun(
                f"{self.out} was trained with --images {images} --minutes {minutes:g}; found --images {len(self.order)} "
                f"--minutes {self.minutes:g}. Give the same (more minutes are allowed), or another --out."
            )
        if self.minutes > minutes:
            step, done = kept["step"], kept["elapsed"] / 60
            before, now = (rate(done / each, step) for each in (minutes, self.minutes))
            print(
                f"--minutes {self.minutes:g} instead of {minutes:g}: the rate goes from {before:.2g} to {now:.2g} and "
                "falls again to the new end; the questions are those of the new progress.",
                file=sys.stderr,
            )

    def save(self) -> None:
        """Checkpoint and weights, each whole or not at all."""
        kept = {"lora": self.learner.lora.state_dict(), "projector": self.learner.projector.state_dict()}
        kept |= {"optimiser": self.optimiser.state_dict(), "step": self.step, "elapsed": self.elapsed}
        kept |= {"images": len(self.order), "minutes": self.minutes}
        write_whole(self.out / "checkpoint.pt", packed(kept))
        write_whole(self.out / "adapter.safetensors", save(self.learner.weights()))

    def advance(self, seen) -> None:
        """One step of several images and, every other time, a text.

        Raises:
            BadRun: The gradient is not finite; nothing was changed by it.
        """
        progress, rng = self.elapsed / (60 * self.minutes), random.Random(7919 * self.step + 1)
        for number in range(IMAGES_A_STEP):
            i = self.order[(IMAGES_A_STEP * self.step + number) % len(self.order)]
            asked = curriculum.asked(rng, self.store.scenes[i], progress)
            (self.learner.image_loss(self.store.of(i), asked, rng, seen) / 8 / IMAGES_A_STEP).backward()
        if self.texts and self.step % 2:
            row = rng.choice(self.texts)
            loss = self.learner.text_loss(row["prompt"], row["ids"])
            (0.3 * loss).backward()
            seen["text"].append(loss.item())
        length = nn.utils.clip_grad_norm_([p for group in self.groups for p in group["params"]], 1.0)
        if not length.isfinite():  # as after a loss of NaN: one such step spoils every weight
            raise BadRun(
                f"Training stopped at step {self.step}: its gradient is not finite. The last checkpoint in {self.out} is kept; "
                "lower RATE in tools/scenes_smollm2/train.py and run the same command to go on from it."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = rate(progress, self.step) * group["part"]
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1

    def go(self) -> None:
        """Until the minutes are over."""
        seen, clock, saved = collections.defaultdict(list), time.monotonic(), time.monotonic()
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            while self.elapsed < 60 * self.minutes:
                self.advance(seen)
                now = time.monotonic()
                self.elapsed, clock = self.elapsed + now - clock, now
                if self.step % LOG_STEPS == 0:
                    line = {"step": self.step, "minutes": round(self.elapsed / 60, 2)}
                    line |= {"auc": round(area(seen.pop("yes"), seen.pop("no")), 4)}
                    line |= {name: round(sum(values) / len(values), 4) for name, values in seen.items()}
                    print(json.dumps(line), file=log, flush=True)
                    seen.clear()
                if now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = now
        self.save()


def packed(state: dict) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def written(model, words, file: Path, batch: int = 10) -> list[dict]:
    """What the untouched language model says without an image, sampled once: [{"prompt", "ids"}]."""
    if not file.exists():
        rows, turn = [], "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
        words.padding_side = "left"
        for at in range(0, len(curriculum.PROMPTS), batch):
            part = curriculum.PROMPTS[at : at + batch]
            inputs = words([turn.format(prompt) for prompt in part], return_tensors="pt", padding=True)
            with torch.inference_mode():
                out = model.generate(
                    **inputs, do_sample=True, top_k=0, max_new_tokens=40, pad_token_id=words.pad_token_id
                )
            for prompt, said in zip(part, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                ids = [i for i in said if i != words.pad_token_id]
                rows.append({"prompt": prompt, "ids": ids})
        write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def language_model():
    """SmolLM2 and its tokenizer from the installed package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = smollm2.gguf_folder()
    words = AutoTokenizer.from_pretrained(source, gguf_file=smollm2.GGUF)
    smollm2.add_image_token(words)
    return AutoModelForCausalLM.from_pretrained(source, gguf_file=smollm2.GGUF, dtype=torch.float32).eval(), words


def run(out: Path, images: int, minutes: float) -> None:
    """All steps, each where it is not done yet.

    Raises:
        UserError: The language model is missing, or the folder is of another run.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, words = language_model()
    store = Features(out / "features", images)
    table = model.model.embed_tokens.weight.detach()
    texts = written(model, words, out / "text.jsonl")
    start, file = projector(store.features.shape[-1], table.shape[-1]), out / "projector.pt"
    if not file.exists():
        ids = lambda text: words(text, add_special_tokens=False).input_ids  # noqa: E731
        write_whole(file, packed(fit(store, table, ids).state_dict()))
    start.load_state_dict(torch.load(file, weights_only=True))
    Run(Learner(model, words, start), store, texts, out, minutes).go()
    print(f"{out / 'adapter.safetensors'}: copy it to {smollm2.WEIGHTS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same one goes on with it")
    parser.add_argument("--minutes", type=float, default=42, help="of the last step, by the clock")
    parser.add_argument("--images", type=int, default=12_000, help="training scenes")
    args = parser.parse_args()
    try:
        run(args.out, args.images, args.minutes)
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
