"""What we know of model families: one row each, facts only. Imports nothing heavy.

A new family is a row here and a builder in tests/tiny_families.py, never an `if` elsewhere. `docs/families.md` is printed
from this table.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """One row.

    name: as users say it. model_types: `config.model_type` of the classes in it. title: the checkpoints people know.
    site: where attention to the image happens ("decoder" or "qformer"). visual: config attributes that hold the
    placeholder ids which become visual tokens. frame: config attributes, and frame_tokens the spellings, of the tags
    around and inside an image: neither visual tokens nor text. images: how one image is told from the next: by "runs"
    of placeholders that a tag interrupts, or by the vision "encoder", which returns one entry an image (where images
    may touch, or be interrupted by rows and timestamps). closing_tile: spelling of the tag before an image's last
    tile, where an image is cut into tiles that each have a tag. video_tags: config attributes of the tags around a
    video, where its frames have the placeholder of images. mrope: positions have three parts (time, height, width).
    causal_prefix: tokens before the question never see it, so a prefilled image can be reused. class_token: the first
    image feature of a Q-Former's keys is the class token, not a patch. projector: name of the module between vision
    tower and decoder. prompt: what an image and a question become where the processor has no chat template, as the
    family's authors have it; images are left out where the processor puts them in itself. again: what of a prompt may
    be read a second time (see `AGAIN`). refused: why a family cannot be steered, None if it can. note: what a user
    should know.
    """

    name: str
    model_types: tuple[str, ...]
    title: str
    target: str = "decoder"
    visual: tuple[str, ...] = ("image_token_id",)
    delimiters: tuple[str, ...] = ()
    delimiter_tokens: tuple[str, ...] = ()
    images: str = "runs"
    closing_tile: str | None = None
    video_tags: tuple[str, str] | None = None
    mrope: bool = False
    causal_prefix: bool = True
    class_token: bool = False
    projector: str = "multi_modal_projector"
    prompt: tuple[str, str] = ("{image}\n", "USER: {images}{question} ASSISTANT:")
    again: str = ""
    refused: str | None = None
    note: str = ""


AGAIN = ("", "alone", "words", "pixels")
"""Each has what is before it. "alone": the words without the image. "words": other words around the image, whose decoder
reads embeddings and is told nothing else of it. "pixels": another image, whose tower takes what the processor made."""

_QWEN: dict[str, Any] = {
    "visual": ("image_token_id", "video_token_id"),
    "delimiters": ("vision_start_token_id", "vision_end_token_id"),
    "mrope": True,
    "projector": "merger",
}
_TILE_TAGS: dict[str, Any] = {
    "delimiter_tokens": (
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    ),
    "closing_tile": "<global-img>",
    "projector": "connector",
}

FAMILIES = (
    Family("llava", ("llava",), "LLaVA-1.5, TinyLLaVA", images="encoder", again="pixels"),
    Family(
        "llava-next",
        ("llava_next",),
        "LLaVA-NeXT (1.6)",
        again="words",
        images="encoder",
        note="row newlines share the placeholder, so they count as visual tokens",
    ),
    Family(
        "llava-onevision",
        ("llava_onevision",),
        "LLaVA-OneVision",
        again="words",
        visual=("image_token_id", "video_token_id"),
        images="encoder",
        note="row newlines share the placeholder, so they count as visual tokens",
    ),
    Family("qwen2-vl", ("qwen2_vl",), "Qwen2-VL", again="pixels", **_QWEN),
    Family("qwen2.5-vl", ("qwen2_5_vl",), "Qwen2.5-VL", again="pixels", **_QWEN),
    Family(
        "qwen3-vl",
        ("qwen3_vl",),
        "Qwen3-VL",
        again="alone",
        images="encoder",
        note="timestamps between a video's frames are part of its frame, not text",
        **_QWEN,
    ),
    Family(
        "glm-4v",
        ("glm4v",),
        "GLM-4.1V",
        again="pixels",
        delimiters=("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id"),
        video_tags=("video_start_token_id", "video_end_token_id"),
        mrope=True,
        projector="merger",
        note="everything inside a video's tags that is not visual, timestamps too, is its frame",
    ),
    Family(
        "internvl",
        ("internvl",),
        "InternVL 2.5, 3, 3.5 (-HF)",
        again="pixels",
        delimiter_tokens=("<img>", "</img>"),
        note="all tiles of an image are one image; each frame of a video is one of its own",
    ),
    Family(
        "idefics3",
        ("idefics3",),
        "Idefics3",
        again="words",
        note="the tiles of an image, the whole picture included, are one image",
        **_TILE_TAGS,
    ),
    Family(
        "smolvlm",
        ("smolvlm",),
        "SmolVLM, SmolVLM2",
        again="words",
        note="tiles as in Idefics3; each frame of a video is an image of its own",
        **_TILE_TAGS,
    ),
    Family(
        "gemma3",
        ("gemma3",),
        "Gemma 3 (4B and larger)",
        again="alone",
        delimiters=("boi_token_id", "eoi_token_id"),
        note="with pan-and-scan, each crop is an image of its own",
    ),
    Family(
        "paligemma",
        ("paligemma",),
        "PaliGemma 1 and 2",
        images="encoder",
        causal_prefix=False,
        prompt=("{image}", "{images}answer en {question}"),
        note="the prompt is a prefix without causal order; PaliGemma 2 runs with attn_implementation='eager'",
    ),
    Family(
        "mistral3",
        ("mistral3",),
        "Mistral Small 3.1, 3.2",
        again="words",
        delimiter_tokens=("[IMG_BREAK]", "[IMG_END]"),
        images="encoder",
    ),
    Family(
        "instructblip",
        ("instructblip",),
        "InstructBLIP",
        again="pixels",
        target="qformer",
        class_token=True,
        projector="language_projection",
        prompt=("", "{question}"),
        note="edited in the Q-Former's cross-attention; target='decoder' for the LLM",
    ),
    Family(
        "blip-2",
        ("blip-2",),
        "BLIP-2",
        target="qformer",
        class_token=True,
        projector="language_projection",
        prompt=("", "Question: {question} Answer:"),
        note="edited in the Q-Former's cross-attention; target='decoder' for the LLM",
    ),
    Family(
        "mllama",
        ("mllama",),
        "Llama 3.2 Vision",
        refused="it reads its image in separate cross-attention layers, so text and image never share a softmax and "
        "no visual token stands in the prompt. Choose a model of another family (vlm-anchors families).",
    ),
)

UNKNOWN = Family(
    "unlisted",
    (),
    "a family that is not in the table",
    visual=("image_token_id", "video_token_id"),
    note="tried through the generic rules, with a warning that says what was assumed",
)


def family_of(config: "PreTrainedConfig") -> Family:
    """The row of a model's config; `UNKNOWN` if its model type is in no row."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    return UNKNOWN


def read_again(what: str) -> tuple[str, ...]:
    """Names of the families of which a method may read this much a second time."""
    return tuple(family.name for family in FAMILIES if AGAIN.index(family.again) >= AGAIN.index(what))
