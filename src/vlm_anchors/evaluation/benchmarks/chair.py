"""CHAIR: how many of the objects a caption mentions are not in the image.                          arXiv 1809.02156

    CHAIR_i = mentions of absent objects / mentions of objects       over all captions, repetitions counted
    CHAIR_s = captions that mention an absent object / captions
    recall  = present objects mentioned / present objects            length = words a caption

Script: LisaAnne/Hallucination utils/chair.py and Maxlinn's Python 3 copy, which adds recall. `lemma` chooses how words
lose their plural: "pattern" as these two, "wordnet" as OPERA and lmms-eval (needs NLTK's data), "fixed" in plain
English. Never mix: objects counted by one, captions by another. Quirks kept under pattern: "bus" and "motor bike" are
never found, "ties" is no tie. Falls as captions get shorter: read recall and length beside it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..reading.files import of_split, read_json, read_object, read_text, rows, unique, visible_files
from ..reading.language import nltk_tokens, nltk_version, wordnet_lemmas
from ..reading.nouns import COCO, double_words, fixed, pattern, tokens
from ..reading.official import json_lines, number_or_text
from ..reading.schema import KEY, NUMBER, OBJECT, TEXT, WORDS, Schema, list_of, optional, short
from .base import BadData, Benchmark, Counts, Metric, Metrics, Question, Record, one_of, pooled, ratio
from .protocols import DESCRIBE

OBJECTS = list_of(WORDS)
CATEGORY = Schema(id=NUMBER, name=WORDS)
IMAGE = Schema(id=NUMBER, file_name=WORDS)
SEGMENT = Schema(image_id=NUMBER, category_id=NUMBER)
CAPTION = Schema(image_id=NUMBER, caption=TEXT)
INSTANCES = Schema(categories=list_of(OBJECT, 1), annotations=list_of(OBJECT), images=optional(list_of(OBJECT)))
CAPTIONS = Schema(annotations=list_of(OBJECT), images=optional(list_of(OBJECT)))


@dataclass(frozen=True)
class Chair(Benchmark):
    """CHAIR; `synonyms` is the official synonyms.txt (without it the 80 COCO names alone), `tokenizer` plain or nltk."""

    lemma: str = "pattern"
    synonyms: str = ""
    tokenizer: str = "plain"

    name = "chair"
    version = "2018-11"
    source = "arXiv 1809.02156; github.com/LisaAnne/Hallucination; github.com/Maxlinn/CHAIR-metric-standalone"
    licence = "BSD-2-Clause; COCO annotations CC BY 4.0"
    note = "500 images of val2014 are usual but drawn anew by each paper; publish the ids."
    metrics_of = (
        Metric("chair_i", "lower"),
        Metric("chair_s", "lower"),
        Metric("recall", "higher"),
        Metric("length", "neither", "points"),
    )
    truth = Schema(objects=list_of(WORDS))
    protocols = ("opera", "greedy", "short", "pai", "memvr", "imccd", "clva")

    def __post_init__(self):
        one_of(self, "lemma", ("pattern", "wordnet", "fixed"))
        one_of(self, "tokenizer", ("plain", "nltk"))

    def remark(self) -> str:
        words = "official synonyms" if self.synonyms else "80 COCO names, no synonyms"
        uses_nltk = self.lemma == "wordnet" or self.tokenizer == "nltk"
        return f"lemma {self.lemma}, {words}, tokenizer {nltk_version() if uses_nltk else self.tokenizer}"

    def at(self, data: Path) -> "Chair":
        beside = (data if data.is_dir() else data.parent) / "synonyms.txt"
        return replace(self, synonyms=str(beside)) if not self.synonyms and beside.is_file() else self

    @cached_property
    def nodes(self) -> dict[str, str]:
        """Word -> object."""
        if self.synonyms:
            return read_synonyms(Path(str(self.synonyms)))
        return {name: name for name in COCO} | {"ski": "skis"}  # the one name whose singular is another word

    @cached_property
    def doubles(self) -> dict[str, str]:
        return double_words(names_only=not self.synonyms)

    def questions(self, data: Path, split: str | None = None) -> list[Question]:
        """Objects by image, {"image id or name": [objects]}, or COCO's folder with instances_*.json and captions_*.json."""
        names: Mapping[str, str] = {}
        objects: Mapping[str, Collection[str]]
        if data.is_dir() and visible_files(data, "*instances_*.json"):
            objects, names = self.at(data).objects_of(data)
        else:
            objects = _objects(data if data.is_file() else _only(data))
        known = set(self.at(data).nodes.values()) | set(COCO)
        found = []
        for key, there in objects.items():
            strange = [name for name in there if name not in known]
            if strange:
                raise BadData(
                    f"{data}: image {key} lists {strange[0]!r}, which is none of the 80 COCO objects. Correct it."
                )
            image = names.get(key) or (f"COCO_val2014_{int(key):012d}.jpg" if key.isdecimal() else key)
            found.append(Question(key, image, DESCRIBE, "captions", {"objects": sorted(there)}))
        return of_split(unique(found, data), split, data)

    def answer_files(self, records: Sequence[Record]) -> dict[str, str]:
        """For chair.py: captions.jsonl, {"image_id", "caption"} a line."""
        rows_ = ({"image_id": number_or_text(r["id"]), "caption": r["answer"]} for r in records)
        return {"captions.jsonl": json_lines(rows_)}

    def mentions(self, caption: str) -> tuple[list[str], int]:
        """The objects a caption mentions, with repetitions, and its number of words (caption_to_words)."""
        words = self._merged(self._singulars(caption.lower()))
        length = len(words)
        if "toilet" in words and "seat" in words:
            words = [word for word in words if word != "seat"]
        return [self.nodes[word] for word in words if word in self.nodes], length

    def _singulars(self, caption: str) -> list[str]:
        if self.lemma == "wordnet":
            return wordnet_lemmas(caption)
        words = nltk_tokens(caption) if self.tokenizer == "nltk" else tokens(caption)
        return [pattern(word) if self.lemma == "pattern" else fixed(word) for word in words]

    def _merged(self, words: Sequence[str]) -> list[str]:
        merged, place = [], 0
        while place < len(words):
            pair = " ".join(words[place : place + 2])
            merged.append(self.doubles.get(pair, words[place]))
            place += 2 if pair in self.doubles else 1
        return merged

    def counts(self, records: Sequence[Record]) -> list[Counts]:
        return [self._count(record) for record in records]

    def _count(self, record: Record) -> Counts:
        present = set(record["truth"]["objects"])
        found, length = self.mentions(record["answer"])
        absent = sum(name not in present for name in found)
        return {
            "n": 1,
            "right": int(absent == 0),
            "unread": int(not record["answer"].strip()),
            "mentions": len(found),
            "absent": absent,
            "captions_absent": int(absent > 0),
            "present": len(present),
            "recalled": len(present & set(found)),
            "words": length,
        }

    def formulas(self, parts: Mapping[str, Mapping[str, float]]) -> Metrics:
        c = pooled(parts)
        return {
            "chair_i": ratio(c["absent"], c["mentions"]),
            "chair_s": ratio(c["captions_absent"], c["n"]),
            "recall": ratio(c["recalled"], c["present"]),
            "length": ratio(c["words"], c["n"]),
        }

    def objects_of(self, folder: Path) -> tuple[dict[str, set[str]], dict[str, str]]:
        """(objects, file name) by image id from COCO's annotations: segments, and what the people's captions mention."""
        objects: dict[str, set[str]] = {}
        files: dict[str, str] = {}
        for instances, captions in both_files(folder):
            whole = INSTANCES.check(read_object(instances, "COCO's instances"), str(instances))
            names: dict[int, str] = {}
            for number, each in enumerate(whole["categories"], 1):
                name = CATEGORY.check(each, f"{instances}, category {number}")["name"]
                names[each["id"]] = self.nodes.get(name, name)
            here: set[int] = set()
            for number, note in enumerate(whole["annotations"], 1):
                place = f"{instances}, annotation {number}"
                if SEGMENT.check(note, place)["category_id"] not in names:
                    raise BadData(f"{place}: no category has the id {note['category_id']}. Is the file cut or edited?")
                objects.setdefault(str(note["image_id"]), set()).add(names[note["category_id"]])
                here.add(note["image_id"])
            said = CAPTIONS.check(read_object(captions, "COCO's captions"), str(captions))
            for number, note in enumerate(said["annotations"], 1):
                CAPTION.check(note, f"{captions}, annotation {number}")
                objects.setdefault(str(note["image_id"]), set()).update(self.mentions(note["caption"])[0])
                here.add(note["image_id"])
            files |= {str(key): _file_name(instances, key) for key in here}
            for path, one in ((instances, whole), (captions, said)):
                for number, image in enumerate(one.get("images") or (), 1):
                    IMAGE.check(image, f"{path}, image {number}")
                    files[str(image["id"])] = image["file_name"]
        return objects, files


