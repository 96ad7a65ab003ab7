"""Tiny random InstructBLIP and BLIP-2: 8 cross-attention layers, 64 patches and a class token, 6 latent queries."""

import torch
from tiny import IMAGE, sharpen
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    OPTConfig,
    T5Config,
)

LATENTS = 6
VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4,
              initializer_range=0.1)  # fmt: skip
# The default of 1e-10 makes every image the same.
QFORMER = dict(
    vocab_size=100, hidden_size=48, num_hidden_layers=16, num_attention_heads=6, intermediate_size=64,
    encoder_hidden_size=32, cross_attention_frequency=2, max_position_embeddings=64,
)  # fmt: skip
SPECIAL = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)


def _llama():
    return LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, **SPECIAL,
    )  # fmt: skip


def _t5():
    return T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
        decoder_start_token_id=0, **SPECIAL,
    )  # fmt: skip


def _opt():
    return OPTConfig(
        vocab_size=100, hidden_size=64, ffn_dim=96, num_hidden_layers=8, num_attention_heads=4, word_embed_proj_dim=64,
        max_position_embeddings=256, **SPECIAL,
    )  # fmt: skip


def _finish(model):
    with torch.no_grad():
        model.query_tokens.normal_()
    for name, weight in model.named_parameters():
        if name.startswith("language_projection"):
            weight.data.mul_(20)
    return sharpen(model, 8.0)


def instructblip(text="llama", seed=0):
    torch.manual_seed(seed)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION), qformer_config=InstructBlipQFormerConfig(**QFORMER),
        text_config=_llama() if text == "llama" else _t5(), num_query_tokens=LATENTS, image_token_index=IMAGE,
    )  # fmt: skip
    return _finish(InstructBlipForConditionalGeneration(config))


def blip2(seed=0):
    torch.manual_seed(seed)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION), qformer_config=Blip2QFormerConfig(**QFORMER), text_config=_opt(),
        num_query_tokens=LATENTS, image_token_index=IMAGE,
    )  # fmt: skip
    return _finish(Blip2ForConditionalGeneration(config))


FAMILIES = {"instructblip": instructblip, "instructblip-t5": lambda: instructblip("t5"), "blip-2": blip2}


def batch(name, words=(5, 3, 7), seed=0):
    """A left-padded batch of three prompts, as the processors make them."""
    generator = torch.Generator().manual_seed(seed)
    rows = [[IMAGE] * LATENTS + [1] + torch.randint(4, 100, (n,), generator=generator).tolist() for n in words]
    longest = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values": torch.randn(len(rows), 3, 32, 32, generator=generator),
    }
    if name.startswith("instructblip"):
        inputs["qformer_input_ids"] = torch.randint(4, 100, (len(rows), 4), generator=generator)
        inputs["qformer_attention_mask"] = torch.ones(len(rows), 4, dtype=torch.long)
    return inputs


def split(inputs, sample):
    """One sample of a batch, unpadded."""
    real = inputs["attention_mask"][sample].bool()
    one = {name: tensor[sample : sample + 1] for name, tensor in inputs.items()}
    one["input_ids"], one["attention_mask"] = one["input_ids"][:, real], one["attention_mask"][:, real]
    return one
