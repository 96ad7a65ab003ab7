"""SPEC strings and lists: what `method=` and `decoding=` take."""

import pytest

import vlm_anchors as va
from vlm_anchors.errors import BadParameter, UnknownName
from vlm_anchors.methods.none import Plain
from vlm_anchors.specs import choose, spec_of_all


def test_nothing_asked_is_plain_and_greedy():
    assert choose() == ((Plain(),), va.Greedy())


@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        ("clva", (va.CLVA(),)),
        ("clva:alpha=5,beta=0", (va.CLVA(alpha=5, beta=0),)),
        (" clva : alpha=5 ".replace(" : ", ":"), (va.CLVA(alpha=5),)),
        (va.CLVA(tau=1.0), (va.CLVA(tau=1.0),)),
        (["clva:alpha=1e+1"], (va.CLVA(alpha=10.0),)),
        (["none", va.CLVA()], (Plain(), va.CLVA())),
        ([], ()),
    ],
)
def test_methods(arguments, methods):
    assert choose(arguments)[0] == methods


@pytest.mark.parametrize(
    ("method", "decoding", "chosen"),
    [
        ("clva", "beam", va.Beam()),
        ("clva+nucleus:top_p=0.9", None, va.Nucleus(top_p=0.9)),
        (["clva", va.Beam(num_beams=3)], None, va.Beam(num_beams=3)),
        ("beam", "beam", va.Beam()),
        ("clva", va.Nucleus(seed=2), va.Nucleus(seed=2)),
    ],
)
def test_decodings(method, decoding, chosen):
    methods, tokens = choose(method, decoding)
    assert tokens == chosen
    assert all(isinstance(each, va.Method) for each in methods)


@pytest.mark.parametrize("spec", ["clva:alpha=5,beta=0.5", "clva", "clva:tau=1.5", "none"])
def test_a_spec_survives_the_round_trip(spec):
    assert spec_of_all(choose(spec)[0]) == spec
    assert choose(spec_of_all(choose(spec)[0])) == choose(spec)


@pytest.mark.parametrize("spec", ["nucleus:top_p=0.9,seed=3", "beam:num_beams=2", "greedy"])
def test_a_decoding_survives_the_round_trip(spec):
    assert choose(decoding=spec)[1].spec() == spec


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            "clav",
            UnknownName,
            r"No method 'clav'\. Did you mean 'clva'\? Known: .*clva, .*none, .*beam, greedy, nucleus, opera\.",
        ),
        ("", BadParameter, "Expected NAME or NAME:PARAMETER=VALUE,...; found ''"),
        ("clva:", BadParameter, "Expected NAME or NAME:PARAMETER=VALUE,...; found 'clva:'"),
        ("clva:alpha", BadParameter, "Expected PARAMETER=VALUE in 'clva:alpha'; found 'alpha'"),
        ("clva:alpha=", BadParameter, "Expected PARAMETER=VALUE"),
        ("clva:alpha=1,alpha=2", BadParameter, "The parameter 'alpha' is given twice"),
        ("clva:apha=1", BadParameter, "clva has no parameter 'apha'. Did you mean 'alpha'?"),
        ("clva:alpha=nan", BadParameter, "CLVA.alpha must be a number"),
        (None, UnknownName, "Expected a method such as va.CLVA.. or a SPEC such as 'clva:alpha=5'; found None"),
        (["nucleus", "greedy"], BadParameter, "Two decodings were asked for: nucleus and greedy"),
    ],
)
def test_what_cannot_be_chosen(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        choose(arguments)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"top_p": 0}, "Nucleus.top_p must be a number from"),
        ({"temperature": -1}, "Nucleus.temperature must be a number"),
        ({"seed": 1.5}, "Nucleus.seed must be a whole number"),
    ],
)
def test_dials_of_nucleus(parameters, sentence):
    with pytest.raises(BadParameter, match=sentence):
        va.Nucleus(**parameters)


def test_dials_of_beam():
    with pytest.raises(BadParameter, match="Beam.early_stopping must be one of True, False; found 'maybe'"):
        va.Beam(early_stopping="maybe")


@pytest.mark.parametrize(
    "spec",
    ["clva:,", "clva:alpha=5,", "+clva", "clva+", "none+clva", "none+none", "clva++vcd", "clva:alpha=" + "9" * 400],
)
def test_a_spec_with_something_missing_or_too_much_is_refused(spec):
    with pytest.raises(BadParameter):
        choose(spec)


def test_the_plain_model_leaves_no_trace_in_the_name_of_others():
    assert spec_of_all(choose(["none", "clva"])[0]) == "clva" and spec_of_all(choose("none+beam")[0]) == "none"
