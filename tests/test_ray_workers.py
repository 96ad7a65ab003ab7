"""`run` and `tune` with workers of Ray give the records of one process (ranks: test_experiment.py)."""

import json

import pytest
from test_experiment import BASE

from vlm_anchors.apps.cli import main
from vlm_anchors.evaluation.runner.bundled import export

TUNE = ["--method", "clva", "--grid", "alpha=2,5", "--benchmark", "pope", "--split", "adversarial", "--batch-size", "8"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), ["pope"], images=6)


@pytest.fixture
def write(tmp_path, tiny_folder, scenes):
    def write(name):
        file = tmp_path / f"{name}.yaml"
        file.write_text(BASE.format(out=tmp_path / name, model=tiny_folder, data=scenes), "utf-8")
        return file

    return write


def records(folder):
    """What was answered, whichever process did it; seconds and batches differ."""
    lines = [
        json.loads(line) for file in folder.rglob("records*.jsonl") for line in file.read_text("utf-8").splitlines()
    ]
    found = {(one["method"], one["id"]): (one["answer"], one["tokens"]) for one in lines}
    assert len(found) == len(lines), "no question is answered twice"
    return found


@pytest.mark.slow
def test_workers_of_ray_answer_an_experiment(write, tmp_path):
    ray = pytest.importorskip("ray")
    assert main(["run", str(write("one"))]) == 0
    try:
        assert main(["run", str(write("ray")), "--ray", "2"]) == 0
    finally:
        ray.shutdown()
    assert records(tmp_path / "ray") == records(tmp_path / "one")
    assert (tmp_path / "ray" / "report.txt").exists()


@pytest.mark.slow
def test_workers_of_ray_tune_as_one_process_does(tiny_folder, scenes, tmp_path):
    ray = pytest.importorskip("ray")
    common = [
        "tune",
        *TUNE,
        "--model",
        str(tiny_folder),
        "--data",
        str(scenes / "pope"),
        "--images",
        str(scenes / "images"),
    ]
    assert main([*common, "--out", str(tmp_path / "one")]) == 0
    try:
        assert main([*common, "--out", str(tmp_path / "ray"), "--ray", "2"]) == 0
    finally:
        ray.shutdown()
    one, many = (json.loads((tmp_path / name / "tune.json").read_text("utf-8")) for name in ("one", "ray"))
    for result in (one, many):
        for changing in ("date", "seconds", "data"):
            result.pop(changing, None)
    assert one["methods"] == many["methods"] and one["winner"] == many["winner"]
