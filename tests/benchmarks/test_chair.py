"""CHAIR's words, its slips, and its numbers."""

import json
import re

import pytest
from benchmarks.made import record

from vlm_anchors.errors import BadData, MissingPackage, UnknownName
from vlm_anchors.evaluation.benchmarks import chair
from vlm_anchors.evaluation.benchmarks.chair import Chair, read_synonyms
from vlm_anchors.evaluation.reading.nouns import COCO, double_words, fixed, pattern, tokens


def scored(caption, *objects, **parameters):
    return Chair(**parameters).score([record(1, caption, objects=list(objects))]).metrics


def test_the_three_numbers():
    records = [
        record(1, "A dog and a cat. The dog runs.", objects=["dog", "person"]),
        record(2, "A cup.", objects=["cup"]),
    ]
    m = Chair().score(records).metrics
    assert m["chair_i"] == 1 / 4  # dog, cat, dog, cup
    assert m["chair_s"] == 1 / 2
    assert m["recall"] == 2 / 3
    assert m["length"] == (10 + 3) / 2


def test_no_mention_at_all_is_undefined():
    assert scored("Nothing to see.", "dog")["chair_i"] is None
    assert scored("Nothing to see.", "dog")["chair_s"] == 0
    assert Chair().score([record(1, "  ", objects=[])]).unread == 1


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("Two dogs, three hot dogs", ["dog", "hot dog"]),
        ("a baby elephant and an adult giraffe", ["elephant", "giraffe"]),
        ("wine glasses on the dining table", ["wine glass", "dining table"]),
        ("teddy bears", ["teddy bear"]),
        ("The toilet seat is up", ["toilet"]),
        ("Traffic lights; a stop sign.", ["traffic light", "stop sign"]),
        ("a passenger train on a train track", ["train"]),
        ("home plate", []),
        ("knives, mice and sandwiches", ["knife", "mouse", "sandwich"]),
        ('It says "fire hydrant."', ["fire hydrant"]),
        ("a dog's kite", ["dog", "kite"]),
        ("a bus and two buses", ["bus"]),
    ],
)
def test_mentions_by_names_alone(caption, found):
    assert Chair().mentions(caption)[0] == found


def test_the_official_slips_stay_under_pattern_and_go_under_fixed():
    assert Chair().mentions("a bus, two ties, scissors and skis")[0] == ["scissors", "skis"]
    assert Chair(lemma="fixed").mentions("a bus, two ties, scissors and buses")[0] == ["bus", "tie", "scissors", "bus"]


@pytest.mark.parametrize("name", COCO)
def test_fixed_finds_every_object_by_its_name_and_its_plural(name):
    odd = {"mouse": "mice", "person": "people", "bus": "buses", "knife": "knives"}
    odd |= {same: same for same in ("sheep", "scissors", "skis", "broccoli")}
    plural = odd.get(name, name + ("es" if name.endswith(("ch", "sh", "ss")) else "s"))
    found = Chair(lemma="fixed").mentions(f"There is a {name}. Some {plural}, too!")[0]
    assert found == [name, name]


