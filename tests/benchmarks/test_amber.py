"""AMBER's bookkeeping by hand, and over the official files against the figures the official script printed."""

import json

import pytest
from benchmarks.made import record

from vlm_anchors.errors import BadData, MissingPackage, UnknownName
from vlm_anchors.evaluation.benchmarks import amber
from vlm_anchors.evaluation.benchmarks.amber import Amber, generative_counts
from vlm_anchors.evaluation.reading import language

ASSOCIATION = {"sky": [], "person": ["man", "woman"], "dog": ["puppy"], "cat": ["kitten"], "cloud": []}


def described(nouns, truth=("sky", "person"), hallu=("cloud", "dog"), similar=lambda a, b: a == b):
    return generative_counts(nouns, truth, hallu, ASSOCIATION, ["orange"], similar)


def test_truths_associates_and_safe_words_are_no_inventions():
    counts = described(["sky", "woman", "man", "orange"])
    assert (counts["nouns"], counts["invented"], counts["covered"], counts["truths"]) == (4, 0, 2, 2)
    assert (counts["clean"], counts["right"], counts["likely_made"]) == (1, 1, 0)


def test_likely_inventions_are_marked_once_each():
    counts = described(["puppy", "dog", "cat"])
    assert (counts["invented"], counts["likely_made"], counts["likely"], counts["clean"]) == (3, 1, 2, 0)


def test_likeness_to_a_truth_forgives_and_covers():
    counts = described(["kitten"], similar=lambda noun, word: {noun, word} == {"kitten", "sky"})
    assert (counts["invented"], counts["covered"]) == (0, 1)


def test_likeness_to_a_likely_invention_marks_it_even_if_forgiven():
    counts = described(["kitten"], similar=lambda noun, word: word in ("sky", "cloud"))
    assert (counts["invented"], counts["likely_made"]) == (0, 1)


def test_printed_numbers_start_at_a_thousandth():
    truth = {"truth": ["sky"], "hallu": ["dog"]}
    counts = generative_counts(["dog"], **truth, association=ASSOCIATION, safe_words=[], similar=lambda a, b: a == b)
    assert amber.generative_metrics(counts) == {"chair": 99.9, "cover": 0.0, "hal": 100.0, "cog": 99.9}


def questions(pairs, group="relation", dialect="amber"):
    return Amber(dialect).score([record(i, a, group=group, label=b) for i, (b, a) in enumerate(pairs)])


def test_no_is_the_positive_class_and_words_must_be_exact():
    score = questions([("no", "No"), ("no", "no"), ("no", "Yes"), ("yes", "No"), ("yes", "Yes"), ("yes", "Yes.")])
    assert score.metrics["accuracy"] == round(2 / 6.001 * 100, 1)
    assert score.metrics["precision"] == round(1 / 2.001 * 100, 1)
    assert score.metrics["recall"] == round(1 / 3.001 * 100, 1)
    assert score.unread == 2


def test_f1_is_of_rounded_numbers_with_its_own_constant():
    four_of_five = [("no", "No")] * 4 + [("no", "Yes")] * 1
    assert questions(four_of_five).metrics["f1"] == 88.9
    assert questions(four_of_five, "existence").metrics["f1"] == 88.8
    assert questions(four_of_five, "existence").metrics["existence_f1"] == 88.8


def test_another_dialect_reads_more():
    assert questions([("no", "no."), ("yes", "Yes, it is")], dialect="strict").metrics["accuracy"] == 100.0


def test_amber_score_joins_both_halves(monkeypatch, tmp_path):
    (tmp_path / "relation.json").write_text(json.dumps(ASSOCIATION))
    (tmp_path / "safe_words.txt").write_text("orange\n")
    records = [record(1, "sky dog dog cat", group="generative", truth=["sky"], hallu=["dog"])]
    records += [record(2, "No", group="relation", label="no")]
    bench = Amber(words=str(tmp_path), nouns="plain", similarity="exact")
    score = bench.score(records)
    assert score.metrics["chair"] == 75.0
    assert score.metrics["amber"] == (100 - 75.0 + score.metrics["f1"]) / 2
    assert "nouns plain, similarity exact" in score.note
    assert Amber().at(tmp_path).words == str(tmp_path)


