"""Labels are the answers with their end, whatever the template writes around them, and the prompt is the one `ask` sends."""

import pytest
import torch
from conversations import image

import vlm_anchors as va
from vlm_anchors.errors import AnchorsWarning, BadModel
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.training.collate import Collator

LLAVA_HF = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As llava-hf's checkpoints have it: no end-of-sequence token behind an answer."""
CHAT_ML = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ':\n' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '</s> . ' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant:\n' }}{% endif %}"
)
"""As Qwen's: every turn ends with the token, and more stands behind it."""


@pytest.fixture
def vlm(tiny_folder):
    """Loaded anew, for its template is exchanged."""
    return va.load(str(tiny_folder))


def row(folder, *said, images=("a.png",)):
    roles = ["user", "assistant"] * len(said)
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return {"images": [str(folder / image(folder, name)) for name in images], "messages": turns}


def learnt(vlm, batch):
    """What each row's labels say."""
    rows = [[one for one in labels.tolist() if one != -100] for labels in batch["labels"]]
    return [vlm.processor.tokenizer.decode(ids).lower() for ids in rows]


@pytest.mark.parametrize("template", [None, LLAVA_HF, CHAT_ML], ids=["scenes", "llava-hf", "chatml"])
def test_labels_are_the_answers_with_their_end(vlm, tmp_path, template):
    vlm.processor.chat_template = template or vlm.processor.chat_template
    rows = [
        row(tmp_path, "Is there a cup?", "Yes", "Where is it?", "Top left"),
        row(tmp_path, "Is there a red dog in the image?", "No"),
    ]
    batch = Collator(vlm)(rows)
    assert learnt(vlm, batch) == ["yes </s> top left </s>", "no </s>"]
    where = batch["labels"] != -100
    assert torch.equal(batch["labels"][where], batch["input_ids"][where])
    assert not where[batch["attention_mask"] == 0].any() and not where[:, 0].any()
    assert batch["pixel_values"].shape[0] == 2


def test_the_prompt_is_the_one_that_ask_sends(vlm, tmp_path):
    vlm.processor.chat_template = LLAVA_HF
    one = row(tmp_path, "Is there a cup?", "Yes")
    batch = Collator(vlm)([one])
    asked = prepare(vlm, [read_sample(one["images"][0], "Is there a cup?")]).tensors
    first = int((batch["labels"][0] != -100).int().argmax())
    assert torch.equal(batch["input_ids"][:, :first], asked["input_ids"])
    assert torch.equal(batch["pixel_values"], asked["pixel_values"])


def test_loss_is_that_of_the_answer_alone(vlm, tmp_path):
    """The model's own loss on the batch equals the mean log-probability of the answers' tokens, row by row."""
    rows = [row(tmp_path, "Is there a cup?", "Yes"), row(tmp_path, "What is in the image?", "A red dog and a bowl")]
    collator = Collator(vlm)
    losses, counts = [], []
    with torch.no_grad():
        whole = vlm.model(**collator(rows)).loss
        for one in rows:
            batch = collator([one])
            losses.append(vlm.model(**batch).loss)
            counts.append(int((batch["labels"] != -100).sum()))
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert torch.allclose(whole, mean, atol=1e-5)


def test_several_images_and_a_system_turn(vlm, tmp_path):
    one = row(tmp_path, "Which?", "Both", images=("a.png", "b.png"))
    one["messages"].insert(0, {"role": "system", "content": "Be brief."})
    batch = Collator(vlm)([one])
    assert learnt(vlm, batch) == ["both </s>"]
    assert int((batch["input_ids"] == vlm.model.config.image_token_id).sum()) == 128


def test_a_sequence_longer_than_the_context_is_cut_at_its_end(vlm, tmp_path):
    long = row(tmp_path, "What is it?", "a red cup " * 2000)
    batch = Collator(vlm)([long])
    limit = vlm.model.config.get_text_config().max_position_embeddings
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (1, limit)
    assert batch["labels"][0, -1] != -100


def test_templates_that_cannot_be_learnt_from_are_told(vlm):
    vlm.processor.chat_template = None
    with pytest.raises(BadModel, match="has no chat template, so there is no telling what a conversation looks like"):
        Collator(vlm)


def test_a_template_that_rewrites_is_told(vlm, tmp_path):
    vlm.processor.chat_template = "{{ messages | length }}" + LLAVA_HF
    with pytest.raises(BadModel, match="changes what it wrote when a turn is added"):
        Collator(vlm)([row(tmp_path, "Is there a cup?", "Yes")])


def test_a_tokenizer_without_an_end_is_told(vlm):
    vlm.processor.tokenizer.eos_token = None
    vlm.model.generation_config.eos_token_id = None
    with pytest.raises(BadModel, match="has no end-of-sequence token"):
        Collator(vlm)


def between(tmp_path):
    """One row with an image before each of its two questions."""
    for name, shade in (("a.png", 0), ("b.png", 90)):
        image(tmp_path, name, shade)
    turns = [("user", "A cup?", 1), ("assistant", "No", 0), ("user", "And here?", 1), ("assistant", "Yes", 0)]
    messages = [{"role": role, "content": words, "images": images} for role, words, images in turns]
    return {"images": [str(tmp_path / "a.png"), str(tmp_path / "b.png")], "messages": messages}


def test_rows_with_and_without_images_share_a_batch(vlm, tmp_path):
    text = {
        "images": [],
        "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cup"}],
    }
    mixed = Collator(vlm)([text, between(tmp_path), row(tmp_path, "Is there a cup?", "Yes")])
    assert learnt(vlm, mixed) == ["a cup </s>", "no </s> yes </s>", "yes </s>"]
    placeholders = (mixed["input_ids"] == vlm.model.config.image_token_id).sum(1).tolist()
    assert placeholders == [0, 128, 64] and len(mixed["pixel_values"]) == 3
    alone = Collator(vlm)([text])
    assert "pixel_values" not in alone and learnt(vlm, alone) == ["a cup </s>"]
    assert vlm.model(**mixed).loss.isfinite()


def test_lengths_are_those_that_the_processor_makes(vlm, tmp_path):
    from vlm_anchors.training.data import Conversation, Turn
    from vlm_anchors.training.lengths import check_lengths

    image(tmp_path)
    limit = vlm.model.config.get_text_config().max_position_embeddings

    def conversation(words, images=1, answer="Yes"):
        question = Turn("user", "cup " * words, images)
        return Conversation("there", (str(tmp_path / "a.png"),) * images, (question, Turn("assistant", answer)))

    collator = Collator(vlm)
    start = [int((collator([conversation(words).row()])["labels"][0] != -100).nonzero()[0]) for words in (1, 2)]
    fits = 1 + (limit - 1 - start[0]) // (start[1] - start[0])  # the most words whose first answer token is inside
    asked = [
        conversation(fits),
        conversation(fits + 1),
        conversation(1, images=1 + limit // 64),
        conversation(fits + 1, 0),
    ]
    good, bad = check_lengths(collator, asked)
    assert good == [asked[0], asked[3]]
    assert ["no answer is left to learn" in one.fault for one in bad] == [True, True]
    with pytest.warns(AnchorsWarning, match="1 of 1 conversations are longer than the context"):
        check_lengths(collator, [conversation(1, answer="cup " * limit)])
