"""Makes the bundled model from nothing: `python -m tools.scenes_model.train`.

Two stages. "patches": the vision tower alone learns what lies on each patch. "answers": everything together learns to
answer, eight questions and a caption an image, while the patch labels stay as helping losses. Each worker is a process
with one thread (two threads of one process wait for each other at every operation on a busy machine); they add up
their gradients once a step. A killed run goes on from its last checkpoint."""

import argparse
import contextlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_anchors.scenes import coco, questions, tinyllava
from vlm_anchors.scenes.scene import COLOURS
from vlm_anchors.training.progress import say

from . import forward
from .packing import KINDS, SIDE, Packer, Store, strewn
from .progress import Place, Report

STAGES = {"patches": 0.15, "answers": 0.85}  # share of the minutes, or of the steps
RATE = {"patches": 1e-3, "answers": 1e-3}
TOWER = {"patches": 1.0, "answers": 0.3}  # of the rate: what the tower has learnt should not be shaken out again
BATCH = {"patches": 32, "answers": 16}  # images a worker a step
CHECKPOINT_SECONDS, PREVIEW_SECONDS = 180, 600
ENVIRONMENT = {  # one thread a worker that sleeps while it waits, and memory that is kept instead of given back
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "TOKENIZERS_PARALLELISM": "false",
}


def train(
    out: str | Path,
    *,
    seed: int = 0,
    minutes: float | None = 75.0,
    steps: int | None = None,
    images: int = 80_000,
    hard: float = 0.4,
    processes: int = 2,
    batch: int | None = None,
    save_every: int | None = None,
) -> Path:
    """Trains into `out` (checkpoint, metrics.csv, preview/, at the end model/) and returns the model's folder.

    Args:
        minutes: Wall-clock budget of both stages; drawing the images comes on top. The rate anneals to the end of it.
        steps: Total steps of both stages; with `minutes=None` the run does not depend on the clock.
        images: How many different scenes to train on.
        hard: Share of absent objects that are frequent ones, or usual beside what is there.
        processes: Workers; a run must be resumed with as many.
        batch: Images a worker a step in both stages; None for the defaults.
        save_every: Steps between checkpoints, beside one every three minutes.
    """
    if minutes is None and steps is None:
        raise ValueError("give minutes or steps")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = dict(out=str(out), seed=seed, minutes=minutes, steps=steps, images=images, hard=hard, processes=processes)
    plan |= dict(batch=batch, save_every=save_every, port=port)
    command = [sys.executable, "-m", "tools.scenes_model.train", "--worker", json.dumps(plan)]
    workers = [subprocess.Popen([*command, str(rank)], env={**os.environ, **ENVIRONMENT}) for rank in range(processes)]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(codes):
        raise RuntimeError(
            f"training stopped (workers ended with {codes}); run the same command again to go on from {out}"
        )
    return out / "model"


