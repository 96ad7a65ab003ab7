"""Tiny random configs of every decoder family, 8 layers of width 64, attention sharpened so that methods act."""

import torch
import transformers as hf
from tiny import sharpen

PAD, BOS, EOS, IMAGE, VIDEO, START, END, BREAK, NEWLINE, TILE = range(10)
WHOLE, CLIP_START, CLIP_END = 11, 12, 13  # 10 is the second tile
WORD = 20
"""Ids from here on are words."""

_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}


def _text(kv_heads, **more):
    return {
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": kv_heads, "max_position_embeddings": 512, **_IDS, **more,
    }  # fmt: skip


def _mrope(kv_heads, **more):
    return _text(
        kv_heads, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}, **more
    )


def _tower(side, patch, **more):
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": side, "patch_size": patch, **more,
    }  # fmt: skip


def _made(kind, config):
    """Only the decoder is sharpened: sharp attention in a tower adds rounding noise of its own."""
    torch.manual_seed(0)
    model = kind(config).eval()
    sharpen(model.get_decoder())
    return model


def llava(kv_heads=2):
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_tower(24, 4)), text_config=hf.LlamaConfig(**_text(kv_heads)),
        image_token_index=IMAGE, vision_feature_layer=-1,
    )  # fmt: skip
    return _made(hf.LlavaForConditionalGeneration, config)


def llava_next(kv_heads=2):
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**_tower(16, 4)), text_config=hf.LlamaConfig(**_text(kv_heads)),
        image_token_index=IMAGE, vision_feature_layer=-1, image_grid_pinpoints=[[16, 32], [32, 16]],
    )  # fmt: skip
    return _made(hf.LlavaNextForConditionalGeneration, config)


def llava_onevision(kv_heads=2):
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**_tower(16, 4)), text_config=hf.Qwen2Config(**_text(kv_heads)),
        image_token_index=IMAGE, video_token_index=VIDEO, vision_feature_layer=-1,
        image_grid_pinpoints=[[16, 32], [32, 16]],
    )  # fmt: skip
    return _made(hf.LlavaOnevisionForConditionalGeneration, config)


_QWEN_IDS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
}  # fmt: skip
_QWEN_TOWER = {"depth": 2, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}


def qwen2_vl(kv_heads=2):
    tower = {**_QWEN_TOWER, "embed_dim": 32, "hidden_size": 64}
    config = hf.Qwen2VLConfig(text_config=_mrope(kv_heads), vision_config=tower, **_QWEN_IDS)
    return _made(hf.Qwen2VLForConditionalGeneration, config)


def qwen2_5_vl(kv_heads=2):
    tower = {
        **_QWEN_TOWER, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = hf.Qwen2_5_VLConfig(text_config=_mrope(kv_heads), vision_config=tower, **_QWEN_IDS)
    return _made(hf.Qwen2_5_VLForConditionalGeneration, config)


def qwen3_vl(kv_heads=2):
    tower = {
        **_QWEN_TOWER, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = hf.Qwen3VLConfig(text_config=_mrope(kv_heads, head_dim=16), vision_config=tower, **_QWEN_IDS)
    return _made(hf.Qwen3VLForConditionalGeneration, config)


def glm4v(kv_heads=2):
    tower = {
        **_QWEN_TOWER, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "image_size": 32,
    }  # fmt: skip
    config = hf.Glm4vConfig(
        text_config=_mrope(kv_heads), vision_config=tower, image_token_id=IMAGE, video_token_id=VIDEO,
        image_start_token_id=START, image_end_token_id=END, video_start_token_id=CLIP_START,
        video_end_token_id=CLIP_END,
    )  # fmt: skip
    return _made(hf.Glm4vForConditionalGeneration, config)


def internvl(kv_heads=2):
    tower = _tower([32, 32], [4, 4])
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**tower), text_config=hf.Qwen2Config(**_text(kv_heads)),
        image_token_id=IMAGE, image_seq_length=16,
    )  # fmt: skip
    return _made(hf.InternVLForConditionalGeneration, config)


def _tiled(config_class, model_class, tower_class, kv_heads):
    config = config_class(
        vision_config=tower_class(**_tower(16, 2)), text_config=hf.LlamaConfig(**_text(kv_heads)),
        image_token_id=IMAGE, scale_factor=2,
    )  # fmt: skip
    config.pad_token_id = PAD
    return _made(model_class, config)


def idefics3(kv_heads=2):
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    return _tiled(hf.Idefics3Config, hf.Idefics3ForConditionalGeneration, Idefics3VisionConfig, kv_heads)


def smolvlm(kv_heads=2):
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    return _tiled(hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration, SmolVLMVisionConfig, kv_heads)


def gemma3(kv_heads=2, window=12):
    """Every third layer sees everything, the others a window that is shorter than any prompt."""
    kinds = ["full_attention" if layer % 3 == 1 else "sliding_attention" for layer in range(8)]
    text = hf.Gemma3TextConfig(
        **_text(kv_heads, head_dim=16, query_pre_attn_scalar=16, sliding_window=window, layer_types=kinds)
    )
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**_tower(32, 4)), text_config=text, mm_tokens_per_image=16,
        boi_token_index=START, eoi_token_index=END, image_token_index=IMAGE,
    )  # fmt: skip
    return _made(hf.Gemma3ForConditionalGeneration, config)


def paligemma(kv_heads=1, text=None):
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**_tower(16, 4)),
        text_config=text or hf.GemmaConfig(**_text(kv_heads, head_dim=16)),
        image_token_index=IMAGE, projection_dim=64, hidden_size=64,
    )  # fmt: skip
    return _made(hf.PaliGemmaForConditionalGeneration, config)


def paligemma2(kv_heads=2):
    """Gemma 2 caps its scores, which transformers runs in the eager kernel only."""
    text = hf.Gemma2Config(
        **_text(kv_heads, head_dim=16, query_pre_attn_scalar=16, sliding_window=512, attn_logit_softcapping=2.0)
    )
    return paligemma(text=text)


def mistral3(kv_heads=2):
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**_tower(64, 4)),
        text_config=hf.MistralConfig(**_text(kv_heads, head_dim=16, sliding_window=None)),
        image_token_index=IMAGE, spatial_merge_size=2, vision_feature_layer=-1,
    )  # fmt: skip
    return _made(hf.Mistral3ForConditionalGeneration, config)
