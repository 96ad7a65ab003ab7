"""AttAnchor through `ask` and the real processor of every family that can be built offline."""

import pytest
import torch
from test_attanchor import model_of
from test_family_table import PROCESSORS, noise

import vlm_anchors as va
from vlm_anchors.inputs.prompt_builder import Sample, prepare
from vlm_anchors.interventions.insertion import chat_spans as words
from vlm_anchors.interventions.insertion.batch import read_prompts

TEMPLATE = (
    "w30 {% for message in messages %}{{ 'w31 w32 ' if message['role'] == 'user' else 'w33 w34 ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}w33 w34{% endif %}"
)
METHODS = ["attanchor:tau=0.1", "attanchor-i2t:tau=0.1,pause_tokens=1", "attanchor:tau=0.1,images=each+clva:tau=1.5"]


@pytest.fixture
def vlm(request, monkeypatch):
    """A family with a template in the words its tiny vocabulary has."""
    monkeypatch.setattr(words, "TURNS", ("w50 w51", "w52", "w53 w54"))
    monkeypatch.setattr(words, "OTHERS", ("w60 w61 w62", "w63 w64", "w65"))
    make, image = PROCESSORS[request.param]
    processor = make()
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    return va.load((model_of(request.param), processor))


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' own processors
@pytest.mark.filterwarnings("error:.*chat template:vlm_anchors.AnchorsWarning")
@pytest.mark.parametrize("vlm", PROCESSORS, indirect=True)
def test_the_user_s_words_and_a_batch_is_its_samples(vlm):
    pairs = [
        (noise(40, 20), "w40 w41 w42"),
        ([noise(20, 40), noise(30, 30)], "w43 w44"),
        (noise(25, 30), "w45 w46 w47 w48 w49"),
    ]
    samples = [Sample(tuple(image) if isinstance(image, list) else (image,), text, "") for image, text in pairs]
    prompts = read_prompts("attanchor", vlm, prepare(vlm, samples).tensors)
    summary = [
        prompts.tokenizer.decode(ids[at[ok]])
        for ids, at, ok in zip(prompts.ids, prompts.words.place, prompts.words.valid, strict=True)
    ]
    assert summary == [question for _, question in pairs]
    for method in METHODS:
        single = [va.ask(vlm, *pair, method=method, max_new_tokens=3) for pair in pairs]
        batched = list(va.ask_many(vlm, pairs, method=method, max_new_tokens=3, batch_size=3))
        assert [answer.tokens for answer in single] == [answer.tokens for answer in batched]
        inserted = [answer.effects[method.split(":")[0]]["tokens_inserted"] for answer in single]
        assert inserted == [answer.effects[method.split(":")[0]]["tokens_inserted"] for answer in batched]
        assert sum(inserted) > 3
    with torch.no_grad():
        everywhere = va.AttAnchor(tau=0.0).prepare(vlm, prepare(vlm, samples).tensors)
    for effects, (image, _) in zip(everywhere.effects, pairs, strict=True):
        places = [anchor["image"] for anchor in effects["attanchor"]["anchors"]]
        assert set(places) <= set(range(len(image) if isinstance(image, list) else 1))
