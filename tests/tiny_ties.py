"""What a class's config asks for beyond small sizes, where it ties sizes together in a way of its own.

`TIED`: model type -> a function that changes the dictionary of its config. `STUBBED`: classes whose vision tower is timm's.
"""

import contextlib
import importlib
from unittest import mock

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

IMAGE = 3
_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
}  # fmt: skip


class Tower(torch.nn.Module):
    """Stands in for timm's convolutional tower: 32 channels on a grid of 4 x 4."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 4, 4)

    def forward(self, pixel_values, **kwargs):
        return BaseModelOutputWithPooling(last_hidden_state=self.conv(pixel_values))


@contextlib.contextmanager
def stubbed(model_type):
    """Inside, the class is built with `Tower` in place of timm's, which is not installed."""
    if model_type not in STUBBED:
        yield
        return
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    real = module.AutoModel.from_config

    def made(config, **kwargs):
        return (
            Tower()
            if config.model_type in ("gemma3n_vision", "clip_vision_model", "timm_wrapper")
            else real(config, **kwargs)
        )

    with mock.patch.object(module.AutoModel, "from_config", made):
        yield


STUBBED = ("gemma3n", "fast_vlm")


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


def _each(**values):
    """Sizes of parts: `text_config={...}`."""
    return _both(*(_set(part, **own) for part, own in values.items()))


def _rope(**more):
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


def _sam(small):
    small["vision_config"]["sam_config"].update(
        downsample_channels=[32, 32], output_channels=32, global_attn_indexes=[1]
    )


def _deepstack(small):
    small["image_grid_pinpoints"] = [[16, 32], [32, 16]]
    small["vision_config"].update(hidden_size=64, num_attention_heads=2, image_size=16)
    small.update(
        deepstack_layer_map=[[0, 0], [1, 2]],
        spatial_target_layers=[3, 4, 5, 6],
        downsample_rate="1/2",
        vision_feature_layer=-1,
    )


