"""Every field of every layout, damaged in every way: read, or refused in a sentence that names the place. Never a crash."""

import contextlib
import copy
import json
from pathlib import Path

import pytest
from benchmarks.made import record

from vlm_anchors.errors import UserError
from vlm_anchors.evaluation.benchmarks import BENCHMARKS
from vlm_anchors.evaluation.benchmarks.base import BadData, Question
from vlm_anchors.evaluation.benchmarks.hallusion import FIELDS
from vlm_anchors.evaluation.reading.answers import answered
from vlm_anchors.evaluation.reading.schema import (
    KEY,
    TEXT,
    WORDS,
    Schema,
    either,
    list_of,
    nullable,
    optional,
    words_of,
)

DAMAGE = (None, "", " ", "x", 5, -1, 1.5, True, [], [None], ["x", 3], {}, {"x": None})
LACKS = object()

COCO = {
    "images": [{"id": 7, "file_name": "7.jpg"}],
    "annotations": [{"id": 1, "image_id": 7, "caption": "A dog."}],
}
INSTANCES = {"categories": [{"id": 18, "name": "dog"}], "annotations": [{"image_id": 7, "category_id": 18}]}
AMBER = {
    "annotations.json": [
        {"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["cow"]},
        {"id": 2, "type": "relation", "truth": "yes"},
    ],
    "query_generative.json": [{"id": 1, "image": "a.jpg", "query": "Describe."}],
    "query_discriminative.json": [{"id": 2, "image": "a.jpg", "query": "?"}],
    "relation.json": {"sky": ["cloud"], "cow": ["bull"]},
    "safe_words.txt": "orange",
}
ROW = {"question_id": 1, "image": "1.jpg", "text": "Is it?", "label": "yes"}
TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
HALLUSION = {
    "category": "VD", "subcategory": "map", "visual_input": "1", "set_id": "0", "figure_id": "0", "question_id": "0",
    "question": "Is it?", "gt_answer": "1", "filename": "./x/0.png", "gt_answer_details": "It is.",
}  # fmt: skip
VQA = {
    "questions.json": {"questions": [{"question_id": 5, "image_id": 9, "question": "What?"}]},
    "annotations.json": {
        "annotations": [{"question_id": 5, "answer_type": "other", "answers": [{"answer": "a"}] * 10}]
    },
}
GQA = {"1": {"imageId": "n7", "question": "?", "answer": "yes", "isBalanced": True, "types": {"structural": "verify"}}}
SCIENCE = {
    "problems.json": {
        "7": {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": "i.png", "subject": "x"}
    },
    "pid_splits.json": {"test": ["7"]},
}
MMHAL = {
    "question_type": "attribute", "question_topic": "chair", "image_id": "x", "image_src": "https://a.b/c/1_o.jpg",
    "image_content": ["chair"], "question": "What?", "gt_answer": "A chair.", "model_answer": "",
}  # fmt: skip
LAYOUTS = [
    ("pope", {"pope_random.json": [ROW]}),
    ("hallusion", {"HallusionBench.json": [HALLUSION]}),
    ("amber", AMBER),
    (
        "captions",
        {"val.json": [{"image": "1.jpg", "question": "What?", "captions": ["A dog."], "id": 3, "split": "val"}]},
    ),
    ("captions", {"val.json": [{"image": "1.jpg", "conversations": TURNS, "id": "x"}]}),
    ("captions", {"captions_val2014.json": COCO}),
    ("chair", {"objects.json": {"7": ["dog"]}}),
    ("chair", {"objects.json": [{"image_id": 7, "objects": ["dog"]}]}),
    ("chair", {"instances_val2014.json": INSTANCES, "captions_val2014.json": COCO}),
    ("vqav2", VQA),
    (
        "vizwiz",
        {
            "val.json": [
                {"image": "V_1.jpg", "question": "?", "answers": [{"answer": "a"}] * 10, "answer_type": "other"}
            ]
        },
    ),
    ("gqa", {"q.json": GQA}),
    ("scienceqa", SCIENCE),
    ("mmhal", {"response_template.json": [MMHAL]}),
    ("llava-bench", {"questions.jsonl": [{"question_id": 1, "image": "1.jpg", "text": "?", "category": "conv"}]}),
]


def places(value, path=()):
    """Every place in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(document, path, new):
    if not path:
        return new
    whole = copy.deepcopy(document)
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    if new is LACKS:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return whole


def write(folder: Path, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name.endswith(".jsonl") and isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        elif not name.endswith(".txt"):
            content = json.dumps(content)
        (folder / name).write_text(content)


def ids(layout):
    return f"{layout[0]}-{next(iter(layout[1]))}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
def test_the_layouts_are_read(tmp_path, layout):
    name, files = layout
    write(tmp_path, files)
    assert BENCHMARKS.build(name).at(tmp_path).questions(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
def test_damage_is_read_or_refused_with_its_place(tmp_path, layout):
    """What is read can also be scored: nothing is left to be found after hours of answering."""
    name, files = layout
    refused = 0
    for file, document in files.items():
        if file.endswith(".txt"):
            continue
        for path in places(document):
            for new in (*DAMAGE, LACKS) if path else DAMAGE:
                write(tmp_path, {**files, file: changed(document, path, new)})
                bench = BENCHMARKS.build(name).at(tmp_path)
                try:
                    found = bench.questions(tmp_path)
                except UserError as error:
                    refused += 1
                    words = str(error)
                    assert str(tmp_path) in words or any(other in words for other in files), words
                    assert len(words) < 1200, words
                    continue
                for question in found:
                    assert isinstance(question, Question)
                    assert isinstance(question.text, str) and question.text.strip(), (path, new)
                    assert isinstance(question.image, str | None) and question.image != "", (path, new)
                    bench.truth_of(question.group).check(json.loads(json.dumps(question.truth)), "here")
    assert refused


SCORED = {
    "pope": record(1, "Yes", label="yes"),
    "mme": record(1, "Yes", group="count", label="yes"),
    "amber": record(1, "Yes", group="relation", label="yes"),
    "hallusion": record(1, "Yes", label="yes", **dict.fromkeys(FIELDS, "0")),
    "chair": record(1, "A dog.", objects=["dog"]),
    "vqav2": record(1, "dog", answers=["dog"] * 10),
    "vizwiz": record(1, "dog", answers=["dog"] * 10),
    "gqa": record(1, "dog", answer="dog"),
    "scienceqa": record(1, "A", answer="A", options=["a", "b"]),
    "mmbench": record(1, "A", answer="A", options=["a", "b"], base=1, turn=0),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORED)
def test_damaged_records_are_scored_or_refused(name):
    bench, good = BENCHMARKS.build(name), SCORED[name]
    rest = [] if name != "mme" else [{**good, "id": "2"}]
    bench.score([good, *rest])
    for path in places(good):
        for new in (*DAMAGE, LACKS) if path else ():
            with contextlib.suppress(UserError):
                bench.score([changed(good, path, new), *rest])


def test_what_a_schema_says():
    schema = Schema(a=WORDS, b=optional(list_of(TEXT)), c=nullable(either(KEY, words_of(True))))
    row = {"a": "x", "c": None}
    assert schema.check(row, "F, line 1") is row
    assert schema.check({"a": "x", "b": None, "c": 1}, "F")
    for damaged, words in (
        ([1], "F, line 1: expected an object with named fields; found [1]."),
        ({"a": "x"}, "F, line 1: expected the field 'c'; found 'a'. Is it another benchmark's file?"),
        ({"a": "", "c": 1}, "F, line 1: expected a text that is not empty in the field 'a'; found ''."),
        ({"a": "x", "b": [1], "c": 1}, "F, line 1: expected a list of texts, or nothing in the field 'b'; found [1]."),
        (
            {"a": "x", "c": 1.5},
            "F, line 1: expected a whole number or a text or True, or null in the field 'c'; found 1.5.",
        ),
    ):
        with pytest.raises(BadData) as error:
            schema.check(damaged, "F, line 1")
        assert str(error.value) == words


def test_answers_to_rotations_go_back_to_their_questions(tmp_path):
    from vlm_anchors.evaluation.benchmarks.choice import MmBench

    path = tmp_path / "dev.tsv"
    path.write_text("index\tquestion\tA\tB\tanswer\n7\tWhich?\tcat\tdog\tA\n8\tWho?\tcat\tdog\tB\n")
    bench = MmBench(circular=True)
    questions = bench.questions(path)
    records = [question.record(answer) for question, answer in zip(questions, "ABAB", strict=True)]
    (text,) = bench.answer_files(records).values()
    (tmp_path / "answers.jsonl").write_text(text)
    assert [each["answer"] for each in answered(questions, tmp_path / "answers.jsonl")] == [*"ABAB"]


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\r", "\n"])
def test_our_answer_files_are_read_back_whatever_they_hold(tmp_path, sign):
    from vlm_anchors.evaluation.benchmarks.pope import Pope

    write(tmp_path, {"pope_random.json": [ROW, {**ROW, "question_id": 2}]})
    questions = Pope().questions(tmp_path / "pope_random.json")
    answers = [f"Yes{sign}it is", "No"]
    (text,) = Pope().answer_files([q.record(a) for q, a in zip(questions, answers, strict=True)]).values()
    (tmp_path / "answers.jsonl").write_text(text, newline="")
    assert [each["answer"] for each in answered(questions, tmp_path / "answers.jsonl")] == answers
