"""docs/architecture.md says what the code does: its folders exist, and each arrow of its figure is an import."""

import re
from pathlib import Path

from test_shape_of_code import GRAPH, PACKAGE

PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text("utf-8")


def test_each_arrow_is_an_import():
    arrows = re.findall(r"^    (\S+) --> (\S+)$", PAGE, re.MULTILINE)
    assert len(arrows) > 10
    wrong = [
        f"{here} --> {there}" for here, there in arrows if there.replace("/", ".") not in GRAPH[here.replace("/", ".")]
    ]
    assert not wrong, wrong


def test_each_folder_is_described():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert set(re.findall(r"^\| `(\w+)/`", PAGE, re.MULTILINE)) == folders


def test_files_that_the_page_names_exist():
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+)(?:\.py)?`", PAGE)
    assert named
    places = [PACKAGE / f"{name}.py" for name in named if not name.startswith("tests/")]
    assert not [str(place) for place in places if not place.exists()]
