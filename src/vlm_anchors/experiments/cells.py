"""What an experiment asks for, RUN by RUN, and what of it is answered already; an estimate of the rest, from what is known.

Nothing is measured here and no model is loaded. Seconds come from answers that are there; without any, there is only a bound on
the tokens.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BadRun, BadSetting, UserError
from ..evaluation.benchmarks.protocols import Protocol
from ..evaluation.reading.files import files_read
from ..evaluation.reporting.runs import read_run
from ..evaluation.runner.answerer import key_of_run, run_of
from ..evaluation.runner.bundled import IMAGES, bundled_data
from ..evaluation.runner.folder import FIXED, RunFolder
from ..evaluation.runner.run import plan, settings_of_questions, shortened
from ..interventions.method import Method
from ..specs import choose, spec_of_all
from .experiment import BenchmarkEntry, Experiment, ModelEntry


@dataclass(frozen=True)
class ExperimentCell:
    """One method under one decoding and seed on one benchmark and model.

    Attributes:
        seed: None where the decoding draws nothing.
        ids: Of its questions.
        skipped: Ids of those that are left out, for their images.
        answered: How many of them are in the RUN.
        passes: How many prompts the method reads a question: two where it has a contrastive branch.
        seconds: An answer; None where there is nothing to tell from.
    """

    model: ModelEntry
    benchmark: BenchmarkEntry
    method: str
    decoding: str
    seed: int | None
    ids: frozenset[str]
    skipped: tuple[str, ...]
    answered: int
    max_new_tokens: int
    passes: int
    seconds: float | None = None

    @property
    def questions(self) -> int:
        return len(self.ids)

    @property
    def missing(self) -> int:
        return self.questions - self.answered

    @property
    def tokens(self) -> int:
        """No more new tokens than this."""
        return self.missing * self.max_new_tokens * self.passes


def protocol_of(entry: BenchmarkEntry) -> Protocol:
    """How a benchmark's questions are put."""
    return shortened(plan(entry.name, [], entry.protocol, None)[1], entry.max_new_tokens)


def decodings_of(experiment: Experiment, entry: BenchmarkEntry) -> list[tuple[str | None, int | None]]:
    """(decoding as asked for, seed) of every pass over a benchmark, each once; seeds multiply sampled decodings alone."""
    found: dict[Any, tuple[str | None, int | None]] = {}
    for decoding in experiment.decodings:
        for seed in experiment.seeds:
            found.setdefault(key_of(entry, decoding, seed), (decoding, seed))
    return list(found.values())


def key_of(entry: BenchmarkEntry, decoding: str | None, seed: int | None) -> tuple[str, int | None]:
    """(decoding without its seed, seed) as records have them."""
    no_model: Any = None
    return key_of_run(run_of(no_model, "none", protocol_of(entry), decoding, seed))[1:]


def questions_of(experiment: Experiment, entry: BenchmarkEntry) -> tuple[list[str], dict[str, Any]]:
    """Ids of a benchmark's questions, and what run.json says of them; reads the question files, and no image."""
    bench, official = plan(entry.name, [], entry.protocol, None)
    with tempfile.TemporaryDirectory() as folder:
        data = entry.data
        if data is None:
            data, _ = bundled_data(entry.name, Path(folder), entry.scenes or IMAGES, limit=0)
        try:
            bench = bench.at(data)
            with files_read() as read:
                ids = [question.id for question in bench.questions(data, entry.split)[: entry.limit]]
        except UserError as error:
            words = str(error) if entry.data else str(error).replace(str(data), "the folder of drawn questions")
            raise type(error)(f"{experiment.file}: benchmarks, {entry.folder}: {words}") from None
        return ids, settings_of_questions(bench, data, read, official, protocol_of(entry))


def cells(experiment: Experiment) -> list[ExperimentCell]:
    """Every cell, in the order in which they are answered.

    Args:
        experiment: What `read_experiment` gave.

    Returns:
        The cells, with what is answered of them.

    Raises:
        UserError: A question file is wrong, or a RUN is broken or holds answers to other questions.
    """
    found = []
    asked = {entry: questions_of(experiment, entry) for entry in experiment.benchmarks}
    _refuse_twice(experiment, asked)
    for model in experiment.models:
        for entry in experiment.benchmarks:
            ids, settings = asked[entry]
            known, left_out = _answered(experiment.run_of(model, entry), {"model": model.name, **settings})
            skipped = tuple(each for each in ids if each in left_out) if experiment.skip_bad else ()
            wanted = frozenset(ids).difference(skipped)
            for decoding, seed in decodings_of(experiment, entry):
                how = key_of(entry, decoding, seed)
                chosen = (choose(method)[0] for method in experiment.methods_of(entry))
                for spec, methods in {spec_of_all(each): each for each in chosen}.items():
                    done = [record for record in known.get((spec, *how), []) if record["id"] in wanted]
                    cell = ExperimentCell(
                        model, entry, spec, *how, wanted, skipped, len(done),
                        protocol_of(entry).max_new_tokens, passes_of(methods), _mean(done),
                    )  # fmt: skip
                    found.append(cell)
    return estimated(found)