_VQ = _set("vq_config", base_channels=32, channel_multiplier=[1, 1, 1], num_res_blocks=1)
_CODES = _set(
    vocabulary_map={"<image>": IMAGE} | {f"IMGIMG{chr(65 + n // 10)}{chr(65 + n % 10)}Z": 40 + n for n in range(20)}
)
_EMU_CODES = _set(
    vocabulary_map={"<image>": IMAGE, "<|extra_200|>": 39} | {f"<|visual token {n:06d}|>": 40 + n for n in range(20)}
)
_MUSE = _set(out_hidden_size=128, projector_hidden_size=64)
_TAGS = _set(vision_start_token_id=6, vision_end_token_id=7, audio_start_token_id=8, audio_end_token_id=9)
_FLAT = _set("vision_config", initializer_range=0.1)
_QUERIES = _set(num_query_tokens=6)
_GLM, _HALF_GLM = _glm([2, 3, 3]), _glm([2, 1, 1])
TIED = {
    "kosmos-2": _set(latent_query_num=16),
    "kosmos-2.5": _set(latent_query_num=16),
    "aria": _set(projector_patch_to_query_dict={64: 16}),
    "chameleon": _both(_VQ, _set("vq_config", num_embeddings=20, latent_channels=8), _CODES),
    "emu3": _both(_VQ, _set("vq_config", codebook_size=20, hidden_size=32), _EMU_CODES),
    "janus": _VQ,
    "cohere_compass": _by_kind,
    "deepseek_ocr2": _both(_set("text_config", mlp_layer_types=["dense"] + ["sparse"] * 7,
                                        num_experts_per_tok=2, n_group=1, topk_group=1), _sam),
    "deepseek_vl_hybrid": _set("high_res_vision_config", global_attn_indexes=[0, 1]),
    "dots3_note": _both(_FULL_HEADS, _set("vision_config", mlp_layer_types=["dense"] * 2, adapter_in_dim=32,
                                          adapter_out_dim=64), _set("audio_config", adapter_input_size=64, adapter_out_dim=64),
                        _set("text_config", swa_num_attention_heads=8, swa_num_key_value_heads=8, swa_q_lora_rank=32,
                             swa_kv_lora_rank=32, swa_head_dim=32, swa_qk_nope_head_dim=16, swa_v_head_dim=16,
                             shared_experts_intermediate_size=32)),
    "ernie4_5_vl_moe": _set("text_config", rope_parameters={"rope_type": "default", "rope_theta": 500000.0,
                                                            "mrope_section": [3, 3, 2]}),
    "blip-2": _QUERIES, "instructblip": _QUERIES, "instructblipvideo": _QUERIES,
    "gemma4": _set(vision_config={"model_type": "gemma4_vision", "hidden_size": 32, "intermediate_size": 64, "head_dim": 16,
                                  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                                  "patch_size": 4, "pooling_kernel_size": 2, "position_embedding_size": 64}),
    "gemma4_unified": _set(vision_config={"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "output_proj_dims": 64,
                                          "patch_size": 4, "pooling_kernel_size": 2, "mm_posemb_size": 64}),
    "qwen2_5_omni_thinker": _both(_GLM, _TAGS), "qwen3_omni_moe_thinker": _both(_GLM, _TAGS),
    "kimi_k25": _both(_FULL_HEADS, _set(projection_hidden_size=32)), "fuyu": _set(patch_size=4),
    "step3p7": _set("text_config", sliding_window=16),
    "unlimited_ocr": _sam,
    "gemma3": _GEMMA3, "shieldgemma2": _GEMMA3,
    "glm5_next": _both(_FULL_HEADS, _set("text_config", qk_rope_head_dim=0, head_dim=0, linear_head_dim=16,
                                         linear_num_heads=4)),
    "mistral_large4": _FULL_HEADS,
    "glm4v": _GLM, "glm46v": _GLM, "glmga": _GLM, "glm_ocr": _GLM, "glm4v_moe": _HALF_GLM,
    "granite4_vision": _deepstack,
    "hunyuan_vl": _each(text_config={"head_dim": 16, "rope_parameters": _rope(mrope_section=[2, 3, 3])},
                        vision_config={"text_hidden_size": 64}),
    "inkling2": _set("vision_config", text_hidden_size=64),
    "diffusion_gemma": _set("text_config", num_experts=4, top_k_experts=2, moe_intermediate_size=32),
    "llava_next": _ANYRES, "llava_next_video": _ANYRES, "llava_onevision": _ANYRES,
    "llama4": _both(_set("vision_config", projector_input_dim=64, projector_output_dim=64, vision_output_dim=64,
                         intermediate_size=128, pixel_shuffle_ratio=0.5)),
    "molmo2": _both(_set("adapter_config", vision_feature_layer=[-1, -2], hidden_size=32, head_dim=16, text_hidden_size=64,
                         num_attention_heads=2, num_key_value_heads=2)),
    "got_ocr2": _FLAT, "pp_chart2table": _FLAT,
    "qwen2_vl": _both(_GLM, _set("vision_config", embed_dim=32, hidden_size=64)),
    "qwen2_5_vl": _GLM, "paddleocr_vl": _GLM,
    "vipllava": _set(vision_feature_layers=[-1, -2]),
    "fast_vlm": _both(_set(vision_config=_CLIP, vision_feature_layer=-1, vision_feature_select_strategy="full")),
    "perception_lm": _set(vision_config=_CLIP | {"model_args": {"embed_dim": 32}}),
    "gemma3n": _both(_set(vision_soft_tokens_per_image=16), _set("vision_config", hidden_size=32),
                     _set("text_config", layer_types=["sliding_attention", "full_attention"] * 4, num_kv_shared_layers=2)),
    "nemotron_h_omni": _both(_set("text_config", layers_block_type=["mamba", "attention", "moe", "attention"] * 2),
                             _set(vision_hidden_size=32, projector_hidden_size=64),
                             _set("vision_config", video_temporal_patch_size=2, max_img_size=64)),
    "qwen4_exp": _set("text_config", indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=16, indexer_budget=2048,
                      indexer_compress_ratio=4, ngram_vocab_size_base=100, split_ngram_parts=4, hc_lowrank=8),
    "muse_glimmer": _MUSE,
    "muse_spark": _both(_MUSE, _set("audio_config", num_hidden_layers=2, out_hidden_size=64, patch_sizes=[4, 4],
                                     hidden_sizes=[16, 16], depths=[1, 1])),
}  # fmt: skip
