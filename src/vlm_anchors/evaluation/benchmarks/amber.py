"""AMBER: describe an image without inventing (generative) and answer about it (discriminative).     arXiv 2311.07397

    CHAIR = invented nouns / kept nouns   Cover = truths named / truths   Hal = responses with an invention / responses
    Cog = likely inventions made / likely inventions      all over the corpus, denominators start at 0.001
    discriminative: the positive class is "No";  F1 = 2 P R / (P + R + 0.0001) of the ROUNDED P and R (existence + 0.001)
    AMBER score = (100 - CHAIR + F1) / 2

Script: junyangwang0410/AMBER inference.py; percents rounded to one place as it prints them. It takes nouns from NLTK and
likeness from spaCy's en_core_web_lg; both can be given (`nouns`, `similar` of `generative_counts`), and `similarity="exact"`
counts exact words and listed associations only. Every existence question has the answer "no", so its precision is idle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..reading.files import of_split, read_list, read_object, read_text, rows, unique
from ..reading.language import nltk_nouns, nltk_version, spacy_similar
from ..reading.official import in_file_order, json_array
from ..reading.parsing import WITHOUT_LABEL, parse_yes_no, wordless
from ..reading.schema import LABEL, LABELLED, NUMBER, WORDS, Schema, list_of, short, words_of
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled

GROUPS = {
    "generative": "generative",
    "discriminative-attribute-state": "attribute-state",
    "discriminative-attribute-number": "attribute-number",
    "discriminative-attribute-action": "attribute-action",
    "discriminative-hallucination": "existence",
    "discriminative-relation": "relation",
    "relation": "relation",
}
ATTRIBUTES = ("attribute-state", "attribute-number", "attribute-action")
QUERY = Schema(id=NUMBER, image=WORDS, query=WORDS)
NOTE = Schema(id=NUMBER, type=words_of(*GROUPS))
DESCRIBED = Schema(truth=list_of(WORDS), hallu=list_of(WORDS))
ASKED = Schema(truth=LABEL)
START = 0.001  # metrics.txt starts every denominator there


@dataclass(frozen=True)
class Amber(Benchmark):
    """AMBER; `words` is the folder with relation.json and safe_words.txt, needed for descriptions alone."""

    dialect: str = "amber"
    words: str = ""
    nouns: str = "nltk"
    similarity: str = "spacy"

    name = "amber"
    version = "2023-11 (1004 descriptions, 14216 questions)"
    source = "arXiv 2311.07397; github.com/junyangwang0410/AMBER"
    licence = "Apache-2.0"
    note = (
        "Descriptions need NLTK and spaCy's large model for the official number. An answer must be exactly Yes or No."
    )
    metrics_of = (
        Metric("f1", "higher", "percent"),
        Metric("accuracy", "higher", "percent"),
        Metric("precision", "higher", "percent"),
        Metric("recall", "higher", "percent"),
        Metric("chair", "lower", "percent"),
        Metric("cover", "higher", "percent"),
        Metric("hal", "lower", "percent"),
        Metric("cog", "lower", "percent"),
        Metric("existence_f1", "higher", "percent"),
        Metric("attribute_f1", "higher", "percent"),
        Metric("relation_f1", "higher", "percent"),
        Metric("amber", "higher", "percent"),
    )
    protocols = ("amber-official", "vlmevalkit", "llava")

    def __post_init__(self):
        one_of(self, "dialect", WITHOUT_LABEL)
        one_of(self, "nouns", ("nltk", "plain"))
        one_of(self, "similarity", ("spacy", "exact"))

    def remark(self) -> str:
        nouns = nltk_version() if self.nouns == "nltk" else self.nouns
        return f"dialect {self.dialect}, nouns {nouns}, similarity {self.similarity}"

    def at(self, data: Path) -> "Amber":
        return self if self.words else replace(self, words=str(data if data.is_dir() else data.parent))

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """The official `data` folder: annotations.json, and query_*.json in it or below it."""
        by_id = _notes(data / "annotations.json")
        paths = [
            p for p in sorted(data.rglob("query_*.json")) if p.stem in ("query_discriminative", "query_generative")
        ]
        if not paths:
            raise BadData(
                f"{data} holds no query_generative.json or query_discriminative.json. Give AMBER's data folder."
            )
        found = of_split(unique([one for path in paths for one in _read(path, by_id)], data), split, data)
        described = [question.truth for question in found if question.group == "generative"]
        if described:  # what scoring needs is checked before the first answer
            association, _ = self.at(data).read_words()
            for truth in described:
                known_words(truth, association, data)
        return found

    def truth_of(self, group: str) -> Schema:
        return DESCRIBED if group == "generative" else LABELLED

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For inference.py: answers.json, [{"id", "response"}]."""
        rows_ = ({"id": int(record["id"]), "response": record["answer"]} for record in in_file_order(records))
        return {"answers.json": json_array(rows_)}

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        described = [record for record in records if record["group"] == "generative"]
        measure = self._describer() if described else None
        return [
            measure(record) if measure and record["group"] == "generative" else question_counts(record, self.dialect)
            for record in records
        ]

    def _describer(self) -> Callable[[Record], Counts]:
        association, safe = self.read_words()
        vocabulary = set(association) | {each for words in association.values() for each in words}
        nouns = nltk_nouns if self.nouns == "nltk" else plain_nouns
        similar = spacy_similar(0.8) if self.similarity == "spacy" else lambda one, other: one == other

        def measure(record: Record) -> Counts:
            known_words(record["truth"], association, Path(self.words))
            kept = [noun for noun in nouns(record["answer"]) if noun in vocabulary]
            return generative_counts(
                kept, record["truth"]["truth"], record["truth"]["hallu"], association, safe, similar
            )

        return measure

    def read_words(self) -> tuple[dict[str, list[str]], list[str]]:
        """(associated words of each word, words that are never counted) from the folder `words`."""
        folder = Path(self.words)
        if not self.words or not (folder / "relation.json").is_file():
            raise BadData(
                "AMBER's descriptions need relation.json and safe_words.txt; give their folder as words=FOLDER."
            )
        path = folder / "relation.json"
        association = read_object(path, "AMBER's words with those associated, an object of lists")
        for word, others in association.items():
            if not list_of(WORDS).fits(others):
                raise BadData(
                    f"{path}, word {word!r}: expected {list_of(WORDS).words}; found {short(others)}. Correct it."
                )
        return association, read_text(folder / "safe_words.txt").split("\n")

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        described = parts.get("generative", {})
        asked = {group: counts for group, counts in parts.items() if group != "generative"}
        metrics = {metric.name: None for metric in self.metrics_of} | generative_metrics(described)
        if asked:
            only = next(iter(asked)) if len(asked) == 1 else ""
            # One dimension alone keeps its own constant in the F1, as its own lines of the official print do.
            metrics |= question_metrics(pooled(asked), 1, 0.001 if only == "existence" else 0.0001)
            for name, groups in (("existence", ("existence",)), ("attribute", ATTRIBUTES), ("relation", ("relation",))):
                if any(group in asked for group in groups):
                    counts = pooled({group: asked[group] for group in groups if group in asked})
                    constant = 0.001 if name == "existence" else 0.0001
                    metrics[f"{name}_f1"] = question_metrics(counts, len(groups), constant)["f1"]
        if metrics["chair"] is not None and metrics["f1"] is not None:
            metrics["amber"] = (100 - metrics["chair"] + metrics["f1"]) / 2
        return metrics


