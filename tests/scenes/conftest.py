"""A tiny random decoder in SmolLM2's place."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vlm_anchors.scenes import tinyllava


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
