"""What every dialect reads, on the answers that divide them."""

import pytest

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.reading.parsing import YES_NO_DIALECTS, parse_letter, parse_yes_no

# answer | POPE = LLaVA | OPERA | VCD (label yes / label no: is it right?) | lmms-eval pope | MME | lmms-eval mme | VLMEvalKit
# Measured by running the seven public scripts on these strings. "-" is unread.
TABLE = [
    ("Yes", "yes", "yes", "yes/yes", "yes", "yes", "yes", "yes"),
    ("yes", "yes", "yes", "yes/yes", "yes", "yes", "yes", "yes"),
    ("No", "no", "no", "no/no", "no", "no", "no", "no"),
    ("no", "no", "no", "no/no", "no", "no", "no", "no"),
    ("NO", "yes", "no", "no/no", "no", "no", "no", "no"),
    ("Yes.", "yes", "yes", "yes/yes", "-", "yes", "yes", "yes"),
    ("No.", "no", "no", "no/no", "-", "no", "no", "no"),
    ("Yes, there is a dog.", "yes", "yes", "yes/yes", "-", "yes", "yes", "yes"),
    ("There is a dog.", "yes", "yes", "no/yes", "-", "-", "-", "-"),
    ("There is no dog.", "no", "no", "no/no", "-", "-", "-", "no"),
    ("There isn't a dog.", "yes", "no", "no/yes", "-", "-", "-", "-"),
    ("There are none.", "yes", "yes", "no/no", "-", "-", "-", "-"),
    ("Nope", "yes", "yes", "no/no", "-", "no", "no", "-"),
    ("", "yes", "yes", "no/yes", "-", "-", "-", "-"),
    ("I am not sure", "no", "no", "no/no", "-", "-", "-", "-"),
    ("Yes, it is not empty", "no", "no", "yes/no", "-", "yes", "yes", "yes"),
    ("\nNo", "yes", "yes", "no/no", "no", "no", "no", "no"),
    ("No\nThe image", "yes", "yes", "no/no", "-", "no", "no", "no"),
    ("Another dog is visible", "yes", "yes", "no/no", "-", "no", "no", "-"),
]


@pytest.mark.parametrize(
    ("answer", "pope", "opera", "vcd", "lmms", "mme", "lmms_mme", "kit"), TABLE, ids=[repr(r[0]) for r in TABLE]
)
def test_dialects_read_as_their_scripts(answer, pope, opera, vcd, lmms, mme, lmms_mme, kit):
    read = {
        dialect: parse_yes_no(answer, dialect) or "-"
        for dialect in ("pope", "opera", "lmms", "mme", "lmms-mme", "vlmevalkit")
    }
    assert read == {"pope": pope, "opera": opera, "lmms": lmms, "mme": mme, "lmms-mme": lmms_mme, "vlmevalkit": kit}
    both = "/".join(parse_yes_no(answer, "vcd", label) for label in ("yes", "no"))
    assert both == vcd


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        (" NO! The image", "no"),
        ("Yes, there is a dog.", "yes"),
        ("Yes and no.", None),
        ("I cannot tell.", None),
        ("There is no dog.", None),
        ("Nobody", None),
        ("yes\nno", "yes"),
        ("", None),
    ],
)
def test_strict_reads_no_more_than_is_said(answer, read):
    assert parse_yes_no(answer, "strict") == read


@pytest.mark.parametrize(
    ("answer", "read"), [("Yes", "yes"), ("No", "no"), ("yes", None), ("Yes.", None), ("No ", None), ("", None)]
)
def test_amber_wants_the_exact_word(answer, read):
    assert parse_yes_no(answer, "amber") == read


def test_unknown_dialect_suggests():
    with pytest.raises(UnknownName, match="No dialect 'pop'. Did you mean 'pope'"):
        parse_yes_no("yes", "pop")


def test_vcd_needs_the_label():
    with pytest.raises(UnknownName, match="reads an answer by its label; give label='yes' or label='no'"):
        parse_yes_no("yes", "vcd")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("是", "yes"), ("是的，图中有一只狗。", "yes"), ("有", "yes"), ("对。", "yes"),
        ("图片中有一只狗。", "yes"),
        ("否", "no"), ("不是", "no"), ("没有，图中只有一只猫", "no"), ("图片中没有狗。", "no"), ("不，图中有猫", "no"),
        ("無", "no"),
        ("Yes", "yes"), ("No.", "no"), ("yes, 是", "yes"), ("图中有狗，没有猫", "yes"), ("不存在", "no"),
        ("是否有狗", None), ("无法确定", None), ("不确定", None), ("有没有狗？", None),
        ("我看到一只猫", None), ("nothing", None), ("", None),
        ("有没有狗？没有", "no"),
    ],
)  # fmt: skip
def test_chinese(answer, read):
    assert parse_yes_no(answer, "chinese") == read


def test_every_dialect_names_its_script():
    assert all(len(words) > 20 for words in YES_NO_DIALECTS.values())


OPTIONS = ["a cat", "a dog", "two dogs", "a bird"]


@pytest.mark.parametrize(
    ("answer", "llava", "kit", "strict"),
    [
        ("B", "B", "B", "B"),
        ("b", None, None, None),
        ("B.", None, "B", "B"),
        ("(B)", None, "B", "B"),
        ("B. a dog", "B", "B", "B"),
        ("The answer is B.", "B", "B", None),
        ("The answer is B", None, "B", None),
        ("The answer is B. The answer is C.", None, "B", None),
        ("a bird", None, "D", None),
        ("A bird sits on B and C", None, "D", None),
        ("dog", None, None, None),
        ("E", None, None, None),
        ("Z", None, None, None),
        ("", None, None, None),
        ("Cannot determine the answer B", None, None, None),
    ],
)
def test_letters(answer, llava, kit, strict):
    read = tuple(parse_letter(answer, OPTIONS, dialect) for dialect in ("llava", "vlmevalkit", "strict"))
    assert read == (llava, kit, strict)


@pytest.mark.parametrize(
    ("answer", "since", "before"),
    [
        ("The correct answer is **B**. Here's why: it has whiskers, it purrs and it meows.", "B", None),
        ("ANSWER IS *b* as I said at length, since it barks", "B", None),
        ("I think the answer is cat, a small animal", "C", None),  # the script asks for no end of the word
        ("The answer is B", "B", "B"),
        ("answer is E of the five that are on offer here", None, None),
        ("Failed to obtain answer via API. The answer is B", None, None),
    ],
)
def test_vlmevalkit_reads_verbose_answers_since_june_2026(answer, since, before):
    assert parse_letter(answer, OPTIONS, "vlmevalkit") == since
    assert parse_letter(answer, OPTIONS, "vlmevalkit-2025") == before


def test_letters_with_a_gap_are_those_of_the_file():
    assert parse_letter("D", ["cat", "dog"], "vlmevalkit", "AD") == "D"
    assert parse_letter("a dog", ["cat", "dog"], "vlmevalkit", "AD") == "D"
    assert parse_letter("B", ["cat", "dog"], "strict", "AD") is None


def test_unknown_letter_dialect():
    with pytest.raises(UnknownName, match="No dialect 'lava'. Did you mean 'llava'"):
        parse_letter("A", OPTIONS, "lava")
