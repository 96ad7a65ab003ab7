"""Whoever is at fault is named: the model's files, the image, the words or the video, and never one for another."""

import copy
import importlib.util
import os

import pytest
import tiny_processors
import torch
from test_conversations import with_videos
from test_families import model_of
from test_family_table import noise

import vlm_anchors as va
from vlm_anchors.errors import BadImage, BadModel, BadQuestion, CannotAct
from vlm_anchors.evaluation.runner.answer import answer_batch, can_reuse
from vlm_anchors.generation.plan import GenerationPlan
from vlm_anchors.inputs.prompt_builder import Sample
from vlm_anchors.interventions import attachment

ERRORS = (ValueError("odd"), KeyError("odd"), AttributeError("odd"), AssertionError(), StopIteration(), OSError("odd"))
TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }} "
)
TEMPLATE += "{% endfor %}{% endfor %}w31"


def pair(template=TEMPLATE):
    processor = copy.deepcopy(tiny_processors.llava())  # its tokenizer is shared
    processor.chat_template = template
    return va.load((model_of("llava"), processor))


def fails(part, method, error, when=lambda inputs: True):
    """Lets a method of one part of a processor raise."""
    kind = type(part)

    def run(self, *args, **named):
        if when(f"{args} {named}"):
            raise error
        return getattr(kind, method)(self, *args, **named)

    part.__class__ = type("Failing", (kind,), {method: run})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_processor(error):
    for part, method in (("image_processor", "preprocess"), ("tokenizer", "_encode_plus")):
        vlm = pair()
        fails(getattr(vlm.processor, part), method, error)
        with pytest.raises(BadModel, match="cannot prepare any image"):
            va.ask(vlm, noise(24, 24), "w40", max_new_tokens=2)
    vlm = pair()
    fails(vlm.processor.image_processor, "preprocess", error, lambda inputs: "size=5x7" in inputs)
    with pytest.raises(BadImage, match="cannot take these images"):
        va.ask(vlm, noise(5, 7), "w40", max_new_tokens=2)
    vlm = pair()
    fails(vlm.processor.tokenizer, "_encode_plus", error, lambda inputs: "w44" in inputs)
    for image in (noise(24, 24), None):
        with pytest.raises(BadQuestion, match="cannot take these words"):
            va.ask(vlm, image, "w44", max_new_tokens=2)


@pytest.mark.parametrize("template", ["{% for %}", "{{ foo.bar.baz }}", "{{ 1 / 0 }}", "{{ messages | nothing }}"])
def test_a_template_that_writes_nothing(template):
    with pytest.raises(BadModel, match="cannot write a question"):
        va.ask(pair(template), noise(24, 24), "w40")
    with pytest.raises(BadModel, match="cannot write a question"):
        va.ask(pair(template), messages=[{"role": "user", "content": "w40"}])


@pytest.mark.parametrize("template", ["", "{{ none }}", "{% for m in messages %}<image> {% endfor %}"])
def test_a_template_without_the_question(template):
    for asked in ({"image": noise(24, 24), "question": "w40"}, {"question": "w40"}):
        with pytest.raises(BadModel, match="shows the model no question"):
            va.ask(pair(template), **asked)
    with pytest.raises(BadModel, match="shows the model no question"):
        va.ask(pair(template), messages=[{"role": "user", "content": "w40"}])


def test_a_template_that_changes_the_question():
    shouts = TEMPLATE.replace("part['text']", "part['text'] | upper")
    assert "W40" in va.ask(pair(shouts), noise(24, 24), "w40", max_new_tokens=2).prompt


def test_a_template_without_system_turns():
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    turns = [{"role": "system", "content": "w41"}, {"role": "user", "content": "w40"}]
    with pytest.raises(BadQuestion, match="System role not supported. Change its roles or their order"):
        va.ask(pair(refuses + TEMPLATE), messages=turns)


