"""The sections about models that were trained or changed: evidence, alignment, projectors. Each takes its result."""

from page_parts import dressed, figure, load, points, shown, table

from vlm_anchors.analysis.plots import COLOURS, MARKERS


def evidence(result):
    head = ["training", "accuracy with anchors", "against plain training", "accuracy without anchors", "false yes with anchors",
            "the same without", "change in yes by a forced anchor, object absent", "object present"]  # fmt: skip
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

    start, false = arms["untrained"]["forced"]["absent"], arms["untrained"]["false yes"]["anchored"]
    said = (
        f"Training does not cause it. The bundled model, never trained with anchors, already answers yes to {false[1]} of "
        f"{false[0]} absent objects whose word anchored, and to {false[2]} of the same without anchors; a forced anchor raises "
        f"the share of yes by {shown(start)} points. Patches of this model were aligned with the embeddings of their objects' "
        "words: most likely a word among the patches reads like a patch that shows the object. At the image's end, where no "
        "patch stands, it does so far less (question e)."
    )
    trained = {name: one["forced"]["absent"] for name, one in arms.items() if name not in ("untrained", "plain")}
    if trained:
        listed = ", ".join(f"{name} {shown(span, 0)}" for name, span in trained.items())
        best = min(trained, key=lambda name: trained[name][0])
        alike = [name for name, span in trained.items() if name != best and span[1] <= trained[best][2]]
        said += (
            f" Training with anchors reduces the effect ({listed}; plain training "
            f"{shown(arms['plain']['forced']['absent'], 0)}). Least is left after “{best}”"
            f"{'; ' + ', '.join(alike) + ' cannot be told apart from it' if alike else ''}."
        )
        without = {name: arms[name]["without"]["accuracy"] for name in ("plain", *trained)}
        said += f" Accuracy without anchors: {', '.join(f'{name} {shown(span)}' for name, span in without.items())}."
        data = arms.get("as published", {}).get("training")
        if data:
            yes, others = data["anchored"], data["others"]
            said += (
                f" The training data itself favours the rest: of training questions whose word anchored {yes[1]} of {yes[0]} are "
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


def gap(one, tau):
    """What anchors at one tau change in accuracy."""
    return one["anchors"][f"{tau:g}"]["difference"]["accuracy"]


def alignment(result):
    rows, taus = result["rows"], list(result["rows"][0]["anchors"])
    cells = [
        [one["arm"], f"{one['kept']:.2f}", f"{one['cosines']['there']:.2f} / {one['cosines']['absent']:.2f}",
         f"{one['cosines']['separation']:.3f}", shown([one["best"][key] for key in ("tau", "tau_low", "tau_high")], 2),
         f"{one['best']['f1']:.3f}", shown(one["plain"]["accuracy"]),
         *(shown(one["anchors"][tau]["difference"]["accuracy"], sign=True) for tau in taus)]
        for one in rows
    ]  # fmt: skip
    head = ["model", "cosine with the old patches", "cosine, present / absent", "separation", "best tau", "its F1", "plain",
            *(f"anchors, tau {tau}" for tau in taus)]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2)
        for number, one in enumerate(rows):
            left.plot([row["tau"] for row in one["by tau"]], [row["f1"] for row in one["by tau"]], color=COLOURS[number],
                      marker=MARKERS[number], markersize=3, label=one["arm"])  # fmt: skip
        left.legend(frameon=False, fontsize=8)
        dressed(left, "tau", "F1 of selection")
        points(right, 0, range(len(rows)), [one["plain"]["accuracy"] for one in rows], "plain")
        for number, tau in enumerate(taus, 1):
            points(
                right,
                number,
                range(len(rows)),
                [one["anchors"][tau]["accuracy"] for one in rows],
                f"anchors, tau {tau}",
            )
        right.set_xticks(range(len(rows)), [one["arm"].replace(", ", ",\n") for one in rows], fontsize=7)
        right.legend(frameon=False, fontsize=8)
        dressed(right, "", "accuracy")

    of = {one["arm"]: one for one in rows}
    start, without, pulled = (of[name] for name in ("as it is", "trained further", "trained further, pulled"))
    said = " ".join(
        [
            f"The loss takes the cosine of present objects from {start['cosines']['there']:.2f} to "
            f"{of['projector alone, pulled']['cosines']['there']:.2f} with the projector alone, and to "
            f"{pulled['cosines']['there']:.2f} together with the decoder ({without['cosines']['there']:.2f} without the loss).",
            *(
                ["Patches of this model were aligned when it was made, so the loss has little left to do."]
                if pulled["cosines"]["there"] - without["cosines"]["there"] < 0.05
                else []
            ),
            f"The best tau {moved(without, pulled)} (Corollary 1), F1 of selection {changed(without, pulled)}.",
            f"Answers without anchors are right in {shown(without['plain']['accuracy'])} % without the loss and in "
            f"{shown(pulled['plain']['accuracy'])} % with it.",
            *(
                f"Anchors at tau {tau} change accuracy by {shown(gap(start, float(tau)), sign=True)} in the model as it is, "
                f"{shown(gap(without, float(tau)), sign=True)} and {shown(gap(pulled, float(tau)), sign=True)} after training "
                "without and with the loss."
                for tau in taus
            ),
        ]
    )
    return (
        "A cross-entropy pulls each patch on an object to the object's word among all objects' words. It trains the projector "
        f"alone ({result['alone steps']} steps on {result['training scenes']} scenes, patches staying close to what they were), "
        f"or projector and decoder beside the answers ({result['together steps']} steps of 8 scenes and 64 questions), "
        f"against the same training without it. {result['scenes']} scenes asked about, {result['selection scenes']} for "
        f"selection (Theorem 4); one seed.\n\n{table(head, cells)}\n\n{figure('open-alignment', draw, 9)}\n\n"
        f"**Verdict.** {said}"
    )


