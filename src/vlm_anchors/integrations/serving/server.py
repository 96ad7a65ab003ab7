"""The HTTP surface: OpenAI's chat completions, models, health and metrics, on FastAPI.

The request's body is read under a bound before it is parsed, the key is compared in constant time and never logged, and every
error has OpenAI's shape. Server-sent events and completions are openai's own types, as in `transformers serve`; the routes of
`transformers serve` that load other models or take other modalities are left out on purpose.
"""

import asyncio
import functools
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from transformers.cli.serving.utils import X_REQUEST_ID, BaseHandler

from ...interventions.branch.bounded_store import BoundedStore
from ...methods import METHODS
from ...models.vlm import Vlm
from .batching import Batcher, Job
from .chat_request import ChatRequest, read_request
from .problems import RequestProblem
from .request_images import ImageReader
from .row_control import ChoiceRow


@dataclass(frozen=True)
class ServerSettings:
    """How a model is served.

    Args:
        name: The model's name in requests.
        method: SPEC of the method that acts where a request names none.
        max_batch: Most rows generated together.
        max_wait: Seconds that a request waits for others.
        max_queue: Most requests that wait.
        max_tokens: Most new tokens of one choice.
        max_body: Most bytes of a request's body.
        remote_images: Whether http(s) images are fetched; private addresses never are.
        api_key: None: everybody may ask.
        image_cache: Most bytes of encoded images that are kept; 0: none.
        prefix_cache: Most bytes of prompts up to their image that are kept; 0: none.
    """

    name: str
    method: str = "none"
    max_batch: int = 16
    max_wait: float = 0.01
    max_queue: int = 64
    max_tokens: int = 512
    max_body: int = 32 * 2**20
    remote_images: bool = False
    api_key: str | None = None
    image_cache: int = 256 * 2**20
    prefix_cache: int = 512 * 2**20


