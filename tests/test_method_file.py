"""`anchors.json` holds every parameter, and what it holds is what is read back."""

import json
import shutil

import pytest

import vlm_anchors as va
from vlm_anchors.generation.method_file import whole_spec
from vlm_anchors.specs import choose

SPECS = [entry.name for entry in va.list_methods()]


@pytest.mark.parametrize("spec", [*SPECS, "clva:alpha=5,layers=3-6", "attanchor:tau=0.3+clva:alpha=2"])
def test_every_parameter_is_written_and_read_back(spec, tmp_path):
    methods, _ = choose(spec)
    file = va.save(spec, tmp_path, source="a test")
    content = json.loads(file.read_text("utf-8"))
    assert choose(content["method"])[0] == methods
    assert content["source"] == "a test" and content["vlm-anchors"] == va.__version__
    assert content["method"] == whole_spec(methods)


def test_a_model_s_folder_applies_its_method(tiny_folder, tmp_path, red):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    va.save(va.CLVA(alpha=3.0, tau=1.0), folder)
    vlm = va.load(folder)
    answer = va.ask(vlm, red, "Is there a dog?", max_new_tokens=2)
    assert choose(answer.method)[0] == (va.CLVA(alpha=3.0, tau=1.0),) and answer.effects["clva"]["rows_edited"] > 0


def test_what_it_says_of_a_base_model_stays(tmp_path):
    (tmp_path / "anchors.json").write_text('{"method": "none", "model": "base", "revision": "1"}')
    content = json.loads(va.save("clva", tmp_path).read_text("utf-8"))
    assert (content["model"], content["revision"]) == ("base", "1")
