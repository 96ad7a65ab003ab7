"""OPERA: over-trust penalty and retrospection-allocation.                 arXiv 2311.17911, CVPR 2024

Answers go wrong where all later tokens lean on one "summary" token and no longer on the image. A beam search takes K
candidates of each beam, looks at the attention that each would have, and prefers those that lean less on one token:

    A(i, j)   last layer's attention of token i to token j, largest over heads, each row divided by its sum
    phi_j   = 1e-7 prod_(i >= j) scale A(i, j)          i, j tokens of the answer, the candidate being the last of them
    score   = log p(candidate) - weight max_j phi_j     and, for the first `early` tokens, + weight sum_(image) A(i, j)
    beams   <- log softmax of the scores over the candidates, added up

Retrospection. c = arg max_j phi_j is noted at every step (the commonest over candidates, then over beams). Where c is not
among the first `early` tokens and each beam has noted it more than `threshold` times, the search goes back to the token
after c, bans what was chosen there, and goes on; K times for one place, then to the place before it, K times.

Here the candidates of all beams are one forward pass (siblings that do not see each other), which also gives the next
step's logits: one pass a token, where the published program needs 1 + K. Products are sums of logarithms, in double
precision, so that nothing overflows; a penalty counts as exp(80) at most. A's rows come from the queries and keys of the
new tokens alone: no attention matrix of the prompt is made.

Where code and paper differ. The paper chooses again among the remaining candidates; the code, and ours, among the whole
vocabulary and without the penalty, once, at that place. Where code and ours differ. The code's products are float16 and
overflow after a few tokens that lean hard on one; its rollback stands in a bare `try`, which turns any error into none.
It clears the bans of the last places of a list, not those of the places that were left. With fewer candidates than beams
(its README's lighter setting) it fills the beams with arbitrary tokens, which have a say in c; ours leaves them empty.
Its answers' scores are divided by the length of prompt and answer, today's transformers and ours divide by the answer's.
It takes one prompt at a time; so does ours, and `ask_many` and `eval` feed them so.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..interventions.method import DEFAULTS, Preset, from_preset
from ..parameters import KnownParameters, parameter, spec_of, validate

MODELS = ("llava-1.5-7b", "instructblip-7b", "minigpt-4", "shikra")
"""The models of its published program, which runs all of them with the same values."""


@dataclass(frozen=True)
class Opera(KnownParameters):
    """OPERA: over-trust penalty and retrospection-allocation (arXiv 2311.17911).

    A beam search of its own, with an answer's attention as its judge.

    Args:
        num_beams: sequences kept.
        scale: what attention weights are multiplied by before the products.
        threshold: steps in which every beam may lean most on one token before the search goes back to it.
        candidates: tokens looked at for each beam; also how often the search may go back to one place.
        weight: of the penalty; 0 = none.
        early: first tokens, which are judged by their attention to the image instead.
        length_penalty: answers compare by their score divided by their length to this power.
    """

    presets: ClassVar[tuple[Preset, ...]] = (
        *(Preset(model, "any", "official-code", {}) for model in MODELS),
        *(Preset(model, "fast", "official-code", {"threshold": 25, "candidates": 1}) for model in MODELS),
        DEFAULTS,
    )

    num_beams: int = parameter(5, 2, 64, whole=True)
    scale: float = parameter(50.0, 1e-6, 1e6)
    threshold: int = parameter(15, 1, 100_000, whole=True)
    candidates: int = parameter(5, 1, 100_000, whole=True)
    weight: float = parameter(1.0, 0, 1e6)
    early: int = parameter(10, 0, 100_000, whole=True)
    length_penalty: float = parameter(1.0, -10, 10)

    def __post_init__(self):
        validate(self)

    @classmethod
    def preset(cls, name: str, **parameters: Any) -> Self:
        """The decoding at the preset "MODEL/TASK", else at the model's for "any" task; `parameters` win."""
        return from_preset(cls, name, parameters)

    def spec(self) -> str:
        return spec_of(self, "opera")
