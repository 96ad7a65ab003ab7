"""RUN folders, read for a report: run.json, records.jsonl (records.RANK.jsonl of shards are read together), and reviews.jsonl
where a judge was asked."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from ...durable import iterate_lines
from ...text_files import read_object
from ..benchmarks import BENCHMARKS
from ..benchmarks.base import BadData, Benchmark
from ..judging import reviews
from ..reading.schema import OBJECT, TEXT, Schema, optional


@dataclass(frozen=True)
class Run:
    """A folder of answers: what was run, and the records with their reviews; torn counts half-written last lines left out."""

    path: Path
    info: Mapping[str, Any]
    records: list[dict[str, Any]]
    torn: int = 0

    @property
    def judge(self) -> str:
        """The model that reviewed the answers; empty where none did."""
        return next((str(record["judge"]) for record in self.records if "judge" in record), "")


def read_info(path: Path) -> dict[str, Any]:
    """What run.json says of a run."""
    if not (path / "run.json").exists():
        raise BadData(f"{path} is no run: it has no run.json. Give a folder that `vlm-anchors eval --out` wrote.")
    info = read_object(path / "run.json", advice="Run eval again.")
    return INFO.check(info, str(path / "run.json"))


INFO = Schema(
    dict.fromkeys(("model", "revision", "version", "data", "data_sha256", "protocol", "date"), optional(TEXT)),
    versions=optional(OBJECT),
)
"""What tables name of a run; which fields must be there is said where they are needed."""


UNSCORED = frozenset({"prompt", "effects", "tokens", "made_with", "yes_no"})
"""What no benchmark's score is made of."""


def read_run(path: Path, scored: bool = False) -> Run:
    """A run's folder. A half-written last line (power cut) is dropped; any other broken line is refused.

    Args:
        path: The folder.
        scored: Keep only what scores are made of, and equal values once: a million answers then fit into a gigabyte.
    """
    info = read_info(path)
    files = sorted(path.glob("records*.jsonl"))
    if not files:
        raise BadData(f"{path} holds no records.jsonl. Answer some questions first: vlm-anchors eval ... --out {path}")
    kept: list[dict[str, Any]] = []
    known: dict[tuple[Any, ...], set[Any]] = {}
    trim = _Trimmer()
    torn = 0
    for file in files:
        for line, row in iterate_lines(file):
            if row is None:
                torn += 1
                continue
            number, *run = _checked_key(file, line, row)
            ids = known.setdefault(tuple(run), set())
            if number not in ids:
                one = trim(row) if scored else row
                ids.add(one["id"])
                kept.append(one)
    return Run(path, info, reviews.beside(kept, reviews.read(path)), torn)


def _checked_key(file: Path, line: int, row: Mapping[str, Any]) -> reviews.Key:
    """A record's key; raises `BadData` where it can be none. Whether the id is one, its benchmark checks."""
    name, method, decoding, seed = key = reviews.key_of(row)
    lists = (list, dict)
    if (
        not (isinstance(method, str) and isinstance(decoding, str))
        or isinstance(name, lists)
        or isinstance(seed, lists)
    ):
        raise BadData(
            f"{file}, line {line}: expected id, method and decoding as texts and seed as a number; found {key!r:.120}. "
            f"Remove the line."
        )
    return key


class _Trimmer:
    """Records without `UNSCORED`, in which names, texts and truths that were seen before are the same objects again.

    That halves the memory. Records of one run name their fields alike, so that what is left out is looked up once.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._truths: dict[str, dict[str, Any]] = {}
        self._layouts: dict[tuple[str, ...], tuple[list[str], Callable[[Any], tuple[Any, ...]]]] = {}

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        layout = tuple(row)
        if layout not in self._layouts:
            names = [sys.intern(name) for name in layout if name not in UNSCORED]
            self._layouts[layout] = names, itemgetter(*names, "id")  # two at least, so that it gives a tuple
        names, values_of = self._layouts[layout]
        same = self._texts
        values = [same.setdefault(value, value) if type(value) is str else value for value in values_of(row)]
        kept = dict(zip(names, values, strict=False))
        if kept.get("seed", 0) is None:
            del kept["seed"]
        if type(truth := kept.get("truth")) is dict:
            kept["truth"] = self._truths.setdefault(repr(truth), truth)
        return kept


def benchmark_of(run: Run) -> Benchmark:
    """The benchmark a run names, as SPEC, with the word lists that lie beside its data."""
    spec = run.info.get("benchmark")
    if not isinstance(spec, str):
        raise BadData(
            f"{run.path / 'run.json'} names no benchmark; found {spec!r}. Expected a SPEC such as chair:lemma=fixed."
        )
    benchmark = BENCHMARKS.build(spec)
    data = run.info.get("data")
    return benchmark.at(Path(data)) if isinstance(data, str) and Path(data).exists() else benchmark


def named_once(paths: Iterable[Path]) -> list[Path]:
    """The runs' folders; raises `BadData` where one was named twice, under whatever name."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if (other := found.get(path.resolve())) is not None:
            same = f"{path} was named twice" if other == path else f"{other} and {path} are the same RUN"
            raise BadData(f"Expected different RUNs; {same}, and its answers would count twice. Name it once.")
        found[path.resolve()] = path
    return list(found.values())
