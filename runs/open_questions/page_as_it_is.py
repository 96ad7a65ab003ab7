"""The sections about a model as it is: cost, pruning, degraded images, variants. Each takes its result, as the file has it."""

from page_parts import dressed, figure, load, points, shown, sure, table

from vlm_anchors.analysis.plots import COLOURS, MARKERS

SIZES = (64, 256, 576, 1024, 2304)


def cost(result):
    head = [
        "image tokens",
        f"words anchored at tau {result['tau_of_576']:.3f}",
        "first token, plain",
        "with anchors",
        "decoding",
        "peak memory",
        "cache",
    ]
    rows = [
        [one["image tokens"], f"{one['anchors at the tau of 576']} of {one['words']}",
         f"{one['seconds']['first token'][0]:.2f} s", shown(one["ratio"]["first token"], 3),
         shown(one["ratio"]["decoding"], 3), f"{one['peak ratio']:.4f}", f"{one['cache bytes'] / 1e6:.1f} MB"]
        for one in result["cost"]
    ]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2)
        xs = [one["image tokens"] for one in result["cost"]]
        for number, part in enumerate(("first token", "decoding")):
            points(left, number, xs, [one["ratio"][part] for one in result["cost"]], part)
        left.axhline(1, color="#666666", linewidth=0.8)
        left.set_xscale("log")
        left.legend(frameon=False, fontsize=8)
        dressed(left, "image tokens", "seconds against plain")
        right.plot(xs, [one["anchors at the tau of 576"] for one in result["cost"]], color=COLOURS[2], marker="o")
        right.set_xscale("log")
        dressed(right, "image tokens", f"words that anchor at tau {result['tau_of_576']:g}")

    first, last = result["cost"][0], result["cost"][-1]
    dear = [one["image tokens"] for one in result["cost"] if sure([x - 1 for x in one["ratio"]["first token"]]) > 0]
    said = (
        f"At one tau {first['anchors at the tau of 576']} of {first['words']} words anchor with {first['image tokens']} image "
        f"tokens and {last['anchors at the tau of 576']} with {last['image tokens']}. With random weights a best cosine is the "
        "maximum of that much more noise; where it is so in a trained model too, tau must rise with the image. The added tokens "
        "become a smaller share of the prompt: "
        f"{last['anchors at this tau'] / last['image tokens']:.1%} of {last['image tokens']} image tokens where a tenth of the "
        "words is anchored. "
        + (f"The first token is surely slower with {' and '.join(map(str, dear))} image tokens." if dear else
           "No first token is surely slower than the plain model's.")
    )  # fmt: skip
    lacking = [str(size) for size in SIZES if size not in [one["image tokens"] for one in result["cost"]]]
    said += f" Not run for lack of time: {', '.join(lacking)} image tokens." if lacking else ""
    quality = [
        [one["image tokens"], "plain" if one["tau"] == "plain" else one["tau"], shown(one["accuracy"]),
         shown(one["difference"], sign=True) if "difference" in one else "", one["questions"]]
        for one in result["quality"]
    ]  # fmt: skip
    seen = table(["image tokens", "tau", "accuracy", "difference", "questions"], quality)
    return (
        f"Random weights, {result['shape']}, {result['rounds']} interleaved rounds; ratios to the plain model on the same "
        "prompt.\n\n"
        f"{table(head, rows)}\n\n{figure('open-cost', draw)}\n\n**Verdict.** {said}\n\n"
        f"The bundled model with 1, 4 and 9 scenes in one prompt, which it was never trained on:\n\n{seen}"
    )


