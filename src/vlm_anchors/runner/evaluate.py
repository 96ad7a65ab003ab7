"""`evaluate`: a benchmark's questions, a model and methods become records in a RUN folder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..benchmarks import BENCHMARKS
from ..benchmarks.base import Benchmark
from ..benchmarks.files import find_image, missing_images, sha256
from ..benchmarks.protocols import Protocol, protocol
from ..choice import choose, spec_of_all
from ..decoding import Nucleus
from ..errors import BadSetting
from ..generate import Run
from ..prepare import Sample, check_question
from ..provenance import provenance
from ..types import Vlm
from .answer import answer_batch, can_reuse
from .batches import Asked, batches
from .folder import RunFolder, shard


def evaluate(
    vlm: Vlm,
    benchmark: str | Benchmark,
    out: str | Path,
    *,
    data: str | Path,
    images: str | Path,
    methods: Sequence[str] = ("none",),
    split: str | None = None,
    limit: int | None = None,
    protocol_name: str | None = None,
    decoding: str | None = None,
    seed: int | None = None,
    batch_size: int = 16,
    reuse: bool = True,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Answers what is missing in the RUN folder `out`; returns how many answers were added.

    data: file or folder in the benchmark's official layout. images: folder of its images. methods: SPECs. decoding,
    seed: instead of the protocol's. reuse: prefill system and image once an image, where that is exact. Under
    torchrun or SLURM each rank answers its share of the batches and writes its own records file.

    Raises `UserError` subclasses before anything is answered: missing images, another model's RUN, bad names.
    """
    bench = (BENCHMARKS.build(benchmark) if isinstance(benchmark, str) else benchmark).at(Path(data))
    chosen = protocol(bench.name, protocol_name)
    asked = _asked(bench, Path(data), split, limit, chosen)
    find = find_image(Path(images))
    _refuse_missing(asked, Path(images))
    runs = [_run(vlm, method, chosen, decoding, seed) for method in methods]
    rank, world = shard()
    with RunFolder(Path(out), rank, world) as folder:
        folder.settle(_settings(vlm, bench, Path(data), chosen))

        def answer(run: Run, group: Sequence[Asked]) -> Iterable[dict[str, Any]]:
            return _records(run, group, find, bench, reuse and can_reuse(run))

        return _answer_missing(folder, runs, batches(asked, batch_size), answer, progress)


def _asked(bench: Benchmark, data: Path, split: str | None, limit: int | None, chosen: Protocol) -> list[Asked]:
    questions = bench.questions(data, split)
    if limit is not None:
        if limit < 1:
            raise BadSetting(f"--limit must be 1 or more; found {limit}.")
        questions = questions[:limit]
    return [Asked(question, chosen.prompt(question.text)) for question in questions]


def _refuse_missing(asked: Sequence[Asked], images: Path) -> None:
    missing = missing_images([one.question for one in asked], images)
    if missing:
        raise BadSetting(
            f"{images} lacks {len(missing)} of the images, {missing[0]!r} first. Expected every image the questions "
            f"name, under its name or with another ending; choose the right --images, or fewer questions by --limit."
        )


def _run(vlm: Vlm, method: str, chosen: Protocol, decoding: str | None, seed: int | None) -> Run:
    methods, how = choose(method, decoding)
    if decoding is None and how.spec() == "greedy":
        methods, how = choose(method, chosen.decoding if "greedy" not in method else None)
    if isinstance(how, Nucleus):
        drawn = seed if seed is not None else (chosen.seed if chosen.seed is not None else how.seed)
        how = Nucleus(how.top_p, how.temperature, drawn)
    return Run(vlm, methods, how, chosen.max_new_tokens)


def _settings(vlm: Vlm, bench: Benchmark, data: Path, chosen: Protocol) -> dict[str, Any]:
    config = vlm.model.config
    return {
        "model": vlm.name,
        "revision": vlm.revision,
        "benchmark": bench.spec(),
        "version": bench.version,
        "data": str(data),
        "data_sha256": sha256(data),
        "protocol": chosen.name,
        "protocol_words": chosen.describe(),
        "seed": chosen.seed,
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "attention": config.get_text_config()._attn_implementation,
        **provenance(vlm.device),
    }


def _answer_missing(
    folder: RunFolder,
    runs: Sequence[Run],
    groups: Sequence[list[Asked]],
    answer: Callable[[Run, Sequence[Asked]], Iterable[dict[str, Any]]],
    progress: Callable[[int, int], None],
) -> int:
    done = folder.done()
    mine = [(run, group) for run in runs for n, group in enumerate(groups) if n % folder.world == folder.rank]
    added, passed, total = 0, 0, sum(len(group) for _, group in mine)
    for run, group in mine:
        key = _key(run)
        if any((one.question.id, *key) not in done for one in group):
            # The whole batch is answered anew, so that no answer depends on what was there before.
            new = [record for record in answer(run, group) if (record["id"], *key) not in done]
            folder.append(new)
            added += len(new)
        passed += len(group)
        progress(passed, total)
    return added


def _key(run: Run) -> tuple[str, str, int | None]:
    """(method, decoding without its seed, seed)."""
    how = run.decoding
    if isinstance(how, Nucleus):
        return spec_of_all(run.methods), replace(how, seed=Nucleus().seed).spec(), how.seed
    return spec_of_all(run.methods), how.spec(), None


def _records(
    run: Run, group: Sequence[Asked], find: Callable[[str], Path], bench: Benchmark, reuse: bool
) -> Iterable[dict[str, Any]]:
    samples = _samples(group, find)
    method, decoding, seed = _key(run)
    for one, answer in zip(group, answer_batch(run, samples, reuse), strict=True):
        more: dict[str, Any] = {
            "prompt": answer.prompt,
            "method": method,
            "decoding": decoding,
            "seed": seed,
            "acted": answer.acted,
            "tokens": len(answer.tokens),
            "seconds": round(answer.seconds, 6),
        }
        if bench.yes_no and answer.yes_no is not None:
            more["yes_no"] = [round(logit, 4) for logit in answer.yes_no]
        yield one.question.record(answer.text, **more)


def _samples(group: Sequence[Asked], find: Callable[[str], Path]) -> list[Sample]:
    """Each image file is read once; its questions share the very same object."""
    from ..images import read_image

    opened: dict[str, Any] = {}
    for one in group:
        if one.question.image is not None and one.question.image not in opened:
            opened[one.question.image] = read_image(find(one.question.image))
    made = []
    for one in group:
        images = () if one.question.image is None else (opened[one.question.image],)
        made.append(Sample(images, check_question(one.prompt), one.question.id))
    return made
