"""What was observed becomes verdicts: a premise, whether it holds, the number it rests on, and the parameters that follow."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import measures
from .premises import Observed, mean_and_error

if TYPE_CHECKING:
    from .measures import Table

FADES = 0.8
"""Deep layers look away if their share of the image is below this part of the intermediate layers'."""
CROSSES = 0.05
"""A difference of correlations smaller than this is none, however many questions make it sure."""
SINK = 0.2
"""Mean share on the first token from which it is called a sink."""
OFTEN = 0.9
"""A premise about single prompts holds if it holds in this part of them."""
SIGMAS = 2.0
"""How many standard errors a difference must be away from nothing to be called one."""


@dataclass(frozen=True)
class Verdict:
    """One premise.

    Args:
        holds: True, False, or None where it cannot be decided.
        number: What it rests on.
    """

    premise: str
    method: str
    holds: bool | None
    number: str
    meaning: str


def layer_table(seen: Observed) -> "Table":
    """Means over the questions, by layer: shares, correlations, entropy and, where boxes are known, anchors on the object."""
    merged: dict[int, dict[str, Any]] = {}
    for tables in (seen.shares, seen.drift, seen.entropy, seen.on_asked):
        for row in measures.average(tables):
            merged.setdefault(row["layer"], {}).update(row)
    return [merged[layer] for layer in sorted(merged)]


def verdicts(seen: Observed, tau: float | None, concern: str) -> list[Verdict]:
    """All that can be said about this model."""
    summary: list[Verdict | None] = [
        _fades(seen),
        _crosses(seen),
        _turns(seen),
        _sink(seen),
        _heads(seen),
        _anchors(seen),
    ]
    summary += [_positive_on_object(seen), _negative_off_objects(seen), _words(seen), _threshold(tau, concern)]
    return [one for one in summary if one is not None]


def has_drift(seen: Observed) -> bool:
    """CLVA's drift: deep maps leave the middle layer's anchors and turn back to the first layer's (docs/decisions/0040-drift.md).

    Curves that cross are not enough: they also do where deep maps resemble neither anchor. Nor is a rise alone, where maps
    never leave the positive anchor. That attention on the image fades is another premise (`_fades`).
    """
    return bool(_crosses(seen).holds and _turns(seen).holds)


