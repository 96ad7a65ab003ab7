"""What someone sees who types names at a prompt: short reprs, public names, and the right word for a misspelt one."""

import dataclasses
import inspect

import pytest

import vlm_anchors as va
from vlm_anchors.errors import UnknownParameter

QUESTION = "Is there a dog in the image?"


def test_objects_show_themselves_on_one_line(tiny, red):
    assert repr(tiny) == (
        f"<Vlm {tiny.name!r}: LlavaForConditionalGeneration, family llava, parameters "
        f"{sum(one.numel() for one in tiny.model.parameters()) / 1e6:.1f} M, dtype float32 on cpu>"
    )
    assert repr(dataclasses.replace(tiny, method="clva")).endswith("method clva>")
    assert tiny._repr_html_().startswith("<table>") and "&lt;" in dataclasses.replace(tiny, name="<x>")._repr_html_()
    answer = va.ask(tiny, red, QUESTION, method="clva:alpha=5", max_new_tokens=3)
    assert repr(answer).startswith(f"<Answer {answer.text!r}: clva:alpha=5, greedy, 3 tokens, ")
    with va.attach(tiny, "clva") as handle:
        assert repr(handle) == "<Handle: clva, on LlavaForConditionalGeneration>"
    assert repr(handle) == "<Handle: clva, off>"
    found = va.calibrate(tiny, [(red, QUESTION)], 0.5)
    assert "cosines" not in repr(found) and len(repr(found)) < 600


def test_dir_shows_what_is_public():
    names = dir(va)
    assert set(names) == {*va.__all__, *(entry.class_name for entry in va.list_methods())}
    assert not {"import_module", "TYPE_CHECKING", "Any", "registry", "methods", "models"} & set(names)


PRESETS = [entry.load() for entry in va.list_methods()]


@pytest.mark.parametrize("kind", [*PRESETS, va.Greedy, va.Beam, va.Nucleus, va.Opera], ids=lambda kind: kind.__name__)
def test_a_misspelt_parameter_names_the_right_one(kind):
    """In Python as in a SPEC; a parameter that does not exist at all lists those that do."""
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    with pytest.raises(UnknownParameter, match="has no parameter 'zzz'. Known: ") as raised:
        kind(zzz=1)
    assert isinstance(raised.value, TypeError) and isinstance(raised.value, va.UserError)
    for name in names[:1]:
        wrong = name[:-2] + name[-1] if len(name) > 3 else name + "x"
        with pytest.raises(UnknownParameter, match=f"has no parameter '{wrong}'. Did you mean '{name}'"):
            kind(**{wrong: 1})
        with pytest.raises(UnknownParameter, match=f"Did you mean '{name}'"):
            dataclasses.replace(kind(), **{wrong: 1})
    assert list(inspect.signature(kind).parameters) == names


def test_a_preset_and_a_subclass_check_their_parameters(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Mine(va.Method):
        strength: float = va.parameter(1.0, 0, 2)

        def disabled(self):
            return Mine(0)

    with pytest.raises(UnknownParameter, match="mine has no parameter 'strenght'. Did you mean 'strength'"):
        Mine(strenght=1)
    assert Mine(strength=2).strength == 2
    with pytest.raises(UnknownParameter, match="vcd has no parameter 'alhpa'. Did you mean 'alpha'"):
        va.VCD.preset("llava-1.5-7b/pope", alhpa=1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda vlm: va.ask(vlm, "a.png", "?", methd="clva"), "ask has no argument 'methd'. Did you mean 'method'"),
        (lambda vlm: va.ask(vlm, "a.png", "?", alpha=5), "'alpha'. It is a parameter of .* method='.*:alpha=...'"),
        (lambda vlm: va.ask(vlm, "a.png", "?", max_tokens=5), "Did you mean 'max_new_tokens'"),
        (lambda vlm: va.ask_many(vlm, [], batchsize=2), "ask_many has no argument 'batchsize'. Did you mean 'batch_size'"),
        (lambda vlm: va.stream(vlm, "a.png", "?", decode="beam"), "Did you mean 'decoding'"),
        (lambda vlm: va.attach(vlm, "clva", record=None), "attach has no argument 'record'. Did you mean 'recorder'"),
        (lambda vlm: va.enable(vlm, "clva", record=None), "Did you mean 'recorder'"),
        (lambda vlm: va.load("scenes", quantisation="4bit"), "load has no argument 'quantisation'. Did you mean 'quant"),
        (lambda vlm: va.calibrate(vlm, [], fracton=0.1), "Did you mean 'fraction'"),
        (lambda vlm: va.lora_config(vlm, projectr="lora"), "Did you mean 'projector'"),
        (lambda vlm: va.evaluate(vlm, "pope", "out", method="clva"), "Did you mean 'methods'"),
    ],
)  # fmt: skip
def test_a_misspelt_argument_names_the_right_one(tiny, call, sentence):
    with pytest.raises(UnknownParameter, match=sentence):
        call(tiny)


def test_signatures_are_those_of_the_functions():
    assert list(inspect.signature(va.ask).parameters)[:4] == ["vlm", "image", "question", "messages"]
    assert va.ask.__doc__.startswith("One answer")
