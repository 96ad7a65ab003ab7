"""Adapters sit on every layer of the language model and on the projector, and never in the vision tower."""

import pytest
import tiny_families as tiny
import tiny_processors
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

import vlm_anchors as va
from vlm_anchors.errors import BadSetting, CannotAct
from vlm_anchors.models.families import family_of

NAMES = sorted(tiny.FAMILIES)


def paired(name):
    return tiny.FAMILIES[name].build(), tiny_processors.stand_in(name)


def adapted(pair, **settings):
    model = get_peft_model(pair[0], va.lora_config(pair, **settings))
    return model, [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]


@pytest.mark.grid
@pytest.mark.parametrize("name", NAMES)
def test_every_family_gets_layers_times_projections(name):
    pair = paired(name)
    layer = pair[0].get_decoder().layers[0]
    projections = sum(isinstance(module, nn.Linear) for module in layer.modules())
    model, placed = adapted(pair, projector="frozen", rank=2)
    assert len(placed) == 8 * projections > 0
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all(".layers." in each and "lora_" in each for each in trained)
    assert not any("vision" in each or "visual" in each for each in trained)


@pytest.mark.grid
@pytest.mark.parametrize("name", NAMES)
def test_the_projector_trains_whole(name):
    model, _ = adapted(paired(name), projector="full", rank=2)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad and "lora_" not in name}
    projector = model.get_base_model().get_submodule(next(iter(model.peft_config["default"].modules_to_save)))
    assert len(trained) == sum(1 for _ in projector.modules_to_save["default"].parameters()) > 0


@pytest.mark.grid
@pytest.mark.parametrize("name", [name for name in NAMES if name != "gemma3"])
def test_the_projector_trains_by_adapters(name):
    _, without = adapted(paired(name), projector="frozen")
    _, placed = adapted(paired(name))
    inside = set(placed) - set(without)
    family = family_of(tiny.FAMILIES[name].build().config)
    assert inside and all(f".{family.projector}." in each for each in inside)


def test_a_projector_without_linear_layers_is_told():
    with pytest.raises(CannotAct, match=r"projector of Gemma 3 .* has no linear layer .* projector='full'"):
        va.lora_config(paired("gemma3"))


def test_layers_that_differ_are_refused():
    pair = paired("llava")
    pair[0].get_decoder().layers[3].self_attn.v_proj = nn.Identity()
    with pytest.raises(CannotAct, match=r"Expected 8 layers x 7 projections = 56 adapters, .* has 55 such modules"):
        va.lora_config(pair)
    _, placed = adapted(pair, projections=("q_proj", "up_proj"), projector="frozen")
    assert len(placed) == 16


def test_a_misspelt_projection_is_not_passed_over():
    with pytest.raises(
        CannotAct, match=r"No linear layer 'qkv_proj' in the decoder of LLaVA-1.5, TinyLLaVA; it has down_proj, "
    ):
        va.lora_config(paired("llava"), projections=("q_proj", "qkv_proj"))


def test_other_words_for_the_projector_are_refused():
    with pytest.raises(BadSetting, match="projector must be one of lora, full, frozen; found 'some'"):
        va.lora_config(paired("llava"), projector="some")
    pair = paired("llava")
    pair[0].model.connector = pair[0].model.multi_modal_projector
    del pair[0].model.multi_modal_projector
    with pytest.raises(CannotAct, match="has no module 'multi_modal_projector'"):
        va.lora_config(pair)


def test_a_q_former_is_refused():
    import tiny_qformer

    with pytest.raises(CannotAct, match="learned queries, which stand for no place in the image"):
        va.lora_config(tiny_qformer.instructblip())


def test_without_peft_a_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(va.UserError, match=r"Training needs peft.*vlm-anchors\[train\]"):
        va.lora_config(paired("llava"))
