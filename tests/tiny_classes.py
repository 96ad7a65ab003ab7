"""A tiny random model of every image-text class of the installed transformers, made from its own default config.

Sizes are found by name (`hidden_size`, `num_hidden_layers`, ...), so a class of a later release needs no entry unless its
config ties sizes together in a way of its own (`TIED`). Pictures are found by trying the few shapes that vision towers
read; a prompt is words, an image with the tags its config names, and words.
"""

import copy
import re
import warnings
from dataclasses import dataclass

import torch
import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from vlm_anchors.models.decoder import is_tag

CLASSES = dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
PAD, BOS, EOS, IMAGE, VIDEO, FIRST_TAG, AUDIO = 0, 1, 2, 3, 4, 5, 19
WORD, WORDS = 40, 160
"""Ids from here on are words, up to there."""

TEXT = {
    r"hidden_size|d_model|n_embd|embed_dim|word_embed_proj_dim|hidden_dim|proj_dim|projection_dim": 64,
    r"intermediate_size|ffn_dim|(en|de)coder_ffn_dim|d_ff|intermediate_size_mlp|dense_intermediate_size"
    r"|shared_expert_intermediate_size|moe_shared_expert_intermediate_size": 128,
    r"moe_intermediate_size|moe_ffn_dim": 32,
    r"num_hidden_layers|num_layers|n_layer|(en|de)coder_layers|num_decoder_layers|layers": 8,
    r"num_attention_heads|n_head|num_heads|(en|de)coder_attention_heads|attention_heads": 4,
    r"num_key_value_heads|num_global_key_value_heads": 2,
    r"head_dim|global_head_dim|d_kv|attention_head_dim": 16,
    r"vocab_size": WORDS,
    r"vocab_size_per_layer_input": WORDS, r"hidden_size_per_layer_input": 16,
    r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts": 4,
    r"num_experts_per_tok|moe_k|moe_topk|top_k_experts|moe_top_k": 2,
    r"n_group|topk_group|n_shared_experts|num_shared_experts|moe_num_shared_experts|first_k_dense_replace": 1,
    r"q_lora_rank|kv_lora_rank": 32, r"qk_nope_head_dim|v_head_dim|qk_rope_head_dim": 16, r"qk_head_dim": 32,
    r"max_position_embeddings|n_positions|original_max_position_embeddings": 1024,
    r"linear_num_value_heads": 4, r"linear_num_key_heads": 2, r"linear_(key|value)_head_dim": 16,
    r"mamba_num_heads": 8, r"mamba_head_dim": 16, r"ssm_state_size|mamba_d_state": 16, r"n_groups": 2,
    r"index_head_dim": 16, r"index_n_heads": 2,
}  # fmt: skip
VISION = {
    r"hidden_size|embed_dim|d_model|width|emb_dim": 32, r"intermediate_size|mlp_hidden_size|ffn_dim": 64,
    r"num_hidden_layers|depth|num_layers|layers|encoder_layers": 2,
    r"num_attention_heads|num_heads|attention_heads|num_key_value_heads|heads|encoder_attention_heads": 2,
    r"head_dim": 16, r"image_size|img_size": 32, r"patch_size": 4, r"out_hidden_size|output_dim|projection_dim": 64,
    r"window_size": 16, r"vocab_size": WORDS, r"max_position_embeddings": 64, r"num_position_embeddings": 64,
}  # fmt: skip
_SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
}  # fmt: skip


def shrunk(config, path=""):
    """A config's dictionary with every size small."""
    vision = bool(re.search("vision|vq|vit|visual", path)) and not re.search("text|decoder", path)
    small = {} if vision else dict(_SPECIAL)
    for name, value in config.to_dict().items():
        if name in ("transformers_version", "architectures", "dtype", "torch_dtype", "per_layer_config"):
            continue
        part = vars(config).get(name)
        if hasattr(part, "to_dict"):
            small[name] = shrunk(part, f"{path}/{name}")
        elif name == "rope_parameters" and isinstance(value, dict):
            small[name] = _short_rope(value)
        elif name in _PER_LAYER and isinstance(value, list) and value and not vision:
            small[name] = _eight(value)
        else:
            size = next((new for names, new in (VISION if vision else TEXT).items() if re.fullmatch(names, name)), None)
            if size is not None and isinstance(value, int | float) and not isinstance(value, bool):
                small[name] = size
            elif size is not None and name in ("image_size", "patch_size") and isinstance(value, list | tuple):
                small[name] = [size] * len(value)
    if path:
        small["model_type"] = config.model_type
    return small


