"""Training in processes of its own: killed and resumed, and shared by two."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from conversations import scenes

from vlm_anchors.errors import BadSetting
from vlm_anchors.training.presets import settings
from vlm_anchors.training.resume import last_checkpoint, settle
from vlm_anchors.training.run import train

STEPS = 12
LIMIT = 300


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("data"), count=8)


def command(model, data, out, *more, tau=0.02, **changed):
    values = dict(precision="fp32", batch_size=2, accumulation=1, max_steps=STEPS, eval_steps=2, rank=2) | changed
    return [
        "-m", "vlm_anchors", "train", f"attanchor:tau={tau}", "--model", str(model), "--data", str(data), "--out", str(out),
        "--validation", "0.25", "--device", "cpu", *(f"--set={name}={value}" for name, value in values.items()), *more,
    ]  # fmt: skip


def run(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def curve(out):
    with (out / "loss.csv").open() as file:
        return list(csv.DictReader(file))


def weights(out):
    return safetensors.torch.load_file(out / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tiny_folder, data, tmp_path):
    """SIGKILL between checkpoints; the second run ends with the very same curve and weights as one left alone."""
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    child = subprocess.Popen(
        [sys.executable, *command(tiny_folder, data, killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + LIMIT
    while child.poll() is None and last_checkpoint(killed) is None and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the run ended before it was killed"
    torn = killed / "checkpoints" / "checkpoint-999"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"torn')
    begun = int(last_checkpoint(killed).rpartition("-")[2])
    assert 0 < begun < STEPS
    summary = run(command(tiny_folder, data, killed)).stderr
    assert f"step {begun} " not in summary and f"step {STEPS} " in summary, "it began anew, or validated twice"
    assert not torn.exists()
    run(command(tiny_folder, data, alone))
    assert curve(killed) == curve(alone)
    one, other = weights(killed), weights(alone)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_a_batch_of_twice_the_size(tiny_folder, data, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    same = dict(max_steps=3, eval_steps=3, dropout=0.0, learning_rate=1e-2)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    summary = run([*launch, *command(tiny_folder, data, two, **same)])
    assert summary.stdout.count("validation loss") == 1, "both processes speak"
    run(command(tiny_folder, data, one, **(same | {"batch_size": 4})))
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(two)[name], atol=1e-4), name
    ours, theirs = (float(curve(out)[-1]["validation"]) for out in (one, two))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_another_run_is_not_gone_on_with(tiny_folder, data, tmp_path):
    begun = dict(model="a", revision=None, method="attanchor", data_sha256="0", validation="0.1", settings={"rank": 4})
    settle(tmp_path / "out", begun, first=True)
    settle(tmp_path / "out", begun, first=True)
    for change, words in {
        "model": r"was begun with model = 'a'; this is 'b'. Give the same settings to go on, or another --out",
        "data_sha256": "was begun with data_sha256 = '0'; this is 'b'",
    }.items():
        with pytest.raises(BadSetting, match=words):
            settle(tmp_path / "out", begun | {change: "b"}, first=True)
    with pytest.raises(BadSetting, match="was begun with rank = 4; this is 8"):
        settle(tmp_path / "out", begun | {"settings": {"rank": 8}}, first=True)
    (tmp_path / "out/training.json").write_text("{")
    with pytest.raises(BadSetting, match="training.json is not valid JSON"):
        settle(tmp_path / "out", begun, first=True)
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match="is a file; --out names a folder"):
        train(str(tiny_folder), data, tmp_path / "file", settings=settings(precision="fp32"), validation=0.2)
