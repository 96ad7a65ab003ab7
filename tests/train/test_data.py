"""Conversations from either format; every bad row named, counted, and left out only when asked."""

import json

import pytest
from conversations import image, llava, messages, write

from vlm_anchors.errors import AnchorsWarning, BadData
from vlm_anchors.training.data import fingerprint, read_data, split_by_image

ASKED = [("user", "Is there a cup?"), ("assistant", "Yes")]


def said_in(conversation):
    return [(turn.role, turn.text) for turn in conversation.turns]


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize("form", [llava, messages])
def test_both_formats_say_the_same(tmp_path, form, name):
    image(tmp_path)
    good, bad = read_data(write(tmp_path, [form(), form(answer="No")], name))
    assert [said_in(one) for one in good] == [ASKED, [ASKED[0], ("assistant", "No")]]
    assert {one.images for one in good} == {(str(tmp_path / "a.png"),)} and bad == []


def test_content_in_parts_with_images_behind_the_words(tmp_path):
    """As llava-instruct-mix-vsft has it: the image is listed after the text, and stands before it all the same."""
    image(tmp_path)
    parts = [{"type": "text", "text": "Is there a cup?\n"}, {"type": "image", "text": None}]
    said = {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}
    inside = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "Is there a cup?"}]
    rows = [
        {"images": ["a.png"], "messages": [{"role": "user", "content": parts}, said]},
        {"messages": [{"role": "user", "content": inside}, said]},
    ]
    good, _ = read_data(write(tmp_path, rows))
    assert [said_in(one) for one in good] == [ASKED, ASKED]


def test_several_turns_a_system_turn_and_several_images(tmp_path):
    names = [image(tmp_path, "a.png"), image(tmp_path, "b.png")]
    turns = [
        {"from": "system", "value": "Be brief."}, {"from": "human", "value": "<image><image>\nWhich?"},
        {"from": "gpt", "value": "Both"}, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So"},
    ]  # fmt: skip
    good, _ = read_data(write(tmp_path, [{"image": names, "conversations": turns}]))
    assert [turn.role for turn in good[0].turns] == ["system", "user", "assistant", "user", "assistant"]
    assert good[0].turns[1].text == "Which?" and len(good[0].images) == 2


def test_a_folder_of_files_and_images_elsewhere_by_stem(tmp_path):
    for folder in ("data", "images/coco"):
        (tmp_path / folder).mkdir(parents=True)
    image(tmp_path / "images" / "coco", "a.png")
    for name in ("1.json", "2.jsonl"):
        write(tmp_path / "data", [llava("coco/a.jpg")], name)
    good, _ = read_data(tmp_path / "data", tmp_path / "images")
    assert [one.where for one in good] == ["1.json, entry 1", "2.jsonl, line 1"]


def turns(*roles, last="words"):
    said = [{"from": role, "value": "words"} for role in roles]
    return {"image": "a.png", "conversations": [*said[:-1], {**said[-1], "value": last}]}


