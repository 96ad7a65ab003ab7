"""Every example runs as it stands, in an empty folder, and prints what its first line promises."""

import re
import runpy
from pathlib import Path

import pytest

from vlm_anchors.models.load import BUNDLED_FOLDER

EXAMPLES = Path(__file__).parent.parent / "examples"
PRINTED = {
    "ask": ("none", "clva:alpha=5", "yes - no:", "'tokens_inserted': "),
    "batch": ("alpha  0:", "alpha 14:", " | "),
    "evaluate": ("f1", "none", "clva", "McNemar"),
    "your_benchmark": ("accuracy", "counting", "as-asked"),
    "generate": ("Left", "rows_edited"),
    "serve": (),
}

pytestmark = pytest.mark.skipif(
    not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet"
)


def test_no_example_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, "your_method"}


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.filterwarnings("error::vlm_anchors.errors.AnchorsWarning")
def test_the_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert [words for words in PRINTED[name] if words not in printed] == []


def test_your_method_is_twenty_lines_and_does_what_it_says(tmp_path, monkeypatch, capsys):
    source = (EXAMPLES / "your_method.py").read_text("utf-8")
    written = source[source.index("@dataclass") : source.index("vlm = va.load")]
    assert len([line for line in written.splitlines() if line.strip()]) <= 20
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "your_method.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(";")[0] for line in printed] == [
        "none: No",
        "brighter: No",
        "attanchor:tau=0.2+brighter:times=4.0: No",
    ]
    plain, brighter, both = ([int(share) for share in re.findall(r"(\d+)%", line)] for line in printed)
    assert plain[0] == plain[1]
    assert brighter[1] > brighter[0] + 3
    assert both[1] > both[0] + 8
