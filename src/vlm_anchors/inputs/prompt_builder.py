"""Question and images become a model's inputs: chat template, processor, left padding."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, BadImage, BadModel, BadQuestion
from ..models.vlm import Vlm

if TYPE_CHECKING:
    from PIL import Image

MAX_CHARACTERS = 20_000
"""Of a question. Longer ones are refused before they are tokenized; a model's own context is often shorter still."""


@dataclass(frozen=True)
class Sample:
    """One question about one or more images, read and checked. `id` keys the noise of sampling."""

    images: "tuple[Image.Image, ...]"
    question: str
    id: str


@dataclass(frozen=True)
class Inputs:
    """What `model.generate` takes (`tensors`), and the prompts as sent, image placeholders not expanded."""

    prompts: tuple[str, ...]
    tensors: dict[str, Any]

    @property
    def length(self) -> int:
        """Tokens of the longest prompt, visual tokens included."""
        return int(self.tensors["input_ids"].shape[1])


def check_question(question: Any) -> str:
    """The question, if it is one; raises `BadQuestion` with what was expected and found."""
    if not isinstance(question, str):
        raise BadQuestion(f"Expected a question as text; found {type(question).__name__}.")
    if not question.strip():
        raise BadQuestion("The question is empty. Expected a question about the image, such as 'Is there a dog?'.")
    if len(question) > MAX_CHARACTERS:
        raise BadQuestion(
            f"The question has {len(question):,} characters; at most {MAX_CHARACTERS:,} are allowed. Shorten it."
        )
    return question


def prompt_of(vlm: Vlm, question: str, images: int) -> str:
    """The prompt as text: one user turn with its images first, through the model's chat template."""
    token = _image_token(vlm)
    if token and token in question:
        raise BadQuestion(f"The question holds {token}, the model's own mark for an image. Take it out.")
    if vlm.family.target == "qformer" and images > 1:
        raise BadImage(f"{vlm.name} takes one image a question; found {images}. Choose a model that takes several.")
    if vlm.processor.chat_template is None:
        return _plain_prompt(vlm, question, images, token)
    content = [{"type": "image"} for _ in range(images)] + [{"type": "text", "text": question}]
    turn = [{"role": "user", "content": content}]
    return vlm.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)


def prepare(vlm: Vlm, samples: Sequence[Sample], max_new_tokens: int = 0) -> Inputs:
    """Inputs of a batch, padded on the left, on the model's device and in its dtype.

    Raises `BadQuestion` where prompt and answer (`max_new_tokens`) do not fit the model's context, and `BadImage`
    where the processor cannot take an image.
    """
    prompts = tuple(prompt_of(vlm, sample.question, len(sample.images)) for sample in samples)
    return inputs_of(vlm, prompts, [sample.images for sample in samples], max_new_tokens)


def prepare_chats(
    vlm: Vlm,
    chats: "Sequence[Sequence[Mapping[str, Any]]]",
    images: "Sequence[Sequence[Image.Image]]",
    max_new_tokens: int = 0,
) -> Inputs:
    """Inputs of a batch of conversations.

    Args:
        vlm: What `va.load` returns.
        chats: For each row its turns, in the chat format of transformers; each turn's content is a list of parts.
        images: For each row its images, in the order in which its turns mention them.
        max_new_tokens: Room that the answer needs in the model's context.

    Raises:
        BadQuestion: Prompt and answer do not fit the model's context, or the text holds the model's mark for an image.
        BadImage: The processor cannot take an image.
        BadModel: The processor has no chat template.
    """
    prompts = tuple(prompt_of_chat(vlm, chat) for chat in chats)
    return inputs_of(vlm, prompts, images, max_new_tokens)


def prompt_of_chat(vlm: Vlm, chat: "Sequence[Mapping[str, Any]]") -> str:
    """A conversation as text, through the model's chat template."""
    token = _image_token(vlm)
    texts = [part["text"] for turn in chat for part in turn["content"] if part["type"] == "text"]
    if token and any(token in text for text in texts):
        raise BadQuestion(f"The conversation holds {token}, the model's own mark for an image. Take it out.")
    if vlm.processor.chat_template is None:
        raise BadModel(f"The processor of {vlm.name} has no chat template, so it takes no conversation.")
    try:
        return vlm.processor.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template may refuse roles or their order, each with an error of its own
        raise BadQuestion(f"The chat template of {vlm.name} does not take this conversation: {error}") from error


def inputs_of(
    vlm: Vlm, prompts: Sequence[str], images: "Sequence[Sequence[Image.Image]]", max_new_tokens: int
) -> Inputs:
    """Inputs of prompts that the chat template has made, padded on the left, on the model's device and in its dtype."""
    try:
        batch = vlm.processor(
            text=list(prompts),
            images=[list(own) for own in images] if any(images) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise BadImage(
            f"The processor of {vlm.name} cannot take these images ({str(error).strip().splitlines()[0][:200]}). "
            "Try one image of ordinary size and shape."
        ) from error
    _pad_questions_right(vlm, prompts, batch)
    inputs = Inputs(tuple(prompts), dict(batch.to(vlm.device, vlm.dtype)))
    _require_context(vlm, inputs.length, max_new_tokens)
    return inputs


def _require_context(vlm: Vlm, length: int, max_new_tokens: int) -> None:
    limit = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length + max_new_tokens > limit:
        raise BadQuestion(
            f"The prompt has {length:,} tokens, its images included; with {max_new_tokens:,} for the answer that is more "
            f"than the {limit:,} {vlm.name} can hold. Shorten the question, use fewer images or ask for fewer tokens."
        )


def _image_token(vlm: Vlm) -> str | None:
    """How the processor spells an image's placeholder; a Q-Former's processor may have none."""
    token = getattr(vlm.processor, "image_token", None)
    return str(token) if token is not None else None


def _plain_prompt(vlm: Vlm, question: str, images: int, token: str | None) -> str:
    """The prompt of the family's authors, for a processor without a chat template."""
    image, whole = vlm.family.prompt
    if image and token is None:
        raise BadModel(
            f"The processor of {vlm.name} has neither a chat template nor an image token; no prompt can be made."
        )
    shown = whole.format(images=image.format(image=token), question="QUESTION")
    warnings.warn(
        f"{vlm.name} has no chat template; the prompt is {shown!r}, as {vlm.family.title} has it.",
        AnchorsWarning,
        stacklevel=4,
    )
    return whole.format(images=image.format(image=token) * images, question=question)


def _pad_questions_right(vlm: Vlm, prompts: Sequence[str], batch: Any) -> None:
    """A Q-Former reads the question as well, and counts positions from the left: padding there would shift them."""
    if "qformer_input_ids" in batch:
        padded = vlm.processor.qformer_tokenizer(list(prompts), padding=True, padding_side="right", return_tensors="pt")
        batch["qformer_input_ids"], batch["qformer_attention_mask"] = padded["input_ids"], padded["attention_mask"]
