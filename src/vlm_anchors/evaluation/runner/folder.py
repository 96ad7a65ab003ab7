"""A RUN folder: run.json (what must not change between runs of it) and records, appended one line at a time."""

import json
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ...durable import AppendedLines, clear_leftovers, iterate_lines, write_whole
from ...errors import AnchorsWarning, BadData, BadRun, BadSetting
from ...text_files import read_object
from ..benchmarks.base import RECORD
from ..reading.schema import short
from .sharing import join

FIXED = (
    "model", "revision", "benchmark", "version", "data_sha256", "protocol", "max_new_tokens", "dtype", "attention", "engine",
)  # fmt: skip
"""Settings that make two answers comparable: one RUN has one value of each."""
MADE_WITH = ("versions", "commit", "device")
"""What may change between two runs of one RUN, and is then written into each record."""

Key = tuple[str, str, str, int | None]


def key_of(record: Mapping[str, Any]) -> Key:
    """What is answered once: (question id, method, decoding, seed)."""
    return record["id"], record["method"], record["decoding"], record.get("seed")


class RunFolder:
    """One process's hold on a RUN folder. In a `with` block others are refused: of the same rank, or that share otherwise.

    Args:
        path: The folder.
        rank: This process's number among those that share the questions.
        world: How many there are.
        shares: What each process's share depends on besides; see `sharing`.
    """

    def __init__(self, path: Path, rank: int = 0, world: int = 1, shares: Mapping[str, Any] | None = None):
        self.path = path
        self.rank, self.world = rank, world
        self._shares = {"processes": world, **(shares or {})}
        self._lines = AppendedLines(self.records_path)
        self._settings: Mapping[str, Any] = {}
        self._different: dict[str, Any] = {}
        self._certified = False

    @property
    def records_path(self) -> Path:
        return self.path / ("records.jsonl" if self.world == 1 else f"records.{self.rank}.jsonl")

    def __enter__(self) -> "RunFolder":
        self._require_folder()
        self.path.mkdir(parents=True, exist_ok=True)
        join(self.path, self._lines, self._shares)
        clear_leftovers(self.path)
        return self

    def _require_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise BadRun(f"{self.path} is a file; --out names a folder. Choose another name.")

    def __exit__(self, *exc: object) -> None:
        self._lines.__exit__(*exc)

    def settle(self, settings: Mapping[str, Any], names: Iterable[str] = FIXED) -> None:
        """Checks that what run.json says of `names` still holds; raises `BadRun` naming the first difference.

        Writes nothing: a RUN gets its run.json with its first answer, and what is refused before that binds nobody.
        """
        self._settings, self._different = settings, {}
        self._require_folder()
        file = self.path / "run.json"
        if not os.path.lexists(file):
            if any(_holds_something(records) for records in self.path.glob("records*.jsonl")):
                raise BadRun(
                    f"{self.path} holds records but no run.json, so nobody knows what they are of. Choose another --out."
                )
            return
        before = read_object(file, BadRun, "Restore it, or choose another --out.")
        for name in names:
            if before.get(name) != settings.get(name):
                raise BadRun(
                    f"{self.path} was made with {name} = {_reported(name, before)}; this is {_reported(name, settings)}. "
                    f"Answers of both would not be comparable: choose another --out."
                )
        self._different = {name: settings.get(name) for name in MADE_WITH if before.get(name) != settings.get(name)}

    def keep_count(self, asked: Collection[str]) -> None:
        """Brings run.json, where it is there, up to date after `settle`: how many questions, and which have no readable image.

        Args:
            asked: Ids of the questions that are asked this time. What an earlier time said of others stays.
        """
        file = self.path / "run.json"
        if not file.exists():
            return
        before = read_object(file, BadRun, "Restore it, or choose another --out.")
        counts = [each for each in (before.get("questions"), self._settings["questions"]) if isinstance(each, int)]
        bad, known = self._settings["skipped"], before.get("skipped") or []
        skipped = [*(name for name in known if name not in asked and name not in bad), *bad]
        now = {**before, "questions": max(counts), "skipped": skipped}
        if now != {"skipped": [], **before}:
            _write_settings(file, now)

    def done(self) -> set[Key]:
        """What is answered, by any rank; a line that another rank is just writing does not count."""
        found: set[Key] = set()
        for file in sorted(self.path.glob("records*.jsonl")):
            for number, record in iterate_lines(file):
                if record is not None:
                    found.add(_checked_key(file, number, record))
                    _require_whole(file, number, record)
        return found

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Whole lines, flushed to the disk before the next batch starts; run.json is there before the first of them.

        Raises:
            BadRun: They cannot be written; none of them is then.
        """
        if not self._certified:
            self._certify()
        more = {"made_with": self._different} if self._different else {}
        self._lines.append({**record, **more} for record in records)

    def _certify(self) -> None:
        if (file := self.path / "run.json").exists():  # another rank may have been first
            self.settle(self._settings)
        else:
            _write_settings(file, self._settings)
        if self._different:
            warnings.warn(
                f"{self.path} was begun with {_named(self._different)} other than today's; answers of both may differ in "
                f"their last digits. Each new record says what it was made with.",
                AnchorsWarning,
                stacklevel=4,
            )
        self._certified = True


def _write_settings(file: Path, settings: Mapping[str, Any]) -> None:
    try:
        write_whole(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    except BadSetting as problem:
        raise BadRun(str(problem)) from problem


def _holds_something(records: Path) -> bool:
    return not records.is_file() or records.stat().st_size > 0


def _named(different: Mapping[str, Any]) -> str:
    return " and ".join("versions of its packages" if name == "versions" else f"a {name}" for name in different)


def _checked_key(file: Path, number: int, record: Mapping[str, Any]) -> Key:
    """A record's key; a line that is no record of a RUN raises `BadData`."""
    name, method, decoding, seed = key = (
        record["id"], record.get("method"), record.get("decoding"), record.get("seed"),
    )  # fmt: skip
    whole = seed is None or isinstance(seed, int)
    if whole and isinstance(name, str) and isinstance(method, str) and isinstance(decoding, str):
        return name, sys.intern(method), sys.intern(decoding), seed  # of a million lines these are few texts
    raise BadData(
        f"{file}, line {number}: expected id, method and decoding as texts and seed as a number; found "
        f"{key!r:.120}. Remove the line."
    )