def test_descriptions_need_their_word_lists():
    with pytest.raises(BadData, match=r"need relation\.json and safe_words\.txt; give their folder"):
        Amber().score([record(1, "x", group="generative", truth=[], hallu=[])])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(
        MissingPackage, match=r'needs nltk, which is not installed. Run: pip install "vlm-anchors\[eval\]"'
    ):
        language.nltk_nouns("a dog")
    with pytest.raises(MissingPackage, match="needs spaCy and its large model"):
        language.spacy_similar(0.8)


def test_missing_nltk_data_is_a_sentence():
    def fails():
        raise LookupError("a page of text")

    with pytest.raises(
        MissingPackage, match="needs NLTK's data, which is not on this machine. Run: python -m nltk.downloader"
    ):
        language.with_nltk_data(fails, "This")


@pytest.mark.parametrize("parameter", [{"dialect": "vcd"}, {"nouns": "nltkk"}, {"similarity": "spcy"}])
def test_unknown_dials(parameter):
    with pytest.raises(UnknownName, match=r"amber has no (dialect|nouns|similarity) .*Known"):
        Amber(**parameter)


def test_broken_folders(tmp_path):
    notes = tmp_path / "annotations.json"
    notes.write_text('[{"id": 1, "type": "odd", "truth": "yes"}]')
    with pytest.raises(BadData, match=r"entry 1: expected 'generative' or .* in the field 'type'; found 'odd'"):
        Amber().questions(tmp_path)
    notes.write_text('[{"id": 1, "type": "relation", "truth": "yes"}]')
    with pytest.raises(BadData, match=r"holds no query_generative\.json"):
        Amber().questions(tmp_path)
    query = tmp_path / "query_discriminative.json"
    query.write_text('[{"id": 2, "image": "a.jpg", "query": "?"}]')
    with pytest.raises(BadData, match=r"annotations\.json has no id 2"):
        Amber().questions(tmp_path)


def test_what_scoring_descriptions_needs_is_checked_before_the_first_answer(tmp_path):
    (tmp_path / "query_generative.json").write_text('[{"id": 1, "image": "a.jpg", "query": "Describe."}]')
    (tmp_path / "annotations.json").write_text('[{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["cow"]}]')
    with pytest.raises(BadData, match=r"need relation\.json and safe_words\.txt"):
        Amber().questions(tmp_path)
    (tmp_path / "relation.json").write_text('{"sky": ["cloud"]}')
    with pytest.raises(BadData, match=r"There is no file .*safe_words\.txt"):
        Amber().questions(tmp_path)
    (tmp_path / "safe_words.txt").write_text("orange\n")
    with pytest.raises(BadData, match=r"relation\.json lacks the word 'cow' of annotations\.json"):
        Amber().questions(tmp_path)
    (tmp_path / "relation.json").write_text('{"sky": ["cloud"], "cow": "bull"}')
    with pytest.raises(BadData, match="word 'cow': expected a list of texts that are not empty; found 'bull'"):
        Amber().questions(tmp_path)
    (tmp_path / "relation.json").write_text('{"sky": ["cloud"], "cow": ["bull"]}')
    assert len(Amber().questions(tmp_path)) == 1


def answer(question):
    """Mechanical answers that were also given to the official script, with nouns split at blanks and exact likeness."""
    number = int(question.id)
    if question.group != "generative":
        return ["Yes", "No", "no", "No", "Yes"][number % 5]
    words = [*question.truth["truth"], *question.truth["hallu"]][number % 3 :: 3]
    return " ".join([*words, *(["pipe"] if number % 7 == 0 else [])])


def test_official_files_give_the_official_scores(official, monkeypatch):
    folder = official("amber")
    monkeypatch.setattr(amber, "nltk_nouns", str.split)
    asked = Amber().questions(folder)
    assert len(asked) == 1004 + 14216
    score = Amber(words=str(folder), similarity="exact").score([q.record(answer(q)) for q in asked])
    m = score.metrics
    assert (m["chair"], m["cover"], m["hal"], m["cog"]) == (45.1, 33.3, 96.3, 30.4)
    assert (m["accuracy"], m["precision"], m["recall"], m["f1"]) == (40.1, 66.4, 40.1, 50.0)
    assert (m["existence_f1"], m["attribute_f1"], m["relation_f1"]) == (57.1, 44.4, 41.3)
    state = score.parts["attribute-state"].metrics
    assert (state["accuracy"], state["precision"], state["recall"], state["f1"]) == (39.7, 49.4, 39.8, 44.1)
