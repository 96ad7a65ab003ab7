"""What a user asks becomes samples, a batch at a time: images are decoded when their batch is asked."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadImage, BadQuestion, BadSetting, UserError
from ..inputs.chat import Chat, read_chat
from ..inputs.images import read_image
from ..inputs.prompt_builder import Sample, check_question
from ..inputs.videos import Video, read_video
from ..registry import did_you_mean

if TYPE_CHECKING:
    from PIL import Image

FIELDS = ("image", "question", "messages", "video", "sample_id")
"""What a sample may hold: the arguments of `ask` that say what is asked."""


def checked_samples(samples: Any) -> Iterable[Any]:
    """The samples, if they can be counted through one by one. Raises `BadSetting`."""
    if isinstance(samples, (str, bytes, Mapping)) or not isinstance(samples, Iterable):
        raise BadSetting(
            f"Expected a list of (image, question) pairs or of dictionaries; found {type(samples).__name__}. Put it into a list."
        )
    return samples


def fields_of(item: Any) -> dict[str, Any]:
    """A sample of `ask_many` as arguments of `read_sample`. Raises `BadSetting`."""
    if isinstance(item, Mapping):
        for name in item:
            if name not in FIELDS:
                raise BadSetting(f"a sample has no field {name!r}.{did_you_mean(str(name), FIELDS)}")
        return dict(item)
    if _is_conversation(item):
        return {"messages": item}
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise BadSetting(
            f"expected (image, question), (image, question, id) or a dictionary of {', '.join(FIELDS)}; found {item!r:.80}."
        )
    return dict(zip(("image", "question", "sample_id"), item, strict=False))


def checked_window(window: Sequence[tuple[int, Any]]) -> tuple[dict[int, dict[str, Any]], dict[int, UserError]]:
    """(the samples that may be read, by their places; the first that cannot be and why). Decodes no image."""
    items: dict[int, dict[str, Any]] = {}
    for i, (number, item) in enumerate(window):
        try:
            items[i] = fields_of(item)
            _require_one_form(**items[i])
        except UserError as error:
            items.pop(i, None)
            return items, {i: type(error)(f"Sample {number}: {error}")}
    return items, {}


def batches_of(items: Mapping[int, Mapping[str, Any]], size: int) -> Iterator[list[int]]:
    """Places of samples that share a batch: of like length, with or without images; a video has a batch of its own."""
    order = sorted(items, key=lambda i: _measure(items[i]))
    batch: list[int] = []
    for i in order:
        videos, images, _ = _measure(items[i])
        other = batch and (videos > 0 or (images > 0) != (_measure(items[batch[0]])[1] > 0))
        if batch and (other or len(batch) == size):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _measure(item: Mapping[str, Any]) -> tuple[int, int, int]:
    """Numbers of videos, images and characters, before anything is read."""
    messages, image = item.get("messages"), item.get("image")
    if messages is None:
        images = 0 if image is None else len(image) if isinstance(image, (list, tuple)) else 1
        return int(item.get("video") is not None), images, len(str(item.get("question")))
    turns = [turn for turn in messages if isinstance(turn, Mapping)] if isinstance(messages, (list, tuple)) else []
    parts = [part for turn in turns if isinstance(turn.get("content"), list) for part in turn["content"]]
    kinds = [str(part.get("type")) for part in parts if isinstance(part, Mapping)]
    count = {kind: sum(one.startswith(kind) for one in kinds) for kind in ("video", "image")}
    return count["video"], count["image"], sum(len(str(turn.get("content"))) for turn in turns)


def read_batch(
    items: Mapping[int, Mapping[str, Any]], window: Sequence[tuple[int, Any]], chosen: Sequence[int],
    failures: dict[int, UserError],
) -> dict[int, Sample]:  # fmt: skip
    """The samples of a batch by their places, images decoded; those behind a sample that fails are not needed."""
    batch: dict[int, Sample] = {}
    for i in chosen:
        if any(i > failed for failed in failures):
            continue
        try:
            batch[i] = read_sample(**items[i])
        except UserError as error:
            failures[i] = type(error)(f"Sample {window[i][0]}: {error}")
    return batch


def read_sample(
    image: Any = None, question: Any = None, sample_id: str | None = None, *, messages: Any = None, video: Any = None
) -> Sample:
    """A question or a conversation with its images read.

    Raises:
        BadQuestion: There is none, or it cannot be asked.
        BadImage: An image or a video cannot be read.
        BadSetting: Both a question and a conversation are given.
    """
    _require_one_form(image, question, sample_id, messages=messages, video=video)
    if messages is not None:
        chat = read_chat(messages)
        check_question(chat.question)
    else:
        chat = _asked(image, question, video)
    question, kept = chat.question, None if chat.is_question else chat
    name = str(sample_id) if sample_id is not None else _digest(chat.images, question, kept)
    return Sample(chat.images, question, name, kept)


def _asked(image: Any, question: str, video: Any) -> Chat:
    """A question behind its images and its video, as a conversation of one turn."""
    item = [] if image is None else list(image) if isinstance(image, (list, tuple)) else [image]
    if image is not None and not item:
        raise BadImage("No image was given. Expected an image, or a list of one or more; without image= none is shown.")
    images = tuple(read_image(each) for each in item)
    videos = () if video is None else (read_video(video),)
    kinds = ["image"] * len(images) + ["video"] * len(videos)
    content: list[dict[str, Any]] = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
    return Chat(({"role": "user", "content": content},), images, videos)


def _require_one_form(
    image: Any = None, question: Any = None, sample_id: Any = None, *, messages: Any = None, video: Any = None
) -> None:
    """Raises where a sample is neither a question nor a conversation, or both."""
    both = [name for name, one in (("image", image), ("question", question), ("video", video)) if one is not None]
    if messages is not None and both:
        raise BadSetting(
            f"Expected messages alone, or a question with its images; found messages and {' and '.join(both)}. Put all into "
            'the messages: {"type": "image", "image": "FILE"} and {"type": "text", "text": "..."} are parts of a content.'
        )
    if messages is None and question is None:
        if _is_conversation(image):
            raise BadSetting("Expected an image; found a conversation. Pass it by name: ask(vlm, messages=[...]).")
        raise BadQuestion(
            "There is no question. Expected ask(vlm, image, question), ask(vlm, question=...) without an image, or "
            "ask(vlm, messages=[...])."
        )
    if messages is None:
        check_question(question)


def _is_conversation(item: Any) -> bool:
    return (
        isinstance(item, (list, tuple))
        and bool(item)
        and all(isinstance(one, Mapping) and "role" in one for one in item)
    )


def _digest(images: "Sequence[Image.Image]", question: str, chat: Chat | None) -> str:
    """The same images and question give the same digest, whatever file they came from."""
    digest = hashlib.blake2b(question.encode("utf-8", "replace"), digest_size=16)
    for image in images:
        _add(digest, image)
    if chat is not None:
        digest.update(json.dumps(chat.turns).encode())
        for frame in (frame for video in chat.videos for frame in _frames(video)):
            _add(digest, frame)
    return digest.hexdigest()


def _frames(video: Video) -> Sequence[Any]:
    return [video] if isinstance(video, str) else video


def _add(digest: Any, image: Any) -> None:
    digest.update(f"|{image}|".encode() if isinstance(image, str) else f"|{image.size}|".encode() + image.tobytes())
