"""Questions about a scene and their true answers, in several phrasings; and the captions a careful person would write."""

import functools
import itertools
import random
from typing import NamedTuple

from . import coco
from .scene import COLOURS, POSITIONS, Scene, SceneObject

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
IRREGULAR = {
    "person": "people", "bus": "buses", "knife": "knives", "mouse": "mice", "sheep": "sheep", "skis": "skis",
    "scissors": "scissors", "broccoli": "broccoli", "bench": "benches", "couch": "couches", "sandwich": "sandwiches",
    "toothbrush": "toothbrushes", "wine glass": "wine glasses",
}  # fmt: skip
PAIRS = ("skis", "scissors")
# other words people use; asked now and then, so that the model has met them
SYNONYMS = {
    "person": ("man", "woman", "human", "child", "boy", "girl"), "bicycle": ("bike",), "car": ("taxi",),
    "motorcycle": ("motorbike", "scooter"), "airplane": ("plane", "aeroplane"), "train": ("locomotive",),
    "truck": ("lorry",), "boat": ("ship",), "cat": ("kitten",), "dog": ("puppy",), "horse": ("pony",),
    "sheep": ("lamb",), "backpack": ("rucksack",), "handbag": ("purse",), "tie": ("necktie",),
    "suitcase": ("briefcase",), "sports ball": ("ball",), "cup": ("mug",), "couch": ("sofa",),
    "potted plant": ("plant", "houseplant"), "dining table": ("table",), "tv": ("television",),
    "laptop": ("notebook",), "remote": ("remote control",), "cell phone": ("phone", "smartphone"),
    "refrigerator": ("fridge",), "donut": ("doughnut",), "hair drier": ("hair dryer",), "teddy bear": ("teddy",),
    "oven": ("stove",), "fire hydrant": ("hydrant",), "knife": ("blade",),
}  # fmt: skip
POPE = "Is there {a} in the image?"
EXISTENCE = (
    "Is there {a} in this image?", "Is there {a} in the picture?", "Is there {a}?", "Do you see {a} in the image?",
    "Can you see {a} in this picture?", "Does the image contain {a}?", "Does the picture show {a}?",
    "Is {a} visible in the image?", "Is {a} present in the image?", "Are there any {plural} in the image?",
    "Are there {plural} in this picture?", "Is {a} in the scene?", "Does this photo have {a}?",
)  # fmt: skip
SUFFIXES = (
    "", " Please answer yes or no.", " Please answer this question with one word.",
    "\nAnswer the question using a single word or phrase.",
)  # fmt: skip
COUNT = (
    "How many {plural} are there in the image?", "How many {plural} are in this image?", "How many {plural} can you see?",
    "What is the number of {plural} in the picture?", "Count the {plural} in the image.",
)  # fmt: skip
COLOUR = ("What color is the {x}?", "What is the color of the {x} in the image?", "Which color does the {x} have?",
          "What colour is the {x} in this picture?")  # fmt: skip
POSITION = (
    "Where is the {x}?", "Where is the {x} in the image?", "In which part of the image is the {x}?",
    "What is the position of the {x} in the picture?", "Where in the image can you see the {x}?",
)  # fmt: skip
SHORT = (
    "Describe this image briefly.", "What is in the image?", "Give a short description of the image.",
    "What objects are in this picture?", "Write a short caption for this image.",
)  # fmt: skip
CHAIR = "Please describe this image in detail."
DETAIL = (
    "Describe this image in detail.", "Please help me describe the image in detail.", "Describe the image.",
    "What do you see in this image?", "Can you describe the picture in detail?", "What is happening in this image?",
)  # fmt: skip
PLACES = dict(
    zip(
        POSITIONS,
        ("in the top left", "at the top", "in the top right", "on the left", "in the center", "on the right",
         "in the bottom left", "at the bottom", "in the bottom right"),
        strict=True,
    )
)  # fmt: skip


class QA(NamedTuple):
    """A question, its answer as the model should say it, and its kind."""

    question: str
    answer: str
    kind: str  # existence, count, colour, position, yesno, short or detail


def plural(name: str) -> str:
    """The plural of a category or synonym."""
    return IRREGULAR.get(name) or ("men" if name == "man" else "women" if name == "woman" else name + "s")


