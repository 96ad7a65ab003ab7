"""What answers one batch of questions and tells it as records: all that a process needs but the RUN folder."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ...generation.decodings import Nucleus
from ...generation.plan import GenerationPlan
from ...inputs.images import read_image
from ...inputs.prompt_builder import Sample, check_question
from ...models.vlm import Vlm
from ...specs import DecodingLike, MethodLike, choose, gives_seed, spec_of_all
from ...types import Answer
from ..benchmarks.protocols import Protocol
from ..reading.files import find_image
from .answer import answer_batch, can_reuse
from .batches import Asked

Job: TypeAlias = tuple[int, list[Asked]]
"""(which of the runs, the questions of a batch)."""


def run_of(vlm: Vlm, method: MethodLike, chosen: Protocol, decoding: DecodingLike, seed: int | None) -> GenerationPlan:
    """How a method answers under a protocol; `decoding` and `seed` stand in for the protocol's where they are given.

    The seed is `seed`, else the one in the decoding's SPEC, else the protocol's.
    """
    methods, how = choose(method, decoding, chosen.decoding)
    if isinstance(how, Nucleus):
        drawn = chosen.seed if seed is None and not gives_seed(method, decoding) else seed
        how = how if drawn is None else replace(how, seed=drawn)
    return GenerationPlan(vlm, methods, how, chosen.max_new_tokens)


def key_of_run(run: GenerationPlan) -> tuple[str, str, int | None]:
    """(method, decoding without its seed, seed)."""
    how = run.decoding
    if isinstance(how, Nucleus):
        return spec_of_all(run.methods), replace(how, seed=Nucleus().seed).spec(), how.seed
    return spec_of_all(run.methods), how.spec(), None


@dataclass(frozen=True)
class Answerer:
    """Answers batches: `answerer((which run, questions))` gives the questions' records, in order."""

    runs: tuple[GenerationPlan, ...]
    images: Path
    yes_no: bool
    reuse: bool

    @property
    def about(self) -> dict[str, Any]:
        """What run.json says of an engine other than transformers."""
        return {}

    def sent(self) -> "Answerer":
        """The same without the model, for another process."""
        return replace(self.with_model(None), images=self.images.resolve())

    def with_model(self, vlm: Any) -> "Answerer":
        return replace(self, runs=tuple(replace(run, vlm=vlm) for run in self.runs))

    @functools.cached_property
    def _find(self) -> Callable[[str], Path]:
        return find_image(self.images)

    def __call__(self, job: Job) -> list[dict[str, Any]]:
        which, group = job
        run = self.runs[which]
        answers = self.answer(run, self._samples(group))
        method, decoding, seed = key_of_run(run)
        records = []
        for one, answer in zip(group, answers, strict=True):
            more: dict[str, Any] = {
                "prompt": answer.prompt,
                "method": method,
                "decoding": decoding,
                "seed": seed,
                "effects": answer.effects,
                "tokens": len(answer.tokens),
                "seconds": round(answer.seconds, 6),
            }
            if self.yes_no and answer.yes_no is not None:
                # A word that a method cut has no logit, and JSON no infinity.
                more["yes_no"] = [round(logit, 4) if math.isfinite(logit) else None for logit in answer.yes_no]
            records.append(one.question.record(answer.text, **more))
        return records

    def answer(self, run: GenerationPlan, samples: Sequence[Sample]) -> list[Answer]:
        """Answers in the order of the samples."""
        return answer_batch(run, samples, self.reuse and can_reuse(run))

    def _samples(self, group: Sequence[Asked]) -> list[Sample]:
        """Each image file is read once; its questions share the very same object."""
        read = functools.cache(lambda name: read_image(self._find(name)))
        return [
            Sample(
                () if one.question.image is None else (read(one.question.image),),
                check_question(one.prompt),
                one.question.id,
            )
            for one in group
        ]
