"""A method and a benchmark of another package, found through its entry points by every part of this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vlm_anchors as va
from vlm_anchors.errors import UnknownName
from vlm_anchors.models.load import BUNDLED_FOLDER
from vlm_anchors.registry import Catalogue

EXAMPLES = Path(__file__).parent.parent / "examples"
CODE = '''
"""Looks harder."""
import math
from dataclasses import dataclass
import vlm_anchors as va

@dataclass(frozen=True)
class Brighter(va.Method):
    """Looks harder. times: how much."""
    hooks = frozenset({"attention"})
    times: float = va.parameter(2.0, 0.01, 100, slider=(1, 10, 0.5))

    def disabled(self):
        return Brighter(times=1.0)

    def attention_layers(self, target):
        return frozenset(range(target.depth // 2 + 1, target.depth + 1))

    def attention(self, view):
        return va.AttentionEdit(bias=math.log(self.times) * view.visible[:, None, None].float())


@dataclass(frozen=True)
class Present(va.Benchmark):
    name, version, source, licence, note = "present", "1", "a test", "Apache-2.0", ""
    metrics_of = (va.Metric("accuracy", "higher"),)

    def questions(self, data, split=None):
        return [va.Question("1", "a.png", "Is there a dog in the image?", "all", {})]

    def counts(self, records):
        return [{"n": 1, "right": int(r["answer"].startswith("Yes"))} for r in records]

    def formulas(self, parts):
        return {"accuracy": parts["all"]["right"] / parts["all"]["n"]}
'''
RUN = """
import sys
import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.apps.cli import main
from vlm_anchors.apps.web.sliders import sliders

assert "torch" not in sys.modules
assert main(["methods"]) == 0 and main(["benchmarks"]) == 0 and main(["methods", "brighter"]) == 0
scenes.save(scenes.from_objects(["dog"]), "a.png")
open("q.jsonl", "w").write("{}")
assert main(["ask", "a.png", "Is there a dog in the image?", "--model", "scenes", "--method", "brighter:times=3", "--json"]) == 0
arguments = ["--data", "q.jsonl", "--images", ".", "--model", "scenes", "--method", "none", "--method", "brighter"]
assert main(["eval", "present", *arguments, "--out", "run"]) == 0
assert main(["report", "run"]) == 0
assert sliders("brighter") == {"times": (1, 10, 0.5)} and va.Brighter(times=2).spec() == "brighter"
"""


@pytest.fixture
def installed(tmp_path):
    """A folder as pip makes it with --target: a package and what it says of itself."""
    (tmp_path / "site/looks_harder").mkdir(parents=True)
    (tmp_path / "site/looks_harder/__init__.py").write_text(CODE, "utf-8")
    info = tmp_path / "site/looks_harder-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: looks-harder\nVersion: 0.3\n", "utf-8")
    (info / "entry_points.txt").write_text(
        "[vlm_anchors.methods]\nbrighter = looks_harder:Brighter\nclva = looks_harder:Brighter\n\n"
        "[vlm_anchors.benchmarks]\npresent = looks_harder:Present\n",
        "utf-8",
    )
    return tmp_path


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
def test_an_installed_package_adds_a_method_and_a_benchmark(installed):
    source = Path(va.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{installed / 'site'}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Of the installed package looks-harder 0.3" in done.stdout
    assert "brighter:times=2.0" in done.stdout and '"rows_edited"' in done.stdout and "accuracy" in done.stdout
    assert "looks-harder 0.3 offers 'looks_harder:Brighter': The method name 'clva' is taken" in done.stderr
    records = [json.loads(line) for line in (installed / "run/records.jsonl").read_text("utf-8").splitlines()]
    assert {record["method"] for record in records} == {"none", "brighter"}


def test_examples_import_public_names_only():
    wrong = [
        f"{path.name}: {line}"
        for path in EXAMPLES.glob("your_*.py")
        for line in path.read_text("utf-8").splitlines()
        if "import" in line and "vlm_anchors." in line
    ]
    assert not wrong, wrong


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(UnknownName, match="The method name 'clva' is taken"):
        va.register(va.CLVA)


def test_a_second_catalogue_is_no_other_methods():
    """Names are looked up in the first catalogue of a kind."""
    Catalogue("method", [])
    assert va.CLVA().spec() == "clva"
