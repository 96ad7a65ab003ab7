"""From scenes to training batches: rendered images on disk, patch labels, packed questions."""

import contextlib
import functools
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm_anchors.scenes import coco, draw, questions
from vlm_anchors.scenes.scene import COLOURS, SIZE, Scene, sample

from .forward import Packed

SIDE = SIZE // 16  # patches a side
LABELS = 3  # what is known of a patch: category, colour, whether an object has its middle there
KINDS = ("existence", "count", "colour", "position", "yesno", "short", "detail")
WEIGHTS = {"position": 3.0}  # of an answer's tokens; places are learnt last
FILLERS = ("please", "hey", "so", "now", "tell me", "look", "i think", "maybe", "okay", "very carefully", "you know")


def patch_labels(scene: Scene, owner: np.ndarray) -> np.ndarray:
    """(3, 64) uint8: category + 1 (0 ground), colour + 1 (0 none), middle of an object (0 or 1)."""
    blocks = owner.reshape(SIDE, 16, SIDE, 16).transpose(0, 2, 1, 3).reshape(SIDE * SIDE, 256)
    n = len(scene.objects)
    shares = np.stack([(blocks == i + 1).sum(1) for i in range(n)], 1)
    best = shares.argmax(1)
    on = shares.max(1) >= 30  # an eighth of the patch
    category = np.array([coco.CATEGORIES.index(thing.name) + 1 for thing in scene.objects])
    colour = np.array([COLOURS.index(thing.colour) + 1 if thing.colour else 0 for thing in scene.objects])
    middle = np.zeros(SIDE * SIDE, np.uint8)
    for x0, y0, x1, y1 in (thing.box for thing in scene.objects):
        middle[(y0 + y1) // 2 // 16 * SIDE + (x0 + x1) // 2 // 16] = 1
    return np.stack([np.where(on, category[best], 0), np.where(on, colour[best], 0), middle]).astype(np.uint8)


class Store:
    """The training images: rendered once, kept in two plain .npy files, read by memory map."""

    def __init__(self, folder: Path, n: int, seed: int):
        self.scenes = sample(n, seed, split="train")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pixels = self._map("pixels.npy", (n, SIZE, SIZE, 3))
        self.labels = self._map("labels.npy", (n, LABELS, SIDE * SIDE))

    def _map(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        path = self.folder / name
        if not path.exists():  # a sparse file under another name first: two workers may both come here
            part = self.folder / f"{name}.{random.SystemRandom().random()}"
            np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape).flush()
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(part)
            part.unlink()
        made = np.lib.format.open_memmap(path, mode="r+")
        if made.shape != shape:
            raise ValueError(
                f"{path} holds {made.shape[0]} images, not {shape[0]}: delete the folder or give --images {made.shape[0]}"
            )
        return made

    def render(self, rank: int, ranks: int, report) -> None:
        """Draws this worker's share; how far it came is kept, so that a killed run goes on from there."""
        mark = self.folder / f"done-{rank}-of-{ranks}"
        done = int(mark.read_text()) if mark.exists() else 0
        mine = range(rank, len(self.scenes), ranks)
        for at in range(done, len(mine), 1000):
            for i in mine[at : at + 1000]:
                self.pixels[i], owner = draw.drawn(self.scenes[i])
                self.labels[i] = patch_labels(self.scenes[i], owner)
            mark.write_text(str(min(at + 1000, len(mine))))
            report(min(at + 1000, len(mine)), len(mine))

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, list[Scene]]:
        """Images (b, 3, 128, 128) in [-1, 1], labels (b, 3, 64), and their scenes; half of them mirrored."""
        chosen = rng.integers(0, len(self.scenes), size)
        pixels, labels = self.pixels[chosen], self.labels[chosen].reshape(size, LABELS, SIDE, SIDE)
        flip = rng.random(size) < 0.5
        pixels[flip], labels[flip] = pixels[flip, :, ::-1], labels[flip, :, :, ::-1]
        scenes = [self.scenes[i].mirror() if f else self.scenes[i] for i, f in zip(chosen, flip, strict=True)]
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        contrast = torch.from_numpy(rng.uniform(0.8, 1.2, (size, 1, 1, 1)).astype(np.float32))
        shift = torch.from_numpy(rng.normal(0, 0.05, (size, 3, 1, 1)).astype(np.float32))
        return (images * contrast + shift).clamp(-1, 1), torch.from_numpy(labels.reshape(size, LABELS, -1)), scenes


