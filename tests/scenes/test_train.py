"""The trainer: its forward is transformers' own, and a killed run ends where an unkilled one does."""

import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tools.scenes_model import forward, train
from tools.scenes_model.packing import Packer, Store, patch_labels, strewn
from vlm_anchors.scenes import draw, questions, sample, tinyllava


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return tinyllava.build(width=48, layers=3, vision_layers=2).eval()


def test_packed_forward_is_transformers_forward(small):
    rng, packer = random.Random(0), Packer(tinyllava.tokenizer(), tinyllava.SYSTEM)
    scenes = sample(4, seed=2, split="val")
    groups = [questions.training_set(rng, scene) for scene in scenes]
    groups[1] = groups[1][2:]  # images with different numbers of questions
    groups = [sorted(group, key=lambda qa: len(packer.segment(qa)[0])) for group in groups]  # the order of the rows
    pixels = torch.stack(
        [torch.from_numpy(draw.drawn(scene)[0].copy()).permute(2, 0, 1) / 127.5 - 1 for scene in scenes]
    )
    batch = packer.pack(groups)
    with torch.no_grad():
        hidden = forward.decode(small, forward.project(small, forward.tower(small, pixels)), batch)
        ours = small.lm_head(hidden).split(
            [len(packer.segment(qa)[0]) - packer.segment(qa)[1] for group in groups for qa in group]
        )
    targets, at = batch.targets[batch.targets >= 0], 0
    processor = tinyllava.processor()
    for i, group in enumerate(groups):
        for qa in group:
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": qa.question}]}
            reply = {"role": "assistant", "content": [{"type": "text", "text": qa.answer}]}
            prompt = processor.apply_chat_template([message, reply])
            inputs = processor(images=[draw.render(scenes[i])], text=[prompt], return_tensors="pt")
            n = len(ours[at])
            assert inputs.input_ids[0, -n:].tolist() == targets[:n].tolist()
            targets = targets[n:]
            with torch.no_grad():
                theirs = small(**inputs).logits[0, -n - 1 : -1]
            torch.testing.assert_close(ours[at], theirs, atol=1e-5, rtol=0)
            at += 1


def test_patch_labels_agree_with_what_is_drawn():
    for scene in sample(30, seed=4, split="val"):
        owner = draw.drawn(scene)[1]
        category, colour, middle = patch_labels(scene, owner)
        for patch in range(64):
            y, x = patch // 8 * 16, patch % 8 * 16
            seen = np.unique(owner[y : y + 16, x : x + 16])
            assert category[patch] == 0 or questions.coco.CATEGORIES[category[patch] - 1] in {
                scene.objects[i - 1].name for i in seen if i
            }
        middles = {((y0 + y1) // 32) * 8 + (x0 + x1) // 32 for x0, y0, x1, y1 in (thing.box for thing in scene.objects)}
        assert set(middle.nonzero()[0]) == middles
        assert not colour[category == 0].any()


def test_mirrored_batches_keep_labels_and_questions_true(tmp_path):
    store = Store(tmp_path, 40, 0)
    store.render(0, 1, lambda done, n: None)
    images, labels, scenes = store.batch(np.random.default_rng(1), 40)
    assert images.shape == (40, 3, 128, 128)
    assert images.abs().max() <= 1
    for scene, label in zip(scenes, labels.numpy(), strict=True):
        middles = {
            ((y0 + y1) // 2 // 16, (x0 + x1) / 2 / 16) for x0, y0, x1, y1 in (thing.box for thing in scene.objects)
        }
        ys, xs = label[2].reshape(8, 8).nonzero()
        for y, x in zip(ys, xs, strict=True):  # a middle on the border of two patches may change sides
            assert any(row == y and x - 0.1 <= column <= x + 1.1 for row, column in middles)


def test_strewn_words_keep_the_answer():
    rng = random.Random(0)
    qa = questions.QA("Is there a dog?", "Yes", "existence")
    changed = [strewn(rng, qa, ("careful",)) for _ in range(300)]
    assert {other.answer for other in changed} == {"Yes"}
    assert 0.05 < sum(other != qa for other in changed) / 300 < 0.2
    assert all("Is there a dog?" in other.question for other in changed)


def plan(out, **changes):
    base = dict(seed=1, minutes=None, steps=20, images=24, hard=0.4, processes=1, batch=1, save_every=6, port=0)
    return {"out": str(out)} | base | changes


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


DOOMED = """
import json, os, signal, sys
from tools.scenes_model import train
class Doomed(train.Run):
    def advance(self, store):
        if self.stage == "answers" and self.step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().advance(store)
train.Run = Doomed
train.work(json.loads(sys.argv[1]), 0)
"""


@pytest.mark.slow
def test_a_killed_run_ends_where_an_unkilled_one_does(tmp_path, one_thread):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    command = [sys.executable, "-c", DOOMED, json.dumps(plan(broken))]
    worker = subprocess.Popen(command, env={**os.environ, **train.ENVIRONMENT}, stderr=subprocess.DEVNULL)
    train.work(plan(whole), 0)
    assert worker.wait() == -signal.SIGKILL
    kept = weights(broken)
    assert (kept["stage"], kept["step"]) == ("answers", 6)
    assert not (broken / "model").exists()
    train.work(plan(broken), 0)
    first, second = weights(whole), weights(broken)
    assert first["step"] == second["step"] == 17
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert (broken / "metrics.csv").read_text().startswith("stage,step")
    assert (whole / "model" / "model.safetensors").read_bytes() == (broken / "model" / "model.safetensors").read_bytes()


def test_the_rate_follows_whichever_is_further_clock_or_steps(tmp_path):
    run = train.Run(plan(tmp_path, minutes=10, steps=1000), 0)
    run.begin("answers")
    run.step, run.elapsed = 85, 0.0
    assert run.progress() == pytest.approx(0.1)
    run.elapsed = 10 * 60 * train.STAGES["answers"] / 2
    assert run.progress() == pytest.approx(0.5)
    assert run.rate() == pytest.approx(train.RATE["answers"] * (0.01 + 0.99 * 0.5))
    run.elapsed = 1e6
    assert run.progress() == 1.0


def test_a_store_of_another_size_is_refused(tmp_path):
    Store(tmp_path, 4, 0)
    with pytest.raises(ValueError, match="holds 4 images, not 5"):
        Store(tmp_path, 5, 0)
