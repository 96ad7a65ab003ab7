"""The rules a reader relies on: data flows one way, files and functions stay small, one package knows the internals."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "vlm_anchors"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION = 400, 80

# Left may not import right. Names are modules or packages directly under vlm_anchors.
ARROW = [
    ["errors"],
    ["registry", "provenance", "durable"],
    ["families", "benchmarks"],
    ["statistics", "published", "reviews"],
    ["report"],
    ["report_text", "answer_files", "judging"],
    ["report_page"],
    ["types"],
    ["scenes"],
    ["adapter"],
    ["load", "images"],
    ["decoding", "methods", "engine"],  # contract and engine are two halves; decodings share the parameters' checks
    ["choice"],
    ["prepare"],
    ["sampling"],
    ["generate"],
    ["calibration"],
    ["look"],
    ["bench", "runner", "train", "lmms"],
    ["__init__", "__main__", "app", "cli", "demo"],
]
RANK = {name: rank for rank, names in enumerate(ARROW) for name in names}


def unit(path):
    """The module or package under vlm_anchors that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path):
    """Units a file imports while it runs, in functions as well; what only a type checker sees does not count."""
    package = list(path.relative_to(PACKAGE).parts[:-1])
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)] + (node.module or "").split(".")
            base = [part for part in base if part]
            yield from [base[0]] if base else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlm_anchors"):
            yield (node.module + ".__init__").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from [
                (a.name + ".__init__").split(".")[1] for a in node.names if a.name.split(".")[0] == "vlm_anchors"
            ]


def test_every_module_has_a_place():
    assert {unit(path) for path in FILES} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_left_does_not_import_right(path):
    here = unit(path)
    for other in imported_units(path):
        if other in RANK:
            assert RANK[other] <= RANK[here], f"{here} imports {other}, which stands to its right"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION, node.name


INTERNALS = re.compile(
    r"_attn_implementation_internal|AttentionInterface|AttentionMaskInterface|past_key_values|register_forward|modeling_"
)


def test_only_the_engine_knows_transformers_internals():
    for path in FILES:
        if unit(path) not in ("engine", "scenes"):
            assert not INTERNALS.search(path.read_text("utf-8")), path


def test_words_of_the_house():
    for path in FILES:
        assert not re.search(r"util|helper|manager|handler", path.stem), path
        assert "from __future__ import annotations" not in path.read_text("utf-8"), path
