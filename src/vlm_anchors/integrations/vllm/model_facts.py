"""What scheduler and workers need to know of the model, and what is refused when the engine starts."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import vllm
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.platforms import current_platform

from ...errors import CannotAct
from ...interventions.method import Method
from ...interventions.text_rows import Visual
from ...models.decoder import AttentionTarget
from .prompt_map import PromptMap, map_prompt, target_of, tokens_per_image
from .request_methods import method_of, parse_method
from .settings import SCHEDULER, VERSIONS, default_method


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """One model inside vLLM, as methods see it."""

    target: AttentionTarget
    tokens_per_image: int | None
    default: str
    """SPEC of the method of requests that name none."""

    @classmethod
    def of(cls, vllm_config: VllmConfig) -> Self:
        """Check the engine's settings and read the model's config.

        Raises:
            CannotAct: Something in the settings would make methods inexact or silently plain.
        """
        check_engine(vllm_config)
        config = vllm_config.model_config.hf_config
        default = default_method(vllm_config.model_config.model)
        facts = cls(target_of(config, _tokenizer(vllm_config)), tokens_per_image(config), default)
        method = parse_method(default)
        if method is not None:
            method.check(facts.target)
        return facts

    def method_of(self, params: SamplingParams) -> Method | None:
        """The method of a request; None where it runs as in plain vLLM.

        Raises:
            UserError: The method does not exist, or cannot run inside vLLM or on this model.
        """
        method = method_of(params.extra_args, self.default)
        if method is not None:
            self.layers(method)
        return method

    @lru_cache(maxsize=64)  # noqa: B019 - one object lives as long as its engine
    def layers(self, method: Method) -> frozenset[int]:
        """Layers whose attention the method sees or edits.

        Raises:
            UserError: The method makes no sense on this model.
        """
        method.check(self.target)
        return method.attention_layers(self.target)

    def map_prompt(self, tokens: list[int], method: Method) -> PromptMap:
        """Where the images of a prompt stand. Warns where they leave the method nothing to act on."""
        prompt = map_prompt(self.target, tokens, self.tokens_per_image, method.rows == "all")
        if len(prompt.visual):
            count = len(prompt.visual)
            valid = prompt.visual.new_ones(1, count).bool()
            method.check_prompt(
                Visual(prompt.visual[None], valid, prompt.image[None], prompt.images, prompt.images == 1)
            )
        return prompt


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuse settings of the engine with which a method would be inexact or silently off.

    Raises:
        CannotAct: What was found, and what to set instead.
    """
    if vllm.__version__.split("+")[0] not in VERSIONS:
        raise CannotAct(
            f"vlm-anchors runs inside vLLM {' or '.join(VERSIONS)}; this is {vllm.__version__}, whose internals may differ. "
            "Install that version, or unset VLM_ANCHORS_METHOD."
        )
    for wrong, sentence in _refusals(vllm_config):
        if wrong:
            raise CannotAct(sentence)


def _refusals(config: VllmConfig) -> list[tuple[bool, str]]:
    parallel, scheduler = config.parallel_config, config.scheduler_config
    text = config.model_config.hf_text_config
    return [
        (
            not current_platform.is_cpu(),
            f"Methods run behind vLLM's CPU kernels so far; this is {current_platform.device_name}. Unset VLM_ANCHORS_METHOD, "
            "or run through transformers.",
        ),
        (
            scheduler.scheduler_cls is None or not _is_ours(scheduler.scheduler_cls),
            f"Methods need the scheduler that keeps a prompt's text in one piece. Pass --scheduler-cls {SCHEDULER}.",
        ),
        (
            config.speculative_config is not None,
            "Methods cannot run with speculative decoding: draft tokens would be checked without their anchors. "
            "Remove --speculative-config.",
        ),
        (
            str(config.cache_config.cache_dtype) not in ("auto", "float32", "float16", "bfloat16"),
            f"Methods read keys from the cache, which is quantised here ({config.cache_config.cache_dtype}). "
            "Use --kv-cache-dtype auto.",
        ),
        (
            parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1,
            "Methods compare all heads of a layer and carry anchors from layer to layer, so one worker must hold the "
            "whole model. Use tensor and pipeline parallel size 1; --data-parallel-size may be larger.",
        ),
        (
            getattr(parallel, "decode_context_parallel_size", 1) > 1,
            "Methods need all keys of a request in one worker. Use --decode-context-parallel-size 1.",
        ),
        (
            config.use_v2_model_runner,
            "Methods need vLLM's V1 model runner, which tells them the rows of a batch. Set VLLM_USE_V2_MODEL_RUNNER=0.",
        ),
        (
            getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True),
            "Methods do not run with sliding-window attention, where visual keys leave the window.",
        ),
        (
            config.kv_transfer_config is not None,
            "Methods cannot run with keys that another engine computed. Remove --kv-transfer-config.",
        ),
    ]


def _is_ours(scheduler: Any) -> bool:
    if isinstance(scheduler, str):
        return scheduler == SCHEDULER
    return f"{scheduler.__module__}.{scheduler.__qualname__}" == SCHEDULER


def _tokenizer(vllm_config: VllmConfig) -> Any:
    from vllm.tokenizers import cached_tokenizer_from_config

    return cached_tokenizer_from_config(vllm_config.model_config)
