"""From free text to yes, no, a letter or a number. None means unread: counted and shown, never guessed.

Tools disagree on what "There isn't a dog." says, so a reading has a dialect, named beside every number. Each dialect
reproduces one public script, quirks included; `strict` is ours.
"""

import re
from collections.abc import Callable, Sequence

from ...errors import UnknownName
from ...registry import did_you_mean

YES_NO_DIALECTS = {
    "pope": "AoiDragon/POPE evaluate.py and LLaVA eval_pope.py: 'No', 'not' or 'no' as a word of the first sentence, else yes",
    "opera": "shikiw/OPERA pope_eval.py: 'No', 'not', 'no', 'NO' or a word ending in n't anywhere, else yes",
    "vcd": "DAMO-NLP-SG/VCD eval_pope.py: right where the label's word occurs anywhere in the answer; no reading without a label",
    "lmms": "lmms-eval pope: the whole answer is yes or no, case aside; a full stop makes it unread",
    "mme": "MME calculation.py: yes, then no, among the first four characters, case aside",
    "lmms-mme": "lmms-eval mme: as mme, after stripping blanks and full stops; a single y or n counts",
    "vlmevalkit": "VLMEvalKit YOrN_Extraction: exactly one of the words yes and no, punctuation aside",
    "amber": "AMBER inference.py: exactly 'Yes' or 'No'",
    "chinese": "ours: the first clause with 是, 有 or 对 (yes), 否, 没有 or 不 (no), or English yes or no; both in it: unread",
    "strict": "ours: starts with the word yes or no, and the other word does not follow in the same sentence",
}
READS_ALL = ("pope", "opera", "vcd")
"""Dialects that read every answer as yes or no, gibberish too."""
WITHOUT_LABEL = [name for name in YES_NO_DIALECTS if name != "vcd"]
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def parse_yes_no(text: str, dialect: str = "pope", label: str | None = None) -> str | None:
    """'yes', 'no' or None (unread). `label` is needed by the dialect vcd alone, which reads an answer by its label."""
    if dialect not in _READERS:
        raise UnknownName(f"No dialect {dialect!r}.{did_you_mean(dialect, YES_NO_DIALECTS)}")
    if dialect == "vcd":
        return _vcd(text, label)
    return _READERS[dialect](text)


def _pope(text: str) -> str:
    first = text.split(".")[0] if "." in text else text
    # Split at single blanks only: a newline stays glued to its word, and "\nNo" is read as yes.
    words = first.replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _opera(text: str) -> str:
    words = text.replace(".", "").replace(",", "").split(" ")
    negative = any(word in ("No", "not", "no", "NO") or word.endswith("n't") for word in words)
    return "no" if negative else "yes"


def _vcd(text: str, label: str | None) -> str:
    if label is None:
        raise UnknownName("The dialect 'vcd' reads an answer by its label; give label='yes' or label='no'.")
    other = "no" if label == "yes" else "yes"
    return label if label in text.lower().strip() else other


def _lmms(text: str) -> str | None:
    answer = text.lower().strip()
    return answer if answer in ("yes", "no") else None


def _mme(text: str) -> str | None:
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _lmms_mme(text: str) -> str | None:
    answer = text.lower().strip().replace(".", "")
    if len(answer) == 1:
        return {"y": "yes", "n": "no"}.get(answer)
    return _mme(answer)


def _vlmevalkit(text: str) -> str | None:
    words = strip_punctuation(text.lower()).split()
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


def _amber(text: str) -> str | None:
    return {"Yes": "yes", "No": "no"}.get(text)


def _strict(text: str) -> str | None:
    sentence = re.split(r"[.!?\n]", text.strip().lower(), maxsplit=1)[0]
    words = re.findall(r"[a-z']+", sentence)
    if not words or words[0] not in ("yes", "no"):
        return None
    other = "no" if words[0] == "yes" else "yes"
    return None if other in words else words[0]


# Longest first, so that 没有 is not taken for 有 nor 不是 for 是.
_CHINESE = {
    "asks": "是否|有没有|是不是|有无|能否",
    "unsure": "不确定|不清楚|不知道|不一定|无法|看不出|看不清",
    "no": r"不是|没有|不存在|不对|不正确|错误|否|没|無|无|不|\bno\b|\bnot\b",
    "yes": r"是的|有的|正确|存在|是|有|对|對|\byes\b",
}
_CHINESE_WORD = re.compile("|".join(f"(?P<{kind}>{words})" for kind, words in _CHINESE.items()))


def _chinese(text: str) -> str | None:
    for clause in re.split(r"[，,。.！!？?；;：:、\s]+", text.lower()):
        kinds = {match.lastgroup for match in _CHINESE_WORD.finditer(clause)}
        if kinds and "asks" not in kinds:  # a clause that asks only repeats the question
            return next(iter(kinds & {"yes", "no"})) if len(kinds) == 1 and "unsure" not in kinds else None
    return None


