"""CONTRIBUTING's checklists, done once each in a copy of the package: what works afterwards, and how many files it took."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vlm_anchors
from vlm_anchors.methods.shared import TESTED
from vlm_anchors.models.families import FAMILIES
from vlm_anchors.models.load import BUNDLED_FOLDER

ROOT = Path(__file__).parent.parent
SOURCE = Path(vlm_anchors.__file__).parent


def contents(copy):
    return {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*.py")}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Both lists done in one copy, its model by a link: (list -> files that are new or changed, what the new tests print)."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(SOURCE, copy / "vlm_anchors", ignore=shutil.ignore_patterns("model", "__pycache__"))
    (copy / "vlm_anchors/scenes/model").symlink_to(BUNDLED_FOLDER)
    (copy / "tests").mkdir()
    touched = {}
    for name, add in {"method": add_a_method, "benchmark": add_a_benchmark}.items():
        before = contents(copy)
        add(copy)
        touched[name] = {file for file, content in contents(copy).items() if before.get(file) != content}
    return touched, printed_by_tests(copy)


def from_example(name):
    """The imports of an example that its class needs, and the class."""
    source = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    return source[: source.index("\n\n\n", source.index("@dataclass")) + 1].replace("import vlm_anchors as va\n", "")


def listed(copy, kind, line):
    """One line in a catalogue, before its first."""
    file = copy / f"vlm_anchors/{kind}/__init__.py"
    at = {"methods": '        Entry("none"', "evaluation/benchmarks": '        _entry("pope"'}[kind]
    file.write_text(file.read_text("utf-8").replace(at, f"        {line},\n{at}", 1), "utf-8")


def printed_by_tests(copy):
    """Of the new tests, against the copy, in one process for both: half a minute of imports otherwise."""
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--rootdir", str(copy), "tests"]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False).stdout


def add_a_method(copy):
    code = from_example("your_method").replace("from vlm_anchors import scenes\n", "")
    code = (
        code.replace("va.Method", "Method")
        .replace("va.parameter", "parameter")
        .replace("va.AttentionEdit", "AttentionEdit")
    )
    code = code.replace(
        "from dataclasses import dataclass\n",
        "from dataclasses import dataclass\n\nfrom ..interventions.attention_view import AttentionEdit\n"
        "from ..interventions.method import Method\nfrom ..parameters import parameter\n",
    )
    (copy / "vlm_anchors/methods/brighter.py").write_text(code, "utf-8")
    listed(copy, "methods", 'Entry("brighter", "vlm_anchors.methods.brighter:Brighter", "Looks harder", "examples")')
    (copy / "tests/test_brighter.py").write_text(
        """
import tiny
import torch
import vlm_anchors as va
from vlm_anchors.specs import choose
from vlm_anchors.apps.cli import main

def test_neutral_is_plain_and_more_is_more(capsys):
    model, batch = tiny.llava(), tiny.llava_batch()
    def logits(method):
        with torch.no_grad(), va.attach(model, method):
            return model(**batch).logits
    plain = logits("none")
    assert torch.allclose(logits(va.Brighter().disabled()), plain, atol=1e-5)
    assert not torch.allclose(logits("brighter:times=3"), plain, atol=1e-3)
    assert choose("brighter:times=3")[0][0] == va.Brighter(times=3)
    assert main(["methods", "brighter"]) == 0
    assert "brighter:times=2.0" in capsys.readouterr().out
""",
        "utf-8",
    )


def add_a_benchmark(copy):
    code = from_example("your_benchmark").replace("@va.register\n", "").replace("from vlm_anchors import scenes\n", "")
    code = code.replace("va.", "").replace("Path\n", "Path\n\nfrom .base import Benchmark, Metric, Question\n", 1)
    (copy / "vlm_anchors/evaluation/benchmarks/counting.py").write_text(code, "utf-8")
    listed(copy, "evaluation/benchmarks", '_entry("counting", "counting:Counting", "How many of a kind", "examples")')
    (copy / "tests/test_counting.py").write_text(
        """
import json
from vlm_anchors import scenes
from vlm_anchors.apps.cli import main
from vlm_anchors.scenes.draw import save

def test_eval_and_report(tmp_path, capsys):
    save(scenes.from_objects(["dog"]), tmp_path / "a.png")
    row = {"image": "a.png", "question": "How many dogs are there in the image?", "count": "one"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    run = str(tmp_path / "run")
    assert main(["eval", "counting", "--data", str(tmp_path / "q.jsonl"), "--images", str(tmp_path), "--out", run]) == 0
    assert main(["report", run, "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert table["rows"][0]["cells"]["accuracy"]["value"] == 100
""",
        "utf-8",
    )


def test_a_method_is_three_files(done):
    touched, printed = done
    assert "PASSED tests/test_brighter.py::test_neutral_is_plain_and_more_is_more" in printed, printed
    made = {f"vlm_anchors/methods/{name}.py" for name in ("__init__", "brighter")}
    assert touched["method"] == made | {"tests/test_brighter.py"}


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
def test_a_benchmark_is_three_files(done):
    touched, printed = done
    assert "PASSED tests/test_counting.py::test_eval_and_report" in printed, printed
    made = {f"vlm_anchors/evaluation/benchmarks/{name}.py" for name in ("__init__", "counting")}
    assert touched["benchmark"] == made | {"tests/test_counting.py"}


def test_a_family_is_named_in_one_file():
    """What the code does for it follows from its row: no other file asks for a name. (Methods list where they are tested.)"""
    code = {
        path: path.read_text("utf-8") for path in SOURCE.rglob("*.py") if path.parent.name not in ("methods", "vllm")
    }
    wrong = []
    for family in FAMILIES:
        if family.name in TESTED:
            continue
        names = {f'"{name}"' for name in (family.name, *family.model_types) if len(name) > 4}
        files = [path.name for path, text in code.items() if any(name in text for name in names)]
        if [name for name in files if not name.startswith("families")]:
            wrong.append((family.name, files))
    assert not wrong, wrong
