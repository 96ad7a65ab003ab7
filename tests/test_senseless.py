"""Numbers that are allowed but do the reverse of what the method is for: said once, wherever they are typed."""

import dataclasses
import warnings

import pytest

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning
from vlm_anchors.parameters import parameters_of
from vlm_anchors.specs import choose

QUESTION = "Is there a dog in the image?"


def sentences(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(one.message) for one in caught if issubclass(one.category, AnchorsWarning)]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("clva:alpha=-3", "CLVA.alpha = -3 is allowed, but takes attention from the anchors it should strengthen."),
        ("clva:beta=5", "CLVA.beta = 5 is allowed, but takes more from negative anchors than they have"),
        ("clva:beta=-1", "CLVA.beta = -1 is allowed, but strengthens the negative anchors"),
        ("clearsight:enhance=0.5", "lowers the attention to the image it should raise"),
        ("clearsight:suppress=1.2", "raises the attention to the system prompt"),
        ("pai:gamma=0.9", "adds what the model says without the image"),
        ("memvr:gamma=1.5", "is never reached"),
        ("avisc:lam=-1", "takes tokens of less than mean attention"),
        *((f"{name}:beta=1", "keeps the likeliest token alone, so the contrast changes no answer")
          for name in ("vcd", "icd", "imccd", "sid", "avisc", "only", "m3id")),
        *((f"{name}:cut=1", "keeps the likeliest token alone") for name in ("pai", "dola")),
    ],
)  # fmt: skip
def test_a_number_outside_the_range_of_sense_is_told(spec, sentence):
    name, _, rest = spec.partition(":")
    told = sentences(lambda: choose(spec))
    assert len(told) == 1 and sentence in told[0]
    assert sentences(lambda: choose(f"attanchor:tau=0.3+{spec}")) == told or name in ("vcd", "icd")
    kind = type(choose(name)[0][0])
    key, value = rest.split("=")
    assert sentences(lambda: kind(**{key: float(value)})) == told
    assert sentences(lambda: dataclasses.replace(kind(), **{key: float(value)})) == told


def test_defaults_presets_and_sliders_make_sense():
    for entry in va.list_methods():
        kind = entry.load()
        assert sentences(lambda kind=kind: [kind(), kind().disabled()]) == [], entry.name
        for preset in kind.presets:
            assert sentences(lambda kind=kind, preset=preset: kind.preset(preset.name)) == [], (entry.name, preset.name)
        for name, declared in parameters_of(kind).items():
            for comparison, bound, _ in declared.senseless:
                low, high, _ = declared.slider or (declared.low, declared.high, 0)
                assert comparison == "=" or (low >= bound if comparison == "<" else high <= bound), (entry.name, name)


def test_the_command_line_says_it_once(tiny_folder, red, tmp_path, capsys):
    red.save(tmp_path / "red.png")
    image, model = str(tmp_path / "red.png"), ["--model", str(tiny_folder), "--max-new-tokens", "2"]
    for command in (
        ["ask", image, QUESTION, "--method", "clva:alpha=-3"],
        ["compare", image, QUESTION, "--method", "clva:alpha=-3", "--method", "clva:alpha=-3,tau=1"],
        ["ask", image, QUESTION, "--method", "attanchor:tau=0.05+clva:alpha=-3"],
    ):
        warnings.resetwarnings()
        assert main([*command, *model]) == 0
        assert capsys.readouterr().err.count("Warning: CLVA.alpha = -3 is allowed") == 1


def test_eval_says_it_once(tiny_folder, tmp_path, capsys):
    how = ["--limit", "2", "--method", "clva:beta=5", "--model", str(tiny_folder), "--out", str(tmp_path / "run")]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["eval", "pope", *how]) == 0
    assert capsys.readouterr().err.count("Warning: CLVA.beta = 5 is allowed") == 1


def test_a_served_request_is_answered_and_the_server_is_told():
    from vlm_anchors.integrations.serving.chat_request import read_request

    body = {"model": "m", "method": "clva:alpha=-3", "messages": [{"role": "user", "content": "a?"}]}
    with pytest.warns(AnchorsWarning, match=r"CLVA.alpha = -3"):
        assert read_request(body, "m", "none", lambda url: None, 8).methods[0].alpha == -3