@pytest.mark.parametrize(
    ("word", "official", "plain"),
    [
        ("dogs", "dog", "dog"),
        ("bus", "bu", "bus"),
        ("buses", "bus", "bus"),
        ("glass", "glas", "glass"),
        ("glasses", "glass", "glass"),
        ("ties", "ty", "tie"),
        ("canoes", "cano", "canoe"),
        ("women", "woman", "woman"),
        ("people", "person", "person"),
        ("children", "child", "child"),
        ("mice", "mouse", "mouse"),
        ("slice", "slouse", "slice"),
        ("knives", "knife", "knife"),
        ("calves", "calf", "calf"),
        ("stoves", "stove", "stove"),
        ("puppies", "puppy", "puppy"),
        ("doggies", "doggies", "doggie"),
        ("collies", "collies", "collie"),
        ("airbuses", "airbus", "airbus"),
        ("abuses", "abus", "abus"),
        ("benches", "bench", "bench"),
        ("oxen", "ox", "ox"),
        ("geese", "goose", "goose"),
        ("scissors", "scissors", "scissors"),
        ("skis", "ski", "ski"),
        ("tennis", "tenni", "tennis"),
        ("vases", "vase", "vase"),
        ("pizza", "pizza", "pizza"),
        ("sofa", "sofa", "sofa"),
        ("pasta", "pastum", "pasta"),
        ("dog", "dog", "dog"),
    ],
)
def test_singulars(word, official, plain):
    assert (pattern(word), fixed(word)) == (official, plain)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a dog. it runs", ["a", "dog", ".", "it", "runs"]),
        ("it isn't the dog's", ["it", "is", "n't", "the", "dog", "'s"]),
        ('says "stop."', ["says", '"', "stop", ".", '"']),
        ("at 3:30, 1,000 people", ["at", "3:30", ",", "1,000", "people"]),
        ("black-and-white (cat)", ["black-and-white", "(", "cat", ")"]),
        ("well... cannot", ["well", "...", "can", "not"]),
        ("on st. mary's", ["on", "st.", "mary", "'s"]),
        ("a cat—dog – and", ["a", "cat", "—", "dog", "–", "and"]),
        ("the 'dog' and ''cat''", ["the", "'", "dog", "'", "and", "''", "cat", "''"]),
        ("isn't' (it's)", ["is", "n't", "'", "(", "it", "'s", ")"]),
        ("", []),
    ],
)
def test_tokens(text, found):
    assert tokens(text) == found


def test_there_are_eighty_objects():
    assert len(COCO) == len(set(COCO)) == 80


def test_double_words_leave_dining_table_to_the_synonym():
    assert "dining table" not in double_words()
    assert double_words(names_only=True)["dining table"] == "dining table"


def test_dials_are_checked():
    with pytest.raises(UnknownName, match="chair has no lemma 'patern'. Did you mean 'pattern'"):
        Chair(lemma="patern")
    with pytest.raises(UnknownName, match="chair has no tokenizer 'x'. Known: plain, nltk"):
        Chair(tokenizer="x")


def test_wordnet_without_nltk_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    with pytest.raises(MissingPackage, match=r"CHAIR with lemma=wordnet needs nltk.*vlm-anchors\[eval\]"):
        scored("a dog", "dog", lemma="wordnet")


def test_remark_names_the_variant():
    assert Chair().remark() == "lemma pattern, 80 COCO names, no synonyms, tokenizer plain"
    for parameters in ({"lemma": "wordnet"}, {"tokenizer": "nltk"}):  # NLTK divides words otherwise since 3.10
        assert re.search(r"tokenizer nltk( \d+\.\d+.*)?$", Chair(**parameters).remark())


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"42": ["dog"], "room.png": ["cup", "fork"]}),
        json.dumps({"42": ["dog"], "room.png": ["cup", "fork"]}, indent=1),
        '{"image_id": 42, "objects": ["dog"]}\n{"image": "room.png", "objects": ["cup", "fork"]}\n',
        json.dumps([{"image_id": 42, "objects": ["dog"]}, {"image": "room.png", "objects": ["cup", "fork"]}]),
    ],
)
def test_objects_by_image(tmp_path, text):
    (tmp_path / "objects.json").write_text(text)
    one, two = Chair().questions(tmp_path / "objects.json")
    assert (one.id, one.image, one.truth) == ("42", "COCO_val2014_000000000042.jpg", {"objects": ["dog"]})
    assert (two.id, two.image) == ("room.png", "room.png")
    assert one.text == "Please describe this image in detail."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"42": ["dgo"]}', "image 42 lists 'dgo', which is none of the 80 COCO objects"),
        ('{"42": "dog"}', "image '42': expected a list of texts that are not empty; found 'dog'"),
        ('{"image_id": 1, "objects": []}\n{"image_id": 1, "objects": []}', "line 2: the image 1 stands twice"),
        ('{"image_id": 1}\n{"image_id": 2}', "line 1: expected the field 'objects'"),
    ],
)
def test_broken_objects(tmp_path, text, words):
    (tmp_path / "objects.json").write_text(text)
    with pytest.raises(BadData, match=re.escape(words)):
        Chair().questions(tmp_path / "objects.json")


def test_a_folder_without_objects(tmp_path):
    with pytest.raises(BadData, match="must hold COCO's instances_"):
        Chair().questions(tmp_path)