class Packer:
    """Turns questions into packed rows of token ids."""

    def __init__(self, words, system: str):
        self.words = words
        image = words.convert_tokens_to_ids("<image>")
        ids = words(f"{system} USER: <image>").input_ids
        self.prefix = torch.tensor(ids[: ids.index(image)])
        self.ask, self.end = words.convert_tokens_to_ids("ASSISTANT:"), words.eos_token_id
        self.ids = functools.lru_cache(maxsize=200_000)(self._ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.words(text, add_special_tokens=False).input_ids)

    def segment(self, qa: questions.QA) -> tuple[list[int], int]:
        """Token ids of question, role, answer and end; and how many of them come before the answer."""
        asked = [*self.ids(qa.question), self.ask]
        said = self.ids(qa.answer) if qa.kind not in ("short", "detail") else self._sentences(qa.answer)
        return [*asked, *said, self.end], len(asked)

    def _sentences(self, text: str) -> list[int]:
        """A caption sentence by sentence, which the cache knows better than whole captions."""
        return [i for part in text.replace(". ", ".\n").split("\n") for i in self.ids(part)]

    def pack(self, groups: list[list[questions.QA]]) -> Packed:
        """groups[i]: the questions about image i, a caption last."""
        rows: list[int] = []
        places: list[int] = []
        targets, weights, kinds = [], [], []
        # the shorter half of an image's questions, the longer half, its caption: less padding in the grids
        grids: list[list[list[range]]] = [[[] for _ in groups] for _ in range(3)]
        for i, group in enumerate(groups):
            segments = sorted(((qa, *self.segment(qa)) for qa in group), key=lambda made: len(made[1]))
            for k, (qa, ids, before) in enumerate(segments):
                long = qa.kind in ("short", "detail")
                grids[2 if long else 2 * k // len(group)][i].append(range(len(rows), len(rows) + len(ids)))
                rows += ids
                places += range(len(ids))
                targets += [-100] * (before - 1) + ids[before:] + [-100]
                kinds += [-1] * (before - 1) + [KINDS.index(qa.kind)] + [-1] * (len(ids) - before)
                weights += [1.0 / len(ids[before:]) if long else WEIGHTS.get(qa.kind, 1.0)] * len(ids)
        index = [_grid(grid, len(rows)) for grid in grids if any(grid)]
        flat = torch.cat([part.flatten() for part in index])
        back = torch.empty(len(rows), dtype=torch.long)
        at = (flat < len(rows)).nonzero()[:, 0]
        back[flat[at]] = at
        tensors = (
            torch.tensor(rows),
            torch.tensor(places),
            torch.tensor(targets),
            torch.tensor(weights),
            torch.tensor(kinds),
        )
        return Packed(self.prefix, *tensors, index, back)


def _grid(groups: list[list[range]], pad: int) -> Tensor:
    """Row numbers (b, n, t) of segments of different lengths, filled up with `pad`."""
    n, t = max(map(len, groups)), max(len(rows) for group in groups for rows in group)
    index = torch.full((len(groups), n, t), pad)
    for i, group in enumerate(groups):
        for j, rows in enumerate(group):
            index[i, j, : len(rows)] = torch.arange(rows.start, rows.stop)
    return index


def strewn(rng: random.Random, qa: questions.QA, spare: tuple[str, ...]) -> questions.QA:
    """Now and then words that change nothing, so that an unusual phrasing does not throw the model."""
    if rng.random() >= 0.12:
        return qa
    words = qa.question.split(" ")
    for _ in range(rng.randint(1, 3)):
        word = rng.choice(FILLERS) if rng.random() < 0.3 else rng.choice(spare)
        words.insert(rng.choice((0, 0, len(words))), word)
    return qa._replace(question=" ".join(words))
