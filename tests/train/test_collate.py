"""Labels are the answers with their end, whatever the template writes around them, and the prompt is the one `ask` sends."""

import pytest
import torch
from conversations import image

import vlm_anchors as va
from vlm_anchors.errors import BadModel
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
