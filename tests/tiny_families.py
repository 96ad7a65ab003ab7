"""One tiny random model of every decoder family, and prompts whose layout is written down beside them.

A prompt is a list of parts: words (token ids) or a picture. A picture knows its own tokens piece by piece, so that a
test can say which of them are visual, frame or text without asking the code it tests.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import tiny_models as models
import torch
from tiny_models import BOS, BREAK, CLIP_END, CLIP_START, END, IMAGE, NEWLINE, PAD, START, TILE, VIDEO, WHOLE, WORD


@dataclass
class Picture:
    """An image or a video. pieces: (kind, ids) with kind "visual", "delimiters" or "text". pixels: its part of the inputs."""

    pieces: list[tuple[str, list[int]]]
    pixels: dict[str, torch.Tensor]


@dataclass
class Tiny:
    """One family. build(kv_heads): the model. image, video: make a Picture from a generator. collate: inputs of pictures."""

    name: str
    build: Callable
    image: Callable
    collate: Callable
    video: Callable | None = None
    tags_in_tokenizer: bool = False
    """Whether the tags around images are known to the tokenizer only."""


@dataclass
class Prompt:
    """One prompt laid out: ids, the key positions of each image, and the text rows (after the first visual token)."""

    parts: list
    ids: list[int] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    text: list[int] = field(default_factory=list)

    def __post_init__(self):
        for part in self.parts:
            pieces = part.pieces if isinstance(part, Picture) else [("text", part)]
            seen = bool(self.images)
            if isinstance(part, Picture):
                self.images.append([])
            for kind, ids in pieces:
                places = range(len(self.ids), len(self.ids) + len(ids))
                if kind == "visual":
                    self.images[-1] += places
                elif kind == "text" and seen:
                    self.text += places
                self.ids += ids

    @property
    def pictures(self):
        return [part for part in self.parts if isinstance(part, Picture)]


def batch(family: Tiny, prompts: list[Prompt]) -> dict:
    """Model inputs of a left-padded batch."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[PAD] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts])
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    return inputs | family.collate(ids, [prompt.pictures for prompt in prompts])


def prompts(family: Tiny, kinds: list[str], seed: int = 0) -> list[Prompt]:
    """One prompt for each word of `kinds`: "i" is an image, "v" a video, "." a few words."""
    generator = torch.Generator().manual_seed(seed)

    def words():
        count = int(torch.randint(2, 6, (1,), generator=generator))
        return torch.randint(WORD, 100, (count,), generator=generator).tolist()

    makers = {"i": family.image, "v": family.video}
    made = []
    for kind in kinds:
        parts = [makers[one](generator) if one in makers else words() for one in kind]
        made.append(Prompt([[BOS], *parts]))
    return made


def _flat(per_prompt):
    return [picture.pixels for pictures in per_prompt for picture in pictures]


def _cat(pixels, *names):
    return {name: torch.cat(got) for name in names if (got := [one[name] for one in pixels if name in one])}


def _joined(*names):
    return lambda ids, per_prompt: _cat(_flat(per_prompt), *names)


def _square(side, tokens, pieces=None):
    """An image of one fixed size, with a fixed number of tokens."""

    def image(generator):
        pixels = torch.randn(1, 3, side, side, generator=generator)
        return Picture(pieces or [("visual", [IMAGE] * tokens)], {"pixel_values": pixels})

    return image


def _anyres(generator):
    """LLaVA-NeXT's image: the whole (16 tokens) and two tiles side by side or one above the other, with row newlines."""
    wide = bool(torch.randint(2, (1,), generator=generator))
    tokens = 16 + (4 * 9 if wide else 8 * 5)
    size = torch.tensor([[16, 32] if wide else [32, 16]])
    pixels = {"pixel_values": torch.randn(1, 3, 3, 16, 16, generator=generator), "image_sizes": size}
    return Picture([("visual", [IMAGE] * tokens)], pixels)


def _onevision_video(generator):
    frames = torch.randn(1, 5, 3, 16, 16, generator=generator)
    return Picture([("visual", [VIDEO] * (5 * 4 + 1))], {"pixel_values_videos": frames})


def _patches(generator, frames, kind):
    """Qwen's flattened patches: 8 x 12 or 8 x 10 of them, merged two by two."""
    width = 12 if torch.randint(2, (1,), generator=generator) else 10
    grid = torch.tensor([[frames, 8, width]])
    pixels = torch.randn(frames * 8 * width, 96, generator=generator)
    names = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    return 2 * width, dict(zip(names, (pixels, grid), strict=True))


def _qwen_image(generator):
    tokens, pixels = _patches(generator, 1, "image")
    return Picture([("delimiters", [START]), ("visual", [IMAGE] * tokens), ("delimiters", [END])], pixels)


def _qwen_video(generator):
    tokens, pixels = _patches(generator, 2, "video")
    return Picture([("delimiters", [START]), ("visual", [VIDEO] * 2 * tokens), ("delimiters", [END])], pixels)


def _qwen3_video(generator):
    """Every frame has tags of its own and a timestamp before it; the first timestamp stands before the video."""
    tokens, pixels = _patches(generator, 2, "video")
    delimiters = [("delimiters", [START]), ("visual", [VIDEO] * tokens), ("delimiters", [END])]
    pieces = [
        ("delimiters", [START]),
        ("text", [71, 72]),
        *delimiters,
        ("delimiters", [73, 74]),
        *delimiters,
        ("delimiters", [END]),
    ]
    return Picture(pieces, pixels)


