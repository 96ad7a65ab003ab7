"""EXPERIMENT.yaml: what may stand in it, read and checked before anything is loaded.

out: runs/out/mine                    # where answers and the report go; paths are relative to the working folder
models: [scenes]                      # names, or {name: ..., device: ..., dtype: ...} with the settings of va.load
methods: [none, clva, "clva:alpha=5,beta=0"]
decodings: [greedy, "nucleus:top_p=0.9"]    # default: each protocol's
seeds: [0, 1, 2]                            # of sampled decodings; default: each protocol's
benchmarks:
- pope                              # a name or SPEC, or with settings:
- {name: mme, protocol: mme-official, data: mme/, images: mme/images, batch_size: 32}
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadData, BadSetting, UnknownName, UserError
from ..evaluation.reading.official import safe_name
from ..evaluation.runner.bundled import BUNDLED
from ..evaluation.runner.run import plan, shortened
from ..models.load import require_name
from ..registry import did_you_mean
from ..specs import choose, spec_of_all
from ..text_files import read_text

LOADING = (
    "device", "dtype", "attn_implementation", "revision", "quantization", "device_map", "min_pixels", "max_pixels",
)  # fmt: skip
"""Settings of `va.load` that a file may hold. Code that a model brings along is for the command line alone to allow."""


@dataclass(frozen=True)
class ModelEntry:
    """A model and the settings it is loaded with."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return safe_name("-".join([self.name.strip("/"), *(str(value) for value in self.settings.values())]))


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

    def methods_of(self, entry: BenchmarkEntry) -> tuple[str, ...]:
        return entry.methods or self.methods

    @property
    def drawn(self) -> Path:
        """Where drawn scenes and the questions about them lie, once for all models; no model's folder."""
        return self.out / ".drawn"

    def run_of(self, model: ModelEntry, entry: BenchmarkEntry) -> Path:
        """The RUN folder of a model's answers to a benchmark, all methods, decodings and seeds together."""
        return self.out / model.folder / entry.folder


def read_experiment(file: Path, out: Path | None = None, limit: int | None = None) -> Experiment:
    """The experiment in a file; every name in it is known and every SPEC can be built.

    Args:
        file: The YAML file.
        out: Instead of the file's own.
        limit: At most so many questions of each benchmark.

    Raises:
        UserError: With the file's name and the key at fault.
    """
    content = _parsed(file)
    reader = _Reader(str(file))
    known = ("out", "models", "methods", "decodings", "seeds", "benchmarks", "batch_size", "skip_bad", "report")
    reader.require_known(content, known, "")
    report = reader.mapping(content.get("report") or {}, "report")
    reader.require_known(report, ("against", "metrics"), "report.")
    size = reader.number(content.get("batch_size", 16), "batch_size", 1)
    methods = tuple(reader.texts(content.get("methods", []), "methods"))
    entries = [
        reader.benchmark(item, f"benchmarks[{at}]", size, limit)
        for at, item in enumerate(reader.some(content, "benchmarks"))
    ]
    if not methods and not all(entry.methods for entry in entries):
        raise BadSetting(f"{file}: expected methods, a list such as [none, clva]; found none.")
    place = out if out is not None else reader.path(content, "out", "")
    if place is None:
        raise BadSetting(f"{file}: expected out, the folder of answers and report. Add it, or give --out DIR.")
    made = Experiment(
        out=place,
        models=tuple(reader.model(item, f"models[{at}]") for at, item in enumerate(reader.some(content, "models"))),
        methods=methods,
        decodings=tuple(reader.texts(content.get("decodings") or [], "decodings")) or (None,),
        seeds=tuple(reader.seeds(content.get("seeds"))) or (None,),
        benchmarks=tuple(entries),
        skip_bad=reader.switch(content.get("skip_bad", False), "skip_bad"),
        against=reader.text(report.get("against", "none"), "report.against"),
        metrics=tuple(reader.texts(report.get("metrics") or [], "report.metrics")),
    )
    _check(made, str(file))
    return made


