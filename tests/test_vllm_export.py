"""The folder that vLLM loads, and prompts read from ids alone. What runs inside vLLM is tests/in_vllm (`make test-vllm`)."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from transformers import AutoTokenizer

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import BadModel, BadSetting, CannotAct, UserError
from vlm_anchors.inputs.prompt_builder import prompt_of
from vlm_anchors.integrations.vllm import default_method, engine_args
from vlm_anchors.integrations.vllm.export import export_vllm, renamed
from vlm_anchors.integrations.vllm.prompt_map import map_prompt, target_of, tokens_per_image
from vlm_anchors.integrations.vllm.request_methods import parse_method
from vlm_anchors.models.load import BUNDLED_FOLDER


def test_only_the_towers_names_change(tmp_path):
    out = export_vllm("scenes", tmp_path / "out", "clva")
    before, after = load_file(BUNDLED_FOLDER / "model.safetensors"), load_file(out / "model.safetensors")
    assert {renamed(name) for name in before} == set(after)
    assert all(torch.equal(tensor, after[renamed(name)]) for name, tensor in before.items())
    assert "vision_tower.vision_model.embeddings.class_embedding" in after
    assert (out / "config.json").read_bytes() == (BUNDLED_FOLDER / "config.json").read_bytes()
    assert json.loads((out / "anchors.json").read_text()) == {"method": "clva"}
    assert export_vllm(out, tmp_path / "again").exists()
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == after.keys()


def test_a_chat_request_is_the_prompt_that_we_send(tmp_path):
    """vLLM renders the chat template and adds no special tokens; our processor adds them."""
    vlm = va.load("scenes", device="cpu")
    sent = vlm.processor.tokenizer(prompt_of(vlm, "Is there a dog?", 1))["input_ids"]
    folder = export_vllm("scenes", tmp_path / "out")
    assert export_vllm(folder, tmp_path / "again").joinpath("chat_template.jinja").read_text().count("<s>") == 1
    exported = AutoTokenizer.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}]
    text = exported.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    assert exported(text, add_special_tokens=False)["input_ids"] == sent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vision_tower.encoder.x", "vision_tower.vision_model.encoder.x"),
        ("model.vision_tower.encoder.x", "model.vision_tower.vision_model.encoder.x"),
        ("vision_tower.vision_model.x", "vision_tower.vision_model.x"),
        ("language_model.model.x", "language_model.model.x"),
    ],
)
def test_names(name, expected):
    assert renamed(name) == expected


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(BadModel, match="safetensors"):
        export_vllm(tmp_path, tmp_path / "out")
    with pytest.raises(BadSetting, match="another folder"):
        export_vllm(BUNDLED_FOLDER, BUNDLED_FOLDER)
    with pytest.raises(UserError):
        export_vllm("scenes", tmp_path / "out", "vcd")


def test_the_command_says_how_to_serve(tmp_path, capsys):
    assert main(["export-vllm", str(tmp_path / "out"), "--method", "clva"]) == 0
    assert "VLM_ANCHORS_METHOD=clva python -m vllm.entrypoints.openai.api_server" in capsys.readouterr().out
    assert main(["export-vllm", str(tmp_path / "out"), "--method", "no-such"]) == 2


def test_eval_without_vllm_says_how_to_install_it(tmp_path, capsys):
    command = ["eval", "pope", "--limit", "1", "--out", str(tmp_path / "run"), "--engine"]
    assert main([*command, "vllm"]) == 2
    assert "docs/vllm.md" in capsys.readouterr().err
    assert main([*command, "vlm"]) == 2
    assert "Did you mean 'vllm'" in capsys.readouterr().err


def test_the_default_method(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_ANCHORS_METHOD", "")
    assert default_method(str(tmp_path)) == "none"
    (tmp_path / "anchors.json").write_text('{"method": "clva"}')
    assert default_method(str(tmp_path)) == "clva"
    assert engine_args("clearsight")["scheduler_cls"].endswith("AnchorScheduler")
    assert default_method(str(tmp_path)) == "clearsight"
    monkeypatch.setenv("VLM_ANCHORS_METHOD", "")
    (tmp_path / "anchors.json").write_text("[]")
    with pytest.raises(BadSetting, match="SPEC"):
        default_method(str(tmp_path))


def test_equal_specs_are_one_method():
    assert parse_method("clva:alpha=3") is parse_method("clva:alpha=3")
    assert parse_method("none") is None and parse_method("clva:alpha=0,beta=0") is not False
    for spec in ("vcd", "attanchor", "pai", "clva:refresh=prompt"):
        with pytest.raises(CannotAct):
            parse_method(spec)


def test_a_prompt_is_read_as_the_attached_model_reads_it(bundled_config):
    target, count = target_of(bundled_config), tokens_per_image(bundled_config)
    image = bundled_config.image_token_index
    ids = [1, 5, *[image] * 2 * count, 7, 8, *[image] * count, 9]
    prompt = map_prompt(target, ids, count, all_rows=False)
    assert count == 64 and prompt.images == 3
    assert prompt.visual.tolist() == [n for n, one in enumerate(ids) if one == image]
    assert prompt.image.bincount().tolist() == [64, 64, 64]
    assert prompt.text.nonzero()[:, 0].tolist() == [130, 131, 196] and prompt.first_text == 130
    assert map_prompt(target, ids, count, all_rows=True).first_text == 0
    plain = map_prompt(target, [1, 5, 7], count, all_rows=True)
    assert plain.first_text == 3 and not len(plain.visual)


def test_a_prompt_with_a_video_is_refused():
    config = hf.Qwen2_5_VLConfig()
    image, video = config.image_token_id, config.video_token_id
    prompt = map_prompt(target_of(config), [1, image, image, 2, 3], None, all_rows=False)
    assert prompt.text.tolist() == [False, False, False, True, True]
    with pytest.raises(CannotAct, match="holds a video"):
        map_prompt(target_of(config), [1, video, video, 2, 3], None, all_rows=False)


@pytest.fixture(scope="module")
def bundled_config():
    return va.load("scenes", device="cpu").model.config