def _glm_video(generator):
    """Frames in image tags, a timestamp after each, video tags around them; the placeholder is the images'."""
    tokens, pixels = _patches(generator, 2, "video")
    delimiters = [("delimiters", [START]), ("visual", [IMAGE] * tokens), ("delimiters", [END]), ("delimiters", [75])]
    return Picture([("delimiters", [CLIP_START]), *delimiters, *delimiters, ("delimiters", [CLIP_END])], pixels)


def _qwen_collate(ids, per_prompt):
    joined = _cat(_flat(per_prompt), "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
    return joined | {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}


def _glm_collate(ids, per_prompt):
    inside = (ids == CLIP_START).cumsum(1) > (ids == CLIP_END).cumsum(1)
    types = (ids == IMAGE).long() * torch.where(inside, 2, 1)
    return _qwen_collate(ids, per_prompt) | {"mm_token_type_ids": types}


def _internvl_image(generator):
    tiles = 1 + int(torch.randint(2, (1,), generator=generator))
    pixels = {"pixel_values": torch.randn(tiles, 3, 32, 32, generator=generator)}
    return Picture([("delimiters", [START]), ("visual", [IMAGE] * 16 * tiles), ("delimiters", [END])], pixels)


def _tiled_image(generator):
    """Idefics3's image: two tiles in a row and the whole, each with its tag; or the whole alone."""
    whole = [("delimiters", [START, WHOLE]), ("visual", [IMAGE] * 16), ("delimiters", [START])]
    split = bool(torch.randint(2, (1,), generator=generator))
    row = [
        ("delimiters", [START, TILE]),
        ("visual", [IMAGE] * 16),
        ("delimiters", [START, TILE + 1]),
        ("visual", [IMAGE] * 16),
    ]
    pieces = [*row, ("delimiters", [NEWLINE, NEWLINE]), *whole] if split else whole
    return Picture(pieces, {"pixel_values": torch.randn(3 if split else 1, 3, 16, 16, generator=generator)})


def _tiled_collate(ids, per_prompt):
    """All tiles of a prompt side by side, filled up with black ones, which the model drops."""
    tiles = [torch.cat([picture.pixels["pixel_values"] for picture in pictures]) for pictures in per_prompt]
    return {"pixel_values": torch.nn.utils.rnn.pad_sequence(tiles, batch_first=True)}


def _gemma_collate(ids, per_prompt):
    return _cat(_flat(per_prompt), "pixel_values") | {"token_type_ids": (ids == IMAGE).long()}


def _paligemma_collate(ids, per_prompt):
    return _cat(_flat(per_prompt), "pixel_values") | {"token_type_ids": torch.zeros_like(ids)}


def _pixtral_image(generator):
    """Rows of four tokens, a break after each but the last, an end tag after that."""
    rows = 4 + int(torch.randint(3, (1,), generator=generator))
    row = ("visual", [IMAGE] * 4)
    pieces = [piece for _ in range(rows - 1) for piece in (row, ("delimiters", [BREAK]))] + [row, ("delimiters", [END])]
    pixels = torch.zeros(1, 3, 48, 32)
    pixels[:, :, : 8 * rows] = torch.randn(1, 3, 8 * rows, 32, generator=generator)
    return Picture(pieces, {"pixel_values": pixels, "image_sizes": torch.tensor([[8 * rows, 32]])})


_boxed = [("delimiters", [START]), ("visual", [IMAGE] * 16), ("delimiters", [END])]

FAMILIES = {
    family.name: family
    for family in (
        Tiny("llava", models.llava, _square(24, 36), _joined("pixel_values")),
        Tiny("llava-next", models.llava_next, _anyres, _joined("pixel_values", "image_sizes")),
        Tiny(
            "llava-onevision", models.llava_onevision, _anyres,
            _joined("pixel_values", "image_sizes", "pixel_values_videos"), video=_onevision_video,
        ),
        Tiny("qwen2-vl", models.qwen2_vl, _qwen_image, _qwen_collate, video=_qwen_video),
        Tiny("qwen2.5-vl", models.qwen2_5_vl, _qwen_image, _qwen_collate, video=_qwen_video),
        Tiny("qwen3-vl", models.qwen3_vl, _qwen_image, _qwen_collate, video=_qwen3_video),
        Tiny("glm-4v", models.glm4v, _qwen_image, _glm_collate, video=_glm_video),
        Tiny("internvl", models.internvl, _internvl_image, _joined("pixel_values"), tags_in_tokenizer=True),
        Tiny("idefics3", models.idefics3, _tiled_image, _tiled_collate, tags_in_tokenizer=True),
        Tiny("smolvlm", models.smolvlm, _tiled_image, _tiled_collate, tags_in_tokenizer=True),
        Tiny("gemma3", models.gemma3, _square(32, 16, _boxed), _gemma_collate),
        Tiny("paligemma", models.paligemma, _square(16, 16), _paligemma_collate),
        Tiny("paligemma2", models.paligemma2, _square(16, 16), _paligemma_collate),
        Tiny(
            "mistral3", models.mistral3, _pixtral_image, _joined("pixel_values", "image_sizes"),
            tags_in_tokenizer=True,
        ),
    )
}  # fmt: skip