def _require_whole(file: Path, number: int, record: Mapping[str, Any]) -> None:
    """Raises `BadData` where a record lacks what every score needs: its question would count as answered for ever."""
    for name, kind in RECORD.fields.items():
        value = record.get(name)
        if name in record and (kind.fits(value) or (kind.null and value is None)):
            continue
        found = short(value) if name in record else "none"
        raise BadData(
            f"{file}, line {number}: expected {kind.words} in the field {name!r}; found {found}. Remove the line; the same "
            f"command then answers the question again."
        )


def _reported(name: str, settings: Mapping[str, Any]) -> str:
    value = settings.get(name)
    return "the protocol's" if value is None and name == "max_new_tokens" else repr(value)


def shard() -> tuple[int, int]:
    """(rank, world) from torchrun's or SLURM's environment; (0, 1) alone. No process group is needed.

    Raises:
        BadSetting: The variables hold no such numbers.
    """
    for names in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        words = [os.environ.get(name) for name in names]
        if None in words:
            continue
        rank, world = (int(word) if word and word.isdecimal() else -1 for word in words)
        if not 0 <= rank < world:
            raise BadSetting(
                f"Expected {names[0]} and {names[1]} as whole numbers, the first below the second; found {words[0]!r} and "
                f"{words[1]!r}. Unset both to answer in one process."
            )
        return rank, world
    return 0, 1
