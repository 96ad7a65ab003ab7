"""Questions and conversations become a model's inputs: chat template, processor, left padding."""

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, BadImage, BadModel, BadQuestion, MissingPackage, UserError, first_line
from ..models.vlm import Vlm
from .chat import Chat
from .mismatch import require_known_tokens
from .videos import Video

if TYPE_CHECKING:
    from PIL import Image

MAX_CHARACTERS = 20_000
"""Of a question. Longer ones are refused before they are tokenized; a model's own context is often shorter still."""


@dataclass(frozen=True)
class Sample:
    """One question about any number of images, read and checked.

    Attributes:
        images: In the order in which the prompt mentions them.
        question: Its text; of a conversation, that of the last turn.
        id: Keys the noise of sampling.
        chat: The turns, where it is more than one question behind its images.
    """

    images: "tuple[Image.Image, ...]"
    question: str
    id: str
    chat: Chat | None = None

    @property
    def videos(self) -> tuple[Video, ...]:
        return () if self.chat is None else self.chat.videos


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
    _require_no_marks(vlm, "question", [question])
    token = _image_token(vlm)
    if vlm.family.target == "qformer" and images > 1:
        raise BadImage(f"{vlm.name} takes one image a question; found {images}. Choose a model that takes several.")
    if vlm.family.target == "qformer" and not images:
        raise BadImage(f"{vlm.name} answers questions about an image, and none was given. Expected one image.")
    if vlm.processor.chat_template is None:
        return _plain_prompt(vlm, question, images, token)
    content = [{"type": "image"} for _ in range(images)] + [{"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}]
    try:
        prompt = _templated(vlm, turns)
    except Exception as error:  # a template is a program: it may raise anything
        raise BadModel(
            f"The chat template of {vlm.name} cannot write a question with {images} images ({first_line(error)}). {_CORRECT}"
        ) from error
    _require_question(vlm, prompt, turns)
    return prompt


_CORRECT = "Correct its chat_template, or set processor.chat_template and load the (model, processor) pair."


def _templated(vlm: Vlm, turns: "Sequence[Mapping[str, Any]]") -> str:
    return vlm.processor.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False)


def _require_question(vlm: Vlm, prompt: str, turns: "Sequence[Mapping[str, Any]]") -> None:
    """Raises `BadModel` where the template makes the same prompt of two questions. It may trim or escape what it shows."""
    *before, last = turns
    *parts, text = last["content"]
    if text["type"] != "text" or text["text"].strip() in prompt:
        return
    other = {**last, "content": [*parts, {"type": "text", "text": f"{text['text']} ?"}]}
    if _templated(vlm, [*before, other]) == prompt:
        raise BadModel(
            f"The chat template of {vlm.name} shows the model no question: its prompt is {prompt!r:.80}. {_CORRECT}"
        )


def prepare(vlm: Vlm, samples: Sequence[Sample], max_new_tokens: int = 0) -> Inputs:
    """Inputs of a batch, padded on the left, on the model's device and in its dtype.

    Raises:
        BadQuestion: Prompt and answer (`max_new_tokens`) do not fit the model's context, or the processor cannot take the words.
        BadImage: The processor cannot take these images, while it takes an ordinary one.
        BadModel: The processor takes no image at all, or its template shows the model none.
    """
    prompts = tuple(prompt_of_sample(vlm, sample) for sample in samples)
    return inputs_of(vlm, prompts, samples, max_new_tokens)


def prompt_of_sample(vlm: Vlm, sample: Sample) -> str:
    """The prompt as text, of a question or a conversation."""
    if sample.chat is None:
        return prompt_of(vlm, sample.question, len(sample.images))
    return prompt_of_chat(vlm, sample.chat.turns)


def prompt_of_chat(vlm: Vlm, chat: "Sequence[Mapping[str, Any]]") -> str:
    """A conversation as text, through the model's chat template.

    Raises:
        BadQuestion: The template refuses it, or its text holds the model's mark for an image.
        BadModel: The processor has no chat template, or one that cannot write a single question either.
    """
    _require_no_marks(
        vlm, "conversation", [part["text"] for turn in chat for part in turn["content"] if "text" in part]
    )
    if vlm.processor.chat_template is None:
        raise BadModel(
            f"The processor of {vlm.name} has no chat template, so it takes no conversation. Ask one question about one image."
        )
    try:
        prompt = _templated(vlm, chat)
    except Exception as error:  # a template may refuse roles or their order, each with an error of its own
        prompt_of(
            vlm, "?", 0 if vlm.family.target == "qformer" else 1
        )  # raises where it takes no single question either
        raise BadQuestion(
            f"The chat template of {vlm.name} does not take this conversation: {first_line(error)}. Change its roles or "
            "their order."
        ) from error
    _require_question(vlm, prompt, chat)
    return prompt


def inputs_of(vlm: Vlm, prompts: Sequence[str], samples: Sequence[Sample], max_new_tokens: int) -> Inputs:
    """Inputs of prompts that the chat template has made, padded on the left, on the model's device and in its dtype."""
    images = [sample.images for sample in samples]
    media: dict[str, Any] = {"images": [list(own) for own in images] if any(images) else None}
    videos = [video for sample in samples for video in sample.videos]
    if videos:
        _require_video_processor(vlm)
        media |= {"videos": [video if isinstance(video, str) else list(video) for video in videos]}
        if not any(isinstance(video, str) for video in videos):
            media["do_sample_frames"] = False  # whoever gives frames has chosen them
    try:
        batch = vlm.processor(text=list(prompts), padding=True, padding_side="left", return_tensors="pt", **media)
    except Exception as error:  # each processor has its own errors
        if videos:
            raise _video_fault(vlm, error) from error
        raise _processor_fault(vlm, images, error) from error
    batch.pop("video_metadata", None)
    _require_placeholders(vlm, images, batch["input_ids"])
    require_known_tokens(vlm, batch["input_ids"])
    _pad_questions_right(vlm, prompts, batch)
    inputs = Inputs(tuple(prompts), dict(batch.to(vlm.device, vlm.dtype)))
    _require_context(vlm, inputs.length, max_new_tokens)
    return inputs


def _require_video_processor(vlm: Vlm) -> None:
    """Raises where no video can be prepared, with the reason: the model, or a package that is missing."""
    takes = getattr(vlm.processor, "video_token", None) is not None or "video_token_id" in vlm.family.visual
    if getattr(vlm.processor, "video_processor", None) is not None:
        return
    if takes and importlib.util.find_spec("torchvision") is None:
        raise MissingPackage(
            f"{vlm.name} prepares videos with torchvision, which is not installed: pip install torchvision, and load the model "
            "again. Or ask about a few frames as images."
        )
    raise BadImage(f"{vlm.name} takes no videos. Ask about a few frames as images, or choose a model that takes them.")


def _video_fault(vlm: Vlm, error: Exception) -> UserError:
    if isinstance(error, ImportError):
        return MissingPackage(
            f"A video file is read by torchcodec, which is not installed or does not run here: pip install torchcodec. Or give "
            f"{vlm.name} the video's frames: a list of images."
        )
    if not _takes_videos(vlm):
        return BadModel(
            f"The processor of {vlm.name} cannot prepare any video ({first_line(error)}). Check the settings of its "
            "video_processor and its chat template against the model, or copy both again."
        )
    return BadImage(
        f"The processor of {vlm.name} cannot take this video ({first_line(error)}). Give its frames, a list of images."
    )


def _takes_videos(vlm: Vlm) -> bool:
    """Whether the processor prepares four ordinary frames beside an ordinary question."""
    from PIL import Image

    frames = [Image.new("RGB", (224, 224), "gray")] * 4
    try:
        prompt = _templated(vlm, [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}])
        vlm.processor(text=[prompt], videos=[frames], do_sample_frames=False, return_tensors="pt")
    except Exception:
        return False
    return True


