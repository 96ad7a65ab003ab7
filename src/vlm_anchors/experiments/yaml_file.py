"""A YAML file as keys with values: every fault of it is a sentence with its line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadData, first_line
from ..evaluation.reading.schema import short
from ..text_files import read_text

DEEPEST = 20
"""Values within values. An experiment has four levels."""


def read_mapping(file: Path) -> Mapping[str, Any]:
    """The file's mapping; a key that stands twice is refused, which YAML readers take the last of.

    Args:
        file: An ordinary UTF-8 file.

    Returns:
        Its keys and values.

    Raises:
        BadData: There is no such file, or it is no YAML, or something else than a mapping.
    """
    import yaml

    if not file.exists():
        raise BadData(
            f"There is no file {file}. Expected an experiment as YAML; docs/from-model-to-table.md shows one."
        )
    text = read_text(file, BadData, "Write it as UTF-8.")
    try:
        found = yaml.load(text, Loader=_loader(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise BadData(f"{file}{where} is not valid YAML: {problem}. Correct the line.") from None
    if not isinstance(found, dict):
        raise BadData(f"{file}: expected keys such as models, methods and benchmarks; found {short(found)}.")
    return found


def _loader(file: Path) -> Any:
    """YAML's safe loader, where what it takes or fails at in other ways is said with its line."""
    import yaml

    def at(node: Any) -> str:
        return f"{file}, line {node.start_mark.line + 1}"

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > DEEPEST:
                where = at(self.peek_event())
                raise BadData(f"{where}: values are nested more than {DEEPEST} deep. Close the brackets.")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
                # 2026-02-30 is read as a date, !!bool maybe as a truth value: each fails in Python's own words
                kind = node.tag.rpartition(":")[2]
                raise BadData(
                    f"{at(node)}: {short(node.value)} is no {kind}. Correct it, or put a text in quotes."
                ) from None

    def construct(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise BadData(
                    f"{at(key)}: expected a word as a key; found brackets. Fill the template in, or put a text in quotes."
                )
            if key.value in seen:
                raise BadData(f"{at(key)}: the key {key.value!r} stands twice. Keep one.")
            seen.add(key.value)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    return Loader
