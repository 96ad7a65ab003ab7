"""Captions: files of every shape, and metrics that are the packages' own."""

import json
import re
import shutil
import sys

import pytest
from benchmarks.made import record

from vlm_anchors.errors import BadData, MissingPackage, UnknownName
from vlm_anchors.evaluation.benchmarks import captions
from vlm_anchors.evaluation.benchmarks.base import total
from vlm_anchors.evaluation.benchmarks.captions import Captions

ANSWERS = ["a man", "zzz", "a dog runs over the green grass", "two cats sleep", "the red bus stops at the old station"]
REFERENCES = [
    ["a man"],
    ["a bird"],
    ["a dog runs on green grass", "the dog is running"],
    ["two cats are sleeping on a bed"],
    ["the red bus stopped at a station", "a bus at the station"],
]
RECORDS = [record(i, a, references=r) for i, (a, r) in enumerate(zip(ANSWERS, REFERENCES, strict=True))]


@pytest.mark.parametrize(
    ("text", "images", "references"),
    [
        ('{"image": "1.jpg", "caption": "A dog."}\n', ["1.jpg"], [["A dog."]]),
        ('[{"image_id": 7, "captions": ["A dog.", "A hound."]}]', ["7"], [["A dog.", "A hound."]]),
        ('{"file_name": "1.jpg", "question": "What?", "answer": "A dog."}\n', ["1.jpg"], [["A dog."]]),
        (
            '[{"id": "x", "image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, '
            '{"from": "gpt", "value": "A dog."}, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}]',
            ["1.jpg", "1.jpg"],
            [["A dog."], ["So."]],
        ),
        (
            '{"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": '
            '[{"image_id": 7, "caption": "A"}, {"image_id": 7, "caption": "B"}]}',
            ["7.jpg"],
            [["A", "B"]],
        ),
    ],
)
def test_files(tmp_path, text, images, references):
    (tmp_path / "val.json").write_text(text)
    found = Captions().questions(tmp_path / "val.json")
    assert [q.image for q in found] == images
    assert [q.truth["references"] for q in found] == references


def test_a_split_is_a_field_or_a_file(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"image": "1.jpg", "caption": "A"}\n')
    (tmp_path / "val.jsonl").write_text(
        '{"image": "1.jpg", "caption": "B"}\n{"image": "2.jpg", "caption": "C", "split": "test"}\n'
    )
    assert [q.truth["references"] for q in Captions().questions(tmp_path, "val")] == [["B"]]
    assert [q.truth["references"] for q in Captions().questions(tmp_path, "test")] == [["C"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"image": "1.jpg", "note": "A"}\n', "line 1: expected one of references, captions, caption"),
        ('{"image": "1.jpg", "caption": " "}\n', "in the field 'caption'; found ' '"),
        ('{"image": "1.jpg", "captions": []}\n', "in the field 'captions'; found []"),
        (
            '{"image": "1.jpg", "conversations": [{"from": "human"}]}\n',
            "line 1: expected a list of 2 or more objects with named fields in the field 'conversations'",
        ),
    ],
)
def test_faults(tmp_path, text, words):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(BadData, match=re.escape(words)):
        Captions().questions(tmp_path / "x.jsonl")


def test_unknown_metrics():
    with pytest.raises(UnknownName, match="captions has no metric 'spice'. Known: bleu"):
        Captions("bleu;spice")


@pytest.mark.parametrize(
    ("metrics", "module", "words"),
    [
        ("bleu", "sacrebleu", r'BLEU needs sacrebleu, which is not installed. Run: pip install "vlm-anchors\[eval\]"'),
        ("cider", "pycocoevalcap.tokenizer.ptbtokenizer", r"CIDEr, ROUGE-L or METEOR needs pycocoevalcap"),
        ("bertscore", "bert_score", "BERTScore needs bert-score"),
    ],
)
def test_missing_packages(monkeypatch, metrics, module, words):
    captions._sacrebleu.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackage, match=words):
        Captions(metrics).score(RECORDS)


def test_missing_java(monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingPackage, match="need Java for their tokenizer"):
        Captions("cider").score(RECORDS)


def test_bleu_is_sacrebleus(monkeypatch):
    sacrebleu = pytest.importorskip("sacrebleu")
    score = Captions("bleu").score(RECORDS)
    padded = [[r[k] if k < len(r) else None for r in REFERENCES] for k in range(2)]
    assert score.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, padded).score)
    assert score.metrics["cider"] is None


BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("place", ["answers", "references"])
def test_a_line_break_of_any_kind_leaves_every_caption_in_its_place(place):
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java here")
    plain = [f"a dog number {i} runs on grass" for i in range(len(BREAKS) + 1)]
    broken = [text.replace(" runs", f"{sign} runs") for text, sign in zip(plain, BREAKS, strict=False)] + plain[-1:]
    answers, references = (broken, plain) if place == "answers" else (plain, broken)
    found, made = captions.tokenize(answers, [[text] for text in references])
    assert [each for [each] in made.values()] == [each for [each] in found.values()] == plain


def test_half_of_a_surrogate_pair_is_a_sign_like_others():
    """Answers may hold it: records.jsonl keeps it as an escape."""
    assert captions.one_line("a \ud800dog\u2028runs") == "a ?dog runs"


def test_shifted_lines_are_refused():
    class Shifting:
        def tokenize(self, captions):
            texts = [row["caption"] for rows in captions.values() for row in rows]
            return dict(zip(captions, [[text] for text in ["", *texts]], strict=False))

    with pytest.raises(BadData, match="another number of lines than it was given captions"):
        captions._lines_kept(Shifting(), [["a"], ["b"]])


@pytest.mark.slow
def test_coco_metrics_are_pycocoevalcaps():
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java here")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    references, answers = captions.tokenize(ANSWERS, REFERENCES)
    m = Captions("rouge_l;cider;meteor").score(RECORDS).metrics
    assert m["rouge_l"] == pytest.approx(Rouge().compute_score(references, answers)[0])
    assert m["cider"] == pytest.approx(Cider().compute_score(references, answers)[0])
    assert m["meteor"] == pytest.approx(Meteor().compute_score(references, answers)[0])


METEOR = [  # what the jar counts in five captions, and what it makes of some sums of them
    "2 2 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 2 2",
    "1 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    "7 6 3 2 4 4 1 1 0 0 0 0 0 0 0 0 0 0 0 0 2 5 5",
    "3 7 1 4 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 2 2",
    "8 7 3 3 3 3 2 2 1 1 0 0 0 0 0 0 0 0 0 0 2 6 6",
]


@pytest.mark.parametrize(
    ("rows", "score"),
    [
        ([0], 1.0),
        ([1], 0.0),
        ([2], 0.45979399167953294),
        ([0, 1], 0.5095541401273885),
        ([0, 2], 0.49920773973432836),
        ([2, 3, 4], 0.3604378940797281),
        ([0, 2, 3, 4], 0.38337858047051465),
    ],
)
def test_meteor_of_summed_counts_is_the_jars(rows, score):
    assert captions.meteor_of(total(captions.meteor_line(METEOR[i]) for i in rows)) == pytest.approx(score)


def test_answers_in_cocos_format():
    (text,) = Captions().answer_files([record(7, "A dog.")]).values()
    assert json.loads(text) == [{"image_id": 7, "caption": "A dog."}]
