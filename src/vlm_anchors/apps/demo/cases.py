"""What the demo asks and measures: no choice is made by looking at the answers."""

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...generation.generate import ask, read_sample
from ...inputs.prompt_builder import prepare
from ...scenes import Scene, render
from ...scenes.examples import chosen_scenes
from ...scenes.questions import POPE, article

if TYPE_CHECKING:
    from PIL import Image

    from ...interventions.method import Method
    from ...models.vlm import Vlm
    from ...types import Answer

METHODS = ("none", "clva")
REPEATS = 5
"""Timed answers of each method to each question, in turn."""
MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Reply:
    """One method's answer to one question.

    Args:
        shares: By layer from 1, the share of the question's attention, in [0, 1], that lands on visual tokens.
        seconds: The median of several answers.
    """

    answer: "Answer"
    shares: tuple[float, ...]
    seconds: float

    @property
    def said(self) -> bool | None:
        """Yes, no, or neither, by the answer's first word."""
        first = self.answer.text.lower().lstrip().split(maxsplit=1)[:1]
        return {"yes": True, "no": False}.get(first[0].strip(".,!") if first else "")

    @property
    def margin(self) -> float | None:
        """Logit of "yes" less logit of "no" at the first token."""
        return None if self.answer.yes_no is None else self.answer.yes_no[0] - self.answer.yes_no[1]


@dataclass(frozen=True)
class DemoQuestion:
    """One question: whether its object is there, and what each method replied."""

    question: str
    thing: str
    present: bool
    replies: dict[str, Reply]

    def right(self, method: str) -> bool:
        return self.replies[method].said == self.present


@dataclass(frozen=True)
class Case:
    """One scene and its two questions."""

    name: str
    scene: Scene
    image: "Image.Image"
    asked: tuple[DemoQuestion, ...]


def ask_all(vlm: "Vlm", n: int = 3) -> list[Case]:
    """The demo's measurements."""
    return [
        ask_about(vlm, f"scene-{number}", scene, there, absent)
        for number, (scene, there, absent) in enumerate(chosen_scenes(n), 1)
    ]


def ask_about(vlm: "Vlm", name: str, scene: Scene, there: str, absent: str) -> Case:
    """One scene, asked for an object that is there and for one that is not."""
    image = render(scene)
    asked = tuple(_ask(vlm, image, thing, present) for thing, present in ((there, True), (absent, False)))
    return Case(name, scene, image, asked)


def _ask(vlm: "Vlm", image: "Image.Image", thing: str, present: bool) -> DemoQuestion:
    question = POPE.format(a=article(thing))
    answers: dict[str, list[Answer]] = {method: [] for method in METHODS}
    for method in METHODS:  # so that neither pays for the first touch, its own included
        ask(vlm, image, question, method=method, max_new_tokens=2)
    for _ in range(REPEATS):
        for method in METHODS:
            answers[method].append(ask(vlm, image, question, method=method, max_new_tokens=MAX_NEW_TOKENS))
    replies = {
        method: Reply(
            answers[method][0],
            visual_shares(vlm, image, question, method),
            statistics.median(answer.seconds for answer in answers[method]),
        )
        for method in METHODS
    }
    return DemoQuestion(question, thing, present, replies)


def visual_shares(vlm: "Vlm", image: "Image.Image", question: str, method: "str | Method") -> tuple[float, ...]:
    """Layer by layer, from 1: the share of the text rows' attention on visual tokens, with the method at work."""
    import torch

    from ...interventions.attachment import attach
    from ...interventions.recorders import Shares

    inputs = prepare(vlm, [read_sample(image, question)])
    recorder = Shares()
    with attach(vlm, method, recorder=recorder), torch.no_grad():
        vlm.model(**inputs.tensors)
    return tuple(row["after"] for row in recorder.table())


def ratio(cases: list[Case]) -> float:
    """Seconds of CLVA over seconds of the plain model, all questions together."""
    replies = [asked.replies for case in cases for asked in case.asked]
    return sum(each["clva"].seconds for each in replies) / sum(each["none"].seconds for each in replies)
