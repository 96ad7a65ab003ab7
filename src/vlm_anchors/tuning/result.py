"""What tuning found: the winner, what it gains on images it was not chosen on, and a sentence that says whether that is more
than chance."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..evaluation.statistics import Interval
from ..parameters import parameters_of, spelled
from .paired import Gain, Objective
from .search import Measured, Searched
from .split import ImageSplit

LEVEL = 0.05
"""Largest corrected p at which a setting counts as better than plain."""


@dataclass(frozen=True)
class TunedMethod:
    """The best setting of a method.

    Attributes:
        searched: Every setting of it on the validation part.
        held_out: The best one on the held-out part.
        holm: p of the held-out difference to plain, corrected for the number of methods (Holm 1979).
    """

    searched: Searched
    held_out: Measured
    holm: float | None

    @property
    def name(self) -> str:
        return self.searched.chosen.tunable.name

    @property
    def spec(self) -> str:
        return self.searched.best.spec

    @property
    def gap(self) -> float | None:
        """Gain on the validation part less gain on the held-out part: what the search only seemed to find."""
        here, there = self.searched.best.gain, self.held_out.gain
        return None if here is None or there is None else here.value - there.value


@dataclass(frozen=True)
class Tuning:
    """The result of `va.tune`.

    Attributes:
        objective: Benchmark and metric.
        split: Which questions were for choosing and which for judging.
        plain: The plain model on the validation part and on the held-out part.
        methods: The best setting of each method, in the order asked for.
        winner: The one with the best score on the validation part.
        info: Model, protocol, seed, versions, commit, device.
        seen_before: Settings that earlier searches in the same folder judged on the same held-out part.
    """

    objective: Objective
    split: ImageSplit
    plain: tuple[Measured, Measured]
    methods: tuple[TunedMethod, ...]
    winner: TunedMethod
    info: Mapping[str, Any]
    seen_before: int = 0

    @property
    def spec(self) -> str:
        """The winner as a SPEC."""
        return self.winner.spec

    def is_better(self, one: TunedMethod) -> bool:
        """Whether a method's best setting beats the plain model on the held-out part, by more than chance."""
        return self.objective.is_better(one.held_out.gain) and one.holm is not None and one.holm <= LEVEL

    @property
    def better(self) -> bool:
        """Whether the winner does."""
        return self.is_better(self.winner)

    @property
    def verdict(self) -> str:
        """The result in a sentence or two."""
        words = f"on held-out images it {self._gains(self.winner)}"
        others = [one for one in self.methods if one is not self.winner and self.is_better(one)]
        gain = self.winner.searched.best.gain
        ahead = gain is not None and gain.value * self.objective.sign > 0
        if self.winner.held_out.gain is None:
            whose = "plain" if self.plain[1].score is None else self.spec
            found = (
                f"Whether {self.spec} is better than plain cannot be said: on the held-out images {self.objective.metric.name} "
                f"is undefined for {whose}."
            )
        elif self.better:
            found = f"{self.spec} is better than plain: {words}."
        elif others:
            found = f"The winner, {self.spec}, is not better than plain: {words}."
        elif ahead or gain is None:
            found = f"No setting is better than plain: {self.spec} did best on the validation images; {words}."
        else:
            found = (
                f"No setting is better than plain: none scores higher than plain even on the validation images. "
                f"{self.spec} came first there; {words}."
            )
        if others:
            found += f" Better than plain: {', '.join(f'{one.spec}, which {self._gains(one)}' for one in others)}."
        return found

    def _gains(self, one: TunedMethod) -> str:
        gain = one.held_out.gain
        if gain is None:
            return f"has no defined difference in {self.objective.metric.name}"
        what = f"differs by {self._number(gain.value, sign=True)} in {self.objective.metric.name}"
        if gain.interval is None:
            return f"{what}, without an interval"
        where = "which includes no difference"
        if self.objective.is_better(gain):
            where = "which excludes no difference"
        elif self.objective.is_worse(gain):
            where = "which lies on the worse side"
        p = "" if one.holm is None else f", p = {one.holm:.3f}{' (Holm)' if len(self.methods) > 1 else ''}"
        return f"{what}, 95 % interval {self._interval(gain.interval, sign=True)}, {where}{p}"

    def _number(self, value: float | None, sign: bool = False) -> str:
        scaled = self.objective.metric.shown(value)
        return "–" if scaled is None else f"{scaled:+.2f}" if sign else f"{scaled:.2f}"

    def _interval(self, interval: Interval | None, sign: bool = False) -> str:
        if interval is None:
            return ""
        low, high = (self.objective.metric.shown(end) for end in (interval.low, interval.high))
        return f"[{low:+.1f}, {high:+.1f}]" if sign else f"[{low:.1f}, {high:.1f}]"

    def _gain(self, gain: Gain | None) -> str:
        return "" if gain is None else f"{self._number(gain.value, True)} {self._interval(gain.interval, True)}".strip()

    def text(self, width: int | None = None) -> str:
        """For a terminal: a row a method, the winner as a SPEC, the verdict."""
        from rich.console import Console
        from rich.table import Table

        out = io.StringIO()
        console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
        info, metric = self.info, self.objective.metric
        console.print(
            f"{info['benchmark']} · {info['model']}: {self.objective.words()}, protocol {info['protocol']}, "
            f"{info['decoding']}, seed {info['seed']}",
            soft_wrap=True,
        )
        console.print(self.split.words(), soft_wrap=True)
        for one in self.methods:
            console.print(one.searched.chosen.words(), soft_wrap=True)
        name = f"{metric.name} %" if metric.unit == "fraction" else metric.name
        shown = Table(box=None, pad_edge=False)
        shown.add_column("best setting", overflow="fold", max_width=40)
        for head in ("images", name, "gain", "p (Holm)" if len(self.methods) > 1 else "p", "gap"):
            shown.add_column(head)
        shown.add_row("none", *self._row("validation", self.plain[0]))
        shown.add_row("", *self._row("held out", self.plain[1]))
        for one in self.methods:
            shown.add_row(one.spec, *self._row("validation", one.searched.best))
            p, gap = ("" if one.holm is None else f"{one.holm:.3f}"), self._number(one.gap, True)
            shown.add_row("", *self._row("held out", one.held_out), p, gap)
        console.print(shown)
        console.print(
            "  brackets: 95 % of bootstrap draws by image; gain: less plain, paired; gap: validation gain less held-out gain",
            soft_wrap=True,
        )
        for note in self.notes():
            console.print(f"  {note}", soft_wrap=True)
        console.print(f"winner: {self.spec}", soft_wrap=True)
        console.print(self.verdict, soft_wrap=True)
        return out.getvalue()

    def _row(self, part: str, one: Measured) -> tuple[str, str, str]:
        return part, f"{self._number(one.score)} {self._interval(one.interval)}".strip(), self._gain(one.gain)

    def notes(self) -> list[str]:
        """What to beware of."""
        notes = []
        counts = {len(one.searched.chosen.settings) for one in self.methods}
        if len(counts) > 1:
            notes.append("methods had different numbers of settings: the space of the smaller ones is exhausted")
        if self.seen_before:
            notes.append(
                f"{self.seen_before} other settings were judged on these held-out images before; the more there are, the less "
                f"the interval says"
            )
        return notes

    def as_dict(self) -> dict[str, Any]:
        """Every number, as plain values; scores as the benchmark has them."""
        return {
            **self.info,
            "objective": self.objective.metric.name,
            "better": self.objective.metric.better,
            "winner": self.spec,
            "winner_is_better_than_plain": self.better,
            "verdict": self.verdict,
            "split": {
                name: {"images": len(part), "questions": sum(map(len, part))}
                for name, part in (("validation", self.split.validation), ("held_out", self.split.held_out))
            },
            "rounds": list(self.split.rounds),
            "plain": {"validation": _as_dict(self.plain[0]), "held_out": _as_dict(self.plain[1])},
            "methods": [
                {
                    "method": one.name,
                    "best": one.spec,
                    "validation": _as_dict(one.searched.best),
                    "held_out": _as_dict(one.held_out),
                    "holm": one.holm,
                    "gap": one.gap,
                    "is_better_than_plain": self.is_better(one),
                    "settings": [_as_dict(each) for each in one.searched.measured],
                }
                for one in self.methods
            ],
            "notes": self.notes(),
        }


def _as_dict(one: Measured) -> dict[str, Any]:
    parts = [spelled({name: getattr(part, name) for name in parameters_of(part)}) for part in one.setting]
    return {
        "setting": one.spec,
        "parameters": parts,
        "images": one.images,
        "questions": one.questions,
        "score": one.score,
        "interval": one.interval and asdict(one.interval),
        "gain": one.gain and asdict(one.gain),
        "changed": one.changed,
        "dropped": one.dropped or None,
    }
