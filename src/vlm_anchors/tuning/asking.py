"""How settings are answered: everything but the settings themselves, as `evaluate` takes it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BadParameter, BadSetting, CannotAct, MissingPackage, UnknownName, UserError
from ..evaluation.benchmarks.base import Benchmark, Metric, Question, Record
from ..evaluation.benchmarks.protocols import Protocol
from ..evaluation.reporting.runs import read_run
from ..evaluation.runner.answerer import key_of_run, run_of
from ..evaluation.runner.batches import Asked, asked, require_readable, without_bad
from ..evaluation.runner.run import evaluate, plan, shortened
from ..generation.decodings import Nucleus
from ..generation.generate import GenerationPlan
from ..interventions.attachment import attach
from ..models.decoder import find_target
from ..models.vlm import Vlm
from ..registry import did_you_mean
from ..specs import DecodingLike, choose, gives_seed, spec_of_all
from .search import PLAIN, Answers
from .space import Setting


@dataclass(frozen=True)
class Asking:
    """A model, a benchmark and how its questions are put.

    Attributes:
        seed: Of the division and the random draws.
        decoding_seed: Of a sampling decoding.
        options: Keywords of `evaluate` that stay the same throughout.
    """

    vlm: Vlm
    benchmark: Benchmark
    protocol: Protocol
    data: Path
    images: Path
    seed: int
    decoding_seed: int
    decoding: DecodingLike = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        vlm: Vlm,
        benchmark: str | Benchmark,
        data: str | Path,
        images: str | Path,
        seed: int | None,
        decoding: DecodingLike,
        options: Mapping[str, Any],
    ) -> "Asking":
        """Checks what was named. Raises a `UserError` where a name is wrong."""
        bench, official = plan(benchmark, [], options["protocol_name"], decoding)
        how = shortened(official, options["max_new_tokens"])
        seeds = seed or 0, seed_of(decoding, seed)
        return cls(vlm, bench.at(Path(data)), how, Path(data), Path(images), *seeds, decoding, options)

    @cached_property
    def _asked(self) -> list[Asked]:
        split, limit = self.options["split"], self.options["limit"]
        return asked(self.benchmark, self.data, self.images, split, limit, self.protocol)

    @cached_property
    def questions(self) -> list[Question]:
        """Those that can be asked; each of their images is read once here.

        Raises:
            BadImage: One cannot be read, and is not to be skipped.
        """
        found = self._asked
        if self.options["skip_bad"]:
            found, _ = without_bad(found, self.images)
        else:
            require_readable(found, self.images)
        return [one.question for one in found]

    @property
    def reached_limit(self) -> int | None:
        """The limit, where there are as many questions; None where it cut nothing."""
        limit = self.options["limit"]
        return limit if limit == len(self._asked) else None

    def plan_of(self, setting: Setting) -> GenerationPlan:
        return run_of(self.vlm, list(setting) or PLAIN, self.protocol, self.decoding, self.decoding_seed)

    def depth(self, target: str) -> int:
        """Number of the layers that a method with this target counts."""
        return find_target(self.vlm.model, self.vlm.processor.tokenizer, target).depth

    def require_fit(self, setting: Setting) -> None:
        """Raises a `UserError` where the model does not take a setting (a layer it does not have)."""
        run = self.plan_of(setting)
        try:
            with attach(self.vlm, run.attached, recorder=run.recorder()):
                pass
        except CannotAct as error:
            raise CannotAct(f"{spec_of_all(setting)} cannot be tried: {error}") from error

    def fits(self, setting: Setting) -> bool:
        """Whether the model takes a setting."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.require_fit(setting)
        except (CannotAct, BadParameter):
            return False
        return True

    def answer_into(self, run: Path) -> "Callable[[Sequence[Setting], Sequence[str], Sequence[str]], Answers]":
        """A function that answers new questions under some settings into a RUN, and gives the records of all so far."""

        def answer(settings: Sequence[Setting], new: Sequence[str], so_far: Sequence[str]) -> Answers:
            evaluate(
                self.vlm, self.benchmark, run, data=self.data, images=self.images, decoding=self.decoding,
                seed=self.decoding_seed, methods=[list(each) or PLAIN for each in settings], only=frozenset(new), **self.options,
            )  # fmt: skip
            keys = {key_of_run(self.plan_of(setting)) for setting in settings}
            return records_of(run, keys, so_far)

        return answer


