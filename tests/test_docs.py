"""The pages say what the code does: generated ones are fresh, README's code runs, every error has its place."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_anchors import errors
from vlm_anchors.load import BUNDLED_FOLDER

ROOT = Path(__file__).parent.parent
OF_THE_MODEL = ("docs/first-look.png", "../src/vlm_anchors/scenes/model/README.md")
"""Made with the bundled model, and after it."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, "runs/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_table_comes_from_results():
    check = [sys.executable, "runs/readme_table.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if target in OF_THE_MODEL and not (BUNDLED_FOLDER / "config.json").exists():
            continue
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_kind_of_error_has_a_place_in_troubles():
    troubles = (ROOT / "docs" / "troubles.md").read_text("utf-8")
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.UserError) and kind is not errors.UserError:
            assert f"`{name}`" in troubles, name


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    """All blocks in one namespace, in their order, in a folder that holds the image they name; comments are the output."""
    from vlm_anchors import scenes
    from vlm_anchors.scenes.draw import save

    monkeypatch.chdir(tmp_path)
    save(scenes.from_objects(["fork", "cup", "bowl"], seed=0), tmp_path / "kitchen.png")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
