"""A RUN folder: run.json (what must not change between runs of it) and records, appended one line at a time."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...durable import AppendedLines, write_whole
from ...errors import BadRun

FIXED = ("model", "revision", "benchmark", "data_sha256", "protocol", "max_new_tokens", "dtype", "engine")
"""Settings that make two answers comparable: one RUN has one value of each."""

Key = tuple[str, str, str, int | None]


def key_of(record: Mapping[str, Any]) -> Key:
    """What is answered once: (question id, method, decoding, seed)."""
    return record["id"], record["method"], record["decoding"], record.get("seed")


class RunFolder:
    """One process's hold on a RUN folder. Use it in a `with` block: other processes with the same rank are refused."""

    def __init__(self, path: Path, rank: int = 0, world: int = 1):
        self.path = path
        self.rank, self.world = rank, world
        self._lines = AppendedLines(self.records_path)
        self._settings: Mapping[str, Any] = {}
        self._certified = False

    @property
    def records_path(self) -> Path:
        return self.path / ("records.jsonl" if self.world == 1 else f"records.{self.rank}.jsonl")

    def __enter__(self) -> "RunFolder":
        if self.path.exists() and not self.path.is_dir():
            raise BadRun(f"{self.path} is a file; --out names a folder. Choose another name.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lines.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.__exit__(*exc)

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Checks that what run.json says still holds; raises `BadRun` naming the first difference.

        A RUN without one gets it with its first answer: what is refused before that binds nobody.
        """
        self._settings = settings
        file = self.path / "run.json"
        if not file.exists():
            if any(records.stat().st_size for records in self.path.glob("records*.jsonl")):
                raise BadRun(
                    f"{self.path} holds records but no run.json, so nobody knows what they are of. Choose another --out."
                )
            return
        try:
            before = json.loads(file.read_text("utf-8"))
        except json.JSONDecodeError:
            raise BadRun(f"{file} is not JSON. Restore it, or choose another --out.") from None
        for name in FIXED:
            if before.get(name) != settings.get(name):
                raise BadRun(
                    f"{self.path} was made with {name} = {_reported(name, before)}; this is {_reported(name, settings)}. "
                    f"Answers of both would not be comparable: choose another --out."
                )

    def done(self) -> set[Key]:
        """What is answered, by any rank; a line that another rank is just writing does not count."""
        found: set[Key] = set()
        for file in sorted(self.path.glob("records*.jsonl")):
            for line in file.read_bytes().split(b"\n")[:-1]:
                if line.strip():
                    found.add(key_of(json.loads(line)))
        return found

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Whole lines, flushed to the disk before the next batch starts; run.json is there before the first of them."""
        if not self._certified:
            if (file := self.path / "run.json").exists():  # another rank may have been first
                self.settle(self._settings)
            else:
                write_whole(file, json.dumps(self._settings, indent=1, ensure_ascii=False) + "\n")
            self._certified = True
        self._lines.append(records)


def _reported(name: str, settings: Mapping[str, Any]) -> str:
    value = settings.get(name)
    return "the protocol's" if value is None and name == "max_new_tokens" else repr(value)


def shard() -> tuple[int, int]:
    """(rank, world) from torchrun's or SLURM's environment; (0, 1) alone. No process group is needed."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and world in os.environ:
            return int(os.environ[rank]), int(os.environ[world])
    return 0, 1
