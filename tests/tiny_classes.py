"""A tiny random model of every image-text class of the installed transformers, made from its own default config.

Sizes are found by name (`hidden_size`, `num_hidden_layers`, ...), so a class of a later release needs no entry unless its
config ties sizes together in a way of its own (`TIED`). Pictures are found by trying the few shapes that vision towers
read; a prompt is words, an image with the tags its config names, and words.
"""

import copy
import inspect
import re
import warnings
from dataclasses import dataclass

import torch
import transformers as hf
from tiny_ties import IMAGE, TIED, stubbed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.kosmos2 import modeling_kosmos2 as kosmos2

from vlm_anchors.models.decoder import is_tag
from vlm_anchors.models.vision_features import projected

CLASSES = dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
PAD, BOS, EOS, VIDEO, FIRST_TAG, AUDIO = 0, 1, 2, 4, 5, 19
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
        elif name == "deepstack_visual_indexes" and value:
            small[name] = [0, 1]
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

    @property
    def latents(self):
        """Whether a Q-Former stands between tower and decoder: its learned queries are the placeholders."""
        return hasattr(self.model, "qformer")

    def prompt(self, images=1, seed=0, before=3, between=4, after=6):
        """Inputs of one prompt, its visual positions image by image, and its text rows after the first of them."""
        if self.latents:
            return self._asked(seed, after), [list(range(self.tokens))], list(range(self.tokens, self.tokens + after))
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
        side_by_side = "target_sizes" in self.pixels
        pixels = {
            name: value if value is None else torch.cat(
                [value + 0.1 * number if value.is_floating_point() else value for number in range(images)],
                -1 if side_by_side and value.dim() > 2 else 0)
            for name, value in self.pixels.items()
        }  # fmt: skip
        inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), **pixels}
        if hasattr(self.model, "image_to_text_projection"):
            inputs["image_embeds_position_mask"] = (row == IMAGE).long()
        kinds = "mm_token_type_ids" in inspect.signature(self.model.forward).parameters
        if kinds and hasattr(self.model.base_model, "get_rope_index"):
            inputs["mm_token_type_ids"] = (row == IMAGE).long()
        if self.model_type in ("gemma3", "shieldgemma2", "paligemma", "gemma4", "gemma4_unified"):
            inputs["token_type_ids"] = (row == IMAGE).long()
            if self.model_type.startswith("gemma4"):
                inputs["mm_token_type_ids"] = inputs.pop("token_type_ids")
        return inputs, places, text

    def _asked(self, seed, after):
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(WORD, WORDS - 1, (after,), generator=generator).tolist()
        place = VIDEO if self.model_type == "instructblipvideo" else IMAGE
        row = torch.tensor([[place] * self.tokens + words])
        return {"input_ids": row, "attention_mask": torch.ones_like(row), **self.pixels}

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
    with stubbed(model_type):
        model = getattr(hf, CLASSES[model_type])(kind(**small)).eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped kernels have no double precision
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if torch.isnan(weight).any() or (weight.numel() and float(weight.abs().max()) == 0 and "bias" not in name):
                weight.normal_(std=0.02)
            elif weight.dim() > 1 and 0 < float(weight.abs().max()) < 1e-8:
                weight.normal_(std=0.05)  # some towers begin at 1e-10, and make every image the same
            elif name.endswith("latents"):
                weight.normal_()  # all alike, they would make all visual tokens alike
            if re.search(
                r"(q_proj|k_proj|q_b_proj|kv_b_proj|qkv_proj|query_key_value|crossattention.attention.(query|key))\.weight$",
                name,
            ) and ("vision" not in name and "visual" not in name and "tower" not in name):
                weight.mul_(6.0)
    if hasattr(model, "generation_config"):
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, PAD
    return model


