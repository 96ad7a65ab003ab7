"""NLTK and spaCy, where a benchmark's official number needs them; loaded when asked for, with a sentence where missing."""

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

from ...errors import MissingPackage


def install(package: str, what: str) -> MissingPackage:
    """The error for an optional package that is not there."""
    return MissingPackage(f'{what} needs {package}, which is not installed. Run: pip install "vlm-anchors[eval]"')


def nltk_module(what: str) -> Any:
    """nltk itself."""
    try:
        import nltk
    except ImportError:
        raise install("nltk", what) from None
    return nltk


def nltk_version() -> str:
    """The version that divides words: 3.10 does so otherwise than 3.9."""
    try:
        return f"nltk {importlib.metadata.version('nltk')}"
    except importlib.metadata.PackageNotFoundError:
        return "nltk"


def with_nltk_data(call: Callable[[], Any], what: str) -> Any:
    """Runs `call`; NLTK's page-long complaint about missing data becomes a sentence."""
    try:
        return call()
    except LookupError:
        raise MissingPackage(
            f"{what} needs NLTK's data, which is not on this machine. "
            f"Run: python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet"
        ) from None


def nltk_nouns(text: str) -> list[str]:
    """AMBER's extract_nouns: word_tokenize, pos_tag, WordNet lemma of every NN*."""
    nltk = nltk_module("AMBER's noun extraction")
    lemmatizer = nltk.stem.WordNetLemmatizer()

    def extract() -> list[str]:
        tagged = nltk.pos_tag(nltk.word_tokenize(text))
        return [lemmatizer.lemmatize(word) for word, tag in tagged if tag.startswith("NN")]

    return with_nltk_data(extract, "AMBER's noun extraction")


def spacy_similar(threshold: float) -> Callable[[str, str], bool]:
    """AMBER's check_synonyms_word: spaCy en_core_web_lg vectors, cosine above the threshold."""
    try:
        import spacy
    except ImportError:
        raise MissingPackage(
            "AMBER's word likeness needs spaCy and its large model. Run: pip install spacy && python -m spacy download "
            "en_core_web_lg; or choose similarity=exact, which is not the official number."
        ) from None
    try:
        model = spacy.load("en_core_web_lg")
    except OSError:
        raise MissingPackage(
            "AMBER's word likeness needs spaCy's large model. Run: python -m spacy download en_core_web_lg; "
            "or choose similarity=exact, which is not the official number."
        ) from None
    vector = functools.cache(model)
    return functools.cache(lambda one, other: vector(one).similarity(vector(other)) > threshold)


def wordnet_lemmas(text: str) -> list[str]:
    """OPERA's chair.py: word_tokenize, pos_tag, WordNet lemma by part of speech (noun where WordNet has none)."""
    nltk = nltk_module("CHAIR with lemma=wordnet")
    lemmatizer = nltk.stem.WordNetLemmatizer()
    kinds = {"J": "a", "V": "v", "N": "n", "R": "r"}

    def lemmas() -> list[str]:
        tagged = nltk.pos_tag(nltk.word_tokenize(text))
        return [lemmatizer.lemmatize(word, pos=kinds.get(tag[0], "n")) for word, tag in tagged]

    return with_nltk_data(lemmas, "CHAIR with lemma=wordnet")


def nltk_tokens(text: str) -> list[str]:
    """nltk.word_tokenize, the official tokenizer."""
    nltk = nltk_module("tokenizer=nltk")
    return with_nltk_data(lambda: nltk.word_tokenize(text), "tokenizer=nltk")