def _notes(path: Path) -> dict[int, dict]:
    """annotations.json by id."""
    by_id: dict[int, dict] = {}
    for number, note in enumerate(read_list(path, "AMBER's list of annotations"), 1):
        NOTE.check(note, f"{path}, entry {number}")
        if note["id"] in by_id:
            raise BadData(f"{path}, entry {number}: the id {note['id']} stands twice. Keep one entry an id.")
        (DESCRIBED if note["type"] == "generative" else ASKED).check(note, f"{path}, id {note['id']}")
        by_id[note["id"]] = note
    return by_id


def _read(path: Path, by_id: Mapping[int, Mapping]) -> list[Question]:
    found = []
    for place, row in rows(path):
        note = by_id.get(QUERY.check(row, place)["id"])
        if note is None:
            raise BadData(f"{place}: annotations.json has no id {row['id']}. Take both from the same release.")
        described = note["type"] == "generative"
        truth = {"truth": note["truth"], "hallu": note["hallu"]} if described else {"label": note["truth"]}
        found.append(Question(str(row["id"]), row["image"], row["query"], GROUPS[note["type"]], truth))
    return found


def known_words(truth: Mapping[str, Sequence[str]], association: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Every word of a description's truth has its line in relation.json, which the score goes by."""
    missing = [word for word in (*truth["truth"], *truth["hallu"]) if word not in association]
    if missing:
        raise BadData(
            f"{folder / 'relation.json'} lacks the word {missing[0]!r} of annotations.json. Take both files from the same "
            f"release."
        )


def question_counts(record: Record, dialect: str) -> Counts:
    """n, right, and the counts of the positive class "No"."""
    label, read = record["truth"]["label"], parse_yes_no(record["answer"], dialect)
    return {
        "n": 1,
        "right": int(read == label),
        "unread": int(read is None),
        "no": int(label == "no"),
        "no_found": int(label == read == "no"),
        "said_no": int(read == "no"),
        **wordless(record["answer"], dialect),
    }


def question_metrics(counts: Mapping[str, float], starts: int, constant: float) -> dict[str, float]:
    """Accuracy, precision, recall, F1 in percent; `starts` groups each bring 0.001 to a denominator."""
    begin = sum([START] * starts)
    accuracy = round(counts["right"] / (counts["n"] + begin) * 100, 1)
    precision = round(counts["no_found"] / (counts["said_no"] + begin) * 100, 1)
    recall = round(counts["no_found"] / (counts["no"] + begin) * 100, 1)
    f1 = round(2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + constant) * 100, 1)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


