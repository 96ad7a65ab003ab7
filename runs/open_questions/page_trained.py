"""The sections about models that were trained or changed: evidence, alignment, projectors. Each takes its result."""

from page_parts import dressed, figure, load, points, shown, table

from vlm_anchors.analysis.plots import COLOURS, MARKERS


def evidence(result):
    head = ["training", "accuracy with anchors", "against plain", "without", "false yes with anchors", "the same without",
            "a forced anchor moves yes, absent", "there"]  # fmt: skip
    arms = {one["arm"]: one for one in result["arms"]}
    rows = []
    for arm, one in arms.items():
        count, yes, without = one["false yes"]["anchored"]
        rows.append([
            arm, shown(one["with anchors"]["accuracy"]), shown(one["against plain"]["accuracy"], sign=True),
            shown(one["without"]["accuracy"]), f"{yes} of {count}", f"{without} of {count}",
            shown(one["forced"]["absent"], sign=True), shown(one["forced"]["there"], sign=True),
        ])  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2, sharey=True)
        names = list(arms)
        for axes, key, label in ((left, "absent", "object absent"), (right, "there", "object there")):
            spans = [arms[name]["forced"][key] for name in names]
            spread = [[abs(s[0] - s[end]) for s in spans] for end in (1, 2)]
            axes.errorbar([s[0] for s in spans], range(len(names)), xerr=spread, color=COLOURS[0], marker="o",
                          linestyle="", capsize=2, markersize=4)  # fmt: skip
            axes.set_yticks(range(len(names)), names, fontsize=8)
            axes.axvline(0, color="#666666", linewidth=0.8)
            dressed(axes, f"points of yes by a forced anchor, {label}", "")
        left.invert_yaxis()

    start = arms["untrained"]["forced"]["absent"]
    said = (
        f"It is not the training. The bundled model, never trained with anchors, already answers yes to "
        f"{arms['untrained']['false yes']['anchored'][1]} of {arms['untrained']['false yes']['anchored'][0]} absent objects "
        "whose "
        f"word anchored, and to {arms['untrained']['false yes']['anchored'][2]} of the same without anchors; an anchor that is "
        f"forced in raises yes by {shown(start)} points. Patches of this model were aligned with the embeddings of "
        "their objects' "
        "words: most likely a word among the patches reads like a patch that shows the object. At the image's end, where no "
        "patch "
        "stands, it does so far less (question e)."
    )
    trained = {name: one["forced"]["absent"] for name, one in arms.items() if name not in ("untrained", "plain")}
    if trained:
        best = min(trained, key=lambda name: trained[name][0])
        listed = ", ".join(f"{name} {shown(span, 0)}" for name, span in trained.items())
        said += (
            f" Training with anchors lessens it rather than makes it ({listed}; plain training "
            f"{shown(arms['plain']['forced']['absent'], 0)}), least is left after “{best}”."
        )
        data = arms.get("as published", {}).get("training")
        if data:
            yes, others = data["anchored"], data["others"]
            said += (
                f" What remains is learnable from the data: of training questions whose word anchored {yes[1]} of {yes[0]} are "
                f"answered yes, of the others {others[1]} of {others[0]}."
            )
        hard = arms.get("hard negatives", {}).get("training")
        if hard:
            said += f" With hard negatives it is {hard['anchored'][1]} of {hard['anchored'][0]}."
    tried = [name for name in arms if name not in ("untrained", "plain", "as published")]
    said += f" Remedies tried: {', '.join(tried) or 'none yet'}."
    lacking = [
        name for name in ("every object's word", "hard negatives", "random words", "tau falls") if name not in arms
    ]
    said += f" Not run for lack of time: {', '.join(lacking)}." if lacking else ""
    sizes = (
        f"{result['steps']} batches of 12 existence questions about {result['training scenes']} scenes, LoRA on the decoder, the "
        f"projector as it is; {result['asked scenes']} scenes asked about; tau {result['tau']}; one seed. Forced: the asked word "
        "anchors beside its best patch whatever its cosine."
    )
    return f"{sizes}\n\n{table(head, rows)}\n\n{figure('open-evidence', draw, 9)}\n\n**Verdict.** {said}"