class ServerMetrics:
    """What /metrics shows. Labels hold method names of the catalogue only, so that no client can grow them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "vlm_anchors"
        self.requests = Counter(
            f"{name}_requests", "Requests by status and method.", ["status", "method"], registry=self.registry
        )
        self.tokens = Counter(f"{name}_tokens", "Tokens read and made.", ["kind"], registry=self.registry)
        self.seconds = Histogram(f"{name}_request_seconds", "Time from request to last token.", registry=self.registry)
        self.batch = Histogram(
            f"{name}_batch_rows", "Rows generated together.", registry=self.registry, buckets=[1, 2, 4, 8, 16, 32, 64]
        )
        self.waiting = Gauge(f"{name}_waiting_requests", "Requests that wait.", registry=self.registry)
        self._caches = {
            what: Gauge(f"{name}_cache_{what}", text, ["cache"], registry=self.registry)
            for what, text in (
                ("hits", "Images and prefixes that were remembered, since the start."),
                ("misses", "Those that were not."),
                ("bytes", "What is remembered."),
            )
        }

    def watch(self, name: str, store: BoundedStore) -> None:
        """Show a store under this name."""
        for what, gauge in self._caches.items():
            gauge.labels(name).set_function(functools.partial(getattr, store, what))


def build_app(vlm: Vlm, settings: ServerSettings) -> FastAPI:
    """The application; `app.state.batcher.close()` stops it.

    Args:
        vlm: The model that answers.
        settings: Names, bounds and permissions.
    """
    metrics = ServerMetrics()
    batcher = Batcher(
        vlm, settings.max_batch, settings.max_wait, settings.max_queue, settings.max_tokens,
        lambda rows, seconds: metrics.batch.observe(rows), settings.image_cache, settings.prefix_cache,
    )  # fmt: skip
    metrics.watch("image", batcher.images.store)
    metrics.watch("prefix", batcher.prefixes.store)
    metrics.waiting.set_function(lambda: batcher.waiting)
    read_image = ImageReader(settings.remote_images, settings.max_body)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close, 60.0)

    app = FastAPI(
        title="vlm-anchors", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.batcher, app.state.metrics = batcher, metrics

    _shape_errors(app)

    def allow(request: Request) -> None:
        if settings.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
        if not hmac.compare_digest(given, settings.api_key.encode()):
            raise RequestProblem("The API key is missing or wrong (Authorization: Bearer KEY).", 401, "invalid_api_key")

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        began, method = time.monotonic(), "none"
        try:
            allow(request)
            body = await _body(request, settings.max_body)
            asked = await asyncio.to_thread(
                read_request, body, settings.name, settings.method, read_image, settings.max_tokens
            )
            method = (
                "+".join(sorted({one.spec().partition(":")[0] for one in asked.methods} & set(METHODS.names())))
                or "none"
            )
            return await _answer(request, asked, batcher, metrics, method, began)
        except RequestProblem as error:
            metrics.requests.labels(str(error.status), method).inc()
            raise

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        allow(request)
        names = [settings.name, *(f"{settings.name}@{entry.name}" for entry in METHODS)]
        if settings.method not in METHODS:
            names.append(f"{settings.name}@{settings.method}")
        data = [{"id": name, "object": "model", "created": created, "owned_by": "vlm-anchors"} for name in names]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _shape_errors(app: FastAPI) -> None:
    """Errors as OpenAI shapes them, and a number on each answer."""

    @app.exception_handler(RequestProblem)
    async def problem(request: Request, error: RequestProblem) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        return JSONResponse(error.body, error.status, headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        # Not request.url, which is made of the Host header, whatever that holds.
        message = f"{request.method} {request.scope['path']} is no address of this server."
        return JSONResponse(RequestProblem(message, error.status_code).body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(_problem_of(error).body, 500)

    @app.middleware("http")
    async def identify(request: Request, call_next: Callable[..., Any]) -> Response:
        own = request.headers.get(X_REQUEST_ID, "")
        request.state.id = (
            own if own.isascii() and own.isprintable() and 0 < len(own) <= 128 else f"chatcmpl-{uuid.uuid4().hex}"
        )
        response = await call_next(request)
        response.headers[X_REQUEST_ID] = request.state.id
        return response


async def _body(request: Request, most: int) -> Any:
    """The parsed JSON; nothing beyond the bound is kept, whatever the headers say."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise RequestProblem(
                f"The request is larger than {most // 2**20} MiB. Send smaller images.", 413, "too_large"
            )
        pieces.append(piece)
    try:
        return await asyncio.to_thread(json.loads, b"".join(pieces))
    except (ValueError, RecursionError) as error:
        raise RequestProblem(f"The body is no valid JSON: {str(error)[:120]}.", 400, "invalid_json") from error