def pruning(result):
    rows = [
        [one["by"], f"{one['share']:g}", "yes" if one["anchors"] else "", shown(one["accuracy"]),
         shown(one["difference"]["accuracy"], sign=True), f"{one['seconds against plain']:.2f}"]
        for one in result["rows"]
    ]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2, sharey=True)
        whole = {one["anchors"]: one for one in result["rows"] if one["by"] == "all"}
        for axes, anchors in ((left, False), (right, True)):
            for number, by in enumerate(("cosine", "attention", "random")):
                mine = [
                    whole[anchors],
                    *(one for one in result["rows"] if one["by"] == by and one["anchors"] == anchors),
                ]
                points(axes, number, [one["share"] for one in mine], [one["accuracy"] for one in mine], by)
            dressed(axes, "share of image tokens kept", "accuracy")
            axes.set_title("with anchors" if anchors else "without anchors", fontsize=9)
        left.legend(frameon=False, fontsize=8)

    def kept(by):
        """The smallest share at which pruning alone is not surely worse, and its difference."""
        fine = [one for one in result["rows"] if one["by"] == by and not one["anchors"]]
        fine = [one for one in fine if sure(one["difference"]["accuracy"]) >= 0]
        return min(fine, key=lambda one: one["share"], default=None)

    parts = []
    for by in ("cosine", "attention", "random"):
        one = kept(by)
        parts.append(
            f"{by} is surely worse at every share" if one is None else
            f"keeping {one['share']:g} of the tokens by {by} shows no sure loss "
            f"({shown(one['difference']['accuracy'], sign=True)})"
        )  # fmt: skip
    halves = {one["by"]: one for one in result["rows"] if one["share"] == 0.5 and not one["anchors"]}
    of = {(one["by"], one["share"], one["anchors"]): one["accuracy"] for one in result["rows"] if one["by"] != "all"}
    pairs = [(key[:2], accuracy, of[*key[:2], False]) for key, accuracy in of.items() if key[2]]
    best = max(pairs, key=lambda pair: pair[1][0] - pair[2][0])
    beside = next(one for one in result["rows"] if one["anchors"] and one["by"] == "all")["accuracy"][0]
    gained = sum(accuracy[0] > beside for _, accuracy, _ in pairs)
    said = (
        f"Without anchors, {'; '.join(parts)}. Half the tokens removed by cosine take "
        f"{halves['cosine']['seconds against plain']:.2f} of the plain model's time; the attention variant only masks tokens and "
        f"saves none ({halves['attention']['seconds against plain']:.2f}). Anchors change a pruned model most at "
        f"{best[0][1]:g} by {best[0][0]}: accuracy {shown(best[2])} without them, {shown(best[1])} with them. "
        f"{gained} of {len(pairs)} pruned settings with anchors are above anchors alone."
    )
    return (
        f"{result['scenes']} scenes, {result['rows'][0]['questions']} questions; anchors at tau 0.3. Cosine and random remove "
        "tokens before the decoder; attention masks them after layer 1 of 12 (FastV's 2 of 32).\n\n"
        f"{table(['by', 'share', 'anchors', 'accuracy', 'against plain', 'seconds'], rows)}\n\n"
        f"{figure('open-pruning', draw)}\n\n**Verdict.** {said}"
    )


def degraded(result):
    taus = list(result["rows"][0]["anchors"])
    rows = [
        [one["kind"], one["strength"], shown(one["plain"]["accuracy"]),
         *(shown(one["anchors"][tau]["difference"]["accuracy"], sign=True) for tau in taus),
         f"{one['cosines']['separation']:.2f}", f"{one['cosines']['there']:.2f} / {one['cosines']['absent']:.2f}",
         f"{one['cosines']['entropy']:.2f}"]
        for one in result["rows"]
    ]  # fmt: skip
    head = ["image", "strength", "plain", *(f"anchors, tau {tau}" for tau in taus), "separation", "cosine, present / absent",
            "entropy"]  # fmt: skip

    def draw(figure):
        kinds = list(dict.fromkeys(one["kind"] for one in result["rows"]))[1:]
        for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
            mine = [result["rows"][0], *(one for one in result["rows"] if one["kind"] == kind)]
            for number, tau in enumerate(taus):
                spans = [one["anchors"][tau]["difference"]["accuracy"] for one in mine]
                points(axes, number, range(len(mine)), spans, f"tau {tau}")
            axes.set_xticks(range(len(mine)), ["none", *(f"{one['strength']:g}" for one in mine[1:])], fontsize=7)
            dressed(axes, kind, "", zero=True)
        figure.axes[0].set_ylabel("change in accuracy, points")
        figure.axes[0].legend(frameon=False, fontsize=8)

    def cases(side):
        return {
            tau: [f"{one['kind']} {one['strength']:g}" for one in result["rows"]
                  if sure(one["anchors"][tau]["difference"]["accuracy"]) == side]
            for tau in taus
        }  # fmt: skip

    harm, help_ = cases(-1), cases(1)
    said = " ".join(
        f"At tau {tau} anchors surely harm in {len(harm[tau])} of {len(result['rows'])} conditions and surely help in "
        f"{len(help_[tau])}{': ' + ', '.join(help_[tau]) if help_[tau] else ''}."
        for tau in taus
    )
    clear = result["rows"][0]
    helped = [
        one for one in result["rows"] if any(sure(one["anchors"][tau]["difference"]["accuracy"]) > 0 for tau in taus)
    ]
    if helped:
        best, yes = (max(one["plain"][name][0] for one in helped) for name in ("accuracy", "yes"))
        raised = [max(one["anchors"][tau]["yes"][0] for tau in taus) for one in helped]
        said += (
            " Contrary to what one might expect, anchors help only where the plain model sees little "
            f"(accuracy at most {best:.1f}, {clear['plain']['accuracy'][0]:.1f} on clear images) and seldom answers yes (at most "
            f"{yes:.1f} %; with anchors up to {max(raised):.1f} %), while the cosine still separates better than chance. Whether "
            "a constant shift of the logit of yes would do as much was not run."
        )
    warned = [f"{one['kind']} {one['strength']:g}" for one in result["rows"] if one.get("concern")]
    said += (
        f" `calibrate` warns in {len(warned)} of these conditions that the words that anchor do not stand out from the others"
        f"{': ' + ', '.join(warned) if warned else ''}. `diagnose` reports the entropy too, and how far the asked word's "
        "cosine is above those of other words; it asks about objects that are there only."
    )
    return (
        f"{result['scenes']} scenes, {clear['plain']['questions']} questions a condition. Separation: how often an object that "
        "is there has the higher best cosine than one that is not. Entropy: of an asked word's cosines over the patches.\n\n"
        f"{table(head, rows)}\n\n{figure('open-degraded', draw, 10)}\n\n**Verdict.** {said}"
    )