def alignment(result):
    rows = [
        [one["steps"], f"{one['kept']:.2f}", f"{one['cosines']['there']:.2f} / {one['cosines']['absent']:.2f}",
         f"{one['cosines']['separation']:.3f}", shown([one["best"][key] for key in ("tau", "tau_low", "tau_high")], 2),
         f"{one['best']['f1']:.3f}", shown(one["plain"]["accuracy"]), shown(one["anchors"]["difference"]["accuracy"], sign=True)]
        for one in result["rows"]
    ]  # fmt: skip
    head = ["steps", "cosine with the old patches", "cosine there / absent", "separation", "best tau", "its F1", "plain",
            f"anchors, tau {result['tau']}"]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2)
        for number, one in enumerate(result["rows"]):
            left.plot([row["tau"] for row in one["by tau"]], [row["f1"] for row in one["by tau"]], color=COLOURS[number],
                      marker=MARKERS[number], markersize=3, label=f"{one['steps']} steps")  # fmt: skip
        left.legend(frameon=False, fontsize=8)
        dressed(left, "tau", "F1 of selection")
        steps = [one["steps"] for one in result["rows"]]
        points(right, 0, steps, [one["plain"]["accuracy"] for one in result["rows"]], "plain")
        points(right, 1, steps, [one["anchors"]["accuracy"] for one in result["rows"]], "anchors")
        right.legend(frameon=False, fontsize=8)
        dressed(right, "steps of alignment", "accuracy")

    first, last = result["rows"][0], result["rows"][-1]
    moved = "moves" if last["best"]["tau_low"] > first["best"]["tau_high"] else "does not surely move"
    both = first["by tau"], last["by tau"]
    best = [max((row for row in rows if row["f1"] is not None), key=lambda row: row["f1"]) for rows in both]
    apart = best[1]["f1_low"] > best[0]["f1_high"]
    said = (
        f"The loss takes the cosine of present objects "
        f"from {first['cosines']['there']:.2f} to {last['cosines']['there']:.2f}. The "
        f"best tau {moved} ({first['best']['tau']:g} to {last['best']['tau']:g}, Corollary 1); F1 of selection goes from "
        f"{first['best']['f1']:.3f} to {last['best']['f1']:.3f} ({'intervals apart' if apart else 'intervals overlap'}); anchors "
        f"change accuracy by {shown(first['anchors']['difference']['accuracy'], sign=True)} before and "
        f"{shown(last['anchors']['difference']['accuracy'], sign=True)} after. The decoder was not trained along."
    )
    return (
        f"The projector alone is trained on {result['training scenes']} scenes: a cross-entropy that pulls each patch on an "
        "object to the object's word among all objects' words, and a term that keeps patches where they were. The decoder stays. "
        f"{result['scenes']} scenes asked about, {result['selection scenes']} for selection (Theorem 4).\n\n"
        f"{table(head, rows)}\n\n{figure('open-alignment', draw)}\n\n**Verdict.** {said}"
    )


def projectors(result):
    others = load("degraded")
    rows = [
        [one["projector"], one["tokens"], f"{one['cosines']['spread']:.2f}", f"{one['cosines']['separation']:.3f}",
         f"{one['cosines']['entropy']:.2f}", shown(one["plain"]["accuracy"]),
         shown(one["anchors"]["difference"]["accuracy"], sign=True)]
        for one in result["rows"]
    ]  # fmt: skip
    head = ["projector", "image tokens", "spread", "separation", "entropy", "plain", f"anchors, tau {result['tau']}"]
    pairs = [(one["cosines"], one["anchors"]["difference"]["accuracy"]) for one in result["rows"]]
    if others is not None:
        pairs += [
            (one["cosines"], one["anchors"][f"{result['tau']:g}"]["difference"]["accuracy"]) for one in others["rows"]
        ]
    names = ("spread", "separation", "entropy")
    ranks = {name: spearman([c[name] for c, _ in pairs], [gap[0] for _, gap in pairs]) for name in names}

    def draw(figure):
        for axes, name in zip(figure.subplots(1, 3, sharey=True), names, strict=True):
            axes.scatter([c[name] for c, _ in pairs], [gap[0] for _, gap in pairs], color=COLOURS[0], s=14)
            mine = pairs[: len(result["rows"])]
            axes.scatter([c[name] for c, _ in mine], [gap[0] for _, gap in mine], color=COLOURS[1], s=22, marker="s")
            dressed(axes, name, "", zero=True)
        figure.axes[0].set_ylabel("points that anchors change")

    listed = ", ".join(f"{name} {value:+.2f}" for name, value in ranks.items())
    best = max(ranks, key=lambda name: abs(ranks[name]))
    predicts = "None of them predicts it well." if abs(ranks[best]) < 0.5 else f"{best.capitalize()} predicts it best."
    said = (
        f"Over {len(pairs)} conditions (these projectors, and the degraded images of question c) the rank correlation with what "
        f"anchors change is {listed}. {predicts} " + result["not run"]
    )
    return (
        f"{result['scenes']} scenes; projectors as they are made, without training.\n\n{table(head, rows)}\n\n"
        f"{figure('open-projectors', draw, 9)}\n\n**Verdict.** {said}"
    )


def spearman(one, other):
    """Rank correlation; ties share their mean rank."""

    def ranks(values):
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    a, b = ranks(one), ranks(other)
    middle = (len(a) - 1) / 2
    top = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    bottom = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return top / bottom**0.5 if bottom else 0.0
