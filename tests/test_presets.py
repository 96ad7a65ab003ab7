"""Presets: published parameters by the name of a model and a task, each with who says so."""

import json

import pytest
from typer.testing import CliRunner

import vlm_anchors as va
from vlm_anchors.apps.cli.commands import app
from vlm_anchors.errors import BadParameter, UnknownName
from vlm_anchors.methods import METHODS

BASELINES = (
    "vcd", "icd", "imccd", "memvr", "clearsight", "pai", "deco", "vista", "middle-layers", "sid", "avisc", "only", "vicrop",
    "dola",
)  # fmt: skip
PRESETS = [(entry.name, preset) for entry in METHODS for preset in entry.load().presets]
OFFICIAL = {
    "vcd:preset=llava-1.5-7b/pope": (1.0, {"beta": 0.2, "step": 500}),
    "vcd:preset=instructblip-7b/pope": (0.5, {"beta": 0.1, "step": 500}),
    "vcd:preset=qwen-vl/pope": (1.0, {"beta": 0.1, "step": 500}),
    "icd:preset=instructblip-7b": (1.0, {"beta": 0.1, "where": "role", "cleanup": True}),
    "imccd:preset=llava-1.5-7b/pope": (3.0, {"beta": 0.2, "rate": 1 / 3, "gate": "off"}),
    "imccd:preset=llava-1.5-7b/chair": (1.0, {"beta": 0.2, "rate": 1 / 3, "gate": "scores", "window": "first"}),
    "imccd:preset=llava-1.5-7b/mme": (1.0, {"beta": 0.5}),
    "imccd:preset=instructblip-7b/pope": (3.0, {"beta": 0.3, "rate": 1.0}),
    "imccd:preset=instructblip-7b/pope-0.2": (3.0, {"beta": 0.2, "rate": 1.0}),
    "imccd:preset=instructblip-7b/chair": (1.0, {"beta": 0.3, "rate": 1.0, "gate": "weights"}),
    "imccd:preset=instructblip-7b/mme": (0.5, {"beta": 0.5, "rate": 1.0}),
    "memvr:preset=llava-1.5-7b/mme": (0.12, {"gamma": 0.75, "activation": "none"}),
    "memvr:preset=llava-1.5-7b/llava-bench": (0.32, {"gamma": 0.75}),
    "memvr:preset=llava-1.5-7b/vizwiz": (0.28, {"gamma": 0.75}),
    "pai:preset=llava-1.5-7b": (0.2, {"gamma": 1.1, "cut": 0.1, "boost_prompt": False}),
    "pai:preset=llava-1.5-7b/no-branch": (0.2, {"gamma": 1.0, "boost_prompt": True}),
    "pai:preset=llava-1.5-7b/paper": (0.5, {"gamma": 1.1, "boost_prompt": True}),
    "deco:preset=llava-1.5-7b": (0.6, {"top_p": 0.9, "top_k": 20, "outside": "cut"}),
    "deco:preset=llava-1.5-7b/readme": (0.5, {}),
    "dola:preset=llama-7b/short": (1.0, {"bucket": "high", "cut": 0.1, "norm": False}),
    "middle-layers:preset=llava-1.5-7b": (0.5, {"layers": None}),
    "sid:preset=llava-1.5-7b/pope": (0.5, {"beta": 0.1, "keep": 100}),
    "sid:preset=llava-1.5-7b/chair": (0.5, {"beta": 0.1, "keep": 50}),
    "avisc:preset=llava-1.5-7b/pope": (1.0, {"beta": 0.1, "gamma": 0.5, "lam": 1.0}),
    "avisc:preset=llava-1.5-7b/amber": (2.5, {"beta": 0.1, "gamma": 0.5, "lam": 1.0, "fill": "zeros"}),
    "clva:preset=any": (14.0, {"beta": 0.9}),
}
"""What the official programs run with, typed in a second time."""


@pytest.mark.parametrize(("spec", "values"), OFFICIAL.items())
def test_the_published_values(spec, values):
    alpha, others = values
    method = METHODS.build(spec)
    assert method.alpha == alpha
    assert {parameter: getattr(method, parameter) for parameter in others} == others