YES_NO_WORD = re.compile(r"\b(?:yes|no|not|none|nope|yeah|yep)\b|n't\b|n’t\b|[是否有没無无]", re.IGNORECASE)


def wordless(text: str, dialect: str) -> dict[str, int]:
    """{"wordless": 1 or 0}, whether an answer lacks a yes or no word; empty for dialects that leave such answers unread."""
    return {"wordless": int(YES_NO_WORD.search(text) is None)} if dialect in READS_ALL else {}


_READERS: dict[str, Callable[..., str | None]] = {
    "pope": _pope,
    "opera": _opera,
    "vcd": _vcd,
    "lmms": _lmms,
    "mme": _mme,
    "lmms-mme": _lmms_mme,
    "vlmevalkit": _vlmevalkit,
    "amber": _amber,
    "chinese": _chinese,
    "strict": _strict,
}


def strip_punctuation(text: str) -> str:
    """The punctuation rule of the VQA evaluation (GT-Vision-Lab/VQA vqaEval.py, processPunctuation), used by many since.

    A sign is deleted where it touches a blank anywhere in the text, or where the text holds a number like 1,000; else it
    becomes a blank. Full stops not before a digit go, at most 32 of them: the script passes a flag as the count.
    """
    out, number = text, re.search(r"\d,\d", text) is not None
    for sign in PUNCTUATION:
        touches = sign + " " in text or " " + sign in text
        out = out.replace(sign, "" if touches or number else " ")
    return re.sub(r"\.(?!\d)", "", out, count=int(re.UNICODE))


LETTER_DIALECTS = {
    "llava": "LLaVA eval_science_qa.py: a lone letter, 'X. ...', or exactly one 'The answer is X'",
    "vlmevalkit": "VLMEvalKit can_infer since June 2026, without a language model: one option letter as a word, 'answer is X' "
    "with or without **, or one option's text",
    "vlmevalkit-2025": "VLMEvalKit can_infer from August 2025 to June 2026: the same without 'answer is X'",
    "strict": "ours: a lone option letter, also '(X)', 'X.', 'X:' or 'X)' before anything else",
}


def parse_letter(
    text: str, options: Sequence[str], dialect: str = "llava", letters: Sequence[str] | None = None
) -> str | None:
    """'A', 'B', ... or None (unread).

    `options` are the options' texts, in order; `letters` theirs, where they are not A, B, C, ...
    """
    letters = [chr(ord("A") + i) for i in range(len(options))] if letters is None else list(letters)
    if dialect == "llava":
        return _letter_llava(text, letters)
    if dialect in ("vlmevalkit", "vlmevalkit-2025"):
        return _letter_vlmevalkit(text, dict(zip(letters, options, strict=True)), dialect == "vlmevalkit")
    if dialect == "strict":
        match = re.fullmatch(r"\s*\(?([A-Z])(?:[.):]\s.*|[.):]?)\s*", text, re.DOTALL)
        return match[1] if match and match[1] in letters else None
    raise UnknownName(f"No dialect {dialect!r}.{did_you_mean(dialect, LETTER_DIALECTS)}")


def _letter_llava(text: str, letters: list[str]) -> str | None:
    # The script knows A to E whatever the number of options; a letter beyond them is wrong, so it counts as unread here.
    known = ["A", "B", "C", "D", "E"]
    if text in known:
        found = text
    elif len(text) >= 3 and text[0] in known and text[1:3] == ". ":
        found = text[0]
    else:
        hits = re.findall(r"The answer is ([A-Z]).", text)
        found = hits[0] if len(hits) == 1 else ""
    return found if found in letters else None


REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


API_FAILED = "Failed to obtain answer via API"
ANSWER_IS = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)


def _letter_vlmevalkit(text: str, options: dict[str, str], answer_is: bool) -> str | None:
    if API_FAILED not in text:
        if any(refusal in text for refusal in REFUSALS):
            return None
        words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
        hits = [letter for letter in options if letter in words]
        # Early in a long answer the letter A is more likely an article.
        if len(hits) == 1 and words.index(hits[0]) > len(words) - 5:
            return hits[0]
        if not hits and "Z" in words:
            return None
        # The script asks for no end of the word: "the answer is cat" is read as C.
        said = ANSWER_IS.search(text) if answer_is else None
        if said and said[1].upper() in options:
            return said[1].upper()
    lower = text.lower()
    if len(lower) > 2 * sum(len(str(option)) for option in options.values()):
        return None
    named = [letter for letter, option in options.items() if str(option).lower() in lower]
    return named[0] if len(named) == 1 else None
