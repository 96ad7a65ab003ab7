"""Words of a caption: tokens, singulars, double words. Pure Python, needs no data.

`pattern` gives what the official CHAIR script gets from pattern.en, defects included ("bus" -> "bu", "ties" -> "ty",
"canoes" -> "cano"), for every word that is, or could become, a word CHAIR knows; `fixed` is plain English.
"""

import re

from ...scenes.coco import CATEGORIES as COCO

# Ways people write a COCO object in two words, and two phrases that are listed only to swallow their second or first word.
SPELLINGS = (
    "motor bike|motor cycle|air plane|street light|traffic signal|stop light|suit case|mobile phone|laptop computer|"
    "home plate|train track"
).split("|")
ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()


def double_words(names_only: bool = False) -> dict[str, str]:
    """Two words -> the one they count as. The official rules leave "dining table" to its second word, a synonym."""
    table = {name: name for name in (*COCO, *SPELLINGS) if " " in name and (names_only or name != "dining table")}
    if names_only:  # words are in the singular by the time they are joined; the official list has "ball" for it
        table["sport ball"] = "sports ball"
    for animal in ANIMALS:  # "baby bird" is no baby
        table[f"baby {animal}"] = table[f"adult {animal}"] = animal
    for vehicle in ("jet", "train"):
        table[f"passenger {vehicle}"] = vehicle
    # "glas" is what the official singular of "glass" is.
    return table | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


ABBREVIATIONS = frozenset("mr mrs ms dr st jr sr vs e.g i.e u.s u.k a.m p.m no etc approx inc co".split())


def tokens(text: str) -> list[str]:
    """Words and signs as nltk.word_tokenize divides lower-case captions (Treebank rules, sentence ends at full stops)."""
    text = re.sub(r"([;@#$%&?!*()\[\]{}<>\"“”«»„`\u2012-\u2015]|''|--|\.{2,})", r" \1 ", text)
    text = re.sub(r"([:,])(?!\d)", r" \1 ", text)
    text = re.sub(r"([‘’])", r" \1 ", text)
    # An apostrophe before a word begins a quotation, unless the two are a short form's ending.
    text = re.sub(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", " ' ", text)
    found: list[str] = []
    for word in text.split():
        found.extend(_split_word(word))
    return found


def _split_word(word: str) -> list[str]:
    """A full stop at the end and the endings of short forms are tokens of their own."""
    if len(word) > 1 and word.endswith(".") and word[:-1] not in ABBREVIATIONS and not re.fullmatch(r"\.+", word):
        return [*_split_word(word[:-1]), "."]
    if len(word) > 1 and word.endswith("'") and word[-2] != "'":
        return [*_split_word(word[:-1]), "'"]
    if word == "cannot":
        return ["can", "not"]
    if match := re.fullmatch(r"(.*[^' ])('s|'m|'d|'ll|'re|'ve|n't)", word):
        return [match[1], match[2]]
    return [word]


_IRREGULAR = {"people": "person", "children": "child", "men": "man", "geese": "goose", "oxen": "ox", "kine": "cow"}
_LEFT = ("collies", "doggies")  # pattern.en lists them as plurals in -ie, and returns them as they are
_UNCHANGED = frozenset("scissors aircraft bison cattle luggage series species".split())
_ENDINGS = [
    (re.compile(rule), to)
    for rule, to in (
        (r"(quiz)zes$", r"\1"),
        (r"^(ox)en", r"\1"),
        (r"(bus)es$", r"\1"),
        (r"(alias|status)es$", r"\1"),
        (r"([octpvir|])i$", r"\1us"),
        (r"(cris|ax|test)es$", r"\1is"),
        (r"(shoe)s$", r"\1"),
        (r"(o)es$", r"\1"),
        (r"([ml|])ice$", r"\1ouse"),
        (r"(x|ch|ss|sh)es$", r"\1"),
        (r"(movie|ombie|series)s?$", r"\1"),
        (r"([^aeiouy]|qu)ies$", r"\1y"),
        (r"([aeo]l)ves$", r"\1f"),
        (r"([^d]ea)ves$", r"\1f"),
        (r"arves$", "arf"),
        (r"erves$", "erve"),
        (r"([nlw]i)ves$", r"\1fe"),
        (r"([lr])ves$", r"\1f"),
        (r"([aeo]|si|ti|hi)ves$", r"\1ve"),
        (r"([^f])ves$", r"\1fe"),
        (r"(analy|ba|diagno|parenthe|progno|synop|the)ses$", r"\1sis"),
        (r"(.)(op|y)ses$", r"\1\2sis"),
        (r"([hdronbp]|cl)oses$", r"\1ose"),
        (r"(.)oses$", r"\1osis"),
        (r"([ti])a$", r"\1um"),
        (r"s$", ""),
    )
]


def pattern(word: str) -> str:
    """The singular as pattern.en's rules make it, whatever the word is: a final s goes from "bus" and "glass" too."""
    if word in _UNCHANGED or word.endswith(("'", *_LEFT)):
        return word
    for plural, singular in _IRREGULAR.items():
        if word.endswith(plural):
            return word.removesuffix(plural) + singular
    for rule, to in _ENDINGS:
        if rule.search(word):
            return rule.sub(to, word)
    return word


_KEEP = re.compile(r"(ss|us|is|'s)$|^(gas|lens|always|perhaps|news|tennis|chess|jeans|pants|shorts|glasses)$")
_IE = frozenset(
    "ties neckties bowties pies magpies cookies collies doggies birdies zombies movies hoagies selfies".split()
)
_OE = frozenset("canoes shoes horseshoes toes hoes oboes".split())


def fixed(word: str) -> str:
    """The singular in plain English: "bus" stays, "ties" is "tie", "canoes" is "canoe"."""
    if word in ("mice", "skis"):
        return {"mice": "mouse", "skis": "ski"}[word]
    if word in _UNCHANGED or (_KEEP.search(word) and word != "glasses" and not word.endswith("buses")):
        return word
    if word in _IE or word in _OE:
        return word[:-1]
    if word == "slice" or re.search(r"[^ml]ice$|police$|slice$", word) or re.search(r"[tiocpvr][ai]$", word):
        return word
    return pattern(word)