def _parsed(file: Path) -> Mapping[str, Any]:
    """The file's mapping; a key that stands twice is refused, which YAML readers take the last of."""
    import yaml

    class Once(yaml.SafeLoader):
        pass

    def construct(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise BadData(f"{file}, line {key.start_mark.line + 1}: the key {key.value!r} stands twice. Keep one.")
            seen.add(key.value)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    if not file.exists():
        raise BadData(
            f"There is no file {file}. Expected an experiment as YAML; docs/from-model-to-table.md shows one."
        )
    text = read_text(file, BadData, "Write it as UTF-8.")
    try:
        found = yaml.load(text, Loader=Once)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadData(
            f"{file}{where} is not valid YAML: {getattr(error, 'problem', error)}. Correct the line."
        ) from None
    if not isinstance(found, dict):
        raise BadData(f"{file}: expected keys such as models, methods and benchmarks; found {_short(found)}.")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Reader:
    """Takes values out of the file, each with the name of its place for the error."""

    def __init__(self, file: str):
        self.file = file

    def _wrong(self, place: str, expected: str, found: Any) -> BadData:
        return BadData(f"{self.file}: expected {expected} in {place}; found {_short(found)}.")

    def require_known(self, content: Mapping[str, Any], known: Sequence[str], before: str) -> None:
        for key in content:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise UnknownName(f"{self.file}: there is no key {before + str(key)!r} in an experiment.{hint}")

    def mapping(self, value: Any, place: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(place, "keys with values", value)
        return value

    def some(self, content: Mapping[str, Any], key: str) -> list[Any]:
        """A list with something in it; a single item counts as one."""
        value = content.get(key)
        items = [value] if isinstance(value, (str, dict)) else value
        if not isinstance(items, list) or not items:
            raise self._wrong(key, "a list of one or more", value)
        return items

    def text(self, value: Any, place: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(place, "a text", value)
        return value

    def texts(self, value: Any, place: str) -> list[str]:
        items = value if isinstance(value, list) else [value]
        found = [self.text(item, f"{place}[{at}]") for at, item in enumerate(items)]
        odd = next((item for item in found if re.fullmatch(r"\w+=[^:]*", item)), None)
        if odd is not None:
            raise BadData(
                f"{self.file}: {odd!r} in {place} is a part of a SPEC: in [ ] a comma divides items. Put the whole SPEC in "
                f'double quotes: "clva:alpha=5,beta=0".'
            )
        twice = next((item for item in found if found.count(item) > 1), None)
        if twice is not None:
            raise BadData(f"{self.file}: {twice!r} stands twice in {place}. Keep one.")
        return found

    def number(self, value: Any, place: str, least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(place, f"a whole number of {least} or more", value)
        return value

    def switch(self, value: Any, place: str) -> bool:
        if not isinstance(value, bool):
            raise self._wrong(place, "true or false", value)
        return value

    def seeds(self, value: Any) -> list[int]:
        items = [] if value is None else value if isinstance(value, list) else [value]
        found = [self.number(item, f"seeds[{at}]", 0) for at, item in enumerate(items)]
        if len(set(found)) < len(found):
            raise self._wrong("seeds", "each seed once", value)
        return found

    def path(self, content: Mapping[str, Any], key: str, before: str) -> Path | None:
        return None if content.get(key) is None else Path(self.text(content[key], before + key)).expanduser()

    def model(self, item: Any, place: str) -> ModelEntry:
        if isinstance(item, str):
            return ModelEntry(self.text(item, place))
        fields = self.mapping(item, place)
        self.require_known(fields, ("name", *LOADING), f"{place}.")
        name = self.text(fields.get("name"), f"{place}.name")
        return ModelEntry(name, {key: value for key, value in fields.items() if key != "name" and value is not None})

    def benchmark(self, item: Any, place: str, size: int, limit: int | None) -> BenchmarkEntry:
        fields = self.mapping({"name": item} if isinstance(item, str) else item, place)
        self.require_known(fields, [*BenchmarkEntry.__dataclass_fields__], f"{place}.")
        name = self.text(fields.get("name"), f"{place}.name")
        read: dict[str, Callable[[Any, str], Any]] = {
            **dict.fromkeys(("split", "protocol", "folder"), self.text),
            **{key: lambda value, where: self.number(value, where, 1) for key in ("limit", "max_new_tokens", "scenes")},
            "batch_size": lambda value, where: self.number(value, where, 1),
            "methods": lambda value, where: tuple(self.texts(value, where)),
        }
        known = {key: read[key](fields[key], f"{place}.{key}") for key in read if fields.get(key) is not None}
        data, images = (self.path(fields, key, f"{place}.") for key in ("data", "images"))
        if (data is None) != (images is None) or (data is not None and "scenes" in known):
            raise BadSetting(
                f"{self.file}: expected data and images together in {place}, or neither, or scenes, for drawn scenes."
            )
        if limit is not None:
            known["limit"] = min(limit, known.get("limit", limit))
        words = [name, known.get("protocol", ""), known.get("split", "")]
        known.setdefault("folder", safe_name("-".join(filter(None, words))))
        return BenchmarkEntry(name, data, images, **{"batch_size": size, **known})


def _check(made: Experiment, file: str) -> None:
    """Builds every SPEC under every decoding, and sees that no two parts write into one RUN."""
    for what, folders in (
        ("models", [one.folder for one in made.models]),
        ("benchmarks", [one.folder for one in made.benchmarks]),
    ):
        twice = next((one for one in folders if folders.count(one) > 1), None)
        if twice is not None:
            key = "; give one of them another folder:" if what == "benchmarks" else ". Keep one"
            raise BadSetting(f"{file}: two {what} would write into one RUN, {twice!r}{key}.")
    metrics: list[str] = []
    for entry in made.benchmarks:
        for decoding in made.decodings:
            try:
                bench, official = plan(entry.name, list(made.methods_of(entry)), entry.protocol, decoding)
                shortened(official, entry.max_new_tokens)
                metrics += [metric.name for metric in bench.metrics_of]
                if entry.data is None and bench.name not in BUNDLED:
                    raise BadSetting(
                        f"{bench.name} has no drawn scenes (those that do: {', '.join(BUNDLED)}). Give its data and images."
                    )
            except UserError as error:
                raise type(error)(f"{file}: {error}") from None
    for model in made.models:
        try:
            require_name(model.name)
        except UserError as error:
            raise type(error)(f"{file}: {error}") from None
    every = {spec_of_all(choose(method)[0]) for entry in made.benchmarks for method in made.methods_of(entry)}
    if made.against != "none" and made.against not in every:
        raise UnknownName(f"{file}: report.against is no method of the experiment.{did_you_mean(made.against, every)}")
    strange = next((name for name in made.metrics if name not in metrics), None)
    if strange is not None:
        hint = did_you_mean(strange, dict.fromkeys(metrics))
        raise UnknownName(f"{file}: report.metrics: no benchmark has a metric {strange!r}.{hint}")