class Heads(nn.Module):
    """What helps the tower: category, colour and middle of every patch."""

    def __init__(self, d: int):
        super().__init__()
        self.category = nn.Linear(d, len(coco.CATEGORIES) + 1)
        self.colour = nn.Linear(d, len(COLOURS) + 1)
        self.middle = nn.Linear(d, 1)
        self.place = nn.Linear(d, 2 * SIDE)  # for the decoder's input: row and column of the patch

    def losses(self, patches: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """patches (b, 64, d), labels (b, 3, 64)."""
        category, colour, middle = labels.long().unbind(1)
        guess = self.category(patches).float().flatten(0, 1)
        on = category.flatten() > 0
        return {
            "patch": F.cross_entropy(guess, category.flatten()),
            "tint": F.cross_entropy(self.colour(patches).float().flatten(0, 1), colour.flatten()),
            "middle": F.binary_cross_entropy_with_logits(self.middle(patches).float().squeeze(-1), middle.float()),
            "patch_acc": (guess.argmax(-1) == category.flatten())[on].float().mean().detach(),
        }

    def placed(self, visual: Tensor) -> Tensor:
        """How far projected patches (b, 64, d) are from telling their own row and column, by a linear reading."""
        row, column = self.place(visual).float().flatten(0, 1).split(SIDE, dim=-1)
        at = torch.arange(SIDE * SIDE).repeat(len(visual))
        return F.cross_entropy(row, at // SIDE) + F.cross_entropy(column, at % SIDE)


class Run:
    """One worker: model, optimiser and the place in the plan."""

    def __init__(self, plan: dict, rank: int):
        self.plan, self.rank, self.out = plan, rank, Path(plan["out"])
        torch.manual_seed(plan["seed"])
        self.model = tinyllava.build()
        self.heads = Heads(self.model.config.text_config.hidden_size)
        _initialise(self.model)
        self.words = tinyllava.tokenizer()
        self.packer = Packer(self.words, tinyllava.SYSTEM)
        self.names = [self.words(name, add_special_tokens=False).input_ids for name in coco.CATEGORIES]
        self.spare = tuple(word for word in tinyllava.OTHER if word not in ("not", "no", "don", "isn"))
        self.full = {name: value.detach().clone() for name, value in self.everything().items()}
        self.model.to(torch.bfloat16)
        self.heads.to(torch.bfloat16)
        self.begin("patches")

    def everything(self) -> dict[str, nn.Parameter]:
        """All parameters by name, the helping heads' too."""
        return dict(self.model.named_parameters()) | {f"heads.{k}": v for k, v in self.heads.named_parameters()}

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters this stage trains. The tower's last norm is not on the way to the decoder."""
        tower = self.stage == "patches"
        return {
            name: value for name, value in self.everything().items()
            if "post_layernorm" not in name and (not tower or "vision_tower" in name or name.startswith("heads"))
        }  # fmt: skip

    def begin(self, stage: str) -> None:
        """A fresh optimiser over the float32 weights that the stage trains."""
        self.stage, self.step, self.elapsed, self.clock = stage, 0, 0.0, time.monotonic()
        self.parameters = self.named()
        self.master = {name: self.full[name] for name in self.parameters}
        groups: list[dict] = []
        for scale, decay in ((1.0, 0.05), (1.0, 0.0), (TOWER[stage], 0.05), (TOWER[stage], 0.0)):
            tower = len(groups) >= 2
            chosen = [
                v for k, v in self.master.items() if (v.ndim > 1) == (decay > 0) and ("vision_tower" in k) == tower
            ]
            groups.append({"params": chosen, "weight_decay": decay, "scale": scale})
        self.optimiser = torch.optim.AdamW(groups, lr=RATE[stage], betas=(0.9, 0.98), fused=True)

    def resume(self) -> None:
        """Goes on from the checkpoint if there is one."""
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True)
        for name, value in kept["weights"].items():
            self.full[name].copy_(value)
        self.begin(kept["stage"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.step, self.elapsed = kept["step"], kept["elapsed"]
        self.write_back()

    def checkpoint(self) -> None:
        """Whole or not at all: written beside, then renamed."""
        kept = {"stage": self.stage, "step": self.step, "elapsed": self.elapsed, "weights": self.full}
        kept["optimiser"] = self.optimiser.state_dict()
        torch.save(kept, self.out / "checkpoint.new")
        os.replace(self.out / "checkpoint.new", self.out / "checkpoint.pt")

    def write_back(self) -> None:
        """The float32 weights, rounded, into the model that computes."""
        with torch.no_grad():
            for name, value in self.everything().items():
                value.copy_(self.full[name])

    def progress(self) -> float:
        """How far the stage is, 0 to 1: by steps or by the clock, whichever is further."""
        share, parts = STAGES[self.stage], []
        if self.plan["steps"]:
            parts.append(self.step / max(1, round(share * self.plan["steps"])))
        if self.plan["minutes"]:
            parts.append(self.elapsed / (share * 60 * self.plan["minutes"]))
        return min(1.0, max(parts))

    def rate(self) -> float:
        """Warm-up over fifty steps, then half a cosine down to a hundredth."""
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress()))
        return RATE[self.stage] * min(1.0, (self.step + 1) / 50) * fall

    def place(self) -> Place:
        """Where the run is, for people."""
        return Place(self.stage, self.step, round(self.elapsed), round(self.progress(), 4), round(self.rate(), 7))

    def losses(self, store: Store) -> dict[str, Tensor]:
        """The losses of the next batch; what it holds depends on seed, stage, step and rank alone."""
        key = [self.plan["seed"], list(STAGES).index(self.stage), self.step, self.rank]
        images, labels, scenes = store.batch(np.random.default_rng(key), self.plan["batch"] or BATCH[self.stage])
        patches = forward.tower(self.model, images.to(torch.bfloat16))
        found = self.heads.losses(patches, labels)
        helping = found["patch"] + 0.5 * found["tint"] + found["middle"]
        if self.stage == "patches":
            return found | {"loss": helping}
        rng = random.Random(repr(key))
        groups = [
            [strewn(rng, qa, self.spare) for qa in questions.training_set(rng, scene, self.plan["hard"])]
            for scene in scenes
        ]
        batch = self.packer.pack(groups)
        visual = forward.project(self.model, patches)
        found |= self.answers(forward.decode(self.model, visual, batch), batch)
        found["align"] = self.alignment(visual, labels[:, 0].long())
        found["place"] = self.heads.placed(visual)
        total = found["answer"] + 2.5 * found["caption"] + 0.2 * (helping + found["align"]) + 0.5 * found["place"]
        return found | {"loss": total}

    def answers(self, hidden: Tensor, batch: forward.Packed) -> dict[str, Tensor]:
        """Cross-entropy of answers (a mean over tokens) and captions (a mean over captions); share of right first words."""
        at = batch.targets >= 0
        targets, weights, kinds = batch.targets[at], batch.weights[at], batch.kinds[at]
        logits = self.model.lm_head(hidden).float()
        each = F.cross_entropy(logits, targets, reduction="none")
        short = weights >= 1
        found = {
            "answer": 2 * (each * weights)[short].sum() / short.sum(),
            "caption": (each * weights)[~short].sum() / weights[~short].sum(),
        }
        right = (logits.detach().argmax(-1) == targets).float()
        for k, kind in enumerate(KINDS[:5]):
            if (kinds == k).any():
                found[kind] = right[kinds == k].mean()
        return found

    def alignment(self, visual: Tensor, category: Tensor) -> Tensor:
        """Each object patch should lie nearest, by cosine, to the mean embedding of its category's words."""
        table = self.model.model.language_model.embed_tokens.weight
        words = torch.stack([table[ids].mean(0) for ids in self.names]).float()
        on = category > 0
        cosine = F.normalize(visual[on].float(), dim=-1) @ F.normalize(words, dim=-1).T
        return F.cross_entropy(10 * cosine, category[on] - 1)

    def advance(self, store: Store) -> dict[str, float]:
        """One step. All workers end it with the same weights."""
        found = self.losses(store)
        found["loss"].backward()
        grads = [
            (p.grad if p.grad is not None else torch.zeros_like(p)).float().flatten() for p in self.parameters.values()
        ]
        flat = torch.cat([*grads, torch.zeros(1)])
        now = time.monotonic()
        flat[-1] = now - self.clock if self.rank == 0 else 0.0  # all go by the first worker's clock
        self.clock = now
        if self.plan["processes"] > 1:
            dist.all_reduce(flat)
        flat[:-1] /= self.plan["processes"]
        flat[:-1] *= min(1.0, 1.0 / (float(flat[:-1].norm()) + 1e-6))
        parts = flat[:-1].split([part.numel() for part in grads])
        for value, part in zip(self.master.values(), parts, strict=True):
            value.grad = part.view_as(value)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate() * group["scale"]
        self.optimiser.step()
        with torch.no_grad():
            for parameter, value in zip(self.parameters.values(), self.master.values(), strict=True):
                parameter.copy_(value)
                parameter.grad = None
        self.step += 1
        self.elapsed += float(flat[-1])
        return {name: float(value.detach()) for name, value in found.items()}


def _initialise(model) -> None:
    """Smaller last matrices in each block, as deep decoders like it; and position embeddings that begin as waves over
    columns and rows. Left to itself the tower found the rows (by the horizon) and never the columns."""
    layers = model.model.language_model.layers
    with torch.no_grad():
        for layer in layers:
            layer.self_attn.o_proj.weight *= (2 * len(layers)) ** -0.5
            layer.mlp.down_proj.weight *= (2 * len(layers)) ** -0.5
        at = torch.arange(SIDE * SIDE)
        turns = [k * math.tau * place / SIDE for place in (at % SIDE, at // SIDE) for k in (0.5, 1, 2)]
        waves = torch.stack([wave(turn) for turn in turns for wave in (torch.cos, torch.sin)], 1)
        model.model.vision_tower.embeddings.position_embedding.weight[1:, : waves.shape[1]] += 0.5 * waves


def work(plan: dict, rank: int) -> None:
    """What one worker does: draw its share of the images, then both stages."""
    torch.set_num_threads(1)
    started_by = os.getppid()
    if plan["processes"] > 1:
        address = f"tcp://127.0.0.1:{plan['port']}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=plan["processes"])
    out = Path(plan["out"])
    store = Store(out / "images", plan["images"], plan["seed"])
    store.render(rank, plan["processes"], lambda done, n: say("drawing", done / n) if rank == 0 else None)
    if plan["processes"] > 1:
        dist.barrier()
    run, report = Run(plan, rank), Report(out / "metrics.csv")
    run.resume()
    for stage in list(STAGES)[list(STAGES).index(run.stage) :]:
        if stage != run.stage:
            run.begin(stage)
        steps(run, store, report, started_by)
    if rank == 0:
        run.checkpoint()
        tinyllava.save(run.model, out / "model")
        kept = {key: plan[key] for key in ("seed", "minutes", "steps", "images", "hard", "processes", "batch")}
        kept |= {"answers_steps": run.step, "answers_seconds": round(run.elapsed), "torch": torch.__version__}
        (out / "training.json").write_text(json.dumps(kept, indent=1) + "\n")


def steps(run: Run, store: Store, report: Report, started_by: int) -> None:
    """One stage to its end, saving on the way."""
    saved = previewed = run.clock = time.monotonic()
    while run.progress() < 1:
        values = run.advance(store)
        if os.getppid() != started_by:
            sys.exit("the process that started the training is gone")
        if run.rank:
            continue
        report.add(run.place(), values)
        now = time.monotonic()
        if (
            now - saved > CHECKPOINT_SECONDS
            or run.progress() >= 1
            or (run.plan["save_every"] and run.step % run.plan["save_every"] == 0)
        ):
            run.checkpoint()
            saved = now
        if run.stage == "answers" and now - previewed > PREVIEW_SECONDS:
            tinyllava.save(run.model, run.out / "preview")
            previewed = now


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains the bundled model from nothing.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--images", type=int, default=80_000)
    parser.add_argument("--hard", type=float, default=0.4)
    parser.add_argument("--processes", type=int, default=2)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        with contextlib.suppress(KeyboardInterrupt):
            work(json.loads(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