BAD = {
    "missing image": (llava("b.png"), "The image b.png is not in"),
    "unreadable image": (llava("broken.png"), "broken.png cannot be read"),
    "no image": ({**llava(), "image": None}, "no image; anchors stand in one"),
    "no image, an empty name": ({**llava(), "image": ""}, "no image; anchors stand in one"),
    "no answer": (turns("human"), "a conversation without an answer"),
    "no answer, empty": (llava(answer=" "), "a conversation without an answer"),
    "no answer, one empty": (turns("human", "gpt", "human", "gpt", last=""), "an empty turn of the assistant"),
    "no question": (llava(question=" "), "an empty turn of the user"),
    "turns out of order": (turns("human", "gpt", "human"), "turns out of order (user, assistant, user)"),
    "turns out of order, twice": (turns("gpt", "human"), "turns out of order (assistant, user)"),
    "no conversation": ({"image": "a.png"}, "no conversation in it"),
    "no conversation, a word": ("hello", "no conversation in it"),
    "no conversation, unknown role": (turns("robot", "gpt"), "a turn that is none"),
    "image mark out of place": (llava(answer="an <image>"), "<image> in turn 2"),
    "image mark out of place, twice": (llava(question="<image> too?"), "1 images but <image> 2 times"),
    "image mark out of place, later": ({"images": ["a.png"], "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": "c"}]}, "an image in a later turn"),
    "missing image, no name": ({**llava(), "image": 7}, "an image that is no file name but int"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_and_counted_and_left_out_only_when_asked(tmp_path, kind):
    image(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    row, fault = BAD[kind]
    file = write(tmp_path, [llava(), row, llava(), row])
    with pytest.raises(BadData) as summary:
        read_data(file)
    sentence = str(summary.value)
    assert fault in sentence and f"2 of 4 conversations in {file} cannot be used (2 {kind.split(',')[0]})" in sentence
    assert "entry 2" in sentence and "--skip-bad" in sentence
    with pytest.warns(AnchorsWarning, match="2 of 4 .* They are left out, as --skip-bad asks"):
        good, bad = read_data(file, skip_bad=True)
    assert len(good) == 2 and [one.where for one in bad] == ["data.json, entry 2", "data.json, entry 4"]


def test_broken_json_is_told_by_its_line(tmp_path):
    image(tmp_path)
    lines = write(tmp_path, [llava(), '{"image": "a.png", ', "", llava()], "data.jsonl")
    with pytest.raises(BadData, match=r"1 of 3 .*data.jsonl, line 2: broken JSON"):
        read_data(lines)
    with pytest.warns(AnchorsWarning, match="1 broken JSON"):
        good, _ = read_data(lines, skip_bad=True)
    assert [one.where for one in good] == ["data.jsonl, line 1", "data.jsonl, line 4"]
    (tmp_path / "list.json").write_text(json.dumps([llava()], indent=1).replace('"from": "gpt"', '"from" "gpt"'))
    with pytest.raises(
        BadData, match=r"list.json is broken JSON on line 10, column \d+: .*write one conversation a line"
    ):
        read_data(tmp_path / "list.json", skip_bad=True)


def test_entries_are_named_by_their_id(tmp_path):
    image(tmp_path)
    with pytest.raises(BadData, match=r"entry 1 \(id 0007\)"):
        read_data(write(tmp_path, [llava("b.png", id="0007"), llava()]))


def test_nothing_usable_is_refused_even_with_skip_bad(tmp_path):
    image(tmp_path)
    with pytest.raises(BadData, match="1 of 1 conversations .* Mend the data"):
        read_data(write(tmp_path, [llava("b.png")]), skip_bad=True)
    for text, words in {"[]": "holds no conversation", "": "holds no conversation"}.items():
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(BadData, match=words):
            read_data(tmp_path / "data.json", skip_bad=True)
    with pytest.raises(BadData, match="No data at"):
        read_data(tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="holds no .json or .jsonl file"):
        read_data(tmp_path / "empty")
    with pytest.raises(BadData, match="There is no image folder"):
        read_data(write(tmp_path, [llava()]), tmp_path / "nowhere")
    (tmp_path / "data.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="is not UTF-8 text"):
        read_data(tmp_path / "data.json")


def test_a_fingerprint_is_of_the_conversations(tmp_path):
    image(tmp_path)
    one = fingerprint(write(tmp_path, [llava()]))
    image(tmp_path, "b.png")
    assert fingerprint(tmp_path) == fingerprint(tmp_path / "data.json") == one
    assert fingerprint(write(tmp_path, [llava(answer="No")])) != one


def test_no_image_is_on_both_sides_of_the_split(tmp_path):
    names = [image(tmp_path, f"{n}.png") for n in range(10)]
    good, _ = read_data(write(tmp_path, [llava(name) for name in names for _ in range(3)]))
    trained, checked = split_by_image(good, 0.2, seed=0)
    sides = [{one.images for one in side} for side in (trained, checked)]
    assert not sides[0] & sides[1] and [len(side) for side in sides] == [8, 2] and len(trained) + len(checked) == 30
    assert split_by_image(good, 0.2, 0) == (trained, checked) != split_by_image(good, 0.2, 1)
    assert len(split_by_image(good, 0.001, 0)[1]) == 3 and len(split_by_image(good, 0.999, 0)[0]) == 3
    with pytest.raises(BadData, match="two images or more"):
        split_by_image(good[:3], 0.5, 0)


def test_rows_without_an_image_or_with_one_in_a_later_turn_are_read_where_asked_for(tmp_path):
    names = [image(tmp_path, "a.png"), image(tmp_path, "b.png", 90)]
    without = {"conversations": [{"from": "human", "value": "Two and two?"}, {"from": "gpt", "value": "Four"}]}
    later = [("human", "<image>\nA cup?"), ("gpt", "No"), ("human", "And here? <image>"), ("gpt", "Yes")]
    between = {"image": names, "conversations": [{"from": who, "value": words} for who, words in later]}
    file = write(tmp_path, [llava(), without, between])
    with pytest.raises(BadData, match=r"2 of 3 .*1 no image, 1 image mark out of place.*--mixed"):
        read_data(file)
    good, bad = read_data(file, mixed=True)
    assert [one.images for one in good[1:]] == [(), tuple(str(tmp_path / name) for name in names)] and not bad
    assert [turn.images for turn in good[2].turns] == [1, 0, 1, 0] and good[2].turns[2].text == "And here?"
    for share in (0.3, 0.6):
        assert sum(map(len, split_by_image(good, share, 0))) == 3


def test_hidden_files_and_pipes_are_no_data(tmp_path):
    import os

    image(tmp_path)
    write(tmp_path, [llava()])
    (tmp_path / "._data.json").write_bytes(b"\0\0")
    assert len(read_data(tmp_path)[0]) == 1
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BadData, match="is a pipe. Write its content to a file first"):
        read_data(tmp_path / "pipe.json")
