"""The training of `scenes-smollm2` on a tiny random decoder in SmolLM2's place."""

import collections
import errno
import os
import random
import zlib

import numpy as np
import pytest
import torch
from smollm2_parts import learner

from tools.scenes_smollm2 import curriculum, features, train
from tools.scenes_smollm2.decoder import LoRA, block_mask, decode
from tools.scenes_smollm2.features import Features
from tools.scenes_smollm2.projector import fit, projector
from vlm_anchors import durable
from vlm_anchors.errors import BadRun, BadSetting
from vlm_anchors.scenes import sample


def test_a_packed_forward_equals_each_question_alone(small):
    prefix, segments = list(range(5, 15)), [[20, 21, 22], [30, 31, 32, 33, 34], [40]]
    table, lora = small.model.embed_tokens.weight.detach(), LoRA(small.model, 4)
    mask, positions = block_mask(len(prefix), [len(s) for s in segments])
    x = table[[*prefix, *segments[0], *segments[1], *segments[2]]]
    with torch.no_grad():
        hidden = decode(small.model, lora, x, mask, positions, torch.arange(len(prefix), len(x)))
        alone = [small.model(torch.tensor([prefix + s])).last_hidden_state[0, len(prefix) :] for s in segments]
    torch.testing.assert_close(hidden, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_training_lowers_its_loss_and_goes_on_where_it_stopped(small, words, tmp_path):
    store = Features(tmp_path, 8)
    run = train.Run(learner(small, words), store, [{"prompt": "where", "ids": [7, 8, 9]}], tmp_path, minutes=1)
    seen = collections.defaultdict(list)
    for _ in range(4):
        run.advance(seen)
    assert set(seen) >= {"yes", "no", "existence", "text"}
    run.save()
    again = train.Run(learner(small, words), store, [], tmp_path, minutes=1)
    assert again.step == 4
    for name, value in run.learner.weights().items():
        torch.testing.assert_close(again.learner.weights()[name], value)
    assert (tmp_path / "adapter.safetensors").stat().st_size > 0


def test_features_are_of_the_scenes_and_the_tower_asked_for(tmp_path, monkeypatch):
    made = []

    def compute(scenes, *files):  # in the tower's place: a number that tells the scene
        made.append(len(scenes))
        for file in files:
            with file.open("wb") as handle:
                np.save(handle, np.array([[zlib.crc32(repr(scene).encode()) % 999] for scene in scenes]))

    def killed(scenes, *files):
        compute(scenes[:2], *files)
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "_compute", compute)
    kept = Features(tmp_path, 4).of(3)
    monkeypatch.setattr(features, "_compute", killed)
    for wanted in ({"n": 6}, {"n": 4, "seed": 1}):
        with pytest.raises(KeyboardInterrupt):
            Features(tmp_path, **wanted)
        assert torch.equal(Features(tmp_path, 4).of(3), kept)
    monkeypatch.setattr(features, "_compute", compute)
    made.clear()
    assert len(Features(tmp_path, 6).labels) == 6
    assert not torch.equal(Features(tmp_path, 4, seed=1).of(3), kept)
    for stamp in (None, "4", "{", '{"images": 4, "seed": 0, "tower": ["another"]}'):
        if stamp:
            (tmp_path / "train.done").write_text(stamp)
        assert torch.equal(Features(tmp_path, 4).of(3), kept)
    assert made == [6, 4, 4, 4, 4, 4]
    assert not list(tmp_path.glob("*.new"))


