"""The scripts beside the package use names that it has."""

import ast
import importlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("runs", "tools", "examples")


def lost_names(source: str):
    """What a source takes from this package, and the package does not have."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlm_anchors" and not node.level:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ModuleNotFoundError:
                        yield f"{node.module}.{alias.name}"


def test_every_name_that_a_script_imports_exists():
    lost = {
        f"{file.relative_to(ROOT)}: {name}"
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        for name in lost_names(file.read_text("utf-8"))
    }
    assert not lost
    assert list(lost_names("from vlm_anchors.specs import nothing_of_the_kind")) == [
        "vlm_anchors.specs.nothing_of_the_kind"
    ]
