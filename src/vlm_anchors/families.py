"""What we know of model families: one row each, facts only. Imports nothing heavy.

A new family is a row here and a builder in tests/tiny.py, never an `if` elsewhere. `docs/families.md` is printed
from this table.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """One row.

    name: as users say it. model_types: `config.model_type` of the classes in it. title: the checkpoints people know.
    site: where attention to the image happens ("decoder" or "qformer"). visual: config attributes that hold the
    placeholder ids which become visual tokens. frame: config attributes, and frame_tokens the spellings, of the tags
    around and inside an image: neither visual tokens nor text. closing_tile: spelling of the tag before an image's
    last tile, where an image is cut into tiles that each have a tag. mrope: positions have three parts (time, height,
    width). causal_prefix: tokens before the question never see it, so a prefilled image can be reused. class_token:
    the first image feature of a Q-Former's keys is the class token, not a patch. projector: name of the module
    between vision tower and decoder. refused: why a family cannot be steered, None if it can. note: what a user
    should know.
    """

    name: str
    model_types: tuple[str, ...]
    title: str
    site: str = "decoder"
    visual: tuple[str, ...] = ("image_token_id",)
    frame: tuple[str, ...] = ()
    frame_tokens: tuple[str, ...] = ()
    closing_tile: str | None = None
    mrope: bool = False
    causal_prefix: bool = True
    class_token: bool = False
    projector: str = "multi_modal_projector"
    refused: str | None = None
    note: str = ""


FAMILIES = (
    Family("llava", ("llava",), "LLaVA-1.5, TinyLLaVA"),
    Family(
        "instructblip",
        ("instructblip",),
        "InstructBLIP",
        site="qformer",
        class_token=True,
        projector="language_projection",
        note="edited in the Q-Former's cross-attention; site='decoder' for the LLM",
    ),
    Family(
        "blip-2",
        ("blip-2",),
        "BLIP-2",
        site="qformer",
        class_token=True,
        projector="language_projection",
        note="edited in the Q-Former's cross-attention; site='decoder' for the LLM",
    ),
)

UNKNOWN = Family("unlisted", (), "a family that is not in the table", note="tried through the generic rules")


def family_of(config: "PreTrainedConfig") -> Family:
    """The row of a model's config; `UNKNOWN` if its model type is in no row."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    return UNKNOWN