def test_ground_truth_from_cocos_own_annotations(tmp_path):
    categories = [{"id": 18, "name": "dog"}]
    instances = {"categories": categories, "annotations": [{"image_id": 7, "category_id": 18}]}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    captions = {"annotations": [{"image_id": 7, "caption": "Two cups."}, {"image_id": 8, "caption": "A kite"}]}
    (tmp_path / "captions_val2014.json").write_text(json.dumps(captions))
    truths = {q.id: q.truth["objects"] for q in Chair().questions(tmp_path)}
    assert truths == {"7": ["cup", "dog"], "8": ["kite"]}


def test_half_of_cocos_annotations_is_refused(tmp_path):
    """Objects from people's captions would be missing, and CHAIR rise; the official script stops."""
    instances = {"categories": [{"id": 18, "name": "dog"}], "annotations": [{"image_id": 7, "category_id": 18}]}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    with pytest.raises(BadData, match=r"holds instances_val2014\.json without captions_val2014\.json"):
        Chair().questions(tmp_path)
    (tmp_path / "captions_val2014.json").write_text('{"annotations": []}')
    (tmp_path / "captions_train2014.json").write_text('{"annotations": []}')
    with pytest.raises(BadData, match=r"holds captions_train2014\.json without instances_train2014\.json"):
        Chair().questions(tmp_path)


def test_images_of_two_splits_are_asked_for_by_their_own_names(tmp_path):
    def write(split, key, **more):
        instances = {"categories": [{"id": 18, "name": "dog"}], "annotations": [{"image_id": key, "category_id": 18}]}
        (tmp_path / f"instances_{split}.json").write_text(json.dumps({**instances, **more}))
        (tmp_path / f"captions_{split}.json").write_text(
            json.dumps({"annotations": [{"image_id": key, "caption": "A cup"}]})
        )

    write("train2014", 2)
    write("val2014", 1)
    write("val2017", 3)
    write("test", 4, images=[{"id": 4, "file_name": "four.jpg"}])
    assert {q.id: q.image for q in Chair().questions(tmp_path)} == {
        "1": "COCO_val2014_000000000001.jpg",
        "2": "COCO_train2014_000000000002.jpg",
        "3": "000000000003.jpg",
        "4": "four.jpg",
    }


def test_captions_in_the_official_format():
    files = Chair().answer_files([record(7, "A dog.", objects=[]), record("a.png", "Ein Hündchen.", objects=[])])
    rows = [json.loads(line) for line in files.pop("captions.jsonl").splitlines()]
    assert rows == [{"image_id": 7, "caption": "A dog."}, {"image_id": "a.png", "caption": "Ein Hündchen."}]
    assert not files


def test_a_synonym_file_of_another_length(tmp_path):
    (tmp_path / "synonyms.txt").write_text("dog, puppy\n")
    with pytest.raises(BadData, match="expected 80 lines, one a COCO object; found 1"):
        read_synonyms(tmp_path / "synonyms.txt")


def test_official_synonyms(official):
    folder = official("chair")
    bench = Chair().at(folder)
    assert bench.remark() == "lemma pattern, official synonyms, tokenizer plain"
    # what the official routine found in this caption, slips included
    caption = "A man on a motor bike passes a bus; two puppies, a sofa, a table with burgers and bow ties. iPhone! A cheesecake."
    assert bench.mentions(caption)[0] == ["person", "dog", "couch", "dining table", "sandwich", "tie"]
    assert bench.nodes[" motor bike"] == "motorcycle"


@pytest.mark.slow
def test_official_objects(official):
    path = official("chair/coco2014_objects_by_image.json")
    questions = Chair().questions(path)
    assert len(questions) == 123287
    assert chair.Chair().score([q.record("A person.") for q in questions[:100]]).n == 100


def test_hidden_files_beside_the_data_are_passed_over(tmp_path):
    """macOS leaves `._NAME` beside each file that it copies."""
    (tmp_path / "objects.json").write_text('{"7": ["dog"]}', "utf-8")
    for name in ("._objects.json", "._instances_val2014.json"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert [question.id for question in Chair().questions(tmp_path)] == ["7"]
