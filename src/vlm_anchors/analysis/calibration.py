"""Which tau anchors a tenth of the words: the papers' own rule, applied to a model and sample inputs of yours.

How much words and patches resemble each other differs from projector to projector (the papers use 0.12 and 0.08), so a tau
has to be found for each model. Found from each word's best cosine over the patches before it; nothing is generated.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..document import save_figure
from ..errors import AnchorsWarning, BadSetting
from ..generation.plan import check_batch_size
from ..generation.sample_batches import checked_samples, checked_window, read_sample
from ..inputs.prompt_builder import prepare
from ..models.load import as_vlm
from ..models.vlm import Vlm
from ..parameters import known_arguments

GRID = (1.0, 0.5, 0.3, 0.2, 0.16, 0.14, 0.12, 0.10, 0.08)
"""Values of tau whose shares are reported: the paper's sweep and some above."""
NARROW = 0.02
"""If the middle four fifths of the best cosines lie this close together, no tau separates them."""
STAND_OUT, WORDS = 3.0, 50
"""Below this `Calibration.stand_out`, seen in this many words or more, the words that anchor are the end of one crowd. In
normal noise it is 1.4, for the bundled model on clear scenes 5.8, on scenes too dark to recognise 1.7."""


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Args:
        tau: Use it as `va.AttAnchor(tau=...)`.
        fraction: The share of words that was asked for.
        cosines: Each word's best cosine, highest first.
        shares: Tau -> share of the words that it would anchor.
        concern: Why tau should not be trusted, or "".
    """

    tau: float
    fraction: float
    cosines: tuple[float, ...] = field(repr=False)
    shares: dict[float, float]
    concern: str = ""

    def share(self, tau: float) -> float:
        """Share of the words that `tau` would anchor; 0 at tau = 1, which is off."""
        return sum(cosine >= tau for cosine in self.cosines) / len(self.cosines) if tau < 1 else 0.0

    def quantile(self, part: float) -> float:
        """The cosine below which this part of the words lies."""
        return self.cosines[::-1][min(int(part * len(self.cosines)), len(self.cosines) - 1)]

    @property
    def stand_out(self) -> float | None:
        """How far the highest tenth's mean lies above the median, in units of the lowest tenth's distance below it."""
        return _stand_out(self.cosines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the distribution as its deciles."""
        deciles = [round(self.quantile(part / 10), 4) for part in range(11)]
        return {
            "tau": self.tau, "fraction": self.fraction, "words": len(self.cosines), "share": round(self.share(self.tau), 4),
            "shares": {f"{tau:g}": round(share, 4) for tau, share in self.shares.items()}, "deciles": deciles,
            "stand_out": None if self.stand_out is None else round(self.stand_out, 3),
            "concern": self.concern,
        }  # fmt: skip

    def figure(self, path: str | Path | None = None) -> Any:
        """Distribution of the best cosines and the share of words anchored at each tau; written to `path` if given."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise BadSetting("A figure needs matplotlib: pip install 'vlm-anchors[figures]'.") from error
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        counts = figure.subplots()
        counts.hist(self.cosines, bins=40, color="#9db8d2")
        counts.set(xlabel="best cosine of a word with the patches before it", ylabel=f"words (of {len(self.cosines)})")
        curve = counts.twinx()
        curve.plot(self.cosines, [(i + 1) / len(self.cosines) for i in range(len(self.cosines))], color="#444444")
        curve.set(ylabel="share of words anchored at this tau", ylim=(0, 1))
        counts.axvline(self.tau, color="#c0392b")
        counts.set_title(f"tau = {self.tau:g} anchors {self.share(self.tau):.1%} of the words", loc="left")
        if path is not None:
            save_figure(figure, Path(path))
        return figure


@known_arguments
def calibrate(
    vlm: Any,
    samples: Iterable[Any],
    fraction: float = 0.10,
    *,
    tokens: str = "user",
    batch_size: int = 8,
) -> Calibration:
    """The tau at which `fraction` of the prompts' words become anchors.

    Args:
        vlm: What `va.load` returns, or a (model, processor) pair.
        samples: (image or images, question) pairs, such as `va.ask_many` takes; some dozens are enough.
        tokens: Whose words count, as in `va.AttAnchor`.

    Warns with `AnchorsWarning` where the cosine separates nothing: no word resembles any patch, or all do alike.
    """
    number = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
    if not number or not 0 < fraction <= 1:
        raise BadSetting(f"fraction is a share of the words, above 0 and at most 1; found {fraction!r}.")
    vlm = as_vlm(vlm)
    if tokens not in ("user", "all"):
        raise BadSetting(f"tokens must be 'user' or 'all'; found {tokens!r}.")
    check_batch_size(batch_size)
    cosines: list[float] = []
    numbered = enumerate(checked_samples(samples), 1)
    while batch := list(itertools.islice(numbered, batch_size)):
        items, failures = checked_window(batch)
        bare = [batch[i][0] for i, item in items.items() if item.get("image") is None and "messages" not in item]
        if bare:
            raise BadSetting(f"Sample {bare[0]} has no image, so no word of it can resemble a patch. Leave it out.")
        for problem in failures.values():
            raise problem
        cosines += _best_cosines(vlm, list(items.values()), tokens)
    if not cosines:
        raise BadSetting("Expected (image, question) pairs to calibrate on; found none.")
    found = _calibration(sorted(cosines, reverse=True), fraction)
    if found.concern:
        warnings.warn(found.concern, AnchorsWarning, stacklevel=3)
    return found


def _best_cosines(vlm: Vlm, batch: Sequence[Any], tokens: str) -> list[float]:
    """Of every word of a batch, the highest cosine with a patch before it; -1 where no image stands before it."""
    import torch

    from ..interventions.insertion.batch import read_prompts

    inputs = prepare(vlm, [read_sample(**sample) for sample in batch]).tensors
    with torch.no_grad():
        prompts = read_prompts("calibrate", vlm, inputs, tokens)
        assert prompts is not None
        best = prompts.cosine().amax(-1)[prompts.words.valid]
    return best.clamp(min=-1).tolist()


def _calibration(cosines: list[float], fraction: float) -> Calibration:
    reached = cosines[max(round(fraction * len(cosines)), 1) - 1]
    tau = min(max(math.floor(reached * 1e4) / 1e4, 0.0), 0.9999)
    found = Calibration(tau, fraction, tuple(cosines), {}, _concern(cosines, fraction, reached))
    return Calibration(tau, fraction, found.cosines, {one: found.share(one) for one in GRID}, found.concern)


def _concern(cosines: list[float], fraction: float, reached: float) -> str:
    low, high = cosines[int(0.9 * (len(cosines) - 1))], cosines[int(0.1 * (len(cosines) - 1))]
    if reached <= 0:
        return (
            f"Not even {fraction:.0%} of the words resemble a patch: the cosine reached there is {reached:.3f}. With this "
            "model anchors would stand at places without meaning; projectors that pool patches are known for it."
        )
    if high - low < NARROW:
        return (
            f"The cosine separates nothing: four fifths of the words have a best cosine between {low:.3f} and {high:.3f}, so "
            "a slightly other tau anchors all of them or none. Try more varied questions, or leave AttAnchor out here."
        )
    stand_out = _stand_out(cosines)
    if stand_out is not None and stand_out < STAND_OUT and len(cosines) >= WORDS:
        return (
            f"Cosines hardly separate words: the highest tenth lies {stand_out:.1f} times as far above the median as the "
            f"lowest tenth below it, where {STAND_OUT:g} or more is expected. What anchors is no other kind of word than what "
            "does not. Blurred or dark images and projectors that pool patches are known for it."
        )
    return ""


def _stand_out(cosines: Sequence[float]) -> float | None:
    """cosines: highest first."""
    top, count = cosines[: max(len(cosines) // 10, 1)], len(cosines)
    median, low = cosines[count // 2], cosines[min(int(0.9 * count), count - 1)]
    return None if median <= low else (sum(top) / len(top) - median) / (median - low)
