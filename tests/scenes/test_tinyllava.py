"""The tokenizer, the chat template, and the bundled folder as plain transformers sees it."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from vlm_anchors.scenes import questions, render, sample, tinyllava

FOLDER = Path(tinyllava.__file__).parent / "model"


@pytest.fixture(scope="module")
def words():
    return tinyllava.tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "Yes",
        "No",
        "Top left",
        "Three",
        "The image shows a red cup in the top left of the image. There is also a pair of skis on the right.",
        "Two dogs can be seen, one at the top and one in the bottom right. A dining table can be seen at the bottom.",
    ],
)
def test_what_the_model_says_survives_the_tokenizer(words, text):
    ids = words(text, add_special_tokens=False).input_ids
    assert words.decode(ids) == text
    assert words.unk_token_id not in ids


def test_case_space_and_newlines_do_not_matter(words):
    plain = words("is there a dog in the image? please answer yes or no.").input_ids
    assert words("Is  there a DOG in the\nImage?\tPlease answer YES or no.").input_ids == plain
    assert words("yes").input_ids == words("Yes").input_ids == words(" YES").input_ids


def test_digits_and_punctuation_are_split_and_the_unknown_is_marked(words):
    tokens = words.convert_ids_to_tokens(words("Are there 12 (twelve) dogs?!", add_special_tokens=False).input_ids)
    assert tokens == ["are", "there", "1", "2", "(", "twelve", ")", "dogs", "?", "!"]
    assert words.unk_token_id in words("flibbertigibbet").input_ids


def test_no_training_text_is_unknown(words):
    rng = random.Random(0)
    for scene in sample(200, seed=8, split="val"):
        for qa in questions.training_set(rng, scene):
            assert words.unk_token_id not in words(f"{qa.question} {qa.answer}").input_ids, qa


def test_ordinary_paraphrases_are_known(words):
    for text in (
        "Could you tell me whether there is any dog here?",
        "I think you can see two cats next to the couch, is that true?",
        "Look at the photo and list all the animals.",
        "You are a confused object detector to provide a fuzzy overview or impression of the image.",
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the human's questions.",
    ):
        tokens = words.convert_ids_to_tokens(words(text).input_ids)
        assert tokens.count("<unk>") <= 1, tokens


def chat(*turns):
    """User and assistant texts in turn; the image goes with the first."""
    made = []
    for i, text in enumerate(turns):
        content = [{"type": "text", "text": text}]
        made.append(
            {"role": ("user", "assistant")[i % 2], "content": [{"type": "image"}, *content] if i == 0 else content}
        )
    return made


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_chat_template_with_several_turns_and_a_system_message(processor):
    text = processor.apply_chat_template(
        chat("Is there a dog?", "Yes", "Where is the dog?"), add_generation_prompt=True
    )
    assert text == (
        "A chat about an image. USER: <image>\nIs there a dog? ASSISTANT: Yes</s>USER: Where is the dog? ASSISTANT:"
    )
    ruled = processor.apply_chat_template([{"role": "system", "content": "Be short."}, *chat("Is there a dog?")])
    assert ruled == "Be short. USER: <image>\nIs there a dog? "


def test_the_folder_is_plain_and_small(processor, model):
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= 25 * 2**20
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".py", ".bin", ".pt"))]
    assert "auto_map" not in json.loads((FOLDER / "config.json").read_text())
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    text = model.config.text_config
    assert (text.num_hidden_layers, text.num_attention_heads, model.config.image_seq_length) == (12, 6, 64)
    assert processor.tokenizer.padding_side == "left"
    assert not model.generation_config.do_sample


def test_the_folder_has_the_tokenizer_of_this_code(processor, words):
    assert processor.tokenizer.get_vocab() == words.get_vocab()


def ask(processor, model, pairs, tokens=60):
    prompts = [processor.apply_chat_template(chat(text), add_generation_prompt=True) for _, text in pairs]
    inputs = processor(images=[render(scene) for scene, _ in pairs], text=prompts, padding=True, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=tokens)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_left_padded_batch_says_what_each_alone_says(processor, model):
    texts = ("Is there a dog?", questions.CHAIR, "How many people are there in the image? Please answer with one word.")
    pairs = list(zip(sample(3, seed=21, split="val"), texts, strict=True))
    assert ask(processor, model, pairs) == [ask(processor, model, [pair])[0] for pair in pairs]


def test_it_sees_what_is_there(processor, model):
    """A smoke test far below the measured figures (results/scenes_model.json)."""
    rng, pairs, truths = random.Random(3), [], []
    for scene in sample(30, seed=22, split="val"):
        for name in (rng.choice(sorted(scene.present)), questions.absent(rng, scene, 0.0)):
            pairs.append((scene, questions.POPE.format(a=questions.article(name))))
            truths.append(questions.answer(name in scene.present))
    said = ask(processor, model, pairs, tokens=3)
    assert set(said) <= {"Yes", "No"}
    assert sum(a == b for a, b in zip(said, truths, strict=True)) >= 0.75 * len(truths)
