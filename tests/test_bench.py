"""`bench`: what it measures, and what it says of wrong requests."""

import json
import os
import subprocess
import sys

import pytest
import tiny
import torch

from vlm_anchors.apps.cli import main
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.profiling import timing as run
from vlm_anchors.profiling.shapes import SHAPES
from vlm_anchors.specs import choose


@pytest.fixture
def bench(capsys, tiny_folder):
    def bench(*arguments):
        arguments = [str(tiny_folder) if each == "MODEL" else str(each) for each in arguments]
        return main(["bench", *arguments]), *capsys.readouterr()

    return bench


def test_every_method_runs_once_a_round_beside_plain():
    model, batch = tiny.llava(), tiny.llava_batch()
    rows = run.measure(model, batch, ["clva", "literal:clva", "clva:alpha=0,beta=0"], new_tokens=3, rounds=3, warm=1)
    assert [row.name for row in rows] == ["greedy", "clva", "literal:clva", "clva:alpha=0,beta=0"]
    assert all(len(row.seconds[part]) == 3 for row in rows for part in run.PARTS)
    for row in rows:
        pairs = zip(row.seconds["first token"], row.seconds["decoding"], row.seconds["total"], strict=True)
        assert all(first + rest == pytest.approx(total) for first, rest, total in pairs)
    assert [row.effects for row in rows] == [False, True, True, True]
    summary = {each["method"]: each for each in run.summary(rows, weights=1000)}
    assert summary["greedy"]["total"] == {
        "seconds": summary["greedy"]["total"]["seconds"],
        "ratio": 1.0,
        "interval": [1.0, 1.0],
    }
    # The literal form holds every row's weights, the fast one the text rows' only.
    assert summary["literal:clva"]["peak bytes"] > summary["clva"]["peak bytes"] >= summary["greedy"]["peak bytes"]


