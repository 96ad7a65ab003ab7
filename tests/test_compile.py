"""The decoding step with CLVA compiles into one graph (fullgraph), and gives the same tokens; other hooks into several."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def check(*arguments):
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_check.py"), *arguments],
        capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_step_equals_uncompiled(backend):
    summary = check(backend)
    assert summary["found"] == summary["again"] == summary["wanted"] != summary["plain"]
    assert summary["off"] == summary["plain"]
    assert summary["effects"], "steps of the graph are counted too"
    assert summary["last"][0] == summary["last"][1] != summary["last"][2], "a prompt that ends with its image"
    assert summary["breaks"] == 0
    assert summary["graphs"] <= 2, "one graph with the method, one without"


@pytest.mark.slow
def test_hooks_beyond_attention_compile_in_pieces_and_refuse_one_graph():
    summary = check("aot_eager", "hooks")
    assert summary["found"] == summary["wanted"] and summary["effects"]
    assert "Compile with fullgraph=False" in summary["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "how", ["torch.compile(model)", "model.compile()", "model.forward", "language_model.compile()"]
)
def test_a_model_compiled_as_a_whole_acts_or_says_that_it_does_not(how, when):
    """Also where the graph of the plain model was made before; and afterwards the model is the plain one."""
    summary = check("eager", how, when)
    assert summary["after"] == ["plain"]
    assert (summary["found"], summary["said"]) in ((["edited"], False), (["plain"], True)), summary