def tiny(model_type, seed=0, **overrides):
    """The tiny class with its picture; raises what the last attempt raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(model_type, seed, **overrides)
        if hasattr(model, "qformer"):
            return TinyClass(model_type, model, *_queried(model), {})
        if hasattr(model, "image_to_text_projection"):
            return TinyClass(model_type, model, *_masked(model), {})
        pixels, tokens = _picture(model)
        _tell_tokens_apart(model, pixels)
    tags = {name: value for name, value in vars(model.config).items() if is_tag(name) and isinstance(value, int | list)}
    return TinyClass(model_type, model, pixels, tokens, tags)


def _queried(model):
    """Pixels of one image (or of four frames) and a question for the Q-Former, and the learned queries they give."""
    video, generator = "Video" in type(model).__name__, torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.query_tokens.normal_(generator=generator)
        for name, weight in model.named_parameters():
            if name.startswith("language_projection"):
                weight.mul_(20)
            if "vision_model" in name and weight.dim() > 1:
                weight.normal_(std=0.1, generator=generator)
    pixels = {"pixel_values": torch.randn((1, 4, 3, 32, 32) if video else (1, 3, 32, 32), generator=generator)}
    if "instructblip" in model.config.model_type:
        pixels["qformer_input_ids"] = torch.randint(WORD, WORDS - 1, (1, 4), generator=generator)
        pixels["qformer_attention_mask"] = torch.ones(1, 4, dtype=torch.long)
    return pixels, model.config.num_query_tokens * (4 if video else 1)


def causal_mask(shape, dtype, device, past_key_values_length=0):
    """`(b, 1, q, past + q)` to add to scores, in precision `dtype`."""
    q, past = shape[1], past_key_values_length
    mask = torch.full((q, past + q), torch.finfo(dtype).min, dtype=dtype, device=device).triu(past + 1)
    return mask.expand(shape[0], 1, -1, -1)


def _masked(model):
    """Pixels of one image for a class whose prompt's image a mask marks, and the latents it becomes."""
    generator = torch.Generator().manual_seed(5)
    patches = "flattened_patches" in inspect.signature(model.forward).parameters
    if patches:
        places = torch.stack(torch.meshgrid(torch.arange(1.0, 9), torch.arange(1.0, 9), indexing="ij"), -1).view(
            1, 64, 2
        )
        colours = torch.randn(1, 64, model.config.vision_config.patch_embed_hidden_size, generator=generator)
        pixels = {"flattened_patches": torch.cat([places, colours], -1)}
    else:
        pixels = {"pixel_values": torch.randn(1, 3, 32, 32, generator=generator)}
    with torch.no_grad():
        model.image_to_text_projection.latent_query.normal_(generator=generator)
    # Kosmos-2 fills its mask in the default precision with the lowest number of the model's.
    kosmos2._make_causal_mask = causal_mask
    return pixels, model.config.latent_query_num


def _tell_tokens_apart(model, pixels):
    """Larger weights before the decoder where visual tokens differ so little that rounding would choose the anchors."""
    tower = re.compile("vision|visual|vq|tower|proj(ector|ection)|merger|aligner|connector|resampler|adapter|patch")
    own = [w for name, w in model.named_parameters()
           if w.dim() > 1 and tower.search(name) and not re.search("language|text_model|quantize|decoder", name)]  # fmt: skip
    for _ in range(5):
        with torch.no_grad():
            features = model.base_model.get_image_features(**pixels, return_dict=True)
            rows = _rows(features)
            if float((rows - rows.mean(0)).abs().mean()) > 0.02:
                return
            for weight in own:
                weight.mul_(2.0)


def _rows(output):
    """Projected visual tokens of whatever `get_image_features` returns, (tokens, width)."""
    features = projected(output)
    parts = [features] if isinstance(features, torch.Tensor) else list(features)
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _picture(model):
    """Pixels of one image in the first shape that the tower takes, and its visual tokens."""
    inner = model.base_model
    generator, errors = torch.Generator().manual_seed(5), []
    for candidate in _shapes(model):
        pixels = {name: torch.randn(value, generator=generator) if isinstance(value, tuple) else value
                  for name, value in candidate.items()}  # fmt: skip
        try:
            with torch.no_grad():
                rows = _rows(inner.get_image_features(**pixels, return_dict=True))
            if rows.shape[-1] != model.get_input_embeddings().weight.shape[-1]:
                raise ValueError(f"features of width {rows.shape[-1]}")
            return pixels, len(rows)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    raise ValueError("no picture fits: " + "; ".join(dict.fromkeys(errors)))


def _shapes(model):
    wanted = inspect.signature(model.base_model.get_image_features).parameters
    vision = getattr(model.config, "vision_config", model.config)
    patch = getattr(vision, "patch_size", 4)
    patch = patch if isinstance(patch, int) else patch[0]
    time = getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", None) or 1
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
            for width in (3 * patch**2, 3 * (patch * getattr(vision, "pooling_kernel_size", 1)) ** 2):
                yield {"pixel_values": (1, count, width), "image_position_ids": place.flip(-1)}
        if "image_grid_hw" in wanted:
            hw = torch.tensor([[side // patch] * 2])
            yield {"pixel_values": (count, 3 * patch**2), "image_grid_hw": hw}
        if "image_token_pooling" in wanted:
            pooling = torch.arange(64).view(16, 4).repeat(2, 1)
            yield {"pixel_values": (1, 64, 3 * patch**2), "image_token_pooling": pooling,
                   "image_grids": torch.tensor([[4, 4, 4, 4]])}  # fmt: skip
        if "num_local_patches" in wanted:
            yield {"pixel_values": square, "num_local_patches": torch.tensor([0])}
        if "high_res_pixel_values" in wanted:
            yield {"pixel_values": square, "high_res_pixel_values": square}
        if "pixel_values_images" in wanted:
            yield {"pixel_values_images": square}
        if "pixel_mask" in wanted:
            yield {"pixel_values": square, "pixel_mask": torch.ones(1, side, side, dtype=torch.long)}
        if "tile_fine_mask" in wanted:
            yield {"pixel_values": (1, 1, 3, side, side), "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool)}
        elif "pixel_attention_mask" in wanted:
            yield {"pixel_values": (1, 1, 3, side, side),
                   "pixel_attention_mask": torch.ones(1, 1, side, side, dtype=torch.long)}  # fmt: skip
        yield {"pixel_values": square}
        yield {"pixel_values": (1, 1, 3, side, side)}
        yield {"pixel_values": (1, count, 3 * patch**2)}
