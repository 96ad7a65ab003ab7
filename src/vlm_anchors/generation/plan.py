"""How to answer: model, methods, decoding and lengths, checked once."""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, BadSetting, CannotAct
from ..interventions.method import Method, preparing
from ..models.load import as_vlm
from ..models.vlm import Vlm
from ..parameters import name_of
from ..specs import Decoding, DecodingLike, MethodLike, choose, spec_of_all
from .decodings import Beam
from .opera import Opera

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from ..interventions.recorders import LastLayerAttention, Shares

MAX_NEW_TOKENS = 128


def check_new_tokens(item: Any) -> int:
    """The number itself. Raises `BadSetting` where no answer could have so many tokens."""
    if not isinstance(item, int) or isinstance(item, bool) or not 1 <= item <= 100_000:
        raise BadSetting(f"max_new_tokens must be a whole number from 1 to 100000; found {item!r}.")
    return item


def check_batch_size(item: Any) -> int:
    """The number itself. Raises `BadSetting` where it is no number of questions."""
    if not isinstance(item, int) or isinstance(item, bool) or item < 1:
        raise BadSetting(f"batch_size must be a whole number of 1 or more; found {item!r}.")
    return item


@dataclass(frozen=True)
class GenerationPlan:
    """How to answer: everything but the questions."""

    vlm: Vlm
    methods: tuple[Method, ...]
    decoding: Decoding
    max_new_tokens: int
    shares: bool = False

    @classmethod
    def of(
        cls, vlm: Any, method: "MethodLike | None", decoding: DecodingLike, max_new_tokens: int, shares: bool = False
    ) -> "GenerationPlan":
        """Checks what the user gave; raises a `UserError` that says what is wrong. No method: the model's own."""
        vlm = as_vlm(vlm)
        check_new_tokens(max_new_tokens)
        methods, chosen = choose(vlm.method if method is None else method, decoding)
        return cls(vlm, methods, chosen, max_new_tokens, shares)

    @property
    def attached(self) -> list["Method"]:
        """The methods that go onto the model; one that changes the questions before they are written acts before that."""
        shows = [method for method in self.methods if method.reads_samples]
        prepares = preparing(self.methods)
        if shows and len(prepares) > 1:
            raise CannotAct(f"{spec_of_all(prepares)} cannot run together: both prepare the inputs. Use one of them.")
        return [method for method in self.methods if not method.reads_samples]

    @property
    def beams(self) -> int:
        return getattr(self.decoding, "num_beams", 1)

    @property
    def one_by_one(self) -> bool:
        """Whether the decoding takes one question at a time."""
        return isinstance(self.decoding, Opera)

    def recorder(self) -> "Shares | LastLayerAttention | None":
        """What must see attention while these answers are made. Raises `CannotAct` where a method cannot join."""
        from ..interventions.recorders import LastLayerAttention, Shares

        if not isinstance(self.decoding, Opera):
            return Shares() if self.shares else None
        from .opera_search import check

        check(self.methods, self.vlm.family)
        if self.shares:
            raise BadSetting("opera reads attention itself, so visual shares cannot be recorded beside it. Use beam.")
        return LastLayerAttention()

    def config(self) -> "GenerationConfig":
        """The checkpoint's special tokens, and nothing of its habits: how tokens are chosen is ours to say."""
        from transformers import GenerationConfig

        stored, tokenizer = self.vlm.model.generation_config, self.vlm.processor.tokenizer
        end = stored.eos_token_id if stored.eos_token_id is not None else tokenizer.eos_token_id
        pad = stored.pad_token_id if stored.pad_token_id is not None else tokenizer.pad_token_id
        if pad is None:
            pad = end[0] if isinstance(end, list) else end
        beam = self.decoding if isinstance(self.decoding, Beam | Opera) else Beam()
        return GenerationConfig(
            do_sample=False,
            num_beams=self.beams,
            length_penalty=beam.length_penalty,
            early_stopping=getattr(beam, "early_stopping", False),
            max_new_tokens=self.max_new_tokens,
            min_length=0,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            typical_p=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=end,
            pad_token_id=pad,
            bos_token_id=stored.bos_token_id if stored.bos_token_id is not None else tokenizer.bos_token_id,
        )


def without_insertion(run: GenerationPlan) -> GenerationPlan:
    """Questions without an image leave nothing to insert words into; the other methods say so themselves."""
    prepares = preparing(run.methods)
    for method in prepares:
        warnings.warn(
            f"A question without an image: {name_of(method)} leaves it as it is.", AnchorsWarning, stacklevel=3
        )
    return replace(run, methods=tuple(method for method in run.methods if method not in prepares))
