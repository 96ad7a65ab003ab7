"""A judge model behind an OpenAI-compatible address. Nothing is sent before `ask` is called.

The key comes from an environment variable and goes into the header of the request alone: neither files nor sentences hold
it. Addresses that point elsewhere are not followed, since the key would go there too.
"""

import http.client
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...errors import BadData, BadSetting
from ...text_files import parse_json

ROLE = "You are a helpful and precise assistant for checking the quality of the answer."
ENDPOINT = "/chat/completions"
MOST_BYTES = 16 << 20
"""Of one reply."""
T = TypeVar("T")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible chat endpoint, asked as LLaVA's script asks unless other settings are given.

    Args:
        url: Its address, with or without /chat/completions.
        model: The judge's name there.
        key_variable: The environment variable that holds the key.
        temperature: Of the judge's sampling.
        max_tokens: The longest review; None: the server's own limit.
        timeout: Seconds that one review may take in all, however slowly the server writes.
        role: The system message; empty: none.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    max_tokens: int | None = 1024
    timeout: float = 120.0
    role: str = ROLE

    def __post_init__(self):
        if not _is_address(self.url):
            raise BadSetting(
                "Expected --url as an address such as http://localhost:8000/v1, without a user's name or key in it; "
                "found another text. Give the address of an OpenAI-compatible server."
            )

    @property
    def address(self) -> str:
        """Where a review is asked for, as it is stored and shown: without what follows a "?"."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        return f"{parts.scheme}://{parts.netloc}{path if path.endswith(ENDPOINT) else path + ENDPOINT}"

    def ask(self, text: str) -> str:
        """One review; `BadSetting` where the address gives none, `BadData` where its reply is no text."""
        query = urlsplit(self.url).query
        request = urllib.request.Request(
            self.address + (f"?{query}" if query else ""), self._body(text), self._headers()
        )
        try:
            body = within(self.timeout, lambda: self._reply(request))
        except urllib.error.HTTPError as refusal:
            raise BadSetting(
                f"The judge at {self.address} answered {refusal.code}{self._reason(refusal)}. {self._advice(refusal.code)}; "
                f"run again to go on."
            ) from None
        except (OSError, http.client.HTTPException) as problem:
            why = self._without_key(_short(getattr(problem, "reason", problem)))
            raise BadSetting(
                f"No judge can be reached at {self.address} ({why}). Check --url and that the server runs; run again to go on."
            ) from None
        review = _text(body)
        if not review:
            raise BadData(
                f"The judge at {self.address} replied without text: expected choices[0].message.content, found "
                f"{self._without_key(_shape(body))}. Check --url and the model {self.model!r}; run again to go on."
            )
        if self._without_key(review) != review:
            raise BadData(
                f"The judge at {self.address} repeats the key in its review, so nothing of it is kept. Check --url: is it a "
                f"server that you trust? Change the key."
            )
        return review

    def _reply(self, request: urllib.request.Request) -> bytes:
        with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as reply:
            body = reply.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise OSError(f"its reply is longer than {MOST_BYTES >> 20} MB")
        return body

    def _without_key(self, text: str) -> str:
        """The text with the key, or what quoting makes of it, blotted out."""
        key = self._key()
        for written in (key, json.dumps(key)[1:-1], repr(key)[1:-1], urllib.parse.quote(key, safe="")) if key else ():
            text = text.replace(written, "***")
        return text

    def _body(self, text: str) -> bytes:
        messages = [{"role": "system", "content": self.role}] if self.role else []
        messages.append({"role": "user", "content": text})
        settings: dict[str, Any] = {"temperature": self.temperature}
        if self.max_tokens is not None:
            settings["max_tokens"] = self.max_tokens
        return json.dumps({"model": self.model, "messages": messages, **settings}).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        key = self._key()
        if not (key.isascii() and key.isprintable()):
            raise BadSetting(
                f"The key in {self.key_variable} holds characters that no key has, such as a line break. Set it anew."
            )
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()

    def _reason(self, refusal: urllib.error.HTTPError) -> str:
        """What the server says of a refusal, unless it may repeat the key or a part of it."""
        try:
            said = str(parse_json(refusal.read(10_000))["error"]["message"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return ""
        key = self._key()
        return "" if refusal.code in (401, 403) or (key and key in said) else f" ({_short(said)})"

    def _advice(self, code: int) -> str:
        if code in (401, 403):
            found = "was refused" if self._key() else "is not set"
            return f"The key in the environment variable {self.key_variable} {found}: set the right one"
        if 300 <= code < 400:
            return "It points to another address: give that one as --url"
        if code == 429 or code >= 500:
            return "Wait a while"
        return f"Check --url and the model {self.model!r}"


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns, or raises; `TimeoutError` where it takes longer. A socket's own limit starts anew with each byte."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=run, name="vlm-anchors-judge", daemon=True)
    worker.start()
    worker.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError("timed out")
    return done[0]


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and "@" not in parts.netloc and url.isascii() and url.isprintable() and " " not in url


def _text(reply: bytes) -> str:
    """The review in a reply; empty where there is none."""
    try:
        content = parse_json(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) and content.strip() else ""


def _shape(reply: bytes) -> str:
    """What a reply is, in words that repeat nothing of its content: an echo would show the key."""
    try:
        body = parse_json(reply)
    except ValueError:
        return "no JSON" if reply.strip() else "nothing"
    return (
        f"an object with {_short(', '.join(map(repr, body)) or 'nothing')}" if isinstance(body, dict) else "no object"
    )


def _short(words: Any) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= 120 else text[:117] + "..."