def _refuse_twice(experiment: Experiment, asked: Mapping[BenchmarkEntry, tuple[list[str], dict[str, Any]]]) -> None:
    """Raises `BadSetting` where two entries ask a method the same question: one table would hold its answer twice."""
    known: dict[Any, list[tuple[BenchmarkEntry, frozenset[str]]]] = {}
    for entry, (ids, settings) in asked.items():
        same = tuple(settings[name] for name in ("benchmark", "data_sha256", "protocol", "max_new_tokens"))
        decodings = [key_of(entry, *each) for each in decodings_of(experiment, entry)]
        for spec in dict.fromkeys(spec_of_all(choose(method)[0]) for method in experiment.methods_of(entry)):
            for how in decodings:
                for other, theirs in known.setdefault((same, spec, how), []):
                    if not theirs.isdisjoint(ids):
                        raise BadSetting(
                            f"{experiment.file}: the benchmarks {other.folder} and {entry.folder} ask {spec} the same "
                            f"questions in the same way. Keep one of them, or give them other methods or splits."
                        )
                known[same, spec, how].append((entry, frozenset(ids)))


def passes_of(methods: Sequence[Method]) -> int:
    """Two where a method reads the question a second time."""
    return 2 if any(type(method).branch is not Method.branch for method in methods) else 1


def estimated(found: Sequence[ExperimentCell]) -> list[ExperimentCell]:
    """Cells without answers take the seconds of the same model's plain model on the same benchmark, times their passes."""
    plain = {
        (one.model.folder, one.benchmark.folder, one.decoding): one.seconds for one in found if one.method == "none"
    }
    made = []
    for one in found:
        base = plain.get((one.model.folder, one.benchmark.folder, one.decoding))
        guess = one.seconds if one.seconds is not None or base is None else base * one.passes
        made.append(replace(one, seconds=guess))
    return made


def _answered(run: Path, settings: Mapping[str, Any]) -> tuple[Mapping[tuple[Any, ...], list[Any]], Collection[str]]:
    """The records of a RUN by (method, decoding, seed), and the questions that it left out for their images."""
    try:
        RunFolder(run).settle(settings, [name for name in FIXED if name in settings])
    except BadRun as error:
        raise BadRun(f"{error} Or give the benchmark another folder:.") from None
    known: dict[tuple[Any, ...], list[Any]] = {}
    if not (run / "run.json").exists() or not any(run.glob("records*.jsonl")):
        return known, ()
    there = read_run(run)
    for record in there.records:
        known.setdefault((record["method"], record["decoding"], record.get("seed")), []).append(record)
    return known, frozenset(there.info.get("skipped") or ())


def _mean(records: Sequence[Mapping[str, Any]]) -> float | None:
    known = [record["seconds"] for record in records if record.get("seconds") is not None]
    return sum(known) / len(known) if known else None


def listing(found: Sequence[ExperimentCell]) -> str:
    """The cells in lines, and what is known of their cost."""
    lines = []
    place = None
    for one in found:
        here = (one.model.name, one.benchmark.folder)
        if here != place:
            lines.append(f"{one.model.name} · {one.benchmark.name} -> {one.model.folder}/{one.benchmark.folder}")
            place = here
        how = one.decoding if one.seed is None else f"{one.decoding}, seed {one.seed}"
        cost = "" if one.seconds is None or not one.missing else f", about {_time(one.missing * one.seconds)}"
        lines.append(f"  {one.method} · {how}: {one.questions} questions, {one.answered} answered{cost}")
    runs = len({(one.model.folder, one.benchmark.folder) for one in found})
    missing, tokens = sum(one.missing for one in found), sum(one.tokens for one in found)
    lines.append(f"{len(found)} cells in {runs} RUNs: {missing} answers to make, at most {tokens} new tokens")
    known = [one for one in found if one.seconds is not None]
    unknown = sum(one.missing for one in found if one.seconds is None)
    if known:
        lines.append(
            f"estimated {_time(sum(one.missing * one.seconds for one in known if one.seconds is not None))} of one process, from "
            f"the seconds of the answers that are there; where a method has none, from the plain model's, twice for a method "
            f"with a contrastive branch"
        )
    if unknown:
        lines.append(
            f"no estimate in seconds for {unknown} answers: nothing is answered yet to tell from. Tokens count a contrastive "
            f"branch twice. Answer a few first, with --limit 16, and ask again"
        )
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
