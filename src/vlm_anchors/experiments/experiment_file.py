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
from pathlib import Path
from typing import Any

from ..errors import BadData, BadSetting, UnknownName, UserError
from ..evaluation.reading.official import safe_name
from ..evaluation.reading.schema import short
from ..generation.decodings import DECODINGS
from ..registry import did_you_mean, split_composition
from ..specs import choose, spec_of_all
from ..text_files import expand
from .checks import check
from .experiment import LOADING, BenchmarkEntry, Experiment, ModelEntry
from .yaml_file import read_mapping

LARGEST_SEED = 2**63 - 1
MOST_SCENES = 100_000


def read_experiment(
    file: Path, out: Path | None = None, limit: int | None = None, device: str | None = None
) -> Experiment:
    """The experiment in a file; every name in it is known and every SPEC can be built.

    Args:
        file: The YAML file.
        out: Instead of the file's own.
        limit: At most so many questions of each benchmark.
        device: Of every model, instead of the file's own.

    Returns:
        The checked experiment.

    Raises:
        UserError: With the file's name and the key at fault.
    """
    content = read_mapping(file)
    reader = _Reader(str(file))
    known = ("out", "models", "methods", "decodings", "seeds", "benchmarks", "batch_size", "skip_bad", "report")
    reader.require_known(content, known, "")
    report = reader.mapping(content.get("report") or {}, "report")
    reader.require_known(report, ("against", "metrics"), "report.")
    size = reader.number(content.get("batch_size", 16), "batch_size", 1)
    methods = reader.methods(content.get("methods", []), "methods")
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
        models=tuple(
            reader.model(item, f"models[{at}]", device) for at, item in enumerate(reader.some(content, "models"))
        ),
        methods=methods,
        decodings=tuple(reader.texts(content.get("decodings") or [], "decodings")) or (None,),
        seeds=tuple(reader.seeds(content.get("seeds"))) or (None,),
        benchmarks=tuple(entries),
        skip_bad=reader.switch(content.get("skip_bad", False), "skip_bad"),
        against=reader.against(report.get("against", "none")),
        metrics=tuple(reader.texts(report.get("metrics") or [], "report.metrics")),
        file=file,
    )
    check(made, str(file))
    return made


class _Reader:
    """Takes values out of the file, each with the name of its place for the error."""

    def __init__(self, file: str):
        self.file = file

    def _wrong(self, place: str, expected: str, found: Any) -> BadData:
        return BadData(f"{self.file}: expected {expected} in {place}; found {short(found)}.")

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

    def methods(self, value: Any, place: str) -> tuple[str, ...]:
        """SPECs of methods alone: a cell's decoding is one of `decodings`."""
        found = self.texts(value, place)
        for spec in found:
            decoding = next((part for part in split_composition(spec) if part.partition(":")[0] in DECODINGS), None)
            if decoding is not None:
                raise BadSetting(
                    f"{self.file}: expected methods in {place}; found the decoding {decoding!r}. Put it under decodings."
                )
        return tuple(found)

    def against(self, value: Any) -> str:
        """The method to compare with, as records name it."""
        (spec,) = self.methods(self.text(value, "report.against"), "report.against")
        try:
            return spec_of_all(choose(spec)[0])
        except UserError as error:
            raise type(error)(f"{self.file}: report.against: {error}") from None

    def number(self, value: Any, place: str, least: int, most: int | None = None) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(place, f"a whole number of {least} or more", value)
        if most is not None and value > most:
            raise self._wrong(place, f"a whole number up to {most}", value)
        return value

    def switch(self, value: Any, place: str) -> bool:
        if not isinstance(value, bool):
            raise self._wrong(place, "true or false", value)
        return value

    def seeds(self, value: Any) -> list[int]:
        items = [] if value is None else value if isinstance(value, list) else [value]
        found = [self.number(item, f"seeds[{at}]", 0, LARGEST_SEED) for at, item in enumerate(items)]
        if len(set(found)) < len(found):
            raise self._wrong("seeds", "each seed once", value)
        return found

    def path(self, content: Mapping[str, Any], key: str, before: str) -> Path | None:
        return None if content.get(key) is None else expand(self.text(content[key], before + key))

    def folder(self, value: Any, place: str) -> str:
        """A folder below the model's, in one way of writing it."""
        path = Path(self.text(value, place))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise self._wrong(place, "the name of a folder below out", value)
        return path.as_posix()

    def model(self, item: Any, place: str, device: str | None) -> ModelEntry:
        fields = self.mapping({"name": item} if isinstance(item, str) else item, place)
        self.require_known(fields, ("name", *LOADING), f"{place}.")
        name = self.text(fields.get("name"), f"{place}.name")
        known = {key: value for key, value in fields.items() if key != "name" and value is not None}
        return ModelEntry(name, known, device)

    def benchmark(self, item: Any, place: str, size: int, limit: int | None) -> BenchmarkEntry:
        fields = self.mapping({"name": item} if isinstance(item, str) else item, place)
        self.require_known(fields, [*BenchmarkEntry.__dataclass_fields__], f"{place}.")
        name = self.text(fields.get("name"), f"{place}.name")
        read: dict[str, Callable[[Any, str], Any]] = {
            **dict.fromkeys(("split", "protocol"), self.text),
            **{
                key: lambda value, where: self.number(value, where, 1)
                for key in ("limit", "max_new_tokens", "batch_size")
            },
            "scenes": lambda value, where: self.number(value, where, 1, MOST_SCENES),
            "methods": self.methods,
            "folder": self.folder,
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
