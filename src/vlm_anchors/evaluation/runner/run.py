"""`evaluate`: a benchmark's questions, a model and methods become records in a RUN folder."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import BadSetting
from ...generation.plan import check_batch_size, check_new_tokens
from ...models.load import as_vlm
from ...models.vlm import Vlm
from ...parameters import known_arguments
from ...provenance import provenance
from ...specs import DecodingLike, MethodLike, choose
from ..benchmarks import BENCHMARKS
from ..benchmarks.base import Benchmark
from ..benchmarks.protocols import Protocol, protocol
from ..reading.files import files_read, sha256
from .answerer import Answerer, Job, key_of_run, run_of
from .batches import asked, batches, without_bad
from .folder import FIXED, RunFolder, key_of, shard
from .sharing import shares_of


@known_arguments
def evaluate(
    vlm: Vlm,
    benchmark: str | Benchmark,
    out: str | Path,
    *,
    data: str | Path,
    images: str | Path,
    methods: "MethodLike | Sequence[MethodLike] | None" = None,
    split: str | None = None,
    limit: int | None = None,
    protocol_name: str | None = None,
    decoding: DecodingLike = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 16,
    reuse: bool = True,
    ray_workers: int | None = None,
    answer_with: Callable[[Answerer], Answerer] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    skip_bad: bool = False,
    only: Collection[str] | None = None,
    say: Callable[[str], Any] = lambda words: None,
) -> int:
    """Answer what is missing in the RUN folder `out`.

    Under torchrun or SLURM each rank answers its share of the batches and writes a records file of its own.

    Args:
        vlm: What `va.load` returned.
        benchmark: Name of a benchmark (`vlm-anchors benchmarks`).
        out: The RUN folder. It is made where it is missing, and continued where it exists.
        data: File or folder in the benchmark's official layout.
        images: Folder of its images.
        methods: One method as in `ask`, or a list of such, each of which answers every question. None: the method that
            the model was trained with, else none.
        split: Which of the benchmark's splits; None: its default.
        limit: How many questions, at most; None: all.
        protocol_name: Prompt and decoding by name; None: the benchmark's default.
        decoding: Replaces the protocol's decoding.
        seed: Of decodings that draw.
        max_new_tokens: Replaces the protocol's limit.
        batch_size: Questions a batch.
        reuse: Prefill system prompt and image once an image, where that is exact.
        ray_workers: Answer in this many workers of Ray, each of which loads the model by name. `vlm` may then be on
            the CPU.
        answer_with: Makes another engine's answerer of the one that would answer through transformers.
        progress: Called with the numbers of answers done and to do.
        skip_bad: Leave out the questions whose images cannot be read. run.json names them.
        only: Ids of the questions to answer; None: all.
        say: Called once, before anything is answered, with a sentence that says what will be done.

    Returns:
        How many answers were added.

    Raises:
        UserError: Before anything is answered: missing images, a RUN of another model, unknown names.
    """
    vlm = as_vlm(vlm)
    asked_for = each_of(vlm.method if methods is None else methods)
    bench, official = plan(benchmark, asked_for, protocol_name, decoding)
    bench, chosen = bench.at(Path(data)), shortened(official, max_new_tokens)
    check_batch_size(batch_size)
    with files_read() as read:
        questions = asked(bench, Path(data), Path(images), split, limit, chosen)
    if only is not None:
        questions = [one for one in questions if one.question.id in only]
    questions, skipped = without_bad(questions, Path(images)) if skip_bad else (questions, [])
    groups = batches(questions, batch_size)
    runs_asked = [run_of(vlm, method, chosen, decoding, seed) for method in asked_for]
    runs = tuple({key_of_run(run): run for run in runs_asked}.values())  # what is named twice answers once
    answerer = Answerer(runs, Path(images), bench.yes_no, reuse)
    answerer = answerer if answer_with is None else answer_with(answerer)
    settings = {**_settings(vlm, bench, Path(data), read, official, chosen), **answerer.about}
    settings |= {"questions": len(questions), "skipped": skipped}
    say(plan_words(bench, split, len(questions), chosen, [key_of_run(run) for run in runs]))
    rank, world = shard()
    folder = RunFolder(Path(out), rank, world, shares_of((one.question.id for one in questions), batch_size))
    folder.settle(settings)  # reads only: a folder that is refused stays as it is
    with folder:
        folder.settle(settings)
        folder.keep_count({one.question.id for one in questions})
        done = folder.done()
        jobs = [(which, group) for which in range(len(runs)) for n, group in enumerate(groups) if n % world == rank]
        # A batch that lacks one answer is answered anew as a whole, so that no answer depends on what was there before.
        keys = [key_of_run(run) for run in runs]
        missing = [job for job in jobs if any((one.question.id, *keys[job[0]]) not in done for one in job[1])]
        if ray_workers is None:
            answered: Iterable[list[dict[str, Any]]] = _here(answerer, missing)
        else:
            from .on_ray import on_ray

            answered = on_ray(answerer, missing, ray_workers, settings)
        total, added = sum(len(group) for _, group in jobs), 0
        passed = total - sum(len(group) for _, group in missing)
        for records in answered:
            new = [record for record in records if key_of(record) not in done]
            folder.append(new)
            added += len(new)
            passed += len(records)
            progress(passed, total)
    return added


def refuse_other_run(
    vlm: Vlm, benchmark: str | Benchmark, out: Path, protocol_name: str | None, max_new_tokens: int | None
) -> None:
    """Raises `BadRun` where `out` holds answers of another model or protocol, before anything is written below it.

    What depends on the questions, or on an engine that has not started, is left to `evaluate`.
    """
    bench, official = plan(benchmark, [], protocol_name, None)
    settings = _settings(vlm, bench, None, (), official, shortened(official, max_new_tokens))
    RunFolder(out).settle(settings, [name for name in FIXED if name not in ("benchmark", "data_sha256", "engine")])


def plan(
    benchmark: str | Benchmark, methods: "Sequence[MethodLike]", protocol_name: str | None, decoding: DecodingLike
) -> tuple[Benchmark, Protocol]:
    """What was named. Raises a `UserError` for a wrong name or parameter, before anything is loaded, drawn or written."""
    bench = BENCHMARKS.build(benchmark) if isinstance(benchmark, str) else benchmark
    chosen = protocol(bench.name, protocol_name)
    for method in methods or ["none"]:
        choose(method, decoding, chosen.decoding)
    return bench, chosen


def plan_words(
    bench: Benchmark, split: str | None, n: int, chosen: Protocol, keys: Sequence[tuple[str, str, int | None]]
) -> str:
    """What will be done, in a few lines: questions, methods, protocol, prompt, decoding, longest answer."""
    methods = ", ".join(dict.fromkeys(method for method, _, _ in keys))
    how = ", ".join(dict.fromkeys(name if seed is None else f"{name}, seed {seed}" for _, name, seed in keys))
    words = (
        f"{bench.spec()}, {'every split' if split is None else f'split {split}'}: {n} questions, each with {methods}\n"
        f"protocol {chosen.name}: prompt {chosen.template!r}, {how}, at most {chosen.max_new_tokens} new tokens"
    )
    if all(name == "greedy" for _, name, _ in keys):
        return words
    return (
        f"{words}\nNot greedy: {how}. Not comparable with greedy numbers; --decoding or another --protocol changes it."
    )


def shortened(official: Protocol, max_new_tokens: int | None) -> Protocol:
    """The protocol with another longest answer, where one is given."""
    if max_new_tokens is None:
        return official
    return replace(official, max_new_tokens=check_new_tokens(max_new_tokens))


def each_of(methods: "MethodLike | Sequence[MethodLike]") -> "list[MethodLike]":
    """One method, or the items of a list of them."""
    found: Any = list(methods) if isinstance(methods, Sequence) and not isinstance(methods, str) else [methods]
    if not found:
        raise BadSetting("Expected one or more methods; found an empty list. The plain model is called 'none'.")
    return found


def _here(answerer: Answerer, jobs: Sequence[Job]) -> Iterator[list[dict[str, Any]]]:
    """Records of one batch after another, answered in this process."""
    return (answerer(job) for job in jobs)


def settings_of_questions(
    bench: Benchmark, data: Path | None, read: Iterable[Path], official: Protocol, chosen: Protocol
) -> dict[str, Any]:
    """What run.json says that no model is needed for."""
    return {
        "benchmark": bench.spec(),
        "version": bench.version,
        "data": str(data),
        "data_sha256": None if data is None else sha256(data, read),
        "protocol": chosen.name,
        "protocol_words": official.describe(),
        "max_new_tokens": None if chosen == official else chosen.max_new_tokens,
        "seed": chosen.seed,
    }


def _settings(
    vlm: Vlm, bench: Benchmark, data: Path | None, read: Iterable[Path], official: Protocol, chosen: Protocol
) -> dict[str, Any]:
    return {
        "model": vlm.name,
        "revision": vlm.revision,
        **settings_of_questions(bench, data, read, official, chosen),
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "attention": vlm.model.config.get_text_config()._attn_implementation,
        **provenance(vlm.device),
    }
