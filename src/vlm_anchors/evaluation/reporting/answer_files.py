"""Official answer files of RUN folders: FOLDER/BENCHMARK/METHOD_DECODING_SEED/FILE, as each benchmark's own scorer takes them."""

from collections.abc import Iterable
from pathlib import Path

from ...durable import write_whole
from ...errors import BadSetting
from ..benchmarks.base import NEEDED, check_records
from ..reading.official import safe_name
from .runs import benchmark_of, named_once, read_run
from .tables import by_key


def answer_files(runs: Iterable[Path], folder: Path) -> dict[Path, str]:
    """Where each file goes, and its text; nothing is written. Refuses two that would be one file."""
    files: dict[Path, str] = {}
    owners: dict[str, Path] = {}  # by name in one case: some file systems know no other
    for path in named_once(runs):
        run = read_run(path)
        benchmark = benchmark_of(run)
        data = {"model": str(run.info.get("model", ""))}
        for (method, decoding), seeds in by_key(run.records).items():
            for seed, records in seeds.items():
                check_records(records, benchmark, (*NEEDED, "question"))
                place = folder / safe_name(benchmark.name) / folder_name(method, decoding, seed)
                for name, text in benchmark.answer_files([{**data, **record} for record in records]).items():
                    file = place / name
                    if (other := owners.get(str(file).casefold())) is not None:
                        raise BadSetting(
                            f"{other} and {path} would both write {file}. Give each run an --answers folder of its own."
                        )
                    owners[str(file).casefold()] = path
                    files[file] = text
    return files


def folder_name(method: str, decoding: str, seed: int | None) -> str:
    """clva-alpha=5_nucleus-top_p=0.9_seed-1: a name for any file system."""
    return safe_name("_".join((method, decoding, *([] if seed is None else [f"seed-{seed}"]))))


def write_answer_files(files: dict[Path, str]) -> dict[Path, int]:
    """Writes them, each whole or not at all; how many lie in each folder."""
    counts: dict[Path, int] = {}
    for file, text in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, text)
        except OSError as problem:
            raise BadSetting(
                f"Cannot write {file}: {problem.strerror}. Choose another folder with --answers."
            ) from None
        counts[file.parent] = counts.get(file.parent, 0) + 1
    return counts
