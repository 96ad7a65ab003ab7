"""The fields of one row of the family table (`families.py`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One row of the family table.

    Tags around images whose ids are in the config (`vision_start_token_id`, `boi_token_id`, ...) are read from there by
    name and need no entry here.

    Args:
        name: as users say it.
        model_types: `config.model_type` of the classes in it.
        title: the checkpoints people know.
        target: where attention to the image happens ("decoder" or "qformer").
        visual: config attributes that hold the placeholder ids which become visual tokens.
        visual_mask: argument of the decoder that marks the visual tokens, in families where no placeholder's id does.
        learned_queries: visual tokens are the projector's queries, which stand for no place in the image.
        delimiter_tokens: spellings of the tags around and inside an image that only the tokenizer knows; neither visual
            tokens nor text.
        images: how one image is separated from the next: by "runs" of placeholders that a tag interrupts, or by the vision
            "encoder", which returns one entry an image (where images may touch, or be interrupted by rows and timestamps).
        image_tags: tags before and after an image, where everything between them is one image. A config attribute, an
            attribute of the tokenizer, or a spelling.
        video_tags: the same for a video.
        first_tile: tag before an image's first tile, where an image is cut into tiles that each have a tag.
        closing_tile: tag before an image's last tile.
        end_tag_follows: the processor puts one end tag right behind each image's last token, whatever its id.
        thumbnail: where the tile that shows the whole image stands among its tiles: "first", "last", or "" (no such tile).
        mrope: positions have three parts (time, height, width).
        causal_prefix: tokens before the question never see it, so a prefilled image can be reused.
        class_token: the first image feature of a Q-Former's keys is the class token, not a patch.
        projector: name of the module between vision tower and decoder.
        prompt: what an image and a question become where the processor has no chat template, as the family's authors have
            it; images are left out where the processor puts them in itself.
        again: what of a prompt may be read a second time (see `AGAIN`).
        refused: why a family cannot be steered, None if it can.
        note: what a user should know.
    """

    name: str
    model_types: tuple[str, ...]
    title: str
    target: str = "decoder"
    visual: tuple[str, ...] = ("image_token_id",)
    visual_mask: str = ""
    learned_queries: bool = False
    delimiter_tokens: tuple[str, ...] = ()
    images: str = "runs"
    image_tags: tuple[str, str] | None = None
    video_tags: tuple[str, str] | None = None
    first_tile: str | None = None
    closing_tile: str | None = None
    end_tag_follows: bool = False
    thumbnail: str = ""
    mrope: bool = False
    causal_prefix: bool = True
    class_token: bool = False
    projector: str = "multi_modal_projector"
    prompt: tuple[str, str] = ("{image}\n", "USER: {images}{question} ASSISTANT:")
    again: str = ""
    refused: str | None = None
    note: str = ""

    @property
    def tags_in_tokenizer(self) -> bool:
        """Whether some of its tags are known to the tokenizer only."""
        spelled = (self.first_tile, self.closing_tile, *(self.image_tags or ()), *(self.video_tags or ()))
        return bool(self.delimiter_tokens) or any(one and not one.endswith("_id") for one in spelled)


AGAIN = ("", "alone", "words", "pixels")
"""Each has what is before it. "alone": the words without the image. "words": other words around the image, whose decoder
reads embeddings and nothing else of it. "pixels": another image, whose tower takes what the processor made."""

UNKNOWN = Family(
    "unlisted",
    (),
    "a family that is not in the table",
    visual=("image_token_id", "video_token_id"),
    delimiter_tokens=(
        "<|vision_start|>", "<|vision_end|>", "<|image_start|>", "<|image_end|>", "<|begin_of_image|>", "<|end_of_image|>",
        "<start_of_image>", "<end_of_image>", "<img>", "</img>", "[IMG_BREAK]", "[IMG_END]",
    ),
    note="tried through the generic rules, with a warning that says what was assumed",
)  # fmt: skip