def test_a_video_processor():
    vlm, frames = with_videos(), [noise(48, 32)] * 4
    vlm.processor.video_processor.merge_size = None
    with pytest.raises(BadModel, match="cannot prepare any video"):
        va.ask(vlm, video=frames, question="w40")
    vlm = with_videos()
    fails(vlm.processor.video_processor, "__call__", ValueError("odd"), lambda inputs: "size=48x32" in inputs)
    with pytest.raises(BadImage, match="cannot take this video"):
        va.ask(vlm, video=frames, question="w40")


def other_size(processor):
    processor.image_processor.size, processor.image_processor.crop_size = (
        {"shortest_edge": 32},
        {"height": 32, "width": 32},
    )


def other_patch(processor):
    processor.patch_size = 8


def more_words(processor):
    processor.tokenizer.add_tokens([f"z{number}" for number in range(400)] + ["zz"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' own processors
@pytest.mark.parametrize("method", ["none", "vcd", "attanchor:tau=0.1"])
@pytest.mark.parametrize("change", [other_size, other_patch, more_words])
def test_a_processor_of_another_checkpoint(change, method):
    vlm = pair()
    change(vlm.processor)
    with pytest.raises(BadModel, match="processor prepared|another number of image tokens|has embeddings for"):
        va.ask(vlm, noise(24, 24), "zz zz", method=method, max_new_tokens=2)
    samples = [Sample((image,), text, text) for image in [noise(24, 24)] for text in ("zz", "w40 zz")]
    run = GenerationPlan.of(vlm, method, None, 2)
    with pytest.raises(BadModel):
        answer_batch(run, samples, can_reuse(run))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "processor"), [("llava", "internvl"), ("qwen2.5-vl", "llava"), ("internvl", "llava")]
)
def test_a_processor_of_another_family(model, processor):
    other = getattr(tiny_processors, processor)()
    other.chat_template = TEMPLATE.replace("<image>", "<image>" if processor == "llava" else "<IMG_CONTEXT>")
    with pytest.raises(BadModel, match="is another family's|image token|processor prepared"):
        va.ask(va.load((model_of(model), other)), noise(24, 24), "w40", max_new_tokens=2)


def test_a_merge_size_that_is_not_the_models():
    processor = tiny_processors.qwen2_5_vl()
    processor.chat_template = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    processor.image_processor.merge_size = 1
    with pytest.raises(BadModel, match="as its processor prepared them"):
        va.ask(va.load((model_of("qwen2.5-vl"), processor)), noise(48, 32), "w40", max_new_tokens=2)


def test_models_that_cannot_answer():
    model, processor = model_of("llava"), tiny_processors.llava()
    with pytest.raises(BadModel, match="LlavaModel has no language-model head"):
        va.load((model.model, processor))
    with pytest.raises(BadModel, match="lies on the device meta"):
        va.load((copy.deepcopy(model).to("meta"), processor))


def test_a_learned_prompt_is_no_adapter_of_layers(tiny_folder, tmp_path):
    peft = pytest.importorskip("peft")
    base = va.load(tiny_folder).model
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    (file := tmp_path / "adapter_config.json").write_text(
        file.read_text("utf-8").replace(
            '"base_model_name_or_path": null', f'"base_model_name_or_path": "{tiny_folder}"'
        ),
        "utf-8",
    )
    with pytest.raises(BadModel, match="a learned prompt .PROMPT_TUNING."):
        va.load(tmp_path)


def test_a_handle_that_was_taken_off():
    vlm = pair()
    handle = va.attach(vlm, "clva:tau=1.5")
    with handle:
        assert torch.is_tensor(vlm.model.lm_head.weight)
    with pytest.raises(CannotAct, match="This handle was taken off"), handle:
        pass


def test_a_system_that_does_not_fork(monkeypatch):
    """Windows: the module that attaches is imported there too."""
    monkeypatch.delattr(os, "register_at_fork")
    name = "vlm_anchors.interventions.attachment_elsewhere"
    found = importlib.util.spec_from_file_location(name, attachment.__file__)
    found.loader.exec_module(importlib.util.module_from_spec(found))