def _require_no_marks(vlm: Vlm, what: str, texts: Sequence[str]) -> None:
    """Raises `BadQuestion` where a text holds the spelling of the model's placeholder for an image or a video."""
    for kind in ("image", "video"):
        token = getattr(vlm.processor, f"{kind}_token", None)
        if token and any(str(token) in text for text in texts):
            article = "an" if kind == "image" else "a"
            raise BadQuestion(f"The {what} holds {token}, the model's own mark for {article} {kind}. Take it out.")


def _processor_fault(vlm: Vlm, images: "Sequence[Sequence[Image.Image]]", error: Exception) -> UserError:
    """Blames what is at fault: the processor is tried with ordinary images and words, then with these images."""
    from PIL import Image

    why, count = first_line(error), max(map(len, images), default=0)
    if isinstance(error, MemoryError):
        return BadImage(
            f"Not enough memory to prepare these images for {vlm.name}. Use smaller images or smaller batches."
        )
    if not _takes(vlm, [Image.new("RGB", (224, 224), "gray") for _ in range(count)]):
        return BadModel(
            f"The processor of {vlm.name} cannot prepare {'any image' if count else 'a question'} ({why}). Check its settings "
            "(patch_size, vision_feature_select_strategy, chat template) against those of the model, or copy both again."
        )
    if not all(_takes(vlm, own) for own in images):
        return BadImage(
            f"The processor of {vlm.name} cannot take these images ({why}). Try one image of ordinary size and shape."
        )
    return BadQuestion(
        f"The processor of {vlm.name} cannot take these words ({why}). Word the question in another way."
    )


def _takes(vlm: Vlm, images: "Sequence[Image.Image]") -> bool:
    """Whether the processor prepares these images beside an ordinary question."""
    try:
        prompt = prompt_of(vlm, "?", len(images))
        vlm.processor(text=[prompt], images=[list(images)] if images else None, return_tensors="pt")
    except Exception:
        return False
    return True


def _require_placeholders(vlm: Vlm, images: "Sequence[Sequence[Image.Image]]", ids: Any) -> None:
    token = getattr(vlm.model.config, "image_token_id", None)
    if not isinstance(token, int) or vlm.family.target == "qformer":
        return
    for own, shown in zip(images, (ids == token).any(1).tolist(), strict=True):
        if own and not shown:
            raise BadModel(
                f"The chat template of {vlm.name} shows the model no image: its image token {token} is not in the prompt. "
                "Correct the chat template, or image_token_id in the model's config."
            )


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