def moved(one, other):
    """Whether the best tau is another one, in words."""
    a, b = one["best"], other["best"]
    apart = b["tau_low"] > a["tau_high"] or b["tau_high"] < a["tau_low"]
    return f"{'moves' if apart else 'does not surely move'} ({a['tau']:g} to {b['tau']:g})"


def changed(one, other):
    """What becomes of the best F1, in words."""
    a, b = (
        max((row for row in each["by tau"] if row["f1"] is not None), key=lambda row: row["f1"])
        for each in (one, other)
    )
    apart = b["f1_low"] > a["f1_high"] or b["f1_high"] < a["f1_low"]
    return f"goes from {a['f1']:.3f} to {b['f1']:.3f} ({'intervals apart' if apart else 'intervals overlap'})"


STATISTICS = {
    "spread": lambda one: one["cosines"]["spread"],
    "separation": lambda one: one["cosines"]["separation"],
    "entropy": lambda one: one["cosines"]["entropy"],
    "plain accuracy": lambda one: one["plain"]["accuracy"][0],
}


def projectors(result):
    rows, others, tau = result["rows"], load("degraded"), result["tau"]
    cells = [
        [one["projector"], one["steps"] or "-", one["tokens"], *(f"{STATISTICS[name](one):.{2 + (name[:3] == 'sep')}f}"
         for name in list(STATISTICS)[:3]), shown(one["plain"]["accuracy"]), shown(gap(one, tau), sign=True),
         f"{one['tenth']:g}", shown(gap(one, one["tenth"]), sign=True)]
        for one in rows
    ]  # fmt: skip
    head = ["projector", "steps trained", "image tokens", "spread", "separation", "entropy", "plain", f"anchors, tau {tau}",
            "tau of a tenth", "anchors at it"]  # fmt: skip
    pairs = [(one, gap(one, tau)[0]) for one in rows + (others["rows"] if others else [])]
    tenths = [(one, gap(one, one["tenth"])[0]) for one in rows]
    tenths += [(one, gap(one, others["calibrated_tau"])[0]) for one in (others["rows"] if others else [])]

    def ranks(pairs):
        return {
            name: spearman([of(one) for one, _ in pairs], [change for _, change in pairs])
            for name, of in STATISTICS.items()
        }

    def draw(figure):
        for axes, (name, of) in zip(figure.subplots(1, len(STATISTICS), sharey=True), STATISTICS.items(), strict=True):
            axes.scatter([of(one) for one, _ in pairs], [change for _, change in pairs], color=COLOURS[0], s=14)
            mine = pairs[: len(rows)]
            axes.scatter(
                [of(one) for one, _ in mine], [change for _, change in mine], color=COLOURS[1], s=22, marker="s"
            )
            dressed(axes, name, "", zero=True)
        figure.axes[0].set_ylabel("change in accuracy, points")

    listed = [", ".join(f"{name} {value:+.2f}" for name, value in ranks(each).items()) for each in (pairs, tenths)]
    both = ranks(pairs), ranks(tenths)
    strong = [name for name in STATISTICS if all(abs(each[name]) >= 0.5 for each in both)]
    steady = [name for name in strong if both[0][name] * both[1][name] > 0]
    predicts = f"What predicts it at both: {', '.join(steady)}." if steady else "None of them predicts it well at both."
    trained = [one for one in rows if one["steps"]]
    after = "; ".join(f"{one['projector']} {shown(gap(one, one['tenth']), sign=True)}" for one in trained)
    said = (
        f"Over {len(pairs)} conditions (these projectors, and the degraded images of question c) the rank correlation with what "
        f"anchors change at tau {tau} is {listed[0]}; at the tau of a tenth of the words {listed[1]}. {predicts} With further "
        f"training anchors at the tau of a tenth change accuracy by: {after}."
    )
    return (
        f"{result['scenes']} scenes; each projector as it is made, then trained together with the decoder "
        f"({trained[0]['steps'] if trained else 0} steps of 8 scenes and 64 questions, one seed). The tau of a tenth anchors a "
        "tenth of the words with this projector. Resampled: 16 learned queries attend to all patches, at first at "
        f"random.\n\n{table(head, cells)}\n\n{figure('open-projectors', draw, 11)}\n\n**Verdict.** {said}"
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