def seed_of(decoding: DecodingLike, seed: int | None) -> int:
    """The seed of a sampling decoding: the one that its SPEC names, else `seed`, else 0.

    Raises:
        BadParameter: Both are given, and differ.
    """
    how = choose(decoding=decoding)[1]
    if not isinstance(how, Nucleus) or not gives_seed("none", decoding):
        return seed or 0
    if seed not in (None, how.seed):
        raise BadParameter(
            f"The decoding {how.spec()} names the seed {how.seed}, and --seed (seed=) is {seed}. Keep one; without --seed the "
            f"images are divided by seed 0."
        )
    return how.seed


def records_of(run: Path, keys: "set[tuple[str, str, int | None]]", ids: Sequence[str]) -> Answers:
    """The records of some questions, in their order, by the method's SPEC."""
    wanted = set(ids)
    found: dict[str, dict[str, Record]] = {}
    for record in read_run(run).records:
        key = (record["method"], record["decoding"], record.get("seed"))
        if key in keys and record["id"] in wanted:
            found.setdefault(record["method"], {})[record["id"]] = record
    return {spec: [by_id[one] for one in ids] for spec, by_id in found.items()}


def metric_of(bench: Benchmark, name: str | None) -> Metric:
    """The metric to improve, by name; without one, the headline.

    Raises:
        UnknownName: The benchmark has no such metric.
        BadSetting: It has no better side.
    """
    known = {metric.name: metric for metric in bench.metrics_of}
    aims = [metric.name for metric in bench.metrics_of if metric.better != "neither"]
    if name is not None and name not in known:
        raise UnknownName(f"{bench.name} has no metric {name!r}.{did_you_mean(name, known)}")
    if not aims:
        raise BadSetting(
            f"An objective needs a better side, higher or lower; no metric of {bench.name} has one. Tune on another benchmark."
        )
    if name is not None and known[name].better == "neither":
        raise BadSetting(
            f"An objective needs a better side, higher or lower; {name} of {bench.name} has none. Choose one of: "
            f"{', '.join(aims)}."
        )
    return known[name or aims[0]]


def require_scores(bench: Benchmark, questions: Sequence[Question]) -> None:
    """Raises `BadSetting` where answers cannot be scored here: a judge or a server does it."""
    try:
        bench.counts([question.record("Yes") for question in questions])
    except MissingPackage:
        raise
    except UserError as error:
        raise BadSetting(
            f"{bench.name} cannot score answers on its own, so there is nothing to tune by: {error} Tune on another "
            f"benchmark, such as pope or chair."
        ) from None


def require_defined(bench: Benchmark, metric: Metric, questions: Sequence[Question], part: str) -> None:
    """Raises `BadSetting` where the labels of yes/no questions show that the objective is undefined, whatever is answered."""
    labels = [str(question.truth.get("label")) for question in questions]
    other = {"yes": "no", "no": "yes"}
    if not set(labels) <= set(other):
        return
    ways = [labels, [other[label] for label in labels], ["yes"] * len(labels), ["no"] * len(labels)]
    records = [[one.record(answer) for one, answer in zip(questions, way, strict=True)] for way in ways]
    scores = [bench.score(each).metrics for each in records]
    if any(metrics.get(metric.name) is not None for metrics in scores):
        return
    why = f"to each of them {labels[0]!r} is right" if len(set(labels)) == 1 else "whatever is answered"
    safe = [one for one in bench.metrics_of if all(metrics.get(one.name) is not None for metrics in scores)]
    aims = ", ".join(one.name for one in safe if one.better != "neither")
    raise BadSetting(
        f"{metric.name} is undefined on the {len(questions)} questions about the {part} images: {why}. Choose another "
        f"--objective{f' ({aims})' if aims else ''}, or give more questions."
    )
