"""Conversations in the chat format of transformers and OpenAI: turns with roles, their content text or a list of parts.

Who reads one says what its parts may be: in Python an image may be a path or an object, while a request to a server must
never name a file of the machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadImage, BadMessages, BadQuestion
from .images import read_image
from .videos import Video, read_video

if TYPE_CHECKING:
    from PIL import Image

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 200
MODALITIES = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
Readers = Mapping[str, Callable[[Mapping[str, Any]], Any]]
"""Type of a part -> what makes an image or a video of it."""


@dataclass(frozen=True)
class Chat:
    """A conversation whose images and videos are read.

    Attributes:
        turns: The chat format of transformers; images and videos stand as `{"type": "image"}` where they are mentioned.
        images: In the order of the turns.
        videos: In the order of the turns.
    """

    turns: tuple[dict[str, Any], ...]
    images: "tuple[Image.Image, ...]" = ()
    videos: tuple[Video, ...] = ()

    @property
    def question(self) -> str:
        """The text of the last turn."""
        return "\n".join(part["text"] for part in self.turns[-1]["content"] if part["type"] == "text")

    @property
    def is_question(self) -> bool:
        """Whether it is one question behind its images, which can be asked without a conversation."""
        kinds = [part["type"] for part in self.turns[-1]["content"]]
        return len(self.turns) == 1 and kinds == ["image"] * len(self.images) + ["text"]


def read_chat(messages: Any, readers: Readers | None = None, most_images: int | None = None) -> Chat:
    """A conversation from its messages.

    Args:
        messages: `[{"role": "user", "content": [{"type": "image", "image": "kitchen.png"}, {"type": "text", "text": "..."}]}]`;
            a content may be text alone.
        readers: What parts other than text may be; by default images and videos of this machine.
        most_images: How many images are allowed; None: any number.

    Raises:
        BadMessages: With the place at fault, such as `messages[0].role`.
        BadImage: An image or a video cannot be read.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        found = type(messages).__name__ if messages or messages is None else "nothing in it"
        raise BadMessages(f"Expected messages, a list of one or more turns; found {found}.")
    if len(messages) > MAX_MESSAGES:
        raise BadMessages(f"Expected at most {MAX_MESSAGES} messages; found {len(messages)}.")
    readers = _OF_THIS_MACHINE if readers is None else readers
    turns: list[dict[str, Any]] = []
    read: dict[str, list[Any]] = {"image": [], "video": []}
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role: Any = message.get("role") if isinstance(message, Mapping) else message
        if not isinstance(message, Mapping) or not isinstance(role, str) or role not in ROLES:
            raise BadMessages(
                f"{where} has the role {role!r:.40}; expected one of {', '.join(ROLES)}.", where=f"{where}.role"
            )
        where = f"{where}.content"
        content = [_part(part, where, readers, read, most_images) for part in _parts(message.get("content"), where)]
        turns.append({"role": ROLES[role], "content": content})
    if turns[-1]["role"] != "user":
        raise BadMessages("The last message must be the user's.")
    if not any(part["type"] == "text" and part["text"].strip() for part in turns[-1]["content"]):
        raise BadMessages("The last message holds no text. Expected a question.")
    return Chat(tuple(turns), tuple(read["image"]), tuple(read["video"]))


def _parts(content: Any, where: str) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, (list, tuple)) and content:
        return list(content)
    found = f"is of type {type(content).__name__}" if content else "is empty"
    raise BadMessages(f"{where} {found}. Expected text, or a list of parts.", where=where)


def _part(
    part: Any, where: str, readers: Readers, read: dict[str, list[Any]], most_images: int | None
) -> dict[str, Any]:
    kind: Any = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if not isinstance(kind, str) or kind not in readers:
        known = ", ".join(["text", *readers])
        raise BadMessages(f"{where} holds a part of type {kind!r:.40}; expected one of {known}.", where=where)
    modality = MODALITIES[kind]
    if modality == "image" and most_images is not None and len(read["image"]) == most_images:
        raise BadMessages(f"Expected at most {most_images} images.", where=where)
    try:
        read[modality].append(readers[kind](part))
    except (BadImage, BadQuestion) as error:
        raise type(error)(f"{where}: {error}") from error
    return {"type": modality}


def _named(part: Mapping[str, Any], *keys: str) -> Any:
    """What the part holds under the first of these keys; of `{"url": ...}`, the address."""
    found = next((part[key] for key in keys if part.get(key) is not None), None)
    if found is None:
        raise BadQuestion(
            f'a part of type {part["type"]!r} holds nothing. Expected it in the part itself: {{"type": "{keys[0]}", '
            f'"{keys[0]}": "FILE"}}.'
        )
    return found.get("url") if isinstance(found, Mapping) else found


_OF_THIS_MACHINE: Readers = {
    "image": lambda part: read_image(_named(part, "image", "path", "url", "base64")),
    "image_url": lambda part: read_image(_named(part, "image_url")),
    "video": lambda part: read_video(_named(part, "video", "path", "url")),
}
