"""Makes docs/first-look.png with the bundled model: two scenes of `make demo`, whose answers CLVA leaves as they are, and one of
its POPE scenes where CLVA mends one answer and breaks another. python runs/first_look.py
"""

import warnings
from pathlib import Path

import vlm_anchors as va
from vlm_anchors.apps.demo.cases import ask_about, ask_all
from vlm_anchors.apps.demo.figures import overview
from vlm_anchors.evaluation.runner.bundled import IMAGES, _scenes
from vlm_anchors.scenes.questions import article

OUT = Path(__file__).parent.parent / "docs" / "first-look.png"
BOTH_WAYS = ("scene_0085.png", "chair", "car")
"""Chosen because CLVA changes both answers, one for the better. It changes few (docs/results.md)."""


def main() -> None:
    """Asks, and draws."""
    warnings.simplefilter("ignore", va.AnchorsWarning)
    vlm = va.load("scenes")
    name, there, absent = BOTH_WAYS
    cases = [*ask_all(vlm, 2), ask_about(vlm, name, _scenes(IMAGES, 0)[name], there, absent)]
    overview(cases).savefig(OUT, dpi=110)
    for case in cases:
        for one in case.asked:
            said = [f"{method}: {reply.answer.text} ({reply.margin:+.2f})" for method, reply in one.replies.items()]
            print(case.name, article(one.thing), *said, sep="; ")


if __name__ == "__main__":
    main()
