"""The pages say what the code does: generated ones are fresh, README's code runs, every error has its place."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_anchors import errors
from vlm_anchors.models.load import BUNDLED_FOLDER

ROOT = Path(__file__).parent.parent
OF_THE_MODEL = ("docs/first-look.png", "../src/vlm_anchors/scenes/model/README.md")
"""Made with the bundled model, and after it."""
BUNDLED = pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
KINDS = [
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.UserError) and kind is not errors.UserError
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "script", ["docs.py", "readme_table.py", "results_page.py", "smollm2_page.py", "training_tables.py"]
)
def test_generated_pages_are_fresh(script, monkeypatch, capsys):
    """In this process: a new one would load torch and transformers again for each."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [f"runs/{script}", "--check"])
    monkeypatch.syspath_prepend(str(ROOT / "runs"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "runs" / script), run_name="__main__")
    assert not ended.value.code, (ended.value.code, capsys.readouterr().err)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Files exist, and so do the headings that links name; addresses elsewhere are not visited."""
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", page.read_text("utf-8")):
        name, _, heading = target.partition("#")
        if target.startswith("http") or (name in OF_THE_MODEL and not (BUNDLED_FOLDER / "config.json").exists()):
            continue
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not heading or heading in headings(file), target


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs make them."""
    found = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def test_every_page_is_in_the_index_and_in_the_site():
    index, target = ((ROOT / name).read_text("utf-8") for name in ("docs/index.md", "mkdocs.yml"))
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name
        assert f" {page.name}\n" in target, page.name


@pytest.fixture(scope="module")
def sentences():
    """The words of every sentence the source raises; docs/sentences.md lists them, and is held fresh above."""
    return runpy.run_path(str(ROOT / "runs" / "sentences.py"))["sentences"]()


def test_every_kind_of_error_has_a_place_in_troubles():
    troubles = (ROOT / "docs" / "troubles.md").read_text("utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in troubles] == []


def test_every_sentence_is_found_where_it_is_raised(sentences):
    """Written out in a `raise`, made by a function, kept in a variable or a field: each way is followed."""
    words = {one.words for one in sentences}
    assert "The image path is empty. Expected the path of an image file." in words
    assert "… is too large…: more than … million pixels. Make it smaller first." in words
    assert "… has several frames; only the first one is used." in words
    assert any(one.startswith("The cosine separates nothing") for one in words)
    assert {one.kind for one in sentences} == {*KINDS, "AnchorsWarning"}


def test_troubles_speaks_of_sentences_that_exist(sentences):
    """Each row's first cell quotes a sentence, "…" for what is filled in; " / " stands between two of them."""
    stale = []
    for line in (ROOT / "docs" / "troubles.md").read_text("utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| sentence"):
            quoted = line.split(" | ")[0].removeprefix("| ").replace("(a warning)", "")
            for one in quoted.split(" / "):
                parts = [re.escape(part.strip(" .")) for part in one.split("…")]
                if not any(re.search(".*".join(parts), sentence.words) for sentence in sentences):
                    stale.append(one)
    assert stale == []


@BUNDLED
@pytest.mark.slow
def test_first_steps_lead_to_the_end(tmp_path, monkeypatch, capfd):
    """Every command of the page, in its order, in an empty folder, and then its Python."""
    from vlm_anchors.apps.cli import main

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "first-steps.md").read_text("utf-8")
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("vlm-anchors "):
                assert main(shlex.split(line)[1:]) == 0, line
            else:
                subprocess.run(line, shell=True, check=True)
    assert "The drift that CLVA repairs is absent in this model." in capfd.readouterr().out
    names = {}
    for python in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(python, "first-steps.md", "exec"), names)
    assert capfd.readouterr().out.startswith("Yes (")
    assert names["answer"].effects["clva"]["rows_edited"]
    assert (tmp_path / "seen" / "index.html").exists()


@BUNDLED
def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    """All blocks in one namespace, in their order, in a folder with the images they name; the bundled model is the large one."""
    from vlm_anchors import scenes
    from vlm_anchors.scenes.draw import save

    monkeypatch.chdir(tmp_path)
    save(scenes.from_objects(["fork", "cup", "bowl"], seed=0), tmp_path / "kitchen.png")
    save(scenes.from_objects(["dog"], seed=0), tmp_path / "photo.jpg")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block.replace("llava-hf/llava-1.5-7b-hf", str(BUNDLED_FOLDER)), "README.md", "exec"), names)
