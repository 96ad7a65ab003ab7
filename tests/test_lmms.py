"""lmms-eval: the adapter gives `ask`'s answers, the tasks our scores; end to end where lmms-eval is installed."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest

import vlm_anchors as va
from vlm_anchors.errors import BadParameter, BadSetting
from vlm_anchors.evaluation.benchmarks import BENCHMARKS
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.evaluation.runner.bundled import export
from vlm_anchors.integrations.lmms_eval import tasks

INSTALLED = importlib.util.find_spec("lmms_eval") is not None


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), images=3)


@pytest.fixture
def task(scenes, tmp_path):
    """(name, folder, documents) of POPE's adversarial questions about three scenes."""
    arguments = {"data": scenes / "pope", "images": scenes / "images", "split": "adversarial", "protocol_name": "deco"}
    name = tasks.write_task("pope:dialect=strict", tmp_path / "tasks", **arguments)
    lines = (tmp_path / "tasks" / f"{name}.jsonl").read_text().splitlines()
    return name, tmp_path / "tasks", [json.loads(line) for line in lines]


@pytest.fixture
def answered(tiny_folder, scenes, tmp_path):
    """Our own runner's records of the same questions."""
    evaluate(
        va.load(str(tiny_folder)), "pope:dialect=strict", tmp_path / "run", data=scenes / "pope",
        images=scenes / "images", split="adversarial", protocol_name="deco", methods=["clva:alpha=5"],
    )  # fmt: skip
    return [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def model_class(monkeypatch):
    """The adapter, on lmms-eval's base class or, without lmms-eval, on what of it the adapter needs."""
    if not INSTALLED:

        class Base:
            def __init__(self):
                self.task_dict = {}

        for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["lmms_eval.api.model"].lmms = Base
        monkeypatch.delitem(sys.modules, "vlm_anchors.integrations.lmms_eval.model", raising=False)
    from vlm_anchors.integrations.lmms_eval.model import VlmAnchors

    return VlmAnchors


def requests(docs, **limits):
    """What lmms-eval hands to a simple model."""
    return [
        types.SimpleNamespace(args=(doc["prompt"], {"until": [], **limits}, tasks.images, n, "pope", "test"))
        for n, doc in enumerate(docs)
    ]


def asked(adapter, docs, **limits):
    adapter.task_dict = {"pope": {"test": docs}}
    return adapter.generate_until(requests(docs, **limits))


def test_the_adapter_answers_as_the_runner_does(model_class, tiny_folder, task, answered):
    """Images are encoded once for their six questions, and the answers come in the order of the requests."""
    adapter = model_class(str(tiny_folder), "clva", alpha=5, version=va.__version__, batch_size="6", device="cpu")
    encoded = []
    adapter.vlm.model.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    docs = task[2]
    texts = asked(adapter, docs, max_new_tokens=5, do_sample=False, temperature=0)
    assert dict(zip([json.loads(doc["record"])["id"] for doc in docs], texts, strict=True)) == {
        record["id"]: record["answer"] for record in answered
    }
    assert len(encoded) == 3


def test_stop_strings_and_limits_are_kept(model_class, tiny_folder, task):
    adapter = model_class(str(tiny_folder), device="cpu")
    doc = task[2][0]
    whole = asked(adapter, [doc], max_new_tokens=6)[0]
    stop = whole.split()[1]
    assert asked(adapter, [doc], max_new_tokens=6, until=["", stop])[0] == whole.split(stop)[0].strip()
    assert asked(adapter, [{**doc, "prompt": f"<image>\n{doc['prompt']}"}], max_new_tokens=6)[0] == whole


def test_sentences(model_class, tiny_folder, task):
    with pytest.raises(BadSetting, match=r"ask for version 0\.0; this is vlm-anchors"):
        model_class(str(tiny_folder), version=0.0)
    with pytest.raises(BadParameter, match="clva has no parameter 'alfa'"):
        model_class(str(tiny_folder), "clva", alfa=5)
    with pytest.raises(BadSetting, match="Put them in one place"):
        model_class(str(tiny_folder), "clva:alpha=5", beta=0)
    adapter = model_class(str(tiny_folder))
    with pytest.raises(BadSetting, match=r"asks for temperature=0\.7, but model_args name no decoding"):
        asked(adapter, task[2][:1], temperature=0.7)
    assert asked(model_class(str(tiny_folder), decoding="greedy"), task[2][:1], temperature=0.7, max_new_tokens=2)


def test_tasks_score_as_the_benchmark_does(task, answered):
    name, folder, docs = task
    texts = {record["id"]: record["answer"] for record in answered}
    summary = [tasks.records(doc, [texts[json.loads(doc["record"])["id"]]]) for doc in docs]
    score = BENCHMARKS.build("pope:dialect=strict").score(answered)
    for metric in score.metrics:
        value = score.metrics[metric]
        assert getattr(tasks, metric)([each[metric] for each in summary]) == (None if value is None else 100 * value)
    written = (folder / f"{name}.yaml").read_text()
    assert (
        "until: []" in written
        and f"version: {va.__version__}" in written
        and 'benchmark: "pope:dialect=strict"' in written
    )
    assert [tasks.images(doc)[0] for doc in docs[:6]] == [tasks.images(docs[0])[0]] * 6
    assert tasks.images({"image": None}) == []


@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed")
def test_end_to_end(tiny_folder, task, answered, tmp_path):
    """As a user runs it, offline; run again, every answer comes from lmms-eval's cache, and another parameter asks anew."""
    name, folder, _ = task

    def run(parameter):
        arguments = [
            "--model", "vlm_anchors", "--model_args", f"model={tiny_folder},method=clva,{parameter},version={va.__version__}",
            "--tasks", name, "--include_path", folder, "--batch_size", "6", "--device", "cpu",
            "--output_path", tmp_path / "out", "--log_samples", "--use_cache", tmp_path / "cache",
        ]  # fmt: skip
        environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-m", "lmms_eval", *map(str, arguments)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        newest = max((tmp_path / "out").rglob("*_results.json"), key=lambda file: file.stat().st_mtime_ns)
        return json.loads(newest.read_text())["results"][name], done.stdout

    found, _ = run("alpha=5")
    score = BENCHMARKS.build("pope:dialect=strict").score(answered).metrics
    for metric in ("accuracy", "recall", "yes_ratio"):
        assert found[f"{metric},none"] == pytest.approx(100 * score[metric])
    again, said = run("alpha=5")
    assert again == found and "18/18 cache hits" in said
    assert "cache hits" not in run("alpha=6")[1]