_PER_LAYER = ("layer_types", "mlp_layer_types", "block_types", "layers_block_type", "indexer_types")


def _eight(kinds):
    """Every kind of layer, in 8 layers, in the order of the pattern."""
    if set(kinds[:8]) == set(kinds) and not {"linear_attention", "conv"} & set(kinds):
        return list(kinds[:8])
    names = list(dict.fromkeys(kinds))
    return [names[layer % len(names)] for layer in range(8)]


def _short_rope(parameters):
    short = copy.deepcopy(parameters)
    for one in (short, *(value for value in short.values() if isinstance(value, dict))):
        if "mrope_section" in one:
            half = int(8 * (one.get("partial_rotary_factor") or 1))
            one["mrope_section"] = {8: [2, 3, 3], 4: [2, 1, 1], 2: [2, 0, 0]}[half]
    return short


def _ids(config):
    """Placeholder and tag ids of a config, small: placeholders first, tags in the order they are named."""
    ids, tag = {}, FIRST_TAG
    for name, value in vars(config).items():
        if re.fullmatch(r"image_(token|patch)_(id|index)|image_token_index", name):
            ids[name] = IMAGE
        elif re.fullmatch(r"video_token_(id|index)", name):
            ids[name] = VIDEO
        elif re.fullmatch(r"audio_token_(id|index)", name):
            ids[name] = AUDIO
        elif is_tag(name) and (value is None or isinstance(value, int)):
            ids[name], tag = tag, tag + 1
        elif is_tag(name) and isinstance(value, list):
            ids[name] = list(range(tag, tag + len(value)))
            tag += len(value)
    return ids


@dataclass
class TinyClass:
    """A model, the inputs of one image, and how many visual tokens the image gives."""

    model_type: str
    model: torch.nn.Module
    pixels: dict
    tokens: int
    tags: dict

    def prompt(self, images=1, seed=0, before=3, between=4, after=6):
        """Inputs of one prompt, its visual positions image by image, and its text rows after the first of them."""
        generator = torch.Generator().manual_seed(seed)
        ids, places, text = [BOS], [], []

        def words(count):
            for one in torch.randint(WORD, WORDS - 1, (count,), generator=generator).tolist():
                if places:
                    text.append(len(ids))
                ids.append(one)

        opening, ending = self._around()
        words(before)
        for number in range(images):
            if number:
                words(between)
            ids.extend(opening)
            places.append(list(range(len(ids), len(ids) + self.tokens)))
            ids.extend([IMAGE] * self.tokens)
            ids.extend(ending)
        words(after)
        row = torch.tensor([ids])
        pixels = {
            name: value if value is None else torch.cat([value + 0.1 * number if value.is_floating_point() else value
                                                         for number in range(images)])
            for name, value in self.pixels.items()
        }  # fmt: skip
        inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), **pixels}
        if "image_grid_thw" in pixels and hasattr(self.model.base_model, "get_rope_index"):
            inputs["mm_token_type_ids"] = (row == IMAGE).long()
        if self.model_type in ("gemma3", "shieldgemma2", "paligemma", "gemma4", "gemma4_unified"):
            inputs["token_type_ids"] = (row == IMAGE).long()
            if self.model_type.startswith("gemma4"):
                inputs["mm_token_type_ids"] = inputs.pop("token_type_ids")
        return inputs, places, text

    def _around(self):
        starts = [one for name, one in self.tags.items() if re.search("start|boi|bos", name) and isinstance(one, int)]
        ends = [one for name, one in self.tags.items() if re.search("end|eoi|eos", name) and isinstance(one, int)]
        if self.model_type == "molmo2":
            starts = [self.tags["low_res_image_start_token_id"]]
        return starts[:1], ends[:1]