def deep_layers(depth: int) -> range:
    """The last third of the layers."""
    return range(depth - max(depth // 3, 1) + 1, depth + 1)


def intermediate_layers(depth: int, positive_layer: int) -> range:
    """From the layer whose anchors CLVA takes up to the deep ones, and a sixth of the depth at least.

    The layer of the positive anchors alone would be no comparison: its map is the positive map.
    """
    deep = deep_layers(depth).start
    return range(min(positive_layer, max(deep - max(depth // 6, 1), 1)), deep)


def _deep(seen: Observed) -> range:
    return deep_layers(seen.depth)


def _between(seen: Observed) -> range:
    return intermediate_layers(seen.depth, seen.positive_layer)


def _over(table: "Table", column: str, layers: range) -> float:
    """A question's mean over layers."""
    values = [row[column] for row in table if row["layer"] in layers]
    return sum(values) / len(values)


def _span(layers: range) -> str:
    return f"layers {layers.start}-{layers.stop - 1}" if len(layers) > 1 else f"layer {layers.start}"


def _apart(mean: float, error: float) -> bool | None:
    """Whether a difference is above nothing (True) or below (False) by `SIGMAS` standard errors; None where it is neither."""
    return None if abs(mean) <= SIGMAS * error else mean > 0


def _fades(seen: Observed) -> Verdict:
    pairs = [(_over(table, "visual", _deep(seen)), _over(table, "visual", _between(seen))) for table in seen.shares]
    mean, error = mean_and_error([deep - FADES * between for deep, between in pairs])
    deep, between = (sum(each) / len(each) for each in zip(*pairs, strict=True))
    counting = sum(table[0]["counting"] for table in seen.shares) / len(seen.shares)
    holds = mean < -SIGMAS * error
    return Verdict(
        "deep layers look away from the image", "CLVA", holds,
        f"{deep:.0%} in {_span(_deep(seen))}, {between:.0%} in {_span(_between(seen))}, {counting:.0%} by counting tokens",
        "attention on the image fades there" if holds else "they look at it as much as the layers before them",
    )  # fmt: skip


def _crosses(seen: Observed) -> Verdict:
    """Fig. 2b: in the intermediate layers the curve to the positive anchor is the higher one, in the deep ones the other."""

    def gaps(layers: range) -> list[float]:
        return [_over(table, "to_negative", layers) - _over(table, "to_positive", layers) for table in seen.drift]

    mean, error = mean_and_error(gaps(_deep(seen)))
    before, spread = mean_and_error(gaps(_between(seen)))
    holds = before < -max(CROSSES, SIGMAS * spread) and mean > max(CROSSES, SIGMAS * error)
    return Verdict(
        "drift curves cross (Fig. 2b)", "CLVA", holds,
        f"negative less positive anchor: {before:+.2f} ± {SIGMAS * spread:.2f} in {_span(_between(seen))}, "
        f"{mean:+.2f} ± {SIGMAS * error:.2f} in {_span(_deep(seen))}",
        "deep maps are less like the middle layer's than the first's" if holds else "the curves do not cross",
    )  # fmt: skip


def _turns(seen: Observed) -> Verdict:
    """Fig. 2b's other half: the correlation with the negative anchor rises from the intermediate layers to the deep ones,
    and there is one: a rise from below zero to nothing is no return."""
    pairs = [
        (_over(table, "to_negative", _deep(seen)), _over(table, "to_negative", _between(seen))) for table in seen.drift
    ]
    mean, error = mean_and_error([deep - between for deep, between in pairs])
    deep, between = (sum(each) / len(each) for each in zip(*pairs, strict=True))
    holds = mean > max(CROSSES, SIGMAS * error) and deep > CROSSES
    return Verdict(
        "deep maps turn to the first layer's (Fig. 2b)", "CLVA", holds,
        f"correlation with the negative anchor {between:+.2f} in {_span(_between(seen))}, {deep:+.2f} in "
        f"{_span(_deep(seen))}; change {mean:+.2f} ± {SIGMAS * error:.2f}",
        "they take up its map again" if holds else "they do not take up its map",
    )  # fmt: skip


def _sink(seen: Observed) -> Verdict:
    table = measures.average(seen.shares)
    rows = [row["first"] for row in table if row["layer"] > seen.middle]
    share = sum(rows) / len(rows)
    return Verdict(
        "the first token is a sink", "all", share > SINK, f"{share:.0%} of the attention after layer {seen.middle}",
        "much attention rests there and is free to be moved" if share > SINK else "no attention is parked there",
    )  # fmt: skip


def _heads(seen: Observed) -> Verdict:
    layer = seen.positive_layer
    no_sensitive = sum(each[layer] for each in seen.no_sensitive) / len(seen.no_sensitive)
    no_insensitive = sum(seen.no_insensitive) / len(seen.no_insensitive)
    holds = max(no_sensitive, no_insensitive) <= 1 - OFTEN
    return Verdict(
        "heads stand out (Eq. 2-3)", "CLVA", holds,
        f"no sensitive head in layer {layer}: {no_sensitive:.0%} of prompts; no insensitive one in layer 1: "
        f"{no_insensitive:.0%}",
        "head sets are seldom empty" if holds else "the most extreme head often stands in: lower lam, or heads='all'",
    )  # fmt: skip


def _anchors(seen: Observed) -> Verdict:
    counts = [each[seen.positive_layer] for each in seen.positive]
    both = sum(bool(p and n) for p, n in zip(counts, seen.negative, strict=True)) / len(counts)
    positive, negative = (sum(each) / len(each) for each in (counts, seen.negative))
    return Verdict(
        "anchors are found (Eq. 8-9)", "CLVA", both >= OFTEN,
        f"{positive:.1f} positive in layer {seen.positive_layer} and {negative:.1f} negative in layer 1, mean of a prompt; both "
        f"kinds in {both:.0%} of prompts",
        "CLVA acts" if both >= OFTEN else "in many prompts one kind is missing: lower tau",
    )  # fmt: skip


def _positive_on_object(seen: Observed) -> Verdict | None:
    rows = [row for table in seen.on_asked for row in table if row["layer"] == seen.positive_layer]
    if not rows:
        return None
    mean, error = mean_and_error([row["on_asked"] - row["chance"] for row in rows])
    found, chance = (sum(row[name] for row in rows) / len(rows) for name in ("on_asked", "chance"))
    holds = _apart(mean, error)
    best = f", the best of layers {seen.candidates.start}-{seen.candidates.stop - 1}," if seen.chosen_on else ""
    meanings = {
        True: "that layer points at what is asked",
        False: f"they point elsewhere{'' if seen.chosen_on else ': try another positive_layer'}",
        None: "not distinguishable from chance: ask more questions",
    }
    return Verdict(
        "positive anchors lie on the asked object", "CLVA", holds,
        f"{found:.0%} in layer {seen.positive_layer}{best} {chance:.0%} by chance; difference {mean:+.0%} ± {SIGMAS * error:.0%} "
        f"({len(rows)} questions)",
        meanings[holds],
    )  # fmt: skip


def _negative_off_objects(seen: Observed) -> Verdict | None:
    if not seen.negative_on_objects:
        return None
    mean, error = mean_and_error([found - chance for found, chance in seen.negative_on_objects])
    found, chance = (sum(each) / len(each) for each in zip(*seen.negative_on_objects, strict=True))
    on_objects = _apart(mean, error)
    meanings = {
        False: "what is pushed away is background",
        True: "what is pushed away are objects: set beta=0",
        None: "they lie on objects about as often as by chance",
    }
    return Verdict(
        "negative anchors lie off the objects", "CLVA", None if on_objects is None else not on_objects,
        f"{found:.0%} on objects, {chance:.0%} by chance; difference {mean:+.0%} ± {SIGMAS * error:.0%}", meanings[on_objects],
    )  # fmt: skip


def _words(seen: Observed) -> Verdict | None:
    """Where boxes are known: whether the asked word's best patch is on its object."""
    if not seen.word_on_asked:
        return None
    hits, chance = (sum(each) / len(each) for each in zip(*seen.word_on_asked, strict=True))
    mean, error = mean_and_error([hit - by_chance for hit, by_chance in seen.word_on_asked])
    number = f"the asked word's best patch is on its object in {hits:.0%}, {chance:.0%} by chance"
    if seen.cosines:
        word, others = (sum(each) / len(each) for each in zip(*seen.cosines, strict=True))
        number += f"; cosine {word:.2f}, other words {others:.2f}"
    separated = cosines(seen)
    if separated is not None:
        number += f"; separation {separated['separation']:.2f}, entropy over patches {separated['entropy']:.2f}"
    holds = _apart(mean, error)
    meanings = {
        True: "words find their patches",
        False: "words find other patches",
        None: "not distinguishable from chance",
    }
    return Verdict("words resemble their patches", "AttAnchor", holds, number, meanings[holds])


def _threshold(tau: float | None, concern: str) -> Verdict:
    """Whether the papers' rule for tau gives one to rely on."""
    if tau is None:
        return Verdict("a tau can be chosen by a tenth of the words", "AttAnchor", False, "no tau", concern)
    return Verdict(
        "a tau can be chosen by a tenth of the words", "AttAnchor", not concern, f"tau {tau:.3g} anchors a tenth of the words",
        concern or "the words that anchor stand out from the others",
    )  # fmt: skip


def cosines(seen: Observed) -> dict[str, float] | None:
    """What tells whether anchors can be chosen, where boxes are known (docs/open-questions.md).

    separation: how often an asked object's word has a higher best cosine than the median of a question's other words, over
    all pairs (0.5 is chance). Only objects that are there are asked about: it does not say that absent ones stay below.
    spread: the middle four fifths of all these cosines. entropy: of the word's cosines over patches, 1 = all alike.
    """
    if not seen.cosines or not seen.word_entropy:
        return None
    word, others = (list(each) for each in zip(*seen.cosines, strict=True))
    higher = sum((one > other) + 0.5 * (one == other) for one in word for other in others)
    every = sorted([*word, *others])
    low, high = every[int(0.1 * (len(every) - 1))], every[int(0.9 * (len(every) - 1))]
    return {
        "separation": higher / (len(word) * len(others)),
        "spread": high - low,
        "entropy": sum(seen.word_entropy) / len(seen.word_entropy),
    }


def suggestion(seen: Observed, tau: float | None, concern: str = "") -> dict[str, Any]:
    """Layer parameters for CLVA and tau for AttAnchor, as SPECs, each with its reason.

    positive_layer: among layers 2 to two thirds, the one whose anchors lie on the asked object most, on every second
    question where there are enough; without boxes the one that looks at the image most. layers: from the first layer after it
    whose share of the image is below `FADES` of the highest; all after it where none is. beta: 0 where negative anchors lie on
    objects. tau: None where `concern` says not to rely on it.
    """
    table = layer_table(seen)
    early = [row for row in table if row["layer"] in seen.candidates]
    known = [row for row in early if "on_asked" in row]
    best = (
        max(known, key=lambda row: row["on_asked"] - row["chance"])
        if known
        else max(early, key=lambda row: row["visual"])
    )
    layer, peak = seen.positive_layer if seen.chosen_on else best["layer"], max(row["visual"] for row in table)
    faded = [row["layer"] for row in table if row["layer"] > layer and row["visual"] < FADES * peak]
    first = faded[0] if faded else layer + 1
    off = _negative_off_objects(seen)
    beta = ",beta=0" if off is not None and off.holds is False else ""
    return {
        "clva": f"clva:positive_layer={layer},layers={first}-{seen.depth}{beta}",
        "clva_why": f"layer {layer}: {_why(seen, bool(known))}.{_outlook(seen, layer)}",
        "attanchor": None if tau is None or concern else f"attanchor:tau={tau:.3g}",
        "attanchor_why": concern,
    }


def _why(seen: Observed, known: bool) -> str:
    """Why this layer gives the positive anchors."""
    if not known:
        return "it looks at the image most"
    points = _positive_on_object(seen) if seen.chosen_on else None
    chance = "" if points is None or points.holds else ", though not more than by chance"
    among = f"of layers {seen.candidates.start}-{seen.candidates.stop - 1}"
    return f"{among} its anchors lie on the asked object most often{chance}"


def _outlook(seen: Observed, layer: int) -> str:
    """What to expect of CLVA, where the drift is absent."""
    if has_drift(seen):
        return ""
    judged = "" if layer == seen.positive_layer else f", judged from the anchors of layer {seen.positive_layer}"
    if _fades(seen).holds:
        return f" The drift it repairs is absent here{judged}, but attention on the image fades, and that it raises."
    return f" The drift it repairs is absent here{judged}, so expect no gain from it."


def as_dict(seen: Observed, tau: float | None, concern: str) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "drift": has_drift(seen),
        "positive_layer": {"layer": seen.positive_layer, "paper": seen.middle, "chosen_on": seen.chosen_on},
        "verdicts": [asdict(one) for one in verdicts(seen, tau, concern)],
        "suggestion": suggestion(seen, tau, concern),
        "cosines": cosines(seen),
        "layers": layer_table(seen),
        "questions": len(seen.shares),
    }
