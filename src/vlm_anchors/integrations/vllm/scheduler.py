"""vLLM's scheduler, which neither cuts nor shares the text of a prompt with a method.

The rows of a prompt's text share the anchors of its last row, so they must be computed in one step, whatever the budget
of tokens; and what they leave in the cache belongs to this prompt alone. What stands before them (system prompt and
image) is the plain model's: it may be cut anywhere and is shared with every request, with or without a method.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from ...errors import BadSetting, CannotAct, UserError
from .model_facts import ModelFacts
from .prompt_map import PromptMap
from .request_methods import is_on
from .settings import ENVIRONMENT

logger = logging.getLogger("vllm.vlm_anchors")


class AnchorScheduler(Scheduler):
    """`--scheduler-cls vlm_anchors.integrations.vllm.scheduler.AnchorScheduler`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not is_on():
            raise BadSetting(
                f"This scheduler serves vlm-anchors, which is not switched on: set {ENVIRONMENT} (to none, say)."
            )
        self.facts = ModelFacts.of(self.vllm_config)
        self._prompts: dict[str, PromptMap] = {}
        self._refused: set[str] = set()

    def add_request(self, request: Request) -> None:
        """As vLLM's, after reading where the text of the prompt stands."""
        prompt = self._read(request)
        if prompt is not None and prompt.first_text < request.num_prompt_tokens:
            self._prompts[request.request_id] = prompt
            self._own_text_blocks(request, prompt.first_text)
        super().add_request(request)

    def _read(self, request: Request) -> PromptMap | None:
        """Where a prompt's text stands, if its request has a method; a request that cannot have one ends with an error."""
        if request.sampling_params is None:
            return None
        try:
            method = self.facts.method_of(request.sampling_params)
            if method is None:
                return None
            if request.prompt_token_ids is None or request.prompt_embeds is not None:
                raise CannotAct("Methods find images by their placeholders, and this prompt came as embeddings.")
            if request.resumable:
                raise CannotAct("Methods find anchors once a whole prompt is there, and this one is fed in pieces.")
            prompt = self.facts.map_prompt(list(request.prompt_token_ids), method)
            self._require_room(request, prompt)
            return prompt
        except UserError as error:
            logger.error("Request %s ends with an error: %s", request.request_id, error)
            self._refused.add(request.request_id)
            # vLLM's set of requests that the next step ends with an error.
            self.encoder_cache_mismatch_reqs.add(request.request_id)
            return None

    def _require_room(self, request: Request, prompt: PromptMap) -> None:
        text = request.num_prompt_tokens - prompt.first_text
        room = min(
            self.max_num_scheduled_tokens,
            self.scheduler_config.long_prefill_token_threshold or self.max_num_scheduled_tokens,
        )
        if text > room:
            raise CannotAct(
                f"The text of this prompt has {text} tokens, which must be computed in one step, and a step has {room}. "
                f"Raise --max-num-batched-tokens."
            )

    def _own_text_blocks(self, request: Request, first: int) -> None:
        """Give every block with a text row a hash that no other request has."""
        shared = first // self.hash_block_size
        base, salt = request._block_hasher, uuid.uuid4().bytes
        if base is None:
            return
        del request.block_hashes[shared:]
        request._block_hasher = _Own(getattr(base, "base", base), shared, salt)
        request.update_block_hashes()

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """A resumed prompt is computed anew: of its text no block may be found again, or the rest would be cut off."""
        super()._preempt_request(request, *args, **kwargs)
        prompt = self._prompts.get(request.request_id)
        if prompt is not None:
            self._own_text_blocks(request, prompt.first_text)

    def _try_schedule_encoder_inputs(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        """As vLLM's, which is asked for every step of a request with an image, with fewer tokens where they cut its text."""
        if request.request_id in self._refused:
            return [], 0, args[0], [], []
        uncut = self._uncut(request, num_computed_tokens, num_new_tokens)
        found = super()._try_schedule_encoder_inputs(request, num_computed_tokens, uncut, *args, **kwargs)
        # Where an image did not fit into the encoder's budget, the piece ends before it, perhaps inside the text.
        again = self._uncut(request, num_computed_tokens, found[1])
        if again == found[1]:
            return found
        return super()._try_schedule_encoder_inputs(request, num_computed_tokens, again, *args, **kwargs)

    def _uncut(self, request: Request, done: int, count: int) -> int:
        """The most tokens, up to `count`, that do not end inside the prompt's text."""
        prompt = self._prompts.get(request.request_id)
        if prompt is None or not prompt.first_text < done + count < request.num_prompt_tokens:
            return count
        return max(prompt.first_text - done, 0)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._prompts.pop(request.request_id, None)
        self._refused.discard(request.request_id)
        return super()._free_request(request, *args, **kwargs)


class _Own:
    """Hashes of a request's blocks, with a salt from block `shared` on."""

    def __init__(self, base: Callable[[Request], list[BlockHash]], shared: int, salt: bytes):
        self.base, self.shared, self.salt = base, shared, salt

    def __call__(self, request: Request) -> list[BlockHash]:
        start = len(request.block_hashes)
        return [
            self._salted(hashed) if start + number >= self.shared else hashed
            for number, hashed in enumerate(self.base(request))
        ]

    def _salted(self, hashed: BlockHash) -> BlockHash:
        return BlockHash(hashlib.sha256(self.salt + hashed).digest())
