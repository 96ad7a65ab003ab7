"""The family table: every row is true of its classes, is tested, and is on the page; and what is not in it."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_classes
import tiny_families as tiny
import tiny_models
import tiny_processors
import torch
import transformers as hf
from PIL import Image
from test_clva import BOUND, steps_of
from test_families import compare, model_of, steered
from tiny_classes import CLASSES
from tiny_models import IMAGE, NEWLINE

from vlm_anchors.errors import AnchorsWarning, BadModel, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.clva import CLVA
from vlm_anchors.models.decoder import find_target
from vlm_anchors.models.families import FAMILIES, UNKNOWN

sys.path.append(str(Path(__file__).parent.parent / "runs"))
import family_matrix

DECODERS = {row.name: row for row in FAMILIES if row.name in tiny.FAMILIES}
PROCESSORS = {
    "llava": (tiny_processors.llava, "<image>"),
    "llava-next": (tiny_processors.llava_next, "<image>"),
    "llava-onevision": (tiny_processors.llava_onevision, "<image>"),
    "qwen2-vl": (tiny_processors.qwen2_vl, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen2.5-vl": (tiny_processors.qwen2_5_vl, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen3-vl": (tiny_processors.qwen3_vl, "<|vision_start|><|image_pad|><|vision_end|>"),
    "glm-4v": (tiny_processors.glm4v, "<|begin_of_image|><|image|><|end_of_image|>"),
    "internvl": (tiny_processors.internvl, "<IMG_CONTEXT>"),
    "idefics3": (tiny_processors.idefics3, "<image>"),
    "gemma3": (tiny_processors.gemma3, "<start_of_image>"),
    "paligemma": (tiny_processors.paligemma, "<image>"),
}
"""SmolVLM's needs num2words and torchvision, Mistral 3's (Pixtral's) torchvision."""


def noise(width, height):
    """Grey noise, the same in every run (Pillow's own comes from an unseeded generator)."""
    values = np.random.default_rng((width, height)).normal(128, 80, (height, width)).clip(0, 255)
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' own processors
@pytest.mark.parametrize("name", PROCESSORS)
def test_what_the_real_processor_makes_is_understood(name):
    make, image = PROCESSORS[name]
    processor, model = make(), model_of(name)
    texts = [f"w20 w21 {image} w22 w23 {image} w24 w25 w26", f"{image} w27 w28"]
    inputs = processor(
        images=[[noise(40, 20), noise(20, 40)], [noise(30, 30)]], text=texts, padding=True, return_tensors="pt"
    )
    plain, tokens = steps_of(model, inputs)
    with attach((model, processor), CLVA(tau=1.5)) as handle:
        fast, _ = steps_of(model, inputs, tokens)
    assert (fast - plain).abs().max() > 1e-3
    effects = [summary["clva"] for summary in handle.effects]
    assert [len(summary["anchors"]["positive"]) for summary in effects] == [2, 1]
    assert all(sum(summary["anchors"]["positive"]) > 0 for summary in effects)
    tags = set(tiny_processors.SPELLINGS[name])
    if name in ("gemma3", "paligemma"):
        tags.discard(NEWLINE)  # their processors write it as text, around the image or at the prompt's end
    steps = tokens.shape[1] - 1
    assert [summary["rows_edited"] for summary in effects] == [
        words_after_image(ids, tags) + steps for ids in inputs["input_ids"]
    ]


def words_after_image(ids, tags):
    ids = ids.tolist()
    return sum(one not in tags and one != 0 for one in ids[ids.index(IMAGE) :])


def test_every_class_of_the_installed_transformers_is_in_a_row():
    """A class of a later release needs a row, or it runs by the generic rules: `make family-matrix` says which."""
    named = {model_type.split("+")[0] for row in FAMILIES for model_type in row.model_types}
    assert set(CLASSES) <= named
    assert len({row.name for row in FAMILIES}) == len(FAMILIES)


def test_the_matrix_of_classes_is_that_of_the_installed_transformers():
    """A class that is missing, differs, crashes or was never built: `make family-matrix`, then `make docs`."""
    found = json.loads((Path(__file__).parent.parent / "results" / "families.json").read_text())
    assert set(found["classes"]) == set(CLASSES) and found["versions"]["transformers"] == hf.__version__
    states = {(name, column): row[column] for name, row in found["classes"].items() for column in family_matrix.COLUMNS}
    wrong = {
        where: state for where, state in states.items() if state.partition(":")[0] not in ("exact", "runs", "refused")
    }
    assert not wrong
    assert all(row["neutral"] for row in found["classes"].values() if row["clva"] == "exact")


def test_what_is_refused_says_its_own_reason():
    assert all(row.refused.endswith("(vlm-anchors families).") for row in FAMILIES if row.refused)


@pytest.mark.parametrize("name", DECODERS)
def test_a_row_is_true_of_its_classes(name):
    row, model = DECODERS[name], model_of(name)
    for model_type in (one for one in row.model_types if "+" not in one):
        config = hf.CONFIG_MAPPING[model_type]()
        for attribute in (*row.visual, *(row.video_tags or ())):
            assert isinstance(getattr(config, attribute), int)
    assert model.config.model_type in row.model_types
    assert any(path.split(".")[-1] == row.projector for path, _ in model.named_modules())
    assert row.mrope == hasattr(model.base_model, "get_rope_index")
    assert bool(row.delimiter_tokens) == tiny.FAMILIES[name].tags_in_tokenizer
    assert bool(tiny.FAMILIES[name].video) == ("video_token_id" in row.visual or row.video_tags is not None)


@pytest.mark.grid
@pytest.mark.parametrize("name", DECODERS)
def test_a_prefix_can_be_reused_where_the_row_says_so(name):
    """The prompt up to the end of its image prefilled first: the same logits as in one piece, or the row says no."""
    family, model = tiny.FAMILIES[name], model_of(name)
    prompt = tiny.prompts(family, [".i."], seed=8)[0]
    inputs = tiny.batch(family, [prompt])
    whole_places, cut = places_of(model, inputs), prompt.text[0]
    first = {k: v[:, :cut] if v.shape == inputs["input_ids"].shape else v for k, v in inputs.items()}
    types = {k: v[:, cut:] for k, v in inputs.items() if k == "token_type_ids"}
    with torch.no_grad(), steered(name, model):
        whole = model(**inputs).logits[:, -1]
        cache = model(**first, **{k: v[..., :cut] for k, v in whole_places.items()}, use_cache=True).past_key_values
        places = {k: v[..., cut:] for k, v in whole_places.items()}
        rest = {
            "input_ids": inputs["input_ids"][:, cut:],
            "attention_mask": inputs["attention_mask"],
            **types,
            **places,
        }
        split = model(**rest, past_key_values=cache).logits[:, -1]
    same = (split - whole).abs().max() < BOUND[torch.float32]
    assert bool(same) == DECODERS[name].causal_prefix


def places_of(model, inputs):
    """Position ids of a model that reads them off the images' grids: a second piece no longer shows them."""
    if not hasattr(model.base_model, "get_rope_index"):
        return {}
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    return {"position_ids": model.base_model.get_rope_index(**{name: inputs[name] for name in names})[0]}


def test_an_end_tag_that_always_follows_needs_no_tokenizer():
    """Mistral's processor puts a tag behind each image, so a bare model knows it by its place."""
    family, model = tiny.FAMILIES["mistral3"], model_of("mistral3")
    batch = tiny.batch(family, tiny.prompts(family, [".ii.", ".i.", "i."], seed=1))
    with attach(model, CLVA()) as bare:
        by_place, _ = steps_of(model, batch)
    with steered("mistral3", model) as handle:
        by_name, _ = steps_of(model, batch)
    assert torch.equal(by_place, by_name)
    assert [one["clva"]["rows_edited"] for one in bare.effects] == [
        one["clva"]["rows_edited"] for one in handle.effects
    ]


UNTOLD = [name for name, row in DECODERS.items() if row.delimiter_tokens and not row.end_tag_follows]


@pytest.mark.parametrize("name", UNTOLD)
def test_a_bare_model_whose_tags_are_unknown_warns(name):
    family, model = tiny.FAMILIES[name], model_of(name)
    batch = tiny.batch(family, tiny.prompts(family, [".i."], seed=1))
    with pytest.warns(AnchorsWarning, match=r"\(model, processor\)"):
        handle = attach(model, CLVA())
    with handle:
        steps_of(model, batch)
    with steered(name, model) as summary:
        steps_of(model, batch)
    assert handle.effects[0]["clva"]["rows_edited"] > summary.effects[0]["clva"]["rows_edited"]


@pytest.mark.parametrize("name", ["llava", "internvl", "idefics3", "mistral3", "gemma3"])
def test_embeddings_instead_of_ids(name):
    """Placeholders and tags are then known by their embeddings, as transformers knows the placeholders."""
    family, model = tiny.FAMILIES[name], model_of(name)
    batch = tiny.batch(family, tiny.prompts(family, [".i.", "i.i."], seed=9))
    with torch.no_grad(), steered(name, model):
        by_ids = model(**batch).logits[:, -1]
        embeds = model.get_input_embeddings()(batch.pop("input_ids"))
        by_embeds = model(inputs_embeds=embeds, **batch).logits[:, -1]
    assert (by_ids - by_embeds).abs().max() < BOUND[torch.float32]


def test_gemma_2_is_refused_in_the_kernel_that_cannot_cap_scores():
    with pytest.raises(ValueError, match="scaled_dot_product"):
        tiny_models.paligemma2().get_decoder().set_attn_implementation("sdpa")


def test_mllama_is_refused_with_the_reason():
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 100, "cross_attention_layers": [1], "pad_token_id": 0}  # fmt: skip
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_global_layers": 1,
             "attention_heads": 2, "vision_output_dim": 64, "image_size": 16, "patch_size": 4, "max_num_tiles": 1,
             "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]}  # fmt: skip
    model = hf.MllamaForConditionalGeneration(hf.MllamaConfig(vision_config=tower, text_config=text))
    with pytest.raises(CannotAct, match="separate cross-attention layers"):
        attach(model, CLVA())