def both_files(folder: Path) -> list[tuple[Path, Path]]:
    """instances_X.json and captions_X.json of each X; people's captions are half of CHAIR's truth."""
    pairs = []
    for kind, other in (("instances", "captions"), ("captions", "instances")):
        for path in visible_files(folder, f"*{kind}_*.json"):
            beside = path.with_name(path.name.replace(kind, other))
            if not beside.is_file():
                raise BadData(
                    f"{folder} holds {path.name} without {beside.name}. CHAIR's objects come from both: put it beside the other."
                )
            if kind == "instances":
                pairs.append((path, beside))
    return pairs


def _file_name(instances: Path, image: int) -> str:
    """COCO's name of an image, by the split in the name of its annotations."""
    split = next((each for each in ("train2014", "train2017", "val2017") if each in instances.stem), "val2014")
    return f"{image:012d}.jpg" if split.endswith("2017") else f"COCO_{split}_{image:012d}.jpg"


def read_synonyms(path: Path) -> dict[str, str]:
    """synonyms.txt: a line an object, its name first. Split as the script splits, so that its slips stay slips."""
    table: dict[str, str] = {}
    lines = [line.strip().split(", ") for line in read_text(path).split("\n") if line.strip()]
    if len(lines) != len(COCO):
        raise BadData(
            f"{path}: expected {len(COCO)} lines, one a COCO object; found {len(lines)}. Is it CHAIR's synonyms.txt?"
        )
    for words in lines:
        for each in words:
            table[each] = words[0]
    return table


