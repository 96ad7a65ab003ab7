"""Requests that wait a few milliseconds are answered together: one thread generates, one method a batch.

Rows may differ in everything but the method: sampling, stops and lengths are each row's own (row_control.py), so that a batch
holds whatever is waiting under the same method. A waiting request is refused, not forgotten, when the server stops.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import CannotAct, UserError
from ...generation.decodings import Greedy
from ...generation.generate import no_numbers, prepared, without_waiting
from ...generation.plan import GenerationPlan, without_insertion
from ...generation.sampling import Broken
from ...inputs.prompt_builder import Inputs, Sample, prepare
from ...interventions.attachment import Handle, attach
from ...interventions.branch.feature_cache import FeatureCache
from ...interventions.branch.prefix_store import PrefixStore
from ...interventions.method import preparing
from ...models.vlm import Vlm
from .chat_request import ChatRequest
from .problems import RequestProblem
from .row_control import ChoiceRow, RowEnds, RowSampling

MAX_WAITING_PIXELS = 400_000_000
"""Of the images of all waiting requests: 1.2 GB."""


@dataclass(eq=False)
class Job:
    """One request on its way.

    Args:
        request: What was asked for.
        on_done: Called once, from the generating thread: with None, or with what went wrong.
        on_text: Called with (choice, new text) as text becomes final.
    """

    request: ChatRequest
    on_done: Callable[[Exception | None], None]
    on_text: Callable[[int, str], None] | None = None
    cancelled: bool = False
    rows: list[ChoiceRow] = field(default_factory=list)
    prompt_tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def pixels(self) -> int:
        """Of its images, which wait decoded."""
        return sum(image.width * image.height for image in self.request.chat.images)

    def make_rows(self) -> list[ChoiceRow]:
        """A row for each choice."""
        listen = self.on_text
        self.rows = [
            ChoiceRow(
                self.request,
                index,
                None if listen is None else lambda text, index=index: listen(index, text),
                lambda: self.cancelled,
            )
            for index in range(self.request.n)
        ]
        return self.rows


class Batcher:
    """The queue and the thread that empties it.

    Args:
        vlm: The model that answers.
        max_batch: Most rows generated together.
        max_wait: Seconds that a request waits for others.
        max_queue: Most requests that wait; more are refused with 429.
        most_tokens: Most new tokens of one choice.
        on_batch: Called with the number of rows of each batch, for the metrics.
        image_bytes: Most bytes of encoded images that are kept from batch to batch.
        prefix_bytes: Most bytes of prompts up to their image that are kept, likewise.
    """

    def __init__(
        self,
        vlm: Vlm,
        max_batch: int = 16,
        max_wait: float = 0.01,
        max_queue: int = 64,
        most_tokens: int = 512,
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
        image_bytes: int = 0,
        prefix_bytes: int = 0,
    ):
        self.vlm, self.max_batch, self.max_wait, self.max_queue, self.on_batch = (
            vlm, max_batch, max_wait, max_queue, on_batch,
        )  # fmt: skip
        self.most_tokens = most_tokens
        self.images = FeatureCache(image_bytes)
        self.prefixes = PrefixStore(prefix_bytes, self.images)
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="vlm-anchors-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a request. Raises `RequestProblem` with 429 where the queue is full, 503 where the server stops."""
        with self._changed:
            if self._closed:
                raise RequestProblem("The server is stopping. Ask another one.", 503, "stopping", retry_after=5)
            pixels = sum(one.pixels for one in (*self._waiting, job))
            if len(self._waiting) >= self.max_queue or (self._waiting and pixels > MAX_WAITING_PIXELS):
                seconds = 1 + int(self._seconds * (1 + len(self._waiting) / self.max_batch))
                raise RequestProblem(
                    f"{len(self._waiting)} requests are waiting, which is the most this server keeps. Ask again in {seconds} s.",
                    429,
                    "queue_full",
                    retry_after=seconds,
                )
            self._waiting.append(job)
            self._changed.notify()

    def close(self, wait: float | None = None) -> None:
        """Refuse what waits and what comes; what runs is finished. wait: seconds to wait for that; None: not at all."""
        with self._changed:
            self._closed = True
            refused = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in refused:
            job.on_done(RequestProblem("The server is stopping. Ask another one.", 503, "stopping", retry_after=5))
        if wait is not None:
            self._thread.join(wait)

    def _run(self) -> None:
        while True:
            jobs = self._next()
            if not jobs:
                return
            began = time.monotonic()
            try:
                self._answer(jobs)
            finally:
                self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - began)
                self.on_batch(sum(len(job.rows) for job in jobs), time.monotonic() - began)

    def _next(self) -> list[Job]:
        """The oldest request and those that may share its batch; none where the server stops."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                until = self._waiting[0].began + self.max_wait
                while not self._closed and self._rows_ready() < self.max_batch:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                jobs = self._take()
                if jobs:
                    return jobs

    def _rows_ready(self) -> int:
        first = self._waiting[0].request.methods if self._waiting else ()
        return sum(job.request.n for job in self._waiting if job.request.methods == first)

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        rest: deque[Job] = deque()
        rows = 0
        while self._waiting:
            job = self._waiting.popleft()
            if job.cancelled:
                job.on_done(None)
            elif not jobs or (
                job.request.methods == jobs[0].request.methods and rows + job.request.n <= self.max_batch
            ):
                jobs.append(job)
                rows += job.request.n
            else:
                rest.append(job)
        self._waiting = rest
        return jobs

    def _answer(self, jobs: Sequence[Job]) -> None:
        """One batch. Where it fails, each request is tried alone, so that one bad request spoils no other."""
        try:
            self._generate(jobs)
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    if all(row.finish is None and not row.sent for row in job.rows):
                        self._answer([job])
                    else:
                        job.on_done(error)
                return
            jobs[0].on_done(_as_problem(error))
            return
        for job in jobs:
            job.on_done(None)

    @torch.no_grad()
    def _generate(self, jobs: Sequence[Job]) -> None:
        rows = [row for job in jobs for row in job.make_rows()]
        requests = [row.request for row in rows]
        asked = max(request.max_tokens or 1 for request in requests)
        chats = [request.chat for request in requests]
        inputs = prepare(self.vlm, [Sample(chat.images, chat.question, "", chat) for chat in chats], asked)
        self._set_limits(rows, inputs.length)
        real = inputs.tensors["attention_mask"].sum(1).tolist()
        at = 0
        for job in jobs:
            job.prompt_tokens = int(real[at])
            at += len(job.rows)
        config = self.vlm.model.generation_config
        eos = config.eos_token_id
        ends = frozenset(eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos])
        plan = GenerationPlan(self.vlm, requests[0].methods, Greedy(), max(row.limit for row in rows))
        if not any(chat.images for chat in chats):
            plan = without_insertion(plan)
        broken, sampling = Broken(), RowSampling(rows)
        with attach(self.vlm, list(plan.methods)) as handle:
            self.vlm.model.generate(
                **self._known(plan, inputs, handle, [len(chat.images) for chat in chats]),
                max_new_tokens=plan.max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=_pad(self.vlm, ends),
                logits_processor=[broken, sampling],
                stopping_criteria=[RowEnds(rows, self.vlm.processor.tokenizer, ends)],
            )
            effects = handle.effects
        if broken.seen:
            raise CannotAct(no_numbers(plan))
        for row, own in zip(rows, effects or [{} for _ in rows], strict=True):
            row.effects = without_waiting(own, sampling.step - len(row.tokens)) if row.request.chat.images else {}
            row.finish = row.finish or "length"

    def _known(self, plan: GenerationPlan, inputs: Inputs, handle: Handle, images: Sequence[int]) -> dict[str, Any]:
        """What `generate` is given, of which as much as possible was computed for an earlier request."""
        if preparing(plan.methods):  # who prepares inputs encodes the images by itself
            return prepared(plan, inputs)
        known = self.prefixes.inputs(self.vlm, handle, plan.methods, inputs.tensors, images)
        return self.images.encoded(self.vlm, inputs.tensors, images) if known is None else known

    def _set_limits(self, rows: Sequence[ChoiceRow], prompt: int) -> None:
        """What a request asks for was checked; who asks for nothing gets what the model's context has room for."""
        context = getattr(self.vlm.model.config.get_text_config(), "max_position_embeddings", None)
        room = self.most_tokens if context is None else max(min(self.most_tokens, context - prompt), 1)
        for row in rows:
            row.limit = room if row.request.max_tokens is None else row.request.max_tokens


def _pad(vlm: Vlm, ends: frozenset[int]) -> int:
    pad = vlm.processor.tokenizer.pad_token_id
    return pad if pad is not None else min(ends, default=0)


def _as_problem(error: Exception) -> Exception:
    """Bad input is the client's to mend; anything else is ours."""
    if isinstance(error, UserError):
        return RequestProblem(str(error), 400, "invalid_request")
    return error
