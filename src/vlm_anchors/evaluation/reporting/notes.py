"""What is said around a table: whose questions, which protocol, which versions, and what to beware of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import statistics
from ..benchmarks.base import Benchmark, Metric
from ..benchmarks.protocols import protocol, protocols
from ..reading.files import identify, official_files
from .table import Row

WORDLESS = 0.05
"""The share of answers without a yes or no word above which a table warns."""


def said_version(benchmark: Benchmark, info: Mapping[str, Any], n: int) -> str:
    """The version of the question files where their hashes are known; else whose they are and how many questions."""
    data = Path(str(info.get("data") or "unknown"))
    if "scenes" in data.parts:
        return f"the bundled scenes, {n} questions"
    if info.get("data_sha256") in official_files():
        return f"version {benchmark.version}"
    files = [data] if data.is_file() else sorted(data.glob("*")) if data.is_dir() else []
    asked = [file for file in files if file.suffix in (".json", ".jsonl", ".tsv", ".txt") and file.stem != "readme"]
    if asked and all(identify(file) is not None for file in asked):
        return f"version {benchmark.version}"
    return f"your file{'s' if data.is_dir() else ''}, {n} questions"


def said_provenance(info: Mapping[str, Any]) -> str:
    """Date, commit, device and versions of a run, as far as run.json has them."""
    versions = info.get("versions") or {}
    names = ("vlm-anchors", "torch", "transformers", "python")
    known = [f"{name} {versions[name]}" for name in names if versions.get(name)]
    found = [info.get("date"), info.get("commit") and f"commit {info['commit']}", info.get("device"), *known]
    return ", ".join(str(each) for each in found if each)


def said_protocol(benchmark: str, info: Mapping[str, Any]) -> str:
    """The protocol in words; its name alone where it is none of ours. A limit on new tokens other than its own is named."""
    name, tokens = info.get("protocol"), info.get("max_new_tokens")
    known = {each.name for each in protocols(benchmark)}
    said = protocol(benchmark, name).describe() if name in known else str(name or "not recorded")
    return said if tokens is None else f"{said}; asked with {tokens} new tokens instead (--max-new-tokens)"


def notes_of(rows: Sequence[Row], metrics: Sequence[Metric], remark: str, more: Sequence[str] = ()) -> tuple[str, ...]:
    """What a reader must know before comparing the rows."""
    notes = []
    for row in rows:
        if row.asked is not None and row.n < row.asked:
            notes.append(
                f"{row.method}: {row.n} of {row.asked} questions answered. Answer the rest with eval or run, without --limit."
            )
        if row.wordless is not None and row.wordless > WORDLESS:
            notes.append(
                f"Warning: {100 * row.wordless:.1f} % of the answers of {row.method} hold no yes or no word, and "
                f"{remark} reads each of them as one. Look at the answers, or choose dialect=strict."
            )
    if len({row.n for row in rows}) > 1:
        notes.append("The rows answer different numbers of questions; differences use the questions both answered.")
    images = min((row.images for row in rows if row.images is not None), default=statistics.FEW)
    if images == 1:
        notes.append("Warning: one image. No interval can be drawn from it.")
    elif images < statistics.FEW:
        notes.append(
            f"Warning: {images} images. With fewer than {statistics.FEW}, intervals are too short: "
            f"about 92 % of them hold the true value, not 95 %."
        )
    for metric in metrics:
        undefined = max(row.cells[metric.name].undefined for row in rows)
        if undefined:
            notes.append(
                f"{metric.name} is undefined in up to {100 * undefined:.1f} % of the draws (nothing to divide by). They count at "
                f"both ends of its interval and on both sides of zero."
            )
    return (*notes, *more)


def left_out(torn: int, skipped: Sequence[str]) -> list[str]:
    """What stands in no row: half-written lines, and questions whose images cannot be read."""
    notes = []
    if torn:
        notes.append(f"{torn} half-written line(s) at the end of a file were left out; eval or run answers them again.")
    if skipped:
        notes.append(
            f"{len(skipped)} questions were left out: their images cannot be read (--skip-bad), {skipped[0]} first."
        )
    return notes