def vipllava(kv_heads=2, text=None):
    torch.manual_seed(0)
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**tiny_models._tower(24, 4)), image_token_index=IMAGE,
        text_config=text or hf.LlamaConfig(**tiny_models._text(kv_heads)), vision_feature_layers=[-1, -2],
    )  # fmt: skip
    model = hf.VipLlavaForConditionalGeneration(config).eval()
    tiny_models.sharpen(model.get_decoder())
    return model


def test_a_family_that_is_not_in_the_table_says_what_was_assumed(monkeypatch):
    family = replace(tiny.FAMILIES["llava"], name="vip-llava", build=vipllava)
    monkeypatch.setitem(tiny.FAMILIES, "vip-llava", family)
    monkeypatch.setattr("vlm_anchors.models.decoder.family_of", lambda config: UNKNOWN)
    with pytest.warns(AnchorsWarning, match="in no row of the family table") as said:
        left_out = compare("vip-llava", [".i.", ".i.i.", "i."])
    assert left_out == 0
    assert all(
        part in str(said[0].message) for part in ("image_token_id 3", "LlamaModel with 8 attention layers", "qwen2-vl")
    )


def test_a_decoder_that_mixes_kinds_of_layers_counts_those_of_attention():
    """A literal reference for a hybrid: convolutions between, attention layers counted 1 to 4."""
    model = tiny_classes.tiny("lfm2_vl", layer_types=["conv", "full_attention"] * 4)
    target = find_target(model.model)
    assert (target.depth, target.blocks, target.cache_layers) == (4, 8, (1, 3, 5, 7))
    for images in (1, 2):
        off, moved, near, *_ = family_matrix.clva(model, images)
        assert off < family_matrix.EXACT < moved and not near
    with pytest.raises(CannotAct, match="layers 1 to 4 of softmax attention"):
        attach(model.model, "clva:layers=3-5")
    with pytest.raises(CannotAct, match="layers 1 to 8;"):
        attach(model.model, "deco:layers=3-9")


def test_layers_that_read_an_earlier_ones_keys_generate_and_are_off_at_zero():
    """Gemma 4's last layers have no cache of their own: their keys are those of the last layer of their kind that has."""
    kinds = ["sliding_attention", "full_attention"] * 4
    model = tiny_classes.build("gemma4", num_kv_shared_layers=4, layer_types=kinds, sliding_window=4)
    assert find_target(model).cache_layers == (0, 1, 2, 3, 2, 3, 2, 3)
    asked = {"input_ids": torch.tensor([[1, 50, 51, 52, 53, 54, 60, 61, 62]]), "max_new_tokens": 4, "do_sample": False}
    plain = model.generate(**asked)
    with attach(model, CLVA().disabled()):
        assert torch.equal(model.generate(**asked), plain)


def test_a_decoder_outside_the_attention_interface_is_refused():
    text = hf.FalconConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, vocab_size=100)
    with pytest.raises(BadModel, match="Families that work: llava"):
        attach(vipllava(text=text), CLVA())


def test_a_text_model_is_refused():
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny_models._text(2)))
    with pytest.raises(BadModel, match="Families that work: llava") as refused:
        attach(model, CLVA())
    assert not re.search("mllama", str(refused.value))