def article(words: str) -> str:
    """The words behind "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def phrase(name: str, n: int = 1, colour: str | None = None) -> str:
    """ "a red cup", "two dogs", "a pair of blue skis"."""
    tint = f"{colour} " if colour else ""
    if name in PAIRS:
        return f"a pair of {tint}{name}" if n == 1 else f"{NUMBERS[n]} pairs of {tint}{name}"
    return article(tint + name) if n == 1 else f"{NUMBERS[n]} {tint}{plural(name)}"


def exists(rng: random.Random, scene: Scene, name: str) -> QA:
    """Whether a category is there; POPE's own phrasing a third of the time."""
    word = rng.choice(SYNONYMS[name]) if name in SYNONYMS and rng.random() < 0.08 else name
    form = POPE if rng.random() < 0.35 else rng.choice(EXISTENCE)
    question = form.format(a=article(word), plural=plural(word))
    return QA(question + suffix(rng), answer(name in scene.present), "existence")


def suffix(rng: random.Random) -> str:
    """One of the endings benchmarks put behind a question, or none."""
    return rng.choices(SUFFIXES, (50, 18, 14, 18))[0]


def answer(true: bool) -> str:
    """Yes or No."""
    return "Yes" if true else "No"


@functools.cache
def _likely(name: str) -> list[int]:
    """For each category, in how many COCO images it stands beside `name`."""
    table = coco.counts()
    return table["pairs"][coco.CATEGORIES.index(name)]


def absent(rng: random.Random, scene: Scene, hard: float = 0.4) -> str:
    """A category that is not there; with chance `hard` one that is frequent, or usual beside what is there."""
    while True:
        draw, weights = rng.random(), None
        if draw < hard / 2:
            weights = coco.counts()["single"]
        elif draw < hard:
            weights = _likely(rng.choice(sorted(scene.present)))
        name = rng.choices(coco.CATEGORIES, weights)[0]
        if name not in scene.present:
            return name


def count(rng: random.Random, scene: Scene) -> QA | None:
    """How many of a category, one to four about equally often over many scenes."""
    names = [name for name, n in scene.counts.items() if n <= 4]
    if not names:
        return None
    name = rng.choices(names, [(1.0, 3.3, 7.0, 9.0)[scene.counts[name] - 1] for name in names])[0]
    if scene.counts[name] == 1 and rng.random() < 0.6:
        return None
    end = SUFFIXES[3] if rng.random() < 0.15 else ""
    return QA(rng.choice(COUNT).format(plural=plural(name)) + end, NUMBERS[scene.counts[name]].capitalize(), "count")


def single(scene: Scene) -> list[SceneObject]:
    """Objects that are the only one of their category, so that "the cup" means one thing."""
    return [thing for thing in scene.objects if scene.counts[thing.name] == 1]


def colour(rng: random.Random, scene: Scene) -> QA | None:
    """The colour of a tinted object."""
    things = [thing for thing in single(scene) if thing.colour]
    if not things:
        return None
    thing = rng.choice(things)
    end = SUFFIXES[3] if rng.random() < 0.15 else ""
    return QA(rng.choice(COLOUR).format(x=thing.name) + end, str(thing.colour).capitalize(), "colour")


def position(rng: random.Random, scene: Scene) -> QA | None:
    """In which ninth of the image an object stands."""
    things = single(scene)
    if not things:
        return None
    thing = rng.choice(things)
    end = SUFFIXES[3] if rng.random() < 0.15 else ""
    return QA(rng.choice(POSITION).format(x=thing.name) + end, thing.position.capitalize(), "position")


def yesno(rng: random.Random, scene: Scene) -> QA | None:
    """A yes/no question as MME asks them about count, colour, side and relation; half of them true."""
    forms = [yesno_count, yesno_colour, yesno_side, yesno_relation]
    rng.shuffle(forms)
    for form in forms:
        made = form(rng, scene, rng.random() < 0.5)
        if made:
            end = " Please answer yes or no." if rng.random() < 0.6 else suffix(rng)
            return QA(made[0] + end, answer(made[1]), "yesno")
    return None


def yesno_count(rng: random.Random, scene: Scene, true: bool) -> tuple[str, bool] | None:
    """ "Are there two dogs in this image?" """
    names = [name for name, n in scene.counts.items() if n <= 4]
    if not names:
        return None
    name = rng.choice(names)
    n = scene.counts[name]
    said = n if true else rng.choice([k for k in (1, 2, 3, 4) if k != n])
    if said == 1:
        return f"Is there only one {name} in the image?", true
    return rng.choice(("Are there {} in this image?", "Are there {} in the image?")).format(
        f"{NUMBERS[said]} {plural(name)}"
    ), true


def yesno_colour(rng: random.Random, scene: Scene, true: bool) -> tuple[str, bool] | None:
    """ "Is there a red cup in the image?" """
    things = [thing for thing in scene.objects if thing.colour]
    if not things:
        return None
    thing = rng.choice(things)
    said = thing.colour if true else rng.choice([word for word in COLOURS if word != thing.colour])
    if scene.counts[thing.name] == 1 and rng.random() < 0.4:
        return f"Is the {thing.name} {said}?", true
    return f"Is there a {said} {thing.name} in the image?", true


