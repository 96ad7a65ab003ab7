"""Which questions an image teaches, by how far training is: presence first, then the rest."""

import random

from vlm_anchors.scenes import Scene, questions
from vlm_anchors.scenes.questions import QA

PROMPTS = tuple(
    f"{ask} {what}{end}"
    for what in (
        "the sea", "a kitchen", "music", "winter", "football", "bread", "a train journey", "the moon", "gardens",
        "mathematics", "a good book", "old cities", "birds", "coffee", "rivers", "friendship", "computers", "history",
        "a dog", "breakfast", "rain", "mountains", "a school", "trees", "painting",
    )
    for ask, end in (("Tell me about", "."), ("Give me a fact about", "."))
)  # fmt: skip
"""Of the text that the untouched language model writes, to be kept."""


def asked(rng: random.Random, scene: Scene, progress: float) -> list[QA]:
    """Questions about an image; progress: 0 to 1. Absent objects are uniform in the first half, then 15 % are hard."""
    there = sorted(scene.present)
    rng.shuffle(there)
    there = there[:4]
    gone: list[str] = []
    while len(gone) < len(there):
        name = questions.absent(rng, scene, 0.0 if progress < 0.5 else 0.15)
        if name not in gone:
            gone.append(name)
    made = [_exists(rng, scene, name, 0.75 if progress < 0.5 else 0.5) for name in (*there, *gone)]
    forms = [questions.colour, questions.position, questions.count] if progress >= 0.3 else []
    forms += [questions.position, questions.yesno] if progress >= 0.5 else []
    made += [qa for form in forms if (qa := form(rng, scene))]
    if rng.random() < (0.35 if progress < 0.3 else 0.6):
        made.append(questions.caption(rng, scene, 0.0 if progress < 0.5 else 0.5))
    return made


def _exists(rng: random.Random, scene: Scene, name: str, plain: float) -> QA:
    """POPE's phrasing with chance `plain`, else any."""
    if rng.random() < plain:
        text = questions.POPE.format(a=questions.article(name))
        return QA(text, questions.answer(name in scene.present), "existence")
    form = rng.choice(questions.EXISTENCE)
    text = form.format(a=questions.article(name), plural=questions.plural(name)) + questions.suffix(rng)
    return QA(text, questions.answer(name in scene.present), "existence")
