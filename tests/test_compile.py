"""The decoding step with CLVA compiles into one graph (fullgraph), and gives the same tokens; other doors into several."""

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
        capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": str(HERE)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_step_equals_uncompiled(backend):
    told = check(backend)
    assert told["found"] == told["again"] == told["wanted"] != told["plain"]
    assert told["off"] == told["plain"]
    assert told["acted"], "steps of the graph are counted too"
    assert told["last"][0] == told["last"][1] != told["last"][2], "a prompt that ends with its image"
    assert told["breaks"] == 0
    assert told["graphs"] <= 2, "one graph with the method, one without"


def test_doors_beyond_attention_compile_in_pieces_and_refuse_one_graph():
    told = check("aot_eager", "doors")
    assert told["found"] == told["wanted"] and told["acted"]
    assert "Compile with fullgraph=False" in told["refused"]
