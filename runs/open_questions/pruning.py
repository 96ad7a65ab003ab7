"""b: image tokens that match no word, or draw little attention, are dropped: cost against quality, with anchors and without.

    python runs/open_questions/pruning.py [--scenes 40]      -> results/open_pruning.json, a quarter of an hour on one core

Seconds are a thread's own for one prompt, vision tower left out. By attention nothing is removed (the header of `prune`).
"""

import statistics

from asking import ask, asked_about, begun, write

import vlm_anchors as va

SHARES = (0.5, 0.25, 0.125)
ANCHORS = "attanchor:tau=0.3"


def main():
    given = begun(__doc__, scenes=40, seed=0)
    specs = {("all", 1.0, False): "none", ("all", 1.0, True): ANCHORS}
    for by in ("cosine", "attention", "random"):
        for share in SHARES:
            pruned = f"prune:by={by},share={share}"
            specs |= {(by, share, False): pruned, (by, share, True): f"{ANCHORS}+{pruned}"}

    def save(tallies):
        plain, rows = tallies["all", 1.0, False], []
        for (by, share, anchors), spec in specs.items():
            tally = tallies[by, share, anchors]
            ratios = [own / other for own, other in zip(tally.seconds, plain.seconds, strict=True)]
            made = {"by": by, "share": share, "anchors": anchors, "method": spec}
            rows.append(made | tally.report(plain) | {"seconds against plain": round(statistics.median(ratios), 3)})
        write("pruning", seed=given.seed, scenes=len(plain.counts), rows=rows)

    ask(va.load("scenes"), asked_about(given.scenes, given.seed), specs, save=save, reuse=False)


main()