def generative_counts(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    association: Mapping[str, Sequence[str]],
    safe_words: Sequence[str],
    similar: Callable[[str, str], bool],
) -> Counts:
    """One description's bookkeeping, given its nouns of the vocabulary (inference.py, lines on 'generative')."""
    truths, likely = _Targets(truth, association), _Targets(hallu, association)
    invented = 0
    for noun in nouns:
        if noun in safe_words or truths.hit(lambda word, noun=noun: noun == word):
            continue
        likely.hit(lambda word, noun=noun: noun == word)
        likely.hit(lambda word, noun=noun: similar(noun, word))
        invented += not truths.hit(lambda word, noun=noun: similar(noun, word))
    return {
        "responses": 1,
        "clean": int(invented == 0),
        "right": int(invented == 0),
        "nouns": len(nouns),
        "invented": invented,
        "truths": len(truth),
        "covered": sum(truths.named),
        "likely": len(hallu),
        "likely_made": sum(likely.named),
    }


class _Targets:
    """Words of an annotation with their associates first, as the script lists them, and which of them were named."""

    def __init__(self, words: Sequence[str], association: Mapping[str, Sequence[str]]):
        self.named = [0] * len(words)
        self.words = [(other, place) for place, each in enumerate(words) for other in association[each]]
        self.words += [(each, place) for place, each in enumerate(words)]

    def hit(self, same: Callable[[str], bool]) -> bool:
        """Marks the first word that is the same; True where there is one."""
        for each, place in self.words:
            if same(each):
                self.named[place] = 1
                return True
        return False


def generative_metrics(counts: Mapping[str, float]) -> Metrics:
    """CHAIR, Cover, Hal and Cog in percent, as printed."""
    if not counts:
        return {}
    return {
        "chair": round(counts["invented"] / (counts["nouns"] + START) * 100, 1),
        "cover": round(counts["covered"] / (counts["truths"] + START) * 100, 1),
        "hal": round(100 - counts["clean"] / (counts["responses"] + START) * 100, 1),
        "cog": round(counts["likely_made"] / (counts["likely"] + START) * 100, 1),
    }


def plain_nouns(text: str) -> list[str]:
    """Every word in singular, without a tagger: offline, and said so in the remark."""
    from ..reading.nouns import fixed, tokens

    return [fixed(token) for token in tokens(text.lower())]