async def _answer(
    request: Request, asked: ChatRequest, batcher: Batcher, metrics: ServerMetrics, method: str, began: float
) -> Response:
    """Hands the request to the batcher and its pieces to the client, whichever comes first: text, the end, or a hang-up."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def post(kind: str, value: Any) -> None:
        loop.call_soon_threadsafe(events.put_nowait, (kind, value))

    listen = (lambda index, text: post("text", (index, text))) if asked.stream else None
    job = Job(asked, lambda error: post("done", error), listen)
    batcher.submit(job)

    def finished(status: int) -> None:
        metrics.requests.labels(str(status), method).inc()
        metrics.seconds.observe(time.monotonic() - began)
        metrics.tokens.labels("prompt").inc(job.prompt_tokens)
        metrics.tokens.labels("completion").inc(sum(len(row.tokens) for row in job.rows))

    first = await _first_event(request, events)
    if first is None:
        job.cancelled = True
        finished(499)
        return Response(status_code=499)
    kind, value = first
    if asked.stream:
        if kind == "done" and value is not None:
            raise _problem_of(value)
        return StreamingResponse(
            _stream(request.state.id, asked, job, events, first, finished),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
    if value is not None:
        raise _problem_of(value)
    finished(200)
    return JSONResponse(completion(request.state.id, asked, job, batcher.vlm.processor.tokenizer))


async def _first_event(request: Request, events: "asyncio.Queue[tuple[str, Any]]") -> tuple[str, Any] | None:
    """The first thing that happens to a request: text, or its end; None where the client hung up before."""
    happened = asyncio.ensure_future(events.get())
    while not happened.done():
        await asyncio.wait([happened], timeout=0.2)
        if not happened.done() and await request.is_disconnected():
            happened.cancel()
            return None
    return happened.result()


def _problem_of(error: Exception) -> RequestProblem:
    if isinstance(error, RequestProblem):
        return error
    return RequestProblem(f"The server failed on this request ({type(error).__name__}).", 500, "server_error")


def completion(number: str, asked: ChatRequest, job: Job, tokenizer: Any) -> dict[str, Any]:
    """The answer as OpenAI's `ChatCompletion`, with `method` and `effects` beside its fields."""
    choices = [
        {
            "index": row.index,
            "finish_reason": row.finish,
            "message": {"role": "assistant", "content": row.text},
            "logprobs": _logprobs(row, tokenizer),
            "effects": row.effects,
        }
        for row in job.rows
    ]
    whole = ChatCompletion.model_validate(
        {
            "id": number,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": asked.model,
            "choices": choices,
            "usage": _usage(job),
            "method": asked.method,
            "effects": job.rows[0].effects,
            "seed": asked.seed,
        }
    )
    return whole.model_dump(exclude_none=True)


def _usage(job: Job) -> dict[str, int]:
    made = sum(len(row.tokens) for row in job.rows)
    return {"prompt_tokens": job.prompt_tokens, "completion_tokens": made, "total_tokens": job.prompt_tokens + made}


def _logprobs(row: ChoiceRow, tokenizer: Any) -> dict[str, Any] | None:
    if row.request.top_logprobs is None:
        return None

    def shown(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    content = [
        {**shown(one["token"], one["logprob"]), "top_logprobs": [shown(*pair) for pair in one["top"]]}
        for one in row.logprobs
    ]
    return {"content": content}


async def _stream(
    number: str,
    asked: ChatRequest,
    job: Job,
    events: "asyncio.Queue[tuple[str, Any]]",
    first: tuple[str, Any],
    finished: Any,
) -> AsyncIterator[str]:
    """Server-sent events: a role, text as it becomes final, the reason of each end, [DONE]."""

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
        made = ChatCompletionChunk.model_validate(
            {
                "id": number, "object": "chat.completion.chunk", "created": int(time.time()), "model": asked.model,
                "choices": [choice] if index >= 0 else [], **more,
            }
        )  # fmt: skip
        return BaseHandler.chunk_to_sse(made)

    try:
        for index in range(asked.n):
            yield chunk(index, {"role": "assistant", "content": ""})
        kind, value = first
        while kind == "text":
            yield chunk(value[0], {"content": value[1]})
            kind, value = await events.get()
        if value is not None:
            yield f"data: {json.dumps(_problem_of(value).body)}\n\n"
            finished(_problem_of(value).status)
            return
        for row in job.rows:
            yield chunk(row.index, {}, finish_reason=row.finish, method=asked.method, effects=row.effects)
        if asked.include_usage:
            yield chunk(-1, {}, usage=_usage(job))
        yield "data: [DONE]\n\n"
        finished(200)
    except (GeneratorExit, asyncio.CancelledError):
        job.cancelled = True
        finished(499)
        raise


def run(vlm: Vlm, settings: ServerSettings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM: what runs is finished, what waits is refused."""
    import uvicorn

    app = build_app(vlm, settings)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            app.state.batcher.close()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(app, host, port, log_level="warning", timeout_graceful_shutdown=60, server_header=False)
    Server(config).run()