def test_values_without_an_alpha_and_ours():
    for task, lam in (("chair", 0.17), ("pope", 0.01), ("mmhal", 0.1)):
        assert va.VISTA.preset(f"llava-1.5-7b/{task}") == va.VISTA(lam=lam, mix=0.3, pca=True)
    assert va.ONLY.preset("llava-1.5-7b/pope") == va.ONLY(add=3.0, subtract=1.0, gamma=0.2, beta=0.1)
    assert va.ONLY.preset("llava-1.5-7b/chair").gamma == va.ONLY.preset("instructblip-7b/mme").gamma == 0.25
    assert not va.ONLY.preset("instructblip-7b/pope").norm and va.ONLY.preset("instructblip-7b/mme").beta == 0.4
    assert va.ViCrop.preset("llava-1.5-7b/pope") == va.ViCrop(region="whole")
    assert va.ViCrop.preset("qwen2.5-vl-3b") == va.ViCrop(layer=23, size=224, region="whole")
    assert va.ClearSight.preset("llava-1.5-7b/pope") == va.ClearSight(enhance=1.15, suppress=0.95)
    assert va.MemVR.preset("qwen2.5-vl-7b") == va.MemVR(alpha=0.28, gamma=0.75, activation="silu", norm=False)
    assert va.M3ID.preset("llava-1.5-7b/pope") == va.M3ID(rate=0.02, cut=0.3, offset=10)
    assert va.M3ID.preset("llava-1.5-7b/chair") == va.M3ID()
    assert va.AttAnchor.preset("qwen2.5-vl-3b") == va.AttAnchor(tau=0.08)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_says_whose_it_is_and_can_be_built(name, preset):
    assert preset.source in ("official-code", "official-readme", "paper", "ours")
    method = METHODS.build(f"{name}:preset={preset.name}")
    assert method == METHODS.get(name).load().preset(preset.name)
    assert METHODS.build(method.spec()) == method, "a record's method is built again from what it says"


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_has_published_values_and_ours_for_any_other_model(name):
    presets = METHODS.get(name).load().presets
    assert len({preset.name for preset in presets}) == len(presets)
    assert "official-code" in {preset.source for preset in presets}
    assert (presets[-1].name, presets[-1].source, presets[-1].parameters) == ("any/any", "ours", {})
    assert METHODS.build(f"{name}:preset=any") == METHODS.build(name)


def test_dials_beside_a_preset_win():
    assert METHODS.build("vcd:preset=llava-1.5-7b/pope,alpha=2") == va.VCD(alpha=2, beta=0.2)
    assert va.VCD.preset("llava-1.5-7b/pope", beta=0.3) == va.VCD(beta=0.3)


def test_a_task_without_one_takes_the_models_for_any_task():
    assert va.DeCo.preset("llava-1.5-7b/pope") == va.DeCo.preset("llava-1.5-7b/any") == va.DeCo.preset("llava-1.5-7b")
    assert METHODS.build("icd:preset=instructblip-7b/chair") == va.ICD.preset("instructblip-7b/any")


def test_unknown_presets_are_refused():
    with pytest.raises(UnknownName, match="vcd has no preset 'llava-1.5-7b/chair'"):
        METHODS.build("vcd:preset=llava-1.5-7b/chair")
    with pytest.raises(
        UnknownName, match=r"vcd has no preset 'llava/pope'\. Did you mean 'llava-1.5-7b/pope'\? Known: "
    ):
        METHODS.build("vcd:preset=llava/pope")
    with pytest.raises(BadParameter, match="none has no parameter 'preset'"):
        METHODS.build("none:preset=any")


def test_a_misspelt_task_is_no_benchmark():
    with pytest.raises(UnknownName, match="pai has no preset 'llava-1.5-7b/papre'. Did you mean 'llava-1.5-7b/paper'"):
        va.PAI.preset("llava-1.5-7b/papre")


def test_layers_of_a_preset_fit_any_depth():
    """Official numbers are those of 32 layers; none of our presets pins them."""
    assert not [name for name, preset in PRESETS if "layers" in preset.parameters]


def test_the_command_lists_them():
    summary = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["methods", "imccd"])
    assert "imccd:preset=MODEL/TASK" in summary.stdout
    assert "official-code" in summary.stdout and "gate=scores" in summary.stdout
    found = json.loads(CliRunner().invoke(app, ["methods", "vcd", "--json"]).stdout)["presets"]
    assert {"model": "qwen2.5-vl-7b", "task": "pope", "source": "ours", "parameters": {"beta": 0.2}} in found


def test_a_value_that_only_a_readme_has_says_so():
    """DeCo's code runs with 0.6; its README's table has 0.5."""
    found = {preset.name: preset.source for preset in va.DeCo.presets}
    assert found["llava-1.5-7b/readme"] == "official-readme" and found["llava-1.5-7b/any"] == "official-code"