def build(model_type, seed=0, **overrides):
    """The tiny model of a class, without a picture."""
    kind, config = CONFIG_MAPPING[model_type], CONFIG_MAPPING[model_type]()
    small = shrunk(config) | _ids(config)
    if model_type in TIED:
        small = TIED[model_type](small) or small
    for name, value in overrides.items():
        (small["text_config"] if name not in small and "text_config" in small else small)[name] = value
    torch.manual_seed(seed)
    model = getattr(hf, CLASSES[model_type])(kind(**small)).eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped kernels have no double precision
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if torch.isnan(weight).any() or (weight.numel() and float(weight.abs().max()) == 0 and "bias" not in name):
                weight.normal_(std=0.02)
            if re.search(r"(q_proj|k_proj|q_b_proj|kv_b_proj|qkv_proj|query_key_value)\.weight$", name) and (
                "vision" not in name and "visual" not in name and "tower" not in name
            ):
                weight.mul_(6.0)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


def tiny(model_type, seed=0, **overrides):
    """The tiny class with its picture; raises what the last attempt raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(model_type, seed, **overrides)
        pixels, tokens = _picture(model)
    return TinyClass(model_type, model, pixels, tokens, _ids(model.config))


def _picture(model):
    """Pixels of one image in the first shape that the tower takes, and its visual tokens."""
    inner = model.base_model
    generator, last = torch.Generator().manual_seed(5), None
    for candidate in _shapes(model):
        pixels = {name: torch.randn(value, generator=generator) if isinstance(value, tuple) else value
                  for name, value in candidate.items()}  # fmt: skip
        try:
            with torch.no_grad():
                output = inner.get_image_features(**pixels, return_dict=True)
            features = getattr(output, "pooler_output", None)
            features = output.last_hidden_state if features is None else features
            parts = [features] if isinstance(features, torch.Tensor) else list(features)
            tokens = sum(part.reshape(-1, part.shape[-1]).shape[0] for part in parts)
            if parts[0].shape[-1] != model.get_input_embeddings().weight.shape[-1]:
                raise ValueError(f"features of width {parts[0].shape[-1]}")
            return pixels, tokens
        except Exception as error:
            last = last or error
    raise last or ValueError("no get_image_features")


def _shapes(model):
    import inspect

    wanted = inspect.signature(model.base_model.get_image_features).parameters
    vision = getattr(model.config, "vision_config", model.config)
    patch = getattr(vision, "patch_size", 4)
    patch = patch if isinstance(patch, int) else patch[0]
    time = getattr(vision, "temporal_patch_size", None) or 1
    if "image_grid_thw" in wanted:
        grid = torch.tensor([[1, 8, 8]])
        for row in ((64, 3 * time * patch**2), (64, 3, patch, patch), (64, 3 * patch**2)):
            more = {"image_merge_sizes": torch.tensor([2])} if "image_merge_sizes" in wanted else {}
            yield {"pixel_values": row, "image_grid_thw": grid, **more}
    for side in (32, 16, 24, 64, 28, 224, 448):
        square, size = (1, 3, side, side), torch.tensor([[side, side]])
        count = (side // patch) ** 2
        if "image_sizes" in wanted:
            yield {"pixel_values": square, "image_sizes": size}
            yield {"pixel_values": (1, 3, 3, side, side), "image_sizes": torch.tensor([[side, 2 * side]])}
        if "target_sizes" in wanted:
            yield {"pixel_values": (1, 3, patch, count * patch), "target_sizes": torch.tensor([[side // patch] * 2])}
        if "spatial_shapes" in wanted:
            shape = torch.tensor([[side // patch] * 2])
            yield {"pixel_values": (1, count, 3 * patch**2), "spatial_shapes": shape,
                   "pixel_attention_mask": torch.ones(1, count, dtype=torch.long)}  # fmt: skip
        if "image_position_ids" in wanted:
            place = torch.stack(torch.meshgrid(*[torch.arange(side // patch)] * 2, indexing="ij"), -1).view(1, count, 2)
            yield {"pixel_values": (1, count, 3 * patch**2), "image_position_ids": place.flip(-1)}
        if "image_grid_hw" in wanted:
            hw = torch.tensor([[side // patch] * 2])
            yield {"pixel_values": (1, count, 3 * patch**2), "image_grid_hw": hw}
        if "num_local_patches" in wanted:
            yield {"pixel_values": square, "num_local_patches": torch.tensor([0])}
        if "high_res_pixel_values" in wanted:
            yield {"pixel_values": square, "high_res_pixel_values": square}
        if "pixel_values_images" in wanted:
            yield {"pixel_values_images": square}
        if "pixel_mask" in wanted:
            yield {"pixel_values": square, "pixel_mask": torch.ones(1, side, side, dtype=torch.long)}
        if "pixel_attention_mask" in wanted:
            yield {"pixel_values": (1, 1, 3, side, side),
                   "pixel_attention_mask": torch.ones(1, 1, side, side, dtype=torch.long)}  # fmt: skip
        yield {"pixel_values": square}
        yield {"pixel_values": (1, 1, 3, side, side)}
        yield {"pixel_values": (1, count, 3 * patch**2)}


def _set(part=None, **values):
    def tie(small):
        (small if part is None else small[part]).update(values)

    return tie


def _both(*ties):
    def tie(small):
        for one in ties:
            one(small)

    return tie


_ANYRES = _both(_set(image_grid_pinpoints=[[32, 64], [64, 32]], vision_feature_layer=-1))
_GEMMA3 = _set(mm_tokens_per_image=16)
_FULL_HEADS = _set("text_config", num_key_value_heads=4)


def _by_kind(small):
    """Rotary parameters for every kind of layer there is."""
    rope = small["text_config"].get("rope_parameters") or {}
    plain = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    small["text_config"]["rope_parameters"] = {
        kind: rope.get(kind) or plain for kind in small["text_config"]["layer_types"]
    }


def _glm(section):
    return _set("text_config", rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section,
                                                **({} if sum(section) == 8 else {"partial_rotary_factor": 0.5})})  # fmt: skip


_GLM, _HALF_GLM = _glm([2, 3, 3]), _glm([2, 1, 1])
TIED = {
    "aria": _set(projector_patch_to_query_dict={64: 16}),
    "chameleon": _set(vocabulary_map={"<image>": IMAGE, **{f"IMGIMG{chr(65 + n % 10)}Z": 40 + n for n in range(20)}}),
    "emu3": _set(vocabulary_map={"<image>": IMAGE, "<|extra_200|>": 39,
                                 **{f"<|visual token {n:06d}|>": 40 + n for n in range(20)}}),
    "cohere_compass": _by_kind,
    "deepseek_ocr2": _set("text_config", mlp_layer_types=["dense"] + ["sparse"] * 7),
    "dots3_note": _FULL_HEADS,
    "ernie4_5_vl_moe": _set("text_config", rope_parameters={"rope_type": "ernie_3d", "rope_theta": 500000.0,
                                                            "mrope_section": [3, 3, 2]}),
    "gemma3": _GEMMA3, "shieldgemma2": _GEMMA3,
    "glm5_next": _FULL_HEADS, "mistral_large4": _FULL_HEADS,
    "glm4v": _GLM, "glm46v": _GLM, "glmga": _GLM, "glm_ocr": _GLM, "glm4v_moe": _HALF_GLM,
    "granite4_vision": _both(_ANYRES, _set(deepstack_layer_map=[[0, 0], [1, 2]])),
    "hunyuan_vl": _set("text_config", rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "llava_next": _ANYRES, "llava_next_video": _ANYRES, "llava_onevision": _ANYRES,
    "llama4": _both(_set("vision_config", projector_input_dim=64, projector_output_dim=64, vision_output_dim=64,
                         intermediate_size=128, pixel_shuffle_ratio=0.5)),
    "molmo2": _set("adapter_config", vision_feature_layer=[-1, -2]),
    "qwen2_vl": _both(_set("vision_config", embed_dim=32, hidden_size=64)),
    "vipllava": _set(vision_feature_layers=[-1, -2]),
    "fast_vlm": _both(_set(vision_config=_CLIP, vision_feature_layer=-1, vision_feature_select_strategy="full")),
    "perception_lm": _both(_set(vision_config=_CLIP)),
    "gemma3n": _both(_set(vision_config=_CLIP)),
    "unlimited_ocr": _both(),
    "nemotron_h_omni": _set("vision_config", video_temporal_patch_size=2),
}  # fmt: skip
"""What a class's config asks for beyond small sizes: a function that changes the dictionary."""