def test_every_step_of_training_is_kept_whole_or_not_at_all(small, words, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "language_model", lambda: (small, words))
    monkeypatch.setattr(train, "fit", lambda *parts: projector(192, 64))
    monkeypatch.setattr(curriculum, "PROMPTS", ("Is there a dog ?",))
    replace, names = os.replace, ["text.jsonl", "projector.pt", "checkpoint.pt", "adapter.safetensors"]
    for name in names:

        def full(new, file, name=name):
            if file.name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(new, file)

        monkeypatch.setattr(durable.os, "replace", full)
        with pytest.raises(BadSetting, match=f"{name}: No space left"):
            train.run(tmp_path, 4, 0)
        assert not (tmp_path / name).exists()
    monkeypatch.setattr(durable.os, "replace", replace)
    train.run(tmp_path, 4, 0)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "features", "log.jsonl"}


def test_a_run_goes_on_with_its_own_images_and_minutes(small, words, tmp_path, capsys):
    def run(images, minutes):
        return train.Run(learner(small, words), Features(tmp_path, images), [], tmp_path, minutes)

    first = run(8, 2)
    first.step, first.elapsed = 100, 120.0
    first.save()
    for images, minutes in ((4, 2), (8, 1)):
        with pytest.raises(BadRun, match=f"--images 8 --minutes 2; found --images {images} --minutes {minutes}"):
            run(images, minutes)
    assert run(8, 2).step == 100
    assert "instead of" not in capsys.readouterr().err
    run(8, 8)
    assert "--minutes 8 instead of 2: the rate goes from 4.8e-05 to 0.0008" in capsys.readouterr().err
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({key: kept[key] for key in kept if key not in ("images", "minutes")}, tmp_path / "checkpoint.pt")
    assert run(4, 1).step == 100  # of an earlier version, which did not say


def test_a_gradient_that_is_not_finite_stops_and_keeps_the_checkpoint(small, words, tmp_path, monkeypatch, capsys):
    run = train.Run(learner(small, words), Features(tmp_path, 4), [], tmp_path, minutes=1)
    run.save()
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    run.learner.projector[0].bias.data[0] = float("nan")
    monkeypatch.setattr(train, "run", lambda *settings: run.go())
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    assert "Training stopped at step 0: its gradient is not finite." in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


def test_a_fresh_lora_changes_nothing_and_learning_moves_it(small, words, tmp_path):
    store = Features(tmp_path, 4)
    made = train.Learner(small, words, projector(192, 64), rank=4)
    run = train.Run(made, store, [], tmp_path, minutes=1)
    assert not any(value.any() for value in made.lora.B.values())
    run.advance(collections.defaultdict(list))
    assert any(value.any() for value in made.lora.B.values())
    assert all(parameter.grad is None for parameter in small.model.parameters())


def test_the_projector_learns_the_names(small, words, tmp_path):
    ids = lambda text: words(text, add_special_tokens=False).input_ids  # noqa: E731
    store, table = Features(tmp_path, 16), small.model.embed_tokens.weight.detach()
    fitted = fit(store, table, ids, steps=60)
    from tools.scenes_smollm2.projector import targets

    names, _ = targets(table, ids)
    x = torch.cat([store.of(i) for i in range(16)])
    category = torch.cat([torch.from_numpy(store.labels[i, 0].copy()) for i in range(16)]).long()
    nearest = torch.nn.functional.normalize(fitted(x), dim=-1) @ torch.nn.functional.normalize(names, dim=-1).T
    assert (nearest.argmax(-1) == category).float().mean() > 0.5


def test_questions_come_by_progress():
    rng, scene = random.Random(0), sample(1, 5, split="train")[0]
    early = {qa.kind for _ in range(20) for qa in curriculum.asked(rng, scene, 0.0)}
    late = {qa.kind for _ in range(20) for qa in curriculum.asked(rng, scene, 0.9)}
    assert early <= {"existence", "short"}
    assert late >= {"existence", "count", "position"}
    for qa in curriculum.asked(rng, scene, 0.0)[:2]:
        assert qa.answer in ("Yes", "No")


def test_the_rate_warms_up_and_falls():
    rates = [train.rate(step / 100, step) for step in range(101)]
    assert rates[0] < rates[14] == max(rates)
    assert rates[-1] == pytest.approx(0.06 * train.RATE)
