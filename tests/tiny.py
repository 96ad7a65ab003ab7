"""Tiny random models of every family, built from configs: offline, seconds, weights sharpened so that methods act."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE = 3
"""Placeholder id of an image in every tiny vocabulary."""


def sharpen(model, factor=6.0):
    """Random configs have flat attention; larger query and key weights make it peaked, as trained models' is."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "query.weight", "key.weight")):
                weight.mul_(factor)
    return model.eval()


def llava(layers=8, heads=4, kv_heads=None, width=64, seed=0):
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4
        ),
        text_config=LlamaConfig(
            vocab_size=100, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv_heads or heads, max_position_embeddings=512,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=IMAGE, vision_feature_layer=-1,
    )  # fmt: skip
    return sharpen(LlavaForConditionalGeneration(config))


def llava_batch(texts=((5, 0), (3, 2), (7, 4)), seed=0, images=1):
    """A left-padded batch: (words before, words after) the image for each sample; 64 visual tokens an image."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for before, after in texts:
        words = torch.randint(4, 100, (before + after + 4,), generator=generator).tolist()
        rows.append([1, *words[:before], *([IMAGE] * 64 * images), *words[before:]])
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    pixels = torch.randn(len(rows) * images, 3, 32, 32, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