def trained():
    """What training with anchors at the image's end makes of them, which `evidence.py` measures."""
    arms = {one["arm"]: one for one in (load("evidence") or {"arms": []})["arms"]}
    if "at the image's end" not in arms:
        return ""
    end, published = (
        " with anchors and ".join(shown(arms[name][key]["accuracy"]) for key in ("with anchors", "without"))
        + " without"
        for name in ("at the image's end", "as published")
    )
    return (
        f" After a short training with anchors at the image's end (next section) accuracy is {end}; after one with "
        f"anchors as published, {published}."
    )


def variants(result):
    taus = list(dict.fromkeys(one["tau"] for one in result["rows"]))
    names = list(dict.fromkeys(one["variant"] for one in result["rows"]))
    of = {(one["tau"], one["variant"]): one for one in result["rows"]}
    rows = [
        [name, f"`{of[taus[0], name]['method'].partition(',')[2] or '-'}`",
         *(shown(of[tau, name]["difference"]["accuracy"], sign=True) for tau in taus),
         *(f"{of[tau, name]['absent']['anchored yes']} of {of[tau, name]['absent']['anchored']}" for tau in taus[1:])]
        for name in names
    ]  # fmt: skip
    head = ["variant", "parameters", *(f"tau {tau}" for tau in taus), f"false yes, tau {taus[-1]}"]

    def draw(figure):
        axes = figure.subplots()
        for number, tau in enumerate(taus):
            spans = [of[tau, name]["difference"]["accuracy"] for name in names]
            values, spread = [s[0] for s in spans], [[abs(s[0] - s[end]) for s in spans] for end in (1, 2)]
            at = [place + 0.18 * (2 * number - 1) for place in range(len(names))]
            axes.errorbar(values, at, xerr=spread, color=COLOURS[number], marker=MARKERS[number], linestyle="",
                          capsize=2, markersize=4, label=f"tau {tau}")  # fmt: skip
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.axvline(0, color="#666666", linewidth=0.8)
        axes.legend(frameon=False, fontsize=8)
        dressed(axes, "accuracy, points against plain", "")

    low = taus[-1]
    published, end = (of[low, name]["difference"]["accuracy"] for name in ("as published", "at the image's end"))
    gone = [of[low, name] for name in names if "move" in name or "only" in name]
    worst = max(one["difference"]["accuracy"][0] for one in gone)
    better = [name for name in names for tau in taus if sure(of[tau, name]["difference"]["accuracy"]) > 0]
    said = (
        f"Without training, {'no variant helps' if not better else ', '.join(better) + ' helps'}. Where the anchor stands "
        f"decides: right behind its patch it costs {-published[0]:.0f} points at tau {low}, at the image's end {-end[0]:.0f}. "
        f"Without the words in the prompt nothing is gained: at tau {low} the best of the variants that leave them out loses "
        f"{-worst:.0f} points, because the prompt is then no longer a complete question.{trained()}"
    )
    return (
        f"{result['plain']['scenes']} scenes, {result['plain']['questions']} questions; plain "
        f"{shown(result['plain']['accuracy'])}. The model was not trained with anchors. "
        "Differences of accuracy from plain; false yes: absent objects whose word "
        f"anchored.\n\n{table(head, rows)}\n\n{figure('open-variants', draw, 7.2, 4.2)}\n\n**Verdict.** {said}"
    )
