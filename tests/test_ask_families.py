"""`ask` through the real processor of every family that can be built offline: templates, several images, batches."""

import pytest
from test_families import model_of
from test_family_table import PROCESSORS, noise

import vlm_anchors as va
from vlm_anchors.evaluation.runner.answer import answer_batch, can_reuse
from vlm_anchors.generation.plan import GenerationPlan
from vlm_anchors.inputs.images import read_image
from vlm_anchors.inputs.prompt_builder import Sample

TEMPLATE = (
    "w30 {% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}w31"
)


@pytest.mark.grid
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
    assert [answer.effects for answer in single] == [answer.effects for answer in batched]
    if method != "none":
        assert [len(answer.effects["clva"]["anchors"]["positive"]) for answer in single] == [1, 2, 1]


def asked_about_two_images(vlm, method):
    """The runner's batch, where questions share images and, where they can, the prefix, against each question alone."""
    images = [read_image(noise(40, 20)), read_image(noise(30, 30))]
    words = ("w40 w41 w42", "w43", "w45 w46 w47 w48 w49", "w41 w44")
    samples = [Sample((images[n % 2],), text, str(n)) for n, text in enumerate(words)]
    how = GenerationPlan.of(vlm, method, None, 4)
    alone = [answer_batch(how, [sample], False)[0] for sample in samples]
    return alone, answer_batch(how, samples, can_reuse(how))


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("method", ["none", "clva:tau=1.5", "clva:tau=1.5,rows=all"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_questions_about_one_image_share_it(name, method):
    make, image = PROCESSORS[name]
    processor = make()
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    alone, together = asked_about_two_images(va.load((model_of(name), processor)), method)
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert [each.effects for each in together] == [each.effects for each in alone]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*has no chat template")
@pytest.mark.parametrize("name", ["instructblip", "blip-2"])
def test_questions_about_one_image_share_it_in_qformers(name):
    alone, together = asked_about_two_images(qformer(name), "clva:tau=1.5")
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert [each.effects for each in together] == [each.effects for each in alone]


def qformer(name):
    """A tiny Q-Former model with its real processor, which has no chat template."""
    import tiny_processors
    import tiny_qformer
    import transformers as hf
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    words = tiny_processors.tokenizer("llava")
    if name == "blip-2":
        processor = hf.Blip2Processor(images, words, num_query_tokens=tiny_qformer.LATENTS)
    else:
        processor = hf.InstructBlipProcessor(images, words, words, num_query_tokens=tiny_qformer.LATENTS)
    return va.load((tiny_qformer.FAMILIES[name](), processor))


@pytest.mark.grid
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*has no chat template")
@pytest.mark.parametrize("method", ["none", "clva:tau=1.5"])
@pytest.mark.parametrize("name", ["instructblip", "instructblip-t5", "blip-2"])
def test_qformers_one_by_one_equal_a_batch(name, method):
    vlm = qformer(name)
    pairs = [(noise(40, 20), "w40 w41 w42"), (noise(20, 40), "w43"), (noise(25, 30), "w45 w46 w47 w48 w49")]
    single = [va.ask(vlm, *pair, method=method, max_new_tokens=4) for pair in pairs]
    batched = list(va.ask_many(vlm, pairs, method=method, max_new_tokens=4, batch_size=3))
    assert [answer.tokens for answer in single] == [answer.tokens for answer in batched]
    assert [answer.effects for answer in single] == [answer.effects for answer in batched]
    assert all(1 <= len(answer.tokens) <= 4 for answer in single)


def test_qformers_take_one_image():
    with pytest.raises(va.UserError, match="takes one image a question; found 2"):
        va.ask(qformer("blip-2"), [noise(9, 9), noise(9, 9)], "w40")


def test_prompts_without_a_template_are_the_authors_own():
    from vlm_anchors.errors import AnchorsWarning

    vlm = qformer("blip-2")
    with pytest.warns(AnchorsWarning, match="the prompt is 'Question: QUESTION Answer:', as BLIP-2 has it"):
        assert va.ask(vlm, noise(9, 9), "w40 w41", max_new_tokens=1).prompt == "Question: w40 w41 Answer:"
