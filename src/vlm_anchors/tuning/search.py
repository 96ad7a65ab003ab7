"""Successive halving over questions: after each round of images, settings that are surely worse are asked no more.

Every comparison is paired by image. A setting is surely worse where the bootstrap interval (99 %) of its score less that of the
plain model, or less that of its method's best setting so far, lies below zero (above, where lower is better). Settings of
one method compete among themselves, so that no method spends another's budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..evaluation.benchmarks.base import Record
from ..evaluation.statistics import Interval
from ..specs import spec_of_all
from .paired import SURE, Draws, Gain, Objective
from .space import Setting, SettingList, distance_from_off, layers_touched

SAME = 1e-9
"""Scores closer than this are a tie."""
PLAIN = "none"


@dataclass(frozen=True)
class Measured:
    """One setting on the questions it was asked.

    Attributes:
        score: The objective; None where it is undefined.
        interval: Of the score.
        gain: Its difference to the plain model on the same questions.
        changed: Share of the answers that differ from the plain model's.
        dropped: When and why it was asked no more; empty where it never was.
    """

    setting: Setting
    images: int
    questions: int
    score: float | None
    interval: Interval | None
    gain: Gain | None
    changed: float
    dropped: str = ""

    @property
    def spec(self) -> str:
        return spec_of_all(self.setting)


@dataclass(frozen=True)
class Searched:
    """The settings of one method, in the order in which they were listed, and the best that is left."""

    chosen: SettingList
    measured: tuple[Measured, ...]
    best: Measured


def measure(setting: Setting, here: Draws, plain: Draws) -> Measured:
    """A setting's score, and its difference to the plain model's on the same questions."""
    pairs = zip(here.records, plain.records, strict=True)
    changed = sum(one["answer"] != other["answer"] for one, other in pairs) / len(here.records)
    gain = None if here is plain else here.minus(plain)
    return Measured(setting, len(here.clusters), len(here.records), here.score, here.interval(), gain, changed)


def order_of(objective: Objective, depth: int, measured: Sequence[Measured]) -> list[Measured]:
    """The best first. Ties go to the smaller intervention.

    That is the one whose numbers are nearer to the method turned off, then the one that changed fewer answers, then the one with
    fewer layers, then the one listed first. Settings with an undefined score come last.
    """

    def key(one: Measured) -> tuple[Any, ...]:
        value = float("inf") if one.score is None else -objective.sign * round(one.score / SAME) * SAME
        return value, distance_from_off(one.setting), one.changed, layers_touched(one.setting, depth)

    return sorted(measured, key=key)


Answers = Mapping[str, Sequence[Record]]
"""Records by SPEC, in the order of the questions."""


def search(
    objective: Objective,
    chosen: Sequence[SettingList],
    rounds: Sequence[Sequence[str]],
    answer: Callable[[Sequence[Setting], Sequence[str], Sequence[str]], Answers],
    depth: int,
    say: Callable[[str], Any] = lambda words: None,
) -> tuple[Measured, list[Searched]]:
    """Answers rounds of questions and drops settings between them.

    Args:
        objective: What is compared.
        chosen: The settings of each method.
        rounds: Ids of the questions that each round adds.
        answer: Answers new questions under some settings (the empty one is the plain model), and gives the records of all
            questions so far: `answer(settings, new ids, ids so far)`.
        depth: The model's number of layers.
        say: Takes what happens, in words.

    Returns:
        The plain model on all questions, and each method's settings.
    """
    alive: list[list[Setting]] = [list(one.settings) for one in chosen]
    found: list[dict[Setting, Measured]] = [{} for _ in chosen]
    so_far: list[str] = []
    plain = Measured((), 0, 0, None, None, None, 0.0)
    for number, new in enumerate(rounds, 1):
        so_far += new
        # What two methods have in common is asked once.
        asked = list(dict.fromkeys([(), *(setting for settings in alive for setting in settings)]))
        records = answer(asked, new, so_far)
        draws = {setting: Draws(objective, records[spec_of_all(setting)]) for setting in asked}
        plain = measure((), draws[()], draws[()])
        last = number == len(rounds)
        for at, settings in enumerate(alive):
            for setting in settings:
                found[at][setting] = measure(setting, draws[setting], draws[()])
            if not last:
                alive[at] = _kept(objective, settings, found[at], draws, depth, number)
        dropped = sum(map(len, found)) - sum(map(len, alive))
        say(
            f"round {number} of {len(rounds)}: {plain.images} images, {len(asked) - 1} settings"
            + ("" if last else f"; {dropped} surely worse so far, dropped")
        )
    return plain, [
        Searched(one, tuple(each.values()), order_of(objective, depth, [each[setting] for setting in left])[0])
        for one, each, left in zip(chosen, found, alive, strict=True)
    ]


def _kept(
    objective: Objective,
    settings: Sequence[Setting],
    measured: dict[Setting, Measured],
    draws: Mapping[Setting, Draws],
    depth: int,
    number: int,
) -> list[Setting]:
    """The settings that go on: the best so far, and all that are not surely worse than it or than plain; notes the others."""
    best = order_of(objective, depth, [measured[setting] for setting in settings])[0].setting
    kept = {best}
    for setting in settings:
        if setting == best:
            continue
        worse = [other for other in ((), best) if objective.is_worse(draws[setting].minus(draws[other], SURE))]
        if worse:
            than = "plain" if worse[0] == () else spec_of_all(best)
            measured[setting] = replace(measured[setting], dropped=f"after round {number}, surely worse than {than}")
        else:
            kept.add(setting)
    return [setting for setting in settings if setting in kept]
