"""The method and the prompt of each row of vLLM's batch.

vLLM tells its logits processors which request stands in which row of the batch, with its sampling parameters and its
prompt; it tells attention backends neither. So this processor changes no logits: it keeps the table that the backend
reads when it plans a step.
"""

import weakref

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from ...errors import UserError
from .model_facts import ModelFacts
from .request_methods import is_on, method_of
from .row_plan import AnchoredRequest

_tables: "weakref.WeakValueDictionary[int, RequestTable]" = weakref.WeakValueDictionary()


class RequestTable(LogitsProcessor):
    """`requests[row]` for each row of the batch whose request has a method."""

    requests: dict[int, AnchoredRequest]

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        self.requests = {}
        self.facts = ModelFacts.of(vllm_config) if is_on() else None
        _tables[id(vllm_config)] = self

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose method does not exist or cannot run inside vLLM.

        Raises:
            ValueError: vLLM turns it into the client's error.
        """
        try:
            method_of(sampling_params.extra_args)
        except UserError as error:
            raise ValueError(str(error)) from error

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Tensor) -> Tensor:
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the rows of the batch, in the order vLLM asks for: removed, added, moved."""
        if batch_update is None or self.facts is None:
            return
        for row in batch_update.removed:
            self.requests.pop(row, None)
        for row, params, prompt, _ in batch_update.added:
            self._put(row, self._read(params, prompt))
        for source, target, direction in batch_update.moved:
            moved = self.requests.pop(source, None)
            if direction == MoveDirectionality.SWAP:
                self._put(source, self.requests.pop(target, None))
            self._put(target, moved)

    def _put(self, row: int, request: AnchoredRequest | None) -> None:
        self.requests.pop(row, None)
        if request is not None:
            self.requests[row] = request

    def _read(self, params: SamplingParams, tokens: list[int] | None) -> AnchoredRequest | None:
        assert self.facts is not None
        try:
            method = self.facts.method_of(params)
        except UserError:
            # The scheduler found the same, and ends the request before it has a token.
            return None
        if method is None or tokens is None:
            return None
        prompt = self.facts.map_prompt(tokens, method)
        if not len(prompt.visual):
            return None
        return AnchoredRequest(method, self.facts.layers(method), self.facts.target.depth, prompt, len(tokens))


def table_of(vllm_config: VllmConfig) -> RequestTable | None:
    """The table of the worker with this config; None before its batch exists."""
    return _tables.get(id(vllm_config))
