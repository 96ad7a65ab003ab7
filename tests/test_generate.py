"""Asking: one question, many, streamed; with any decoding; and every question that cannot be asked."""

import json
import re
import threading
import time
import warnings

import pytest
import torch
from PIL import Image

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.errors import AnchorsWarning, BadImage, BadParameter, BadQuestion, BadSetting, CannotAct, UnknownName
from vlm_anchors.inputs.prompt_builder import MAX_CHARACTERS, Sample, prepare

QUESTION = "Is there a dog in the image?"
DECODINGS = ["greedy", "beam:num_beams=3", "nucleus:top_p=0.9,seed=3"]
METHODS = ["none", "clva", "attanchor:tau=0.05+clva:tau=1"]


@pytest.fixture(scope="module")
def pairs():
    """Five scenes with questions of different length, the third about two images."""
    images = [scenes.render(scenes.from_objects(["cup", "dog"], seed=i)) for i in range(6)]
    words = ["Is there a cup?", "Describe this image in detail.", "What is in the images?", QUESTION, "cup?"]
    return [([images[i], images[5]] if i == 2 else images[i], words[i]) for i in range(5)]


def plain_generate(vlm, image, question, **options):
    """What a user of transformers would write."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = vlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = vlm.processor(text=[prompt], images=[image], return_tensors="pt")
    rows = vlm.model.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
    return prompt, rows[0, inputs["input_ids"].shape[1] :].tolist()


def test_greedy_is_what_transformers_answers(tiny, red):
    answer = va.ask(tiny, red, QUESTION, max_new_tokens=12)
    prompt, tokens = plain_generate(tiny, red, QUESTION)
    assert list(answer.tokens) == tokens
    assert answer.prompt == prompt
    assert answer.text == tiny.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert (answer.method, answer.decoding, dict(answer.effects)) == ("none", "greedy", {})
    assert answer.seconds > 0


def test_beams_are_those_of_transformers(tiny, red):
    answer = va.ask(tiny, red, QUESTION, decoding=va.Beam(num_beams=4), max_new_tokens=12)
    assert list(answer.tokens) == plain_generate(tiny, red, QUESTION, num_beams=4)[1]


@pytest.mark.grid
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_batch_and_its_order_change_nothing(tiny, pairs, method, decoding):
    options = {"method": method, "decoding": decoding, "max_new_tokens": 6}
    single = [va.ask(tiny, image, question, **options) for image, question in pairs]
    batched = list(va.ask_many(tiny, pairs, batch_size=3, **options))
    turned = list(va.ask_many(tiny, pairs[::-1], batch_size=5, **options))[::-1]
    for one, other, third in zip(single, batched, turned, strict=True):
        assert one.tokens == other.tokens == third.tokens
        assert one.effects == other.effects == third.effects
        assert one.yes_no == pytest.approx(other.yes_no, abs=1e-4)


def test_clva_acts_and_says_what_it_did_as_json(tiny, pairs):
    answer = va.ask(tiny, *pairs[0], method=va.CLVA(tau=0.5), max_new_tokens=4)
    assert answer.method == "clva:tau=0.5"
    assert answer.effects["clva"]["rows_edited"] > 0
    json.dumps(answer.effects)


def test_dials_at_zero_are_plain(tiny, pairs):
    plain = va.ask(tiny, *pairs[0], max_new_tokens=8)
    disabled = va.ask(tiny, *pairs[0], method=va.CLVA().disabled(), max_new_tokens=8)
    assert plain.tokens == disabled.tokens


def test_nucleus_by_seed_and_by_sample(tiny, red):
    def drawn(seed, sample_id=None):
        decoding = va.Nucleus(top_p=0.95, seed=seed)
        return va.ask(tiny, red, QUESTION, decoding=decoding, sample_id=sample_id, max_new_tokens=8).tokens

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(6)}) > 1
    assert len({drawn(1, str(name)) for name in range(6)}) > 1


def test_a_tiny_nucleus_is_greedy(tiny, red):
    greedy = va.ask(tiny, red, QUESTION, max_new_tokens=8)
    assert va.ask(tiny, red, QUESTION, decoding="nucleus:top_p=0.000001", max_new_tokens=8).tokens == greedy.tokens


def test_yes_no_are_the_logits_of_the_first_step(tiny, red):
    answer = va.ask(tiny, red, QUESTION, max_new_tokens=1)
    inputs = prepare(tiny, [Sample((red,), QUESTION, "0")])
    with torch.no_grad():
        logits = tiny.model(**inputs.tensors).logits[0, -1]
    words = tiny.processor.tokenizer
    yes = max(float(logits[words.convert_tokens_to_ids(word)]) for word in ("yes", "Yes"))
    no = max(float(logits[words.convert_tokens_to_ids(word)]) for word in ("no", "No"))
    assert answer.yes_no == pytest.approx((yes, no), abs=1e-5)


def test_the_answer_ends_at_the_end_token(tiny, red):
    tokens = va.ask(tiny, red, QUESTION, max_new_tokens=8).tokens
    stored = tiny.model.generation_config
    old, stored.eos_token_id = stored.eos_token_id, [tokens[2], tokens[4]]
    try:
        stopped = va.ask(tiny, red, QUESTION, max_new_tokens=8).tokens
        many = [a.tokens for a in va.ask_many(tiny, [(red, QUESTION), (red, "cup?")], max_new_tokens=8)]
    finally:
        stored.eos_token_id = old
    first = min(tokens.index(tokens[2]), tokens.index(tokens[4]))
    assert stopped == tokens[: first + 1] == many[0]


def test_habits_of_the_checkpoint_do_not_leak_in(tiny, red):
    before = va.ask(tiny, red, QUESTION, max_new_tokens=8)
    stored = tiny.model.generation_config
    habits = {"do_sample": True, "temperature": 0.2, "top_p": 0.3, "repetition_penalty": 5.0, "num_beams": 3}
    old = {name: getattr(stored, name) for name in habits}
    stored.update(**habits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert va.ask(tiny, red, QUESTION, max_new_tokens=8).tokens == before.tokens
    finally:
        for name, value in old.items():
            setattr(stored, name, value)


@pytest.mark.grid
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decoding", ["greedy", "nucleus:seed=2"])
def test_streamed_pieces_make_the_answer(tiny, red, method, decoding):
    options = {"method": method, "decoding": decoding, "max_new_tokens": 10}
    pieces = list(va.stream(tiny, red, QUESTION, **options))
    assert "".join(pieces).strip() == va.ask(tiny, red, QUESTION, **options).text
    assert len(pieces) > 1


def test_an_abandoned_stream_stops(tiny, red):
    pieces = va.stream(tiny, red, "Describe this image in detail.", max_new_tokens=900)
    next(pieces)
    began = time.perf_counter()
    pieces.close()
    assert time.perf_counter() - began < 2
    assert "vlm-anchors-stream" not in [thread.name for thread in threading.enumerate()]


def test_an_error_inside_a_stream_arrives_outside(tiny, red):
    with pytest.raises(CannotAct):
        list(va.stream(tiny, red, QUESTION, method="clva:positive_layer=99"))


def test_beams_cannot_be_streamed(tiny, red):
    with pytest.raises(CannotAct, match="Beam search knows its answer only at the end"):
        va.stream(tiny, red, QUESTION, decoding="beam")


def test_nothing_is_left_on_the_model(tiny, red):
    def marks():
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny.model.modules())
        return hooks, tiny.model.config.text_config._attn_implementation

    before = marks()
    va.ask(tiny, red, QUESTION, method="clva", max_new_tokens=2)
    next(va.stream(tiny, red, QUESTION, method="clva", max_new_tokens=5))
    with pytest.raises(CannotAct):
        va.ask(tiny, red, QUESTION, method="clva:positive_layer=99")
    assert marks() == before


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "The question is empty. Expected a question about the image"),
        (" \n\t", "The question is empty"),
        (None, "There is no question. Expected ask"),
        (7, "Expected a question as text; found int"),
        ("a" * 100_000, f"has 100,000 characters; at most {MAX_CHARACTERS:,} are allowed. Shorten it"),
        ("dog " * 1500, r"has 1,\d\d\d tokens, .* more than the 1,024 .* can hold. Shorten the question"),
        ("What is in <image>?", "holds <image>, the model's own mark for an image. Take it out"),
    ],
)
def test_questions_that_cannot_be_asked(tiny, red, question, sentence):
    with pytest.raises(BadQuestion, match=sentence):
        va.ask(tiny, red, question)


def test_an_answer_longer_than_the_context(tiny, red):
    with pytest.raises(BadQuestion, match="with 5,000 for the answer that is more than the 1,024"):
        va.ask(tiny, red, QUESTION, max_new_tokens=5000)


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "8", 10**9])
def test_max_new_tokens(tiny, red, number):
    with pytest.raises(BadSetting, match="max_new_tokens must be a whole number from 1 to 100000; found"):
        va.ask(tiny, red, QUESTION, max_new_tokens=number)


@pytest.mark.parametrize("size", [0, 1.5, True, None])
def test_batch_size(tiny, size):
    with pytest.raises(BadSetting, match="batch_size must be a whole number of 1 or more"):
        va.ask_many(tiny, [], batch_size=size)


def test_no_image(tiny):
    with pytest.raises(BadImage, match="No image was given"):
        va.ask(tiny, [], QUESTION)


def test_something_that_is_no_vlm(tiny, red):
    with pytest.raises(BadSetting, match="Expected what va.load returns, or .*; found LlavaForConditionalGeneration"):
        va.ask(tiny.model, red, QUESTION)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"method": "clav"}, UnknownName, "No method 'clav'. Did you mean 'clva'?"),
        ({"method": "clva:alfa=3"}, BadParameter, "clva has no parameter 'alfa'. Did you mean 'alpha'?"),
        ({"method": "clva:alpha=lots"}, BadParameter, "CLVA.alpha must be a number"),
        ({"method": "clva:"}, BadParameter, "Expected NAME or NAME:PARAMETER=VALUE"),
        ({"method": 3}, UnknownName, "Expected a method such as va.CLVA.. or a SPEC"),
        ({"method": "clva+clva"}, CannotAct, "cannot run together"),
        ({"decoding": "nucleu"}, UnknownName, "No decoding 'nucleu'. Did you mean 'nucleus'?"),
        ({"decoding": "nucleus:top_p=2"}, BadParameter, "Nucleus.top_p must be a number from"),
        ({"decoding": "beam:num_beams=1"}, BadParameter, "Beam.num_beams must be a whole number from 2 to 64"),
        ({"decoding": 3}, UnknownName, "Expected a decoding such as va.Nucleus"),
        ({"method": "nucleus", "decoding": "beam"}, BadParameter, "Two decodings were asked for: beam and nucleus"),
    ],
)
def test_methods_and_decodings_that_do_not_exist(tiny, red, options, error, sentence):
    with pytest.raises(error, match=sentence):
        va.ask(tiny, red, QUESTION, **options)


@pytest.mark.parametrize("name", ["beam", "nucleus:seed=4"])
def test_a_decoding_is_accepted_as_a_method(tiny, red, name):
    as_method = va.ask(tiny, red, QUESTION, method=name, max_new_tokens=4)
    as_decoding = va.ask(tiny, red, QUESTION, decoding=name, max_new_tokens=4)
    assert as_method.tokens == as_decoding.tokens
    assert (as_method.method, as_method.decoding) == (as_decoding.method, as_decoding.decoding)


def test_ask_many_answers_what_comes_before_a_bad_pair(tiny, red, tmp_path):
    asked = va.ask_many(
        tiny, [(red, "cup?"), (red, QUESTION), (tmp_path / "no.png", "cup?"), (red, "x")], max_new_tokens=2
    )
    assert next(asked).text is not None
    assert next(asked).prompt.count(QUESTION) == 1
    with pytest.raises(BadImage, match="Sample 3: No image at"):
        next(asked)


@pytest.mark.parametrize("pair", ["cup?", (1,), None])
def test_ask_many_takes_pairs(tiny, pair):
    with pytest.raises(BadSetting, match=r"Sample 1: expected .image, question."):
        next(va.ask_many(tiny, [pair]))


def test_ask_many_reads_as_it_goes(tiny, red):
    read = []

    def endless():
        while True:
            read.append(1)
            yield red, "cup?"

    asked = va.ask_many(tiny, endless(), batch_size=2, max_new_tokens=1)
    for _ in range(3):
        next(asked)
    assert len(read) == 16


def test_no_pairs(tiny):
    assert list(va.ask_many(tiny, [])) == []


def test_a_processor_without_a_template(tiny, red, monkeypatch):
    monkeypatch.setattr(tiny.processor, "chat_template", None)
    with pytest.warns(AnchorsWarning, match="has no chat template; the prompt is 'USER: <image>"):
        answer = va.ask(tiny, red, QUESTION, max_new_tokens=2)
    assert answer.prompt == f"USER: <image>\n{QUESTION} ASSISTANT:"


def test_the_bundled_model_warns_of_photographs(tiny, red):
    """What it says of images comes with it, so the tiny model can stand in for it."""
    import dataclasses

    from vlm_anchors.scenes.draw import not_a_scene

    bundled = dataclasses.replace(tiny, image_warning=not_a_scene)
    with pytest.warns(AnchorsWarning, match="about a photograph it says confident nonsense"):
        va.ask(bundled, red, QUESTION, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnchorsWarning)
        va.ask(bundled, scenes.render(scenes.from_objects(["cup"])), QUESTION, max_new_tokens=1)
        va.ask(tiny, red, QUESTION, max_new_tokens=1)


def test_very_long_and_very_small_images(tiny):
    for size in [(1, 1), (3000, 2), (1, 999)]:
        assert va.ask(tiny, Image.new("RGB", size), "cup?", max_new_tokens=1).tokens


def test_visual_shares_on_request(tiny, red):
    plain = va.ask(tiny, red, QUESTION, max_new_tokens=2, shares=True)
    steered = va.ask(tiny, red, QUESTION, method="clva", max_new_tokens=2, shares=True)
    depth = tiny.model.config.text_config.num_hidden_layers
    assert [row["layer"] for row in plain.effects["visual_share"]] == list(range(1, depth + 1))
    assert all(row["before"] == row["after"] for row in plain.effects["visual_share"])
    assert any(row["before"] != row["after"] for row in steered.effects["visual_share"])
    assert steered.effects["clva"]["rows_edited"] > 0
    assert "visual_share" not in va.ask(tiny, red, QUESTION, max_new_tokens=1).effects


TOO_LARGE = "Expected numbers for logits; under {} some are NaN: a parameter is too large for float32, or the weights are broken."


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("method", ["clva:alpha=1e+308", "pai:alpha=1e+300", "vcd:alpha=1e+300"])
def test_dials_that_leave_no_numbers_are_told(tiny, red, method, decoding):
    sentence = re.escape(TOO_LARGE.format(method))
    with pytest.raises(CannotAct, match=sentence):
        va.ask(tiny, red, QUESTION, method=method, decoding=decoding, max_new_tokens=3)
    with pytest.raises(CannotAct, match=sentence):
        list(va.ask_many(tiny, [(red, QUESTION)] * 2, method=method, decoding=decoding, max_new_tokens=3))


def test_dials_that_leave_no_numbers_are_told_by_a_stream(tiny, red):
    with pytest.raises(CannotAct, match="under clva:alpha"):
        list(va.stream(tiny, red, QUESTION, method="clva:alpha=1e+308", max_new_tokens=3))


def test_broken_weights_are_told(tiny_folder, red):
    vlm = va.load(str(tiny_folder))
    with torch.no_grad():
        vlm.model.lm_head.weight[3, 0] = torch.nan
    with pytest.raises(CannotAct, match="hold NaN: its weights are broken, or too large for float32. Copy or download"):
        va.ask(vlm, red, QUESTION, max_new_tokens=3)


def test_another_fault_inside_a_model_is_not_hidden(tiny, red, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(type(tiny.model), "generate", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        va.ask(tiny, red, QUESTION, max_new_tokens=3)