def test_searches_and_methods_that_change_images_are_timed_too(bench):
    asked = [
        "--method",
        "opera",
        "--method",
        "beam:num_beams=2",
        "--method",
        "vicrop",
        "--rounds",
        3,
        "--max-new-tokens",
        3,
    ]
    code, out, err = bench("--model", "MODEL", *asked, "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["method"] for row in rows] == ["greedy", "opera", "beam:num_beams=2", "vicrop"]
    assert all(row["total"]["seconds"] > 0 for row in rows)


def test_plain_on_a_prompt_as_long_as_the_method_makes_it(bench, tmp_path):
    model, batch = tiny.llava(), tiny.llava_batch()
    spec = "attanchor:tau=0,tokens=all"
    inserted = choose(spec)[0][0].prepare(model, batch)
    longer = run.padded(model, batch, spec)
    assert (
        longer["input_ids"].shape
        == longer["attention_mask"].shape
        == inserted["input_ids"].shape
        > batch["input_ids"].shape
    )
    assert torch.equal(longer["pixel_values"], batch["pixel_values"])
    assert torch.equal(longer["input_ids"][:, : batch["input_ids"].shape[1]], batch["input_ids"])
    out = tmp_path / "told.json"
    code, _, _ = bench("--model", "MODEL", "--method", "attanchor:tau=0", "--padded", "--rounds", 3, "--max-new-tokens", 2,
                       "--out", out)  # fmt: skip
    summary = json.loads(out.read_text())
    assert code == 0 and summary["plain prompt tokens"] > summary["prompt tokens"]
    code, _, error = bench("--model", "MODEL", "--method", "clva", "--padded")
    assert code == 2 and "expected one attanchor; found clva" in error


def test_a_ratio_is_taken_inside_its_round():
    """A machine that halves its speed half-way changes no ratio."""
    plain, slower = run.TimingRow("greedy"), run.TimingRow("clva")
    for part in run.PARTS:
        plain.seconds[part] = [1.0, 1.0, 2.0, 2.0, 2.0]
        slower.seconds[part] = [1.1, 1.1, 2.2, 2.2, 2.2]
    summary = list(run.summary([plain, slower], weights=1))[1]
    assert summary["total"]["ratio"] == pytest.approx(1.1)
    assert summary["total"]["interval"] == pytest.approx([1.1, 1.1])


def test_the_interval_of_a_median_holds_it():
    values = torch.randn(31, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = run.median_interval(values)
    assert low < sorted(values)[15] < high
    assert run.median_interval([2.0] * 5) == [2.0, 2.0]


def test_a_model_is_timed_on_a_drawn_scene(bench, tmp_path):
    out = tmp_path / "new" / "bench.json"
    asked = ["--model", "MODEL", "--method", "clva:tau=1", "--rounds", 3, "--max-new-tokens", 2, "--out", out]
    code, shown, _ = bench(*asked)
    assert code == 0 and "ratio to greedy with its 95 % interval" in " ".join(shown.split())
    summary = json.loads(out.read_text())
    assert {"date", "commit", "device", "versions"} <= set(summary)
    assert [row["method"] for row in summary["rows"]] == ["greedy", "clva:tau=1"]
    assert all(row["total"]["ratio"] > 0 for row in summary["rows"])


@pytest.mark.slow
def test_questions_share_their_images_prefix(bench):
    code, out, _ = bench("--model", "MODEL", "--method", "clva:tau=1", "--rounds", 3, "--questions", 2, "--json")
    assert code == 0
    table = json.loads(out)["tables"][0]
    ways = [row["way"] for row in table["rows"]]
    assert ways[0] == "one at a time" and "batch 6, prefix shared" in ways
    assert {row["same answers"] for row in table["rows"]} == {"8 of 8"}


def test_one_batch_size_alone(bench):
    asked = ["--questions", 2, "--batch-size", 3, "--rounds", 3, "--json"]
    code, out, _ = bench("--model", "MODEL", "--method", "none", *asked)
    table = json.loads(out)["tables"][0]
    assert (code, table["images"]) == (0, 2)
    assert [row["way"] for row in table["rows"]] == ["one at a time", "batch 3", "batch 3, prefix shared"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--method", "clva"], "Expected --model or --shape, one of them"),
        (["--method", "clva", "--model", "scenes", "--shape", "mid"], "Expected --model or --shape, one of them"),
        (["--method", "clva", "--shape", "middle"], "No shape 'middle'. Did you mean 'mid'?"),
        (["--method", "clwa", "--model", "MODEL"], "No method 'clwa'. Did you mean 'clva'?"),
        (["--method", "clva", "--model", "nowhere"], "nowhere"),
        (["--method", "clva", "--shape", "mid", "--device", "meta"], "Device meta holds no numbers"),
        (["--method", "clva", "--shape", "mid", "--device", "tpu9"], "No device 'tpu9'. Expected cpu, cuda or cuda:N."),
        (["--method", "clwa", "--model", "nowhere"], "No method 'clwa'"),  # before a model is loaded
        (
            ["--method", "vcd+nucleus", "--model", "MODEL"],
            "bench times greedy and beam and opera decoding here; found nucleus in --method vcd",
        ),
        (
            ["--method", "clva+beam", "--model", "MODEL", "--questions", "2"],
            "bench times greedy decoding here; found beam",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence(bench, asked, sentence):
    code, _, err = bench(*asked)
    assert code == 2 and sentence in " ".join(err.split())
    assert "Traceback" not in err


def test_the_named_shapes_are_the_papers_models():
    assert set(SHAPES) == {"llava-1.5-7b", "tinyllava-1b", "qwen2.5-vl-3b", "mid"}
    text = SHAPES["llava-1.5-7b"].config().text_config
    assert (text.hidden_size, text.num_hidden_layers, SHAPES["llava-1.5-7b"].visual) == (4096, 32, 576)


def test_nothing_stays_attached_after_a_measurement():
    model, batch = tiny.llava(), tiny.llava_batch()
    with torch.no_grad():
        before = model(**batch).logits
        run.measure(model, batch, ["clva"], new_tokens=2, rounds=1, warm=0)
        assert torch.equal(before, model(**batch).logits)
        with attach(model, "clva"):
            assert not torch.equal(before, model(**batch).logits)


def test_the_profiler_is_silent(tiny_folder):
    """In a process of its own: the log level is read once, and Kineto writes past Python's stderr."""
    asked = [
        "--model",
        str(tiny_folder),
        "--method",
        "clva:tau=1",
        "--rounds",
        "3",
        "--max-new-tokens",
        "2",
        "--device",
        "cpu",
    ]
    arguments = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "vlm_anchors", "bench", *asked],
        capture_output=True,
        text=True,
        env=arguments,
        check=True,
    )
    assert done.stderr.splitlines() == [f"round {n} of 3" for n in (1, 2, 3)]
    assert "profiler_st" not in done.stdout
