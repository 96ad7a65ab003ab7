"""The training forward: many questions about one image share its tokens, computed once.

A plain function over the weights of a Hugging Face LlavaForConditionalGeneration. Every segment (a question with its
answer, or a caption) sees the shared prefix and itself; positions restart behind the prefix. A test holds it equal to
transformers' own forward of each question alone."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Packed:
    """b images. Row r of `tokens` is one token of one segment; no row is padding."""

    prefix: Tensor  # (p,) token ids before the image
    tokens: Tensor  # (m,) token ids of all segments
    positions: Tensor  # (m,) places within their segments, from 0
    targets: Tensor  # (m,) the next token where it is to be learnt, else -100
    weights: Tensor  # (m,) weight of each target's loss
    kinds: Tensor  # (m,) at the first token of an answer: which kind of question; else -1
    grids: list[Tensor]  # (b, n, t) rows of `tokens`, m where a shorter segment is padded
    back: Tensor  # (m,) where in the flattened grids a row is


def tower(model, pixels: Tensor) -> Tensor:
    """Patch features of images (b, 3, 128, 128) in [-1, 1]: (b, 64, d)."""
    vision = model.model.vision_tower
    x = vision.pre_layrnorm(vision.embeddings(pixels))
    for layer in vision.encoder.layers:
        h, attention = layer.layer_norm1(x), layer.self_attn
        q, k, v = (
            project(h).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        x = x + attention.out_proj(_attend(q, k, v).transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.layer_norm2(x))
    return x[:, 1:]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention over (..., rows, d); `mask` is added to the scores."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def norm(layer, x: Tensor) -> Tensor:
    """Llama's RMS norm."""
    return F.rms_norm(x, (x.shape[-1],), layer.weight, layer.variance_epsilon)


def rotation(positions: Tensor, d: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (rows, 1, d) of the rotary embedding."""
    frequency = theta ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
    angle = positions.float()[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1)[:, None].to(dtype), torch.cat([-sin, sin], -1)[:, None].to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (rows, h, d)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([x[..., half:], x[..., :half]], -1) * sin


def causal(n: int, dtype: torch.dtype) -> Tensor:
    """(n, n) with -inf above the diagonal."""
    return torch.full((n, n), float("-inf"), dtype=dtype).triu(1)


def attend(qkv: Tensor, b: int, p: int, batch: Packed) -> Tensor:
    """All attention of one layer. qkv (b * p + m, 3, h, d) -> (b * p + m, h * d)."""
    shared = qkv[: b * p].unflatten(0, (b, p)).permute(2, 0, 3, 1, 4)  # (3, b, h, p, d)
    first = _attend(*shared, mask=causal(p, qkv.dtype)).transpose(1, 2).flatten(2).flatten(0, 1)
    own = torch.cat([qkv[b * p :].flatten(1), qkv.new_zeros(1, qkv[0].numel())])
    outs = [_segments(own, shared, index, qkv.shape[2]) for index in batch.grids]
    return torch.cat([first, torch.cat(outs).index_select(0, batch.back)])


def _segments(own: Tensor, shared: Tensor, index: Tensor, heads: int) -> Tensor:
    """Segments of one grid (b, n, t): each row attends to its image's prefix and to its segment up to itself."""
    b, n, t = index.shape
    grid = own.index_select(0, index.flatten()).view(b, n, t, 3, heads, -1).permute(3, 0, 4, 1, 2, 5)
    q, k, v = grid  # (b, h, n, t, d)
    q = q * q.shape[-1] ** -0.5
    to_prefix = (q.flatten(2, 3) @ shared[1].transpose(-1, -2)).unflatten(2, (n, t))
    to_own = q @ k.transpose(-1, -2) + causal(t, q.dtype)
    share = torch.cat([to_prefix, to_own], -1).softmax(-1)
    p = to_prefix.shape[-1]
    out = (share[..., :p].flatten(2, 3) @ shared[2]).unflatten(2, (n, t)) + share[..., p:] @ v
    return out.permute(0, 2, 3, 1, 4).reshape(b * n * t, -1)


def decode(model, visual: Tensor, batch: Packed) -> Tensor:
    """Last hidden states of the segments' rows that have a target: (targets, d). visual (b, 64, d)."""
    decoder, b = model.model.language_model, len(visual)
    before = decoder.embed_tokens(batch.prefix).expand(b, -1, -1)
    p = before.shape[1] + visual.shape[1]
    x = torch.cat([torch.cat([before, visual], 1).flatten(0, 1), decoder.embed_tokens(batch.tokens)])
    places = torch.cat([torch.arange(p).repeat(b), batch.positions + p])
    heads = decoder.config.num_attention_heads
    d, theta = decoder.config.hidden_size // heads, decoder.config.rope_parameters["rope_theta"]
    cos, sin = rotation(places, d, theta, x.dtype)
    for layer in decoder.layers:
        h, attention = norm(layer.input_layernorm, x), layer.self_attn
        q, k, v = (f(h).unflatten(-1, (heads, d)) for f in (attention.q_proj, attention.k_proj, attention.v_proj))
        qkv = torch.stack([rotate(q, cos, sin), rotate(k, cos, sin), v], 1)
        x = x + attention.o_proj(attend(qkv, b, p, batch))
        h = norm(layer.post_attention_layernorm, x)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
    return norm(decoder.norm, x[b * p :][batch.targets >= 0])


def project(model, patches: Tensor) -> Tensor:
    """Patch features in the decoder's space: (b, 64, d)."""
    return model.model.multi_modal_projector(patches)
