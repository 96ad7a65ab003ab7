"""ICD: instruction contrastive decoding.                                  arXiv 2403.18715, ACL 2024 Findings

An instruction that confuses the model makes it say more of what is not in the image; that part is taken off:

    z = (1 + alpha) z(v, q) - alpha z(v, d + q),    tokens with p(v, q) < beta max p(v, q) are left out

d is a disturbing role, such as "You are a confused objects detector ...". In Q-Former models it goes to the Q-Former, alone
(where="role") or before the question ("question"), and the language model's prompt stays. Elsewhere it takes the place of
the system prompt: of `system` if that text stands before the image, else of a default one we know, else it is put first.
`effects` says which of them was done.

Where code and paper differ. The official program runs through five roles and marks no default; ours is the fourth of its
lists for POPE and the last of those for MME. On InstructBLIP it passes the role through a clean-up made for captions: lower
case, `.!"()*#:;~` become spaces, 50 words at most. `cleanup=True` does the same, and the official preset has it; without,
the full stop is a token of its own. With where="question" the code's Q-Former reads the question without the benchmark's
format suffix ("Please only answer yes or no."), which `suffix` names, and from the second question on role and question are
glued together without a space (its variable was overwritten); ours always has the space. Its script for LLaVA on POPE cannot
start as shipped (a misspelt import), so its setting there is read from its sampler. Other papers' "ICD" uses "You are a
confused object detector." as the system prompt: role=... A third term of the code, added when image noise is on as well, is
left out.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..errors import BadParameter, CannotAct
from ..interventions.branch.vision_tower import require_tower
from ..interventions.method import DEFAULTS, Method, Preset
from ..models.families import read_again
from ..parameters import name_of, parameter
from .shared import ONLY_ONE_LEFT, Counted, refuse_untested

if TYPE_CHECKING:
    from ..interventions.branch.branch_prompt import Prompt
    from ..interventions.branch.contrastive import BranchInputs
    from ..interventions.forward_pass import Generation
    from ..interventions.forward_view import ForwardPass
    from ..models.decoder import AttentionTarget

ROLE = "You are a confused objects detector to provide a fuzzy overview or impression of the image."
CAPTION_WORDS = 50
SYSTEMS = (
    "You are a helpful assistant.",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions.",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions.",
)
"""System prompts of Qwen2-VL's templates and of Vicuna's, v1.1 (LLaVA-1.5's) and v0."""


@dataclass
class ICDState(Counted):
    """Of one generation: what was done with the role in each sample."""

    roles: list[str] | None = None


@dataclass(frozen=True)
class ICD(Method):
    """Instruction contrastive decoding (arXiv 2403.18715). Attach it to what `va.load` returns, or to (model, processor).

    Args:
        alpha: How much of the disturbed reading's logits is taken off; 0 = no contrastive branch.
        beta: Tokens less probable than this share of the most probable one are left out; 0 = none.
        role: The disturbing instruction.
        where: In Q-Former models the "role" replaces the question or stands before it ("question").
        system: The system prompt to be replaced, where it is none of those we know.
        cleanup: Whether a Q-Former's text is cleaned as the official code cleans captions.
        suffix: What is left off the end of a question that the role stands before.
    """

    hooks: ClassVar[frozenset[str]] = frozenset({"logits"})
    target: ClassVar[str] = "decoder"
    families: ClassVar[tuple[str, ...]] = read_again("words")
    elsewhere: ClassVar[str] = "refused"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("llava-1.5-7b", "any", "official-code", {"alpha": 1.0, "beta": 0.1}),
        Preset(
            "instructblip-7b", "any", "official-code", {"alpha": 1.0, "beta": 0.1, "where": "role", "cleanup": True}
        ),
        DEFAULTS,
    )
    """Which of its five roles was used is not marked."""

    alpha: float = parameter(1.0, 0, slider=(0, 3, 0.1))
    beta: float = parameter(0.1, 0, 1, slider=(0, 1, 0.05), senseless=ONLY_ONE_LEFT)
    role: str = ROLE
    where: str = parameter("role", choices=("role", "question"))
    system: str = ""
    cleanup: bool = parameter(False)
    suffix: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.role, str) or not self.role.strip():
            raise BadParameter(f"ICD.role must be an instruction in words; found {self.role!r}.")
        for name in ("system", "suffix"):
            if not isinstance(getattr(self, name), str):
                raise BadParameter(f"ICD.{name} must be text; found {getattr(self, name)!r}.")
        if self.suffix and self.where != "question":
            raise BadParameter(
                f"ICD.suffix is left off a question, and where='role' reads none; found {self.suffix!r}. "
                "Set where='question' as well."
            )

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def active_hooks(self) -> frozenset[str]:
        return self.hooks if self.alpha or self.beta else frozenset()

    def disabled(self) -> "ICD":
        return replace(self, alpha=0.0, beta=0.0)

    def check(self, target: "AttentionTarget") -> None:
        refuse_untested(self, target)
        if target.visual_features is None and self.where == "question":
            raise CannotAct(
                f"icd's where='question' puts the role before the question of a Q-Former, and {target.family.title} has none. "
                "Leave where='role'."
            )
        if target.visual_features is None and self.cleanup:
            raise CannotAct(
                f"icd's cleanup is for the text of a Q-Former, and {target.family.title} has none. Leave cleanup=False."
            )
        if target.visual_features is not None and self.system:
            raise CannotAct(
                f"icd's system names a system prompt that the role replaces, and in {target.family.title} the role goes to the "
                "Q-Former. Leave system empty."
            )

        if target.visual_features is not None and self.alpha:
            require_tower(target, name_of(self))

    def new_state(self) -> ICDState:
        return ICDState()

    def branch(self, prompt: "Prompt") -> "BranchInputs | None":
        if not self.alpha:
            return None
        if prompt.processor is None:
            raise CannotAct("icd writes another instruction and needs the tokenizer: attach to (model, processor).")
        if prompt.target.visual_features is not None:
            return self._disturbed_question(prompt)
        tokenizer = prompt.processor.tokenizer
        found = [self._disturbed(tokenizer, front) for front in prompt.fronts()]
        prompt.state.roles = [done for _, done in found]
        return prompt.with_fronts([front for front, _ in found])

    def _disturbed(self, tokenizer: Any, front: list[int]) -> tuple[list[int], str]:
        """The tokens before the image with the role in the system prompt's place, or first; and which of the two it was."""
        text = tokenizer.decode(front, skip_special_tokens=False)
        if self.system not in text:
            raise CannotAct(
                f"icd was asked to replace the system prompt {self.system!r}, and before the image stands {text!r}. "
                "Give the prompt's own, or leave system empty."
            )
        for system in (self.system, *SYSTEMS):
            if system and system in text:
                return self._encoded(tokenizer, front, text, text.replace(system, self.role, 1)), "replaced"
        begins = front[:1] if front and front[0] == tokenizer.bos_token_id else []
        return [*begins, *tokenizer.encode(self.role, add_special_tokens=False), *front[len(begins) :]], "put first"

    def _encoded(self, tokenizer: Any, front: list[int], text: str, changed: str) -> list[int]:
        """Tokens of the changed text. What a tokenizer puts before every text ("▁") and these tokens lack is left out."""
        before, after = (tokenizer.encode(one, add_special_tokens=False) for one in (text, changed))
        more = len(before) - len(front)
        extra = more > 0 and before[more:] == front and after[:more] == before[:more]
        return after[more:] if extra else after

    def _bare(self, question: str) -> str:
        """A question without the suffix, spelled as a Q-Former's tokenizer decodes it (in lower case)."""
        bare = question.rstrip()
        suffix = self.suffix.strip()
        return bare[: -len(suffix)].rstrip() if suffix and bare.lower().endswith(suffix.lower()) else question

    def _disturbed_question(self, prompt: "Prompt") -> "BranchInputs":
        """The Q-Former reads the role; the language model's own prompt stays."""
        pixels = prompt.pixels()
        tokenizer = getattr(prompt.processor, "qformer_tokenizer", None)
        if tokenizer is None or "qformer_input_ids" not in pixels:
            raise CannotAct("icd disturbs the Q-Former's instruction, and this model's Q-Former reads none. Use vcd.")
        asked = tokenizer.batch_decode(pixels["qformer_input_ids"], skip_special_tokens=True)
        texts = [self.role if self.where == "role" else f"{self.role} {self._bare(question)}" for question in asked]
        texts = [cleaned(text) for text in texts] if self.cleanup else texts
        read = tokenizer(texts, padding=True, return_tensors="pt").to(pixels["pixel_values"].device)
        changed = {"qformer_input_ids": read["input_ids"], "qformer_attention_mask": read["attention_mask"]}
        done = "replaced the question" if self.where == "role" else "put before the question"
        prompt.state.roles = [done] * len(prompt.view.embeds)
        return prompt.with_images(prompt.encode({**pixels, **changed}))

    def logits(self, view: "ForwardPass", first: Tensor, second: Tensor | None) -> Tensor:
        return view.state.contrast(first, second, self.alpha, self.beta)

    def effects(self, generation: "Generation") -> list[dict[str, Any]]:
        state: ICDState = generation.state
        effects = [state.effects() for _ in generation.visual.valid]
        if state.roles is None:
            return effects
        return [{**one, "role": done} for one, done in zip(effects, state.roles, strict=True)]


def cleaned(text: str) -> str:
    """Text as the official code's caption clean-up leaves it."""
    plain = " ".join(re.sub(r"[.!\"()*#:;~]", " ", text.lower()).split())
    return " ".join(plain.split(" ")[:CAPTION_WORDS])
