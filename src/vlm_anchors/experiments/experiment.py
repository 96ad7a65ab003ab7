"""What an experiment is: models, benchmarks, and how they are asked. Made by `experiment_file`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.reading.official import safe_name

LOADING = (
    "device", "dtype", "attn_implementation", "revision", "quantization", "device_map", "min_pixels", "max_pixels",
)  # fmt: skip
"""Settings of `va.load` that a file may hold. Code that a model brings along is for the command line alone to allow."""


@dataclass(frozen=True)
class ModelEntry:
    """A model and the settings it is loaded with.

    Attributes:
        settings: Of the file; they name the folder.
        device: Instead of the file's, for this time.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None

    @property
    def folder(self) -> str:
        values = (str(self.settings[key]) for key in LOADING if key in self.settings)
        return safe_name("-".join([self.name.strip("/"), *values]))

    @property
    def loading(self) -> dict[str, Any]:
        """The settings of `load`."""
        return {**self.settings, **({} if self.device is None else {"device": self.device})}


@dataclass(frozen=True)
class BenchmarkEntry:
    """A benchmark and how it is asked.

    Attributes:
        scenes: How many drawn scenes are asked about, where there is no data.
        methods: Instead of the experiment's.
        folder: Of its RUN, below the model's.
    """

    name: str
    data: Path | None = None
    images: Path | None = None
    split: str | None = None
    limit: int | None = None
    protocol: str | None = None
    max_new_tokens: int | None = None
    batch_size: int = 16
    scenes: int | None = None
    methods: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class Experiment:
    """A checked file.

    Attributes:
        out: Folder of the RUNs and the report.
        decodings: SPECs; None stands for each protocol's.
        seeds: Of sampled decodings; None stands for each protocol's.
        against: The method that the report compares with.
        metrics: Those that the report shows; all where there are none.
        file: Where it was read, for errors.
    """

    out: Path
    models: tuple[ModelEntry, ...]
    methods: tuple[str, ...]
    decodings: tuple[str | None, ...]
    seeds: tuple[int | None, ...]
    benchmarks: tuple[BenchmarkEntry, ...]
    skip_bad: bool = False
    against: str = "none"
    metrics: tuple[str, ...] = ()
    file: Path | None = None

    def methods_of(self, entry: BenchmarkEntry) -> tuple[str, ...]:
        return entry.methods or self.methods

    def drawn(self, scenes: int) -> Path:
        """Where so many drawn scenes and the questions about them lie, once for all models; no model's folder."""
        return self.out / f".drawn-{scenes}"

    def run_of(self, model: ModelEntry, entry: BenchmarkEntry) -> Path:
        """The RUN folder of a model's answers to a benchmark, all methods, decodings and seeds together."""
        return self.out / model.folder / entry.folder
