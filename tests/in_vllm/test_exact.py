"""Inside vLLM every method gives the tokens of our transformers path, and its logits within 1e-4 in float32."""

import pytest
from engines import CLOSE, QUESTIONS, ask, check, difference, engine, ours, pairs, params, request

METHODS = [
    "none", "clva", "clva:alpha=5,beta=0.5,normalise=visual", "clva:rows=all", "clva:gain=average", "clearsight",
    "clearsight:heads=selected,negative=raised", "pai:gamma=1", "middle-layers",
]  # fmt: skip


@pytest.fixture(scope="module")
def sixteen(exported):
    with engine(exported, max_num_seqs=16) as llm:
        yield llm


@pytest.mark.parametrize("method", METHODS)
def test_one_by_one(sixteen, bundled, scenes, method):
    for pair in pairs(scenes, 2):
        check(sixteen, bundled, [pair], [method], 16)


def test_sixteen_at_once_with_different_methods_and_64_tokens(sixteen, bundled, scenes):
    asked = pairs(scenes, 16)
    check(sixteen, bundled, asked, [METHODS[n % len(METHODS)] for n in range(16)], 64)


def test_two_images(sixteen, bundled, scenes):
    for method in ("clva", "clva:images=all", "clearsight"):
        check(sixteen, bundled, [([scenes[0], scenes[1]], QUESTIONS[1])], [method], 16)


def test_several_answers_to_one_prompt(sixteen, bundled, scenes):
    (output,) = ask(sixteen, [(scenes[2], QUESTIONS[1])], ["clva"], 16, n=3)
    expected = ours(bundled, "clva", scenes[2], QUESTIONS[1], 16)
    assert len(output.outputs) == 3
    assert all(difference(one, expected) < CLOSE for one in output.outputs)


def test_a_second_question_finds_the_image_in_the_cache_whatever_the_method(sixteen, bundled, scenes):
    image = scenes[9]
    for number, method in enumerate(["none", "clva", "clearsight", "clva", "clva", "none"]):
        question = QUESTIONS[number // 2]
        (output,) = ask(sixteen, [(image, question)], [method])
        assert difference(output.outputs[0], ours(bundled, method, image, question)) < CLOSE
        if number:
            # The prompt's 72 tokens before its text fill two blocks of 32.
            assert output.num_cached_tokens == 64


def test_a_plain_prompt_never_finds_text_that_a_method_edited(sixteen, bundled, scenes):
    long = "Is there a dog in the image? " * 8 + "Describe it."
    for method in ("clva", "clva:alpha=3", "none", "none"):
        (output,) = ask(sixteen, [(scenes[10], long)], [method])
        assert difference(output.outputs[0], ours(bundled, method, scenes[10], long)) < CLOSE
    assert output.num_cached_tokens > 64  # plain prompts share their text as before


def test_prompts_without_an_image(sixteen):
    (output,) = sixteen.generate(["USER: hello ASSISTANT:"], [params("clva", 4)], use_tqdm=False)
    assert output.outputs[0].token_ids


def test_the_prompt_is_the_one_a_user_sends(bundled, scenes):
    """The tests' prompt is the chat template's."""
    from vlm_anchors.inputs.prompt_builder import prompt_of

    assert request(scenes[0], "Q?")["prompt"] == prompt_of(bundled, "Q?", 1)