def _objects(path: Path) -> dict[str, list[str]]:
    """{key: [names]}, or rows with image_id (or image) and objects."""
    text = read_text(path).strip()
    whole: Any = None
    if text.startswith(("{\n", "{\r\n")) or (text.startswith("{") and "\n" not in text):
        whole = read_json(path)
    if isinstance(whole, dict) and "objects" not in whole:
        for key, names in whole.items():
            if not OBJECTS.fits(names):
                raise BadData(f"{path}, image {key!r}: expected {OBJECTS.words}; found {short(names)}. Correct it.")
        return whole
    found: dict[str, list[str]] = {}
    for place, row in rows(path):
        key = "image_id" if "image_id" in row else "image"
        image = str(Schema({key: KEY, "objects": OBJECTS}).check(row, place)[key])
        if image in found:
            raise BadData(f"{place}: the image {image} stands twice. Keep one line an image.")
        found[image] = row["objects"]
    return found


def _only(folder: Path) -> Path:
    paths = [p for p in visible_files(folder, "*.json*") if "objects" in p.stem]
    if len(paths) != 1:
        raise BadData(
            f"{folder} must hold COCO's instances_*.json and captions_*.json, or one file of objects by image "
            f"(*objects*.json); found {len(paths)} such files."
        )
    return paths[0]
