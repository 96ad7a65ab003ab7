"""Answering for the page: equal to `ask`, one visitor beside another, and what goes wrong told where it belongs."""

import base64
import dataclasses
import io
import re
import struct
import threading
import zlib

import pytest
from test_ask_families import qformer

import vlm_anchors as va
from vlm_anchors.apps.web import cards
from vlm_anchors.apps.web.sliders import about, chosen, sliders
from vlm_anchors.apps.web.visit import MAX_BYTES, MAX_VISITS, Visit, Visits, uploaded
from vlm_anchors.errors import BadImage, BadQuestion, BadSetting, UnknownName
from vlm_anchors.methods import METHODS

QUESTION = "Is there a <b>cup</b>?"


@pytest.fixture(scope="module")
def scene():
    from vlm_anchors import scenes

    return scenes.render(scenes.from_objects(["cup", "fork"]))


def asked(vlm, image, methods, tokens=4):
    visit = Visit(image, layer=2)
    for _ in visit.ask(vlm, QUESTION, methods, tokens):
        pass
    return visit


def encoded(content):
    return base64.b64encode(content).decode()


def png_of(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def bomb():
    """A PNG of a kilobyte that claims 50,000 x 50,000 pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def test_every_method_has_sliders_that_it_accepts():
    for method in METHODS.names():
        parameters = sliders(method)
        assert parameters or method in ("none", "vicrop")
        build, defaults = METHODS.get(method).load(), METHODS.parameters(method)
        for parameter, (low, high, _) in parameters.items():
            assert low <= defaults[parameter] <= high
            build(**{parameter: low}), build(**{parameter: high})
            assert about(method, parameter), f"the docstring of {method} does not tell what {parameter} is"
    assert about("clva", "lam") == "How many sigmas a head's intensity must stand out"


def test_ticks_sliders_and_specs_become_methods():
    values = {("clva", "alpha"): 5, ("attanchor", "tau"): 0.3}
    first, second, *typed = chosen(["clva", "none"], values, " attanchor:tau=0.2+clva  nucleus:top_p=0.9")
    assert first.spec() == "none"
    assert second == va.CLVA(alpha=5)
    assert typed == ["attanchor:tau=0.2+clva", "nucleus:top_p=0.9"]


def test_answers_are_those_of_ask(tiny, scene):
    methods = ["none", "clva:tau=1", "attanchor:tau=0", "nucleus:top_p=0.9"]
    visit = asked(tiny, scene, methods)
    for card, method in zip(visit.cards, methods, strict=True):
        answer = va.ask(tiny, scene, QUESTION, method=method, max_new_tokens=4)
        assert card.answer.tokens == answer.tokens
        assert card.answer.effects == answer.effects
        assert card.answer.yes_no == answer.yes_no
        assert card.text.strip() == answer.text
        assert len(card.seen.after) == len(card.seen.words)
    assert [seen.name for seen in visit.study.seen] == [
        "none",
        "clva:tau=1",
        "attanchor:tau=0",
        "none, nucleus:top_p=0.9",
    ]
    assert visit.study.anchor_table["attanchor:tau=0"]


def test_two_at_once_answer_as_they_do_alone(tiny, scene):
    """Different parameters, the same model, at the same time: texts, what the methods did, and every map."""
    parameters = [["none", "clva:alpha=40,tau=1"], ["clva:alpha=1,tau=1.5", "attanchor:tau=0"]]
    alone = [asked(tiny, scene, methods, 6) for methods in parameters]
    together, ready = {}, threading.Barrier(6)

    def work(number):
        ready.wait()
        together[number] = asked(tiny, scene, parameters[number % 2], 6)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, visit in together.items():
        for card, before in zip(visit.cards, alone[number % 2].cards, strict=True):
            assert (card.text, card.answer.tokens, card.problem) == (before.text, before.answer.tokens, "")
            assert card.answer.effects == before.answer.effects
            assert len(card.seen.after) == len(before.seen.after)
            for trace, expected in zip(card.seen.after, before.seen.after, strict=True):
                assert trace.weights.equal(expected.weights)


@pytest.mark.parametrize(
    ("question", "methods", "kind", "sentence"),
    [
        (" ", ["none"], BadQuestion, "The question is empty"),
        ("cup?", [], BadSetting, "No method is chosen"),
        ("cup?", ["none", "clva", "vcd", "pai", "deco"], BadSetting, "5 methods are chosen; at most 4"),
        ("cup?", ["clva", "clva"], BadSetting, "A method was named twice: clva; clva"),
        ("cup?", ["clav"], UnknownName, "Did you mean 'clva'"),
    ],
)
def test_what_cannot_be_asked(tiny, scene, question, methods, kind, sentence):
    visit = Visit(scene)
    with pytest.raises(kind, match=sentence):
        next(visit.ask(tiny, question, methods, 4))
    assert visit.cards == []


def test_without_an_image(tiny):
    with pytest.raises(BadImage, match="There is no image yet"):
        next(Visit().ask(tiny, "cup?", ["none"], 4))


def test_one_method_that_cannot_act_leaves_the_others_their_answers(tiny, scene):
    visit = asked(tiny, scene, ["none", "clva:layers=30-32", "beam"])
    plain, refused, beam = visit.cards
    assert plain.answer is not None
    assert "has layers 1 to 4" in refused.problem
    assert "cannot be streamed" in beam.problem
    assert "has layers 1 to 4" in cards.answers(visit)
    assert [seen.name for seen in visit.study.seen] == ["none"]


@pytest.mark.filterwarnings("ignore:.*has no chat template", "ignore:__array__ implementation:DeprecationWarning")
def test_a_qformer_answers_without_maps(red):
    visit = Visit(red)
    for _ in visit.ask(qformer("blip-2"), "w40", ["none"], 4):
        pass
    assert visit.cards[0].answer is not None
    assert "looks at its image in a Q-Former" in visit.cards[0].problem
    assert cards.maps(visit) == cards.NO_MAPS


def test_a_fault_stands_on_its_card(tiny, scene, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("vlm_anchors.apps.web.visit.see", fails)
    assert "RuntimeError: out of memory" in asked(tiny, scene, ["none"]).cards[0].problem


def test_stop_keeps_what_there_is_and_asks_no_more(tiny, scene):
    visit = Visit(scene)
    for _ in visit.ask(tiny, QUESTION, ["none", "clva"], 200):
        if visit.cards[0].text:
            visit.stop.set()
    first, second = visit.cards
    assert 0 < len(first.answer.tokens) < 200
    assert len(first.seen.words) > 0
    assert second.problem == "Not asked: stopped before."
    assert not [thread for thread in threading.enumerate() if thread.name == "vlm-anchors-stream"]


def test_another_image_forgets_what_was_said(tiny, scene, red):
    visit = asked(tiny, scene, ["none"])
    visit.shows(red)
    assert (visit.cards, visit.study) == ([], None)
    assert cards.answers(visit) == cards.WAITING


def test_visits_are_forgotten():
    visits = Visits(Visit)
    first = visits.of("page 0")
    assert visits.of("page 0") is first
    for number in range(MAX_VISITS):
        visits.of(f"page {number + 1}")
    assert len(visits) == MAX_VISITS
    assert first.stop.is_set()
    second = visits.of("page 5")
    visits.forget("page 5")
    assert second.stop.is_set()
    assert visits.of("page 5") is not second
    visits.forget("never seen")


def test_an_upload_is_read(red):
    assert uploaded("a.png", 1, encoded(png_of(red))).tobytes() == red.tobytes()


@pytest.mark.parametrize(
    ("size", "data", "sentence"),
    [
        (8, lambda _: encoded(b"no image"), "is no image that can be read"),
        (8, lambda whole: encoded(whole[: len(whole) // 2]), "is broken or cut short"),
        (8, lambda _: encoded(bomb()), "is too large: more than 80 million pixels"),
        (0, lambda _: "", "The image is empty: 0 bytes"),
        (8, lambda _: "%%%", "a.png did not arrive whole"),
        (MAX_BYTES + 1, lambda _: "", "a.png has 20.0 MB; at most 20"),
    ],
)
def test_bad_uploads(red, size, data, sentence):
    with pytest.raises(BadImage, match=sentence):
        uploaded("a.png", size, data(png_of(red)))


def test_what_people_and_models_write_is_escaped(tiny, scene):
    visit = asked(tiny, scene, ["none"])
    card = visit.cards[0]
    card.seen = dataclasses.replace(card.seen, words=("<img src=x>",) * len(card.seen.words))
    visit.study = dataclasses.replace(visit.study, seen=(card.seen,))
    for shown in (cards.answers(visit), cards.maps(visit)):
        assert "&lt;img src=x&gt;" in shown
        assert "<img src=x>" not in shown
    assert "<script>" not in cards.problem("<script>") + cards.notice("<script>") + cards.suggestions(['"><script>'])


def test_maps_are_the_traces(tiny, scene):
    visit = asked(tiny, scene, ["none", "clva:tau=1"])
    trace = visit.study.seen[1].after[0]
    mean = trace.last[1].mean(0)
    assert f"layer 2, mean over heads: {float(mean.sum()):.1%} of its attention on the image" in cards.maps(visit)
    visit.head = 3
    head = trace.last[1][2]
    assert f"layer 2, head 3: {float(head.sum()):.1%} of its attention on the image" in cards.maps(visit)
    visit.word = (0, 40)
    assert cards.maps(visit).count("has no word 41") == 2


def test_maps_share_a_scale_or_have_their_own(tiny, scene):
    visit = asked(tiny, scene, ["none", "clva:tau=1,alpha=50"])
    visit.layer = 4
    together = cards.maps(visit)
    assert together.count("one scale for all") == 1 and "own scale" not in together
    visit.own_scale = True
    alone = cards.maps(visit)
    assert alone.count("this map’s own scale") == 2 and "one scale for all" not in alone
    pictures = [re.findall(r'src="(data:[^"]+)"', shown) for shown in (together, alone)]
    changed = [one != other for one, other in zip(*pictures, strict=True)]
    assert sorted(changed) == [False, True], "the map with the highest value keeps its colours, the faint one gets more"


def test_heat_is_brightest_where_attention_is(red):
    import numpy as np
    import torch

    values = torch.zeros(4, 6)
    values[1, 2] = 0.5
    drawn = np.asarray(cards.heat(red, values, 0.5).convert("L"), dtype=float)
    cells = drawn[: drawn.shape[0] // 4 * 4, : drawn.shape[1] // 6 * 6]
    cells = cells.reshape(4, cells.shape[0] // 4, 6, cells.shape[1] // 6).mean((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, 2)
