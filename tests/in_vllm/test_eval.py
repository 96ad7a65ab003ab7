"""`eval --engine vllm` writes the records of `eval`, resumes them, and refuses what would differ."""

import json

import pytest

from vlm_anchors.errors import BadRun, CannotAct
from vlm_anchors.evaluation.runner.bundled import bundled_data
from vlm_anchors.evaluation.runner.run import evaluate
from vlm_anchors.integrations.vllm.answerer import VllmAnswerer


def records(run):
    return {
        (line["id"], line["method"]): line for line in map(json.loads, (run / "records.jsonl").read_text().splitlines())
    }


def test_records(bundled, tmp_path):
    data, images = bundled_data("pope", tmp_path, split="adversarial", limit=12)
    methods = ["none", "clva"]
    more = {"data": data, "images": images, "split": "adversarial", "batch_size": 8, "methods": methods}
    made = []

    def in_vllm(answerer):
        made.append(VllmAnswerer.of(answerer, tmp_path / "model", enforce_eager=True, max_model_len=256))
        return made[-1]

    with pytest.raises(CannotAct, match="greedily"):
        evaluate(bundled, "pope", tmp_path / "v", limit=12, decoding="nucleus", answer_with=in_vllm, **more)
    assert evaluate(bundled, "pope", tmp_path / "v", limit=12, answer_with=in_vllm, **more) == 24
    assert evaluate(bundled, "pope", tmp_path / "v", limit=12, answer_with=in_vllm, **more) == 0
    made[-2].engine.llm_engine.engine_core.shutdown()
    evaluate(bundled, "pope", tmp_path / "t", limit=12, **more)
    with pytest.raises(BadRun, match="engine"):
        evaluate(bundled, "pope", tmp_path / "v", limit=12, **more)
    ours, theirs = records(tmp_path / "t"), records(tmp_path / "v")
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        assert one["answer"] == other["answer"] and one["prompt"] == other["prompt"]
        assert one["yes_no"] == pytest.approx(other["yes_no"], abs=2e-4)  # four decimals
