"""How tokens are chosen. Any method goes with any decoding. Imports nothing heavy."""

from dataclasses import dataclass

from ..parameters import KnownParameters, choice, number, spec_of
from ..registry import Catalogue, Entry

DECODINGS = Catalogue(
    "decoding",
    [
        Entry("greedy", "vlm_anchors.generation.decodings:Greedy", "The most likely token at each step", "-"),
        Entry(
            "beam",
            "vlm_anchors.generation.decodings:Beam",
            "The most likely sequence among a few kept at each step",
            "-",
        ),
        Entry(
            "nucleus",
            "vlm_anchors.generation.decodings:Nucleus",
            "A random token among the most likely ones",
            "arXiv 1904.09751",
        ),
        Entry(
            "opera",
            "vlm_anchors.generation.opera:Opera",
            "Beam search that avoids leaning on one token of the answer, and goes back where all beams do",
            "arXiv 2311.17911",
        ),
    ],
)


@dataclass(frozen=True)
class Greedy(KnownParameters):
    """The most likely token at each step."""

    def spec(self) -> str:
        return spec_of(self, "greedy")


@dataclass(frozen=True)
class Beam(KnownParameters):
    """Beam search with `num_beams` >= 2 sequences kept; `length_penalty` > 0 favours longer ones."""

    num_beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self):
        number(self, "num_beams", 2, 64, whole=True)
        number(self, "length_penalty", -10, 10)
        choice(self, "early_stopping", True, False)

    def spec(self) -> str:
        return spec_of(self, "beam")


@dataclass(frozen=True)
class Nucleus(KnownParameters):
    """Sampling from the smallest set of tokens whose probability reaches `top_p`, at `temperature`.

    Of the `top_k` most likely tokens alone where it is not 0; as in transformers, temperature comes first, then top_k, then
    top_p. The noise is drawn from (seed, sample id, step), so a sample's answer does not depend on its batch.
    """

    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    top_k: int = 0

    def __post_init__(self):
        number(self, "top_p", 1e-6, 1.0)
        number(self, "temperature", 1e-6, 100.0)
        number(self, "seed", 0, 2**63 - 1, whole=True)
        number(self, "top_k", 0, 10**6, whole=True)

    def spec(self) -> str:
        return spec_of(self, "nucleus")
