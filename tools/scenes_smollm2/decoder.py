"""SmolLM2 as training reads it: one image's tokens once, many questions behind them, a LoRA on every linear layer.

A plain function over the weights of transformers' LlamaModel; a test holds it equal to transformers' own forward."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.scenes_model.forward import norm, rotate, rotation
from vlm_anchors.scenes.smollm2 import SCALE

LINEARS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


class LoRA(nn.Module):
    """y = W x + SCALE * B A x for every linear layer; B starts at zero, so a fresh one changes nothing."""

    def __init__(self, decoder, rank: int = 16):
        super().__init__()
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for number, layer in enumerate(decoder.layers):
            for name in LINEARS:
                outs, ins = layer.get_submodule(name).weight.shape
                self.A[key(number, name)] = nn.Parameter(torch.randn(rank, ins) / math.sqrt(ins))
                self.B[key(number, name)] = nn.Parameter(torch.zeros(outs, rank))

    def forward(self, layer, number: int, name: str, x: Tensor) -> Tensor:
        y = F.linear(x, layer.get_submodule(name).weight)
        return torch.addmm(y, x @ self.A[key(number, name)].T, self.B[key(number, name)].T, alpha=SCALE)

    def weights(self) -> dict[str, Tensor]:
        """As `smollm2.build` takes them."""
        found = {}
        for part, kept in (("A", self.A), ("B", self.B)):
            for name, value in kept.items():
                number, block, linear = name.split("-")
                found[f"layers.{number}.{block}.{linear}.{part}"] = value.detach()
        return found


def key(number: int, name: str) -> str:
    """A ParameterDict takes no dots."""
    return f"{number}-{name.replace('.', '-')}"


def block_mask(prefix: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Mask (n, n), added to the scores, and positions (n,): each segment reads the prefix and itself up to each row."""
    n = prefix + sum(lengths)
    allowed = torch.zeros(n, n, dtype=torch.bool)
    allowed[:, :prefix] = True
    at = 0
    for length in (prefix, *lengths):
        allowed[at : at + length, at : at + length] = torch.ones(length, length, dtype=torch.bool).tril()
        at += length
    positions = torch.cat([torch.arange(prefix), *(torch.arange(length) + prefix for length in lengths)])
    return torch.zeros(n, n).masked_fill_(~allowed, float("-inf")), positions


def decode(decoder, lora: LoRA, x: Tensor, mask: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
    """Embeddings x (n, d) -> last hidden states of the rows `wanted`; the last layer computes no others."""
    config = decoder.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    d, group = config.hidden_size // heads, heads // kv_heads
    cos, sin = rotation(positions, d, config.rope_parameters["rope_theta"], x.dtype)
    for number, layer in enumerate(decoder.layers):
        h = norm(layer.input_layernorm, x)
        q, k, v = (
            lora(layer, number, f"self_attn.{name}_proj", h).view(len(h), count, d)
            for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        q, k, rows = rotate(q, cos, sin), rotate(k, cos, sin), mask
        if number == len(decoder.layers) - 1:
            q, rows, x = q[wanted], mask[wanted], x[wanted]
        n = len(q)
        grouped = (q * d**-0.5).view(n, kv_heads, group, d).permute(1, 2, 0, 3).reshape(kv_heads, group * n, d)
        scores = torch.bmm(grouped, k.permute(1, 2, 0)).view(kv_heads, group, n, -1) + rows
        out = torch.bmm(scores.softmax(-1).view(kv_heads, group * n, -1), v.transpose(0, 1))
        out = out.view(kv_heads, group, n, d).permute(2, 0, 1, 3).reshape(n, heads * d)
        x = x + lora(layer, number, "self_attn.o_proj", out)
        h = norm(layer.post_attention_layernorm, x)
        gated = F.silu(lora(layer, number, "mlp.gate_proj", h)) * lora(layer, number, "mlp.up_proj", h)
        x = x + lora(layer, number, "mlp.down_proj", gated)
    return norm(decoder.norm, x)
