"""One request of /v1/chat/completions, read and checked before anything is computed."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import BadMessages, UserError
from ...generation.decodings import Greedy
from ...inputs.chat import Chat, read_chat
from ...interventions.method import Method
from ...registry import did_you_mean
from ...specs import choose, spec_of_all
from .problems import RequestProblem

if TYPE_CHECKING:
    from PIL import Image

MAX_CHOICES, MAX_STOPS, MAX_TOP_LOGPROBS, MAX_IMAGES = 8, 4, 20, 16
MAX_SPEC, MAX_TEXT = 2000, 1_000_000
"""Characters of a method's SPEC, and of all messages: longer ones take long before they are refused."""
IGNORED = {
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "safety_identifier",
    "reasoning_effort", "verbosity", "modalities",
}  # fmt: skip
"""Fields of OpenAI's API that change no answer here."""
KNOWN = {
    "model", "messages", "method", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n",
    "stream", "stream_options", "logprobs", "top_logprobs",
}  # fmt: skip


@dataclass(frozen=True)
class ChatRequest:
    """What one request asks for.

    Args:
        model: The name as the client wrote it.
        methods: The methods that act, in order.
        chat: Its turns and images.
        max_tokens: Most new tokens of each choice; None: as many as fit, up to what the server allows.
        temperature: 0 is greedy search.
        top_p: Share of the probability that is drawn from, in (0, 1].
        seed: Of the sampling noise; each choice has its own, derived from it.
        stop: Texts that end the answer; they are not part of it.
        n: Choices.
        stream: Whether tokens are sent as they come.
        include_usage: Whether a stream ends with a count of tokens.
        top_logprobs: None: no log-probabilities; else how many alternatives of each token.
    """

    model: str
    methods: tuple[Method, ...]
    chat: Chat
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    n: int
    stream: bool
    include_usage: bool
    top_logprobs: int | None

    @property
    def method(self) -> str:
        """The methods as a SPEC."""
        return spec_of_all(self.methods)


def read_request(
    body: Any, name: str, default: str, read_image: "Callable[[object], Image.Image]", most_tokens: int
) -> ChatRequest:
    """A request from its JSON.

    Args:
        body: The parsed JSON.
        name: The served model's name.
        default: SPEC of the method that acts where the request names none.
        read_image: Makes an image of a URL, or raises `RequestProblem`.
        most_tokens: Upper bound of `max_tokens`.

    Raises:
        RequestProblem: With the status and the field at fault.
    """
    if not isinstance(body, Mapping):
        raise RequestProblem(f"Expected a JSON object; found {type(body).__name__}.")
    unknown = sorted(str(key) for key in body if key not in KNOWN | IGNORED and body[key] is not None)
    if unknown:
        hint = did_you_mean(unknown[0], sorted(KNOWN))
        raise RequestProblem(
            f"This server does not know the field {unknown[0]!r}.{hint}", 400, "unknown_field", unknown[0]
        )
    model, methods = _model(body, name, default)
    chat = _chat(body.get("messages"), read_image)
    n = _whole(body, "n", 1, 1, MAX_CHOICES)
    drawn = any(body.get(key) is not None for key in ("top_p", "seed")) or n > 1
    return ChatRequest(
        model=model,
        methods=methods,
        chat=chat,
        max_tokens=_max_tokens(body, most_tokens),
        temperature=_number(body, "temperature", 1.0 if drawn else 0.0, 0.0, 2.0),
        top_p=_top_p(body),
        seed=_whole(body, "seed", secrets.randbits(31), -(2**63), 2**63),
        stop=_stops(body.get("stop")),
        n=n,
        stream=_switch(body, "stream"),
        include_usage=isinstance(body.get("stream_options"), Mapping)
        and bool(body["stream_options"].get("include_usage")),
        top_logprobs=_whole(body, "top_logprobs", 0, 0, MAX_TOP_LOGPROBS) if _switch(body, "logprobs") else None,
    )


def _model(body: Mapping[str, Any], name: str, default: str) -> tuple[str, tuple[Method, ...]]:
    """The model's name as asked for, and the methods it stands for: `NAME`, or `NAME@SPEC`, or the field `method`."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestProblem(f"Expected the field model, such as {name!r}; found {model!r:.80}.", 400, None, "model")
    spec: Any = default
    if model != name:
        if not model.startswith(f"{name}@"):
            hint = did_you_mean(model.partition("@")[0], [name])
            raise RequestProblem(f"This server has no model {model[:80]!r}.{hint}", 404, "model_not_found", "model")
        spec = model[len(name) + 1 :]
    own = body.get("method")
    if own is not None and model != name and own != spec:
        raise RequestProblem(
            f"model asks for {spec!r} and method for {own!r}. Name the method once.", 400, None, "method"
        )
    if own is not None and not isinstance(own, str):
        raise RequestProblem(
            f"Expected method as text, such as 'clva:alpha=5'; found {own!r:.60}.", 400, None, "method"
        )
    spec = spec if own is None else own
    if len(spec) > MAX_SPEC:
        raise RequestProblem(f"Expected a method of at most {MAX_SPEC} characters.", 400, None, "method")
    try:
        methods, decoding = choose(spec)
    except UserError as error:
        raise RequestProblem(str(error), 404, "method_not_found", "method") from error
    if decoding != Greedy():
        raise RequestProblem(
            f"{decoding.spec()} is a decoding; this server's is set by temperature, top_p and seed.",
            400,
            None,
            "method",
        )
    return model, methods


def _chat(messages: Any, read_image: "Callable[[object], Image.Image]") -> Chat:
    def of_part(part: Mapping[str, Any]) -> "Image.Image":
        url = part.get("image_url")
        return read_image(url.get("url") if isinstance(url, Mapping) else url)

    try:
        chat = read_chat(messages, {"image_url": of_part}, MAX_IMAGES)
    except BadMessages as error:
        raise RequestProblem(str(error), 400, None, error.where) from error
    texts = [part["text"] for turn in chat.turns for part in turn["content"] if "text" in part]
    if sum(map(len, texts)) > MAX_TEXT:
        raise RequestProblem(f"Expected messages of at most {MAX_TEXT:,} characters together.", 400, None, "messages")
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise RequestProblem("The messages hold half a character (an unpaired surrogate).", 400, None, "messages")
    return chat


def _max_tokens(body: Mapping[str, Any], most: int) -> int | None:
    key = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return None if body.get(key) is None else _whole(body, key, 1, 1, most)


def _top_p(body: Mapping[str, Any]) -> float:
    found = _number(body, "top_p", 1.0, 0.0, 1.0)
    if found == 0:
        raise RequestProblem("Expected top_p above 0 and at most 1; found 0.", 400, None, "top_p")
    return found


def _stops(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    found = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else (None,)
    if len(found) > MAX_STOPS or not all(isinstance(one, str) and 0 < len(one) <= 200 for one in found):
        raise RequestProblem(f"Expected stop as text or a list of at most {MAX_STOPS} texts.", 400, None, "stop")
    return found  # type: ignore[return-value]


def _switch(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise RequestProblem(f"Expected {key} to be true or false; found {value!r:.40}.", 400, None, key)
    return bool(value)


def _whole(body: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        shown = f"{value!r:.40}"
        raise RequestProblem(
            f"Expected {key} to be a whole number from {low} to {high}; found {shown}.", 400, None, key
        )
    return value


def _number(body: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise RequestProblem(f"Expected {key} from {low:g} to {high:g}; found {value!r:.40}.", 400, None, key)
    return float(value)