def yesno_side(rng: random.Random, scene: Scene, true: bool) -> tuple[str, bool] | None:
    """ "Is the cup on the left side of the image?" """
    found = []
    for thing in single(scene):
        words = set(thing.position.split())
        found += [(thing.name, side, side in words) for side in ("left", "right", "top", "bottom")]
    fitting = [item for item in found if item[2] == true]
    if not fitting:
        return None
    name, side, _ = rng.choice(fitting)
    where = f"on the {side} side" if side in ("left", "right") else f"at the {side}"
    return f"Is the {name} {where} of the image?", true


def yesno_relation(rng: random.Random, scene: Scene, true: bool) -> tuple[str, bool] | None:
    """ "Is the cup on the left of the fork?" """
    pairs = list(itertools.permutations(single(scene), 2))
    rng.shuffle(pairs)
    for one, other in pairs:
        dx = one.box[0] + one.box[2] - other.box[0] - other.box[2]
        dy = one.box[1] + one.box[3] - other.box[1] - other.box[3]
        if max(abs(dx), abs(dy)) < 40:
            continue
        truth, lie = ("on the left of", "on the right of") if abs(dx) >= abs(dy) else ("above", "below")
        if (dx if abs(dx) >= abs(dy) else dy) > 0:
            truth, lie = lie, truth
        return f"Is the {one.name} {truth if true else lie} the {other.name}?", true
    return None


def listed(scene: Scene) -> list[str]:
    """The categories in COCO's order: people, vehicles, animals ... A caption in a fixed order is the easiest to learn
    without saying a thing twice: what comes next depends on the last thing said alone."""
    return sorted(scene.counts, key=coco.CATEGORIES.index)


def short_caption(scene: Scene) -> str:
    """One sentence: "The image shows a red car, two dogs and a person." """
    parts = [phrase(name, scene.counts[name], scene.of(name)[0].colour) for name in listed(scene)]
    things = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"The image shows {things}."


def detailed_caption(scene: Scene) -> str:
    """One sentence a category."""
    return " ".join(_sentence(i, name, scene.of(name)) for i, name in enumerate(listed(scene)))


def _sentence(i: int, name: str, things: list[SceneObject]) -> str:
    """The i-th sentence of a caption; the forms take turns, so that it reads well and never repeats itself."""
    words, many = phrase(name, len(things), things[0].colour), len(things) > 1
    if len(things) == 2:
        places = [PLACES[thing.position] for thing in sorted(things, key=lambda thing: POSITIONS.index(thing.position))]
        where = f", one {places[0]} and one {places[1]}" if places[0] != places[1] else f" close together {places[0]}"
    else:
        where = " in different places" if many else " " + PLACES[things[0].position]
    if i == 0:
        return f"The image shows {words}{where}" + (" of the image." if len(things) == 1 else ".")
    if i % 2:
        return f"There {'are' if many else 'is'} {'also ' if i > 1 else ''}{words}{where}."
    return f"{words[0].upper()}{words[1:]} can be seen{where}."


def caption(rng: random.Random, scene: Scene, detailed: float = 0.75) -> QA:
    """A prompt for a caption and the caption."""
    if rng.random() >= detailed:
        return QA(rng.choice(SHORT), short_caption(scene), "short")
    return QA(CHAIR if rng.random() < 0.4 else rng.choice(DETAIL), detailed_caption(scene), "detail")


def training_set(rng: random.Random, scene: Scene, hard: float = 0.4) -> list[QA]:
    """Eight questions and a caption: what one image teaches."""
    names = sorted(scene.present)
    made = [exists(rng, scene, rng.choice(names)), exists(rng, scene, rng.choice(names))]
    made += [exists(rng, scene, absent(rng, scene, hard)) for _ in range(2)]
    forms = (count, position, position, colour, *((yesno,) if rng.random() < 0.5 else ()))
    made += [qa for form in forms if (qa := form(rng, scene))][:4]
    while len(made) < 8:  # what a scene has no question for goes to what is hardest to learn
        form = rng.choice((position, count, colour, None))
        made.append((form and form(rng, scene)) or exists(rng, scene, _either(rng, scene, hard)))
    return [*made, caption(rng, scene)]


def _either(rng: random.Random, scene: Scene, hard: float) -> str:
    """A category that is there, or one that is not, at even odds."""
    return rng.choice(sorted(scene.present)) if rng.random() < 0.5 else absent(rng, scene, hard)
