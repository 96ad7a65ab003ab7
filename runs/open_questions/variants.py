"""e: do anchors need the whole prompt beside them, and the place right behind their patch?

    python runs/open_questions/variants.py [--scenes 150]      -> results/open_variants.json, some ten minutes on one core

The bundled model, which was not trained with anchors: what is measured is what a variant does to a model as it is.
"""

from asking import CALIBRATED, ask, asked_about, begun, write

import vlm_anchors as va

VARIANTS = {
    "as published": "",
    "behind the row": "place=row",
    "at the image's end": "place=image",
    "one a patch": "each=patch",
    "one a patch, behind the row": "each=patch,place=row",
    "anchored words move": "keep=others",
    "anchored words move, behind the row": "keep=others,place=row",
    "anchored words move, at the image's end": "keep=others,place=image",
    "only anchors stay": "keep=anchors",
    "only anchors stay, at the image's end": "keep=anchors,place=image",
}
TAUS = (0.3, CALIBRATED)


def main():
    given = begun(__doc__, scenes=150, seed=0)
    specs = {
        (tau, name): f"attanchor:tau={tau}" + (f",{parameters}" if parameters else "")
        for tau in TAUS
        for name, parameters in VARIANTS.items()
    }

    def save(tallies):
        plain = tallies["plain"]
        rows = [
            {"tau": tau, "variant": name, "method": spec, **tallies[tau, name].report(plain)}
            for (tau, name), spec in specs.items()
        ]
        write("variants", seed=given.seed, calibrated_tau=CALIBRATED, plain=plain.report(), rows=rows)

    ask(va.load("scenes"), asked_about(given.scenes, given.seed), {"plain": "none", **specs}, save=save)


main()
