"""`ask` through the real processor of every family that can be built offline: templates, several images, batches."""

import pytest
from test_families import model_of
from test_family_table import PROCESSORS, noise

import vlm_anchors as va

TEMPLATE = (
    "w30 {% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}w31"
)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' own processors
@pytest.mark.parametrize("method", ["none", "clva:tau=1.5"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_one_by_one_equals_a_batch(name, method):
    make, image = PROCESSORS[name]
    processor = make()
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    vlm = va.load((model_of(name), processor))
    pairs = [
        (noise(40, 20), "w40 w41 w42"),
        ([noise(20, 40), noise(30, 30)], "w43 w44"),
        (noise(25, 30), "w45 w46 w47 w48 w49"),
    ]
    single = [va.ask(vlm, *pair, method=method, max_new_tokens=4) for pair in pairs]
    batched = list(va.ask_many(vlm, pairs, method=method, max_new_tokens=4, batch_size=3))
    assert [answer.tokens for answer in single] == [answer.tokens for answer in batched]
    assert [answer.acted for answer in single] == [answer.acted for answer in batched]
    if method != "none":
        assert [len(answer.acted["clva"]["anchors"]["positive"]) for answer in single] == [1, 2, 1]
