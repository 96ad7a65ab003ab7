"""Writes docs/open-questions.md and its figures from results/open_*.json: python runs/open_questions/page.py (--check: stale?).

Every number and every verdict is derived from a result file.
"""

import json
import sys
from pathlib import Path

from vlm_anchors.analysis.plots import COLOURS, MARKERS

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "open-questions.md"
FIGURES = ROOT / "docs" / "figures"
INTRO = """\
<!-- Written by runs/open_questions/page.py from results/; do not edit. -->
# Open questions of AttAnchor

AttAnchor's paper (arXiv 2509.23109) leaves questions open. Here each is asked of the bundled model, a LLaVA of 8 million
parameters on drawn scenes, with POPE's questions about scenes of the test split. Answers are read from the first token.
Accuracy and differences are in points with 95 % intervals over scenes (bootstrap, paired). The samples are small, and this
model's patches were aligned with words when it was trained, far better than a LLaVA's: what is seen here shows how a question can
be asked, and is no evidence about a large model. tau = 0.135 anchors a tenth of its words; 0.3 separates objects that are
there from others best.
"""
SIZES = (64, 256, 576, 1024, 2304)
NOT_RUN = "Not run yet: `python runs/open_questions/{}.py`."


def load(name):
    file = ROOT / "results" / f"open_{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def shown(span, digits=1, sign=False):
    value, low, high = (f"{each:{'+' if sign else ''}.{digits}f}" for each in span)
    return f"{value} [{low}, {high}]"


def sure(span):
    """Whether an interval leaves out zero, and on which side: -1, 0 or 1."""
    return (span[1] > 0) - (span[2] < 0)


def figure(name, draw, width=7.2, height=3.4):
    """Remembers how a figure is drawn; returns the line that shows it."""
    DRAWN[name] = (draw, width, height)
    return f"![{name.replace('-', ' ')}](figures/{name}.png)"


DRAWN = {}


def points(axes, number, xs, spans, label):
    """A line with intervals."""
    spread = [[abs(span[0] - span[end]) for span in spans] for end in (1, 2)]
    axes.errorbar(
        xs, [span[0] for span in spans], yerr=spread, color=COLOURS[number], marker=MARKERS[number], markersize=4,
        capsize=2, linewidth=1.3, label=label,
    )  # fmt: skip


def dressed(axes, x, y, zero=False):
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if zero:
        axes.axhline(0, color="#666666", linewidth=0.8)


def cost():
    told = load("cost")
    if told is None:
        return NOT_RUN.format("cost")
    head = [
        "image tokens",
        "anchors at one tau",
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
        for one in told["cost"]
    ]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2)
        xs = [one["image tokens"] for one in told["cost"]]
        for number, part in enumerate(("first token", "decoding")):
            points(left, number, xs, [one["ratio"][part] for one in told["cost"]], part)
        left.axhline(1, color="#666666", linewidth=0.8)
        left.set_xscale("log")
        left.legend(frameon=False, fontsize=8)
        dressed(left, "image tokens", "seconds against plain")
        right.plot(xs, [one["anchors at the tau of 576"] for one in told["cost"]], color=COLOURS[2], marker="o")
        right.set_xscale("log")
        dressed(right, "image tokens", f"words that anchor at tau {told['tau_of_576']:g}")

    first, last = told["cost"][0], told["cost"][-1]
    dear = [one["image tokens"] for one in told["cost"] if sure([x - 1 for x in one["ratio"]["first token"]]) > 0]
    said = (
        f"At one tau {first['anchors at the tau of 576']} of {first['words']} words anchor with {first['image tokens']} image "
        f"tokens and {last['anchors at the tau of 576']} with {last['image tokens']}: the best of more cosines is higher, so tau "
        f"must rise with the image. The share of added tokens falls instead: "
        f"{last['anchors at this tau'] / last['image tokens']:.1%} where a tenth of the words anchors. "
        + (f"The first token is surely slower with {', '.join(map(str, dear))} image tokens." if dear else
           "No first token is surely slower than the plain model's.")
    )  # fmt: skip
    lacking = [str(size) for size in SIZES if size not in [one["image tokens"] for one in told["cost"]]]
    said += f" Not run for lack of time: {', '.join(lacking)} image tokens." if lacking else ""
    quality = [
        [one["image tokens"], "plain" if one["tau"] == "plain" else one["tau"], shown(one["accuracy"]),
         shown(one["difference"], sign=True) if "difference" in one else "", one["questions"]]
        for one in told["quality"]
    ]  # fmt: skip
    seen = table(["image tokens", "tau", "accuracy", "difference", "questions"], quality)
    return (
        f"Random weights, {told['shape']}, {told['rounds']} interleaved rounds; ratios to the plain model on the same prompt.\n\n"
        f"{table(head, rows)}\n\n{figure('open-cost', draw)}\n\n**Verdict.** {said}\n\n"
        f"The bundled model with 1, 4 and 9 scenes in one prompt, which it was never trained on:\n\n{seen}"
    )


def pruning():
    told = load("pruning")
    if told is None:
        return NOT_RUN.format("pruning")
    rows = [
        [one["by"], f"{one['share']:g}", "yes" if one["anchors"] else "", shown(one["accuracy"]),
         shown(one["difference"]["accuracy"], sign=True), f"{one['seconds against plain']:.2f}"]
        for one in told["rows"]
    ]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2, sharey=True)
        whole = {one["anchors"]: one for one in told["rows"] if one["by"] == "all"}
        for axes, anchors in ((left, False), (right, True)):
            for number, by in enumerate(("cosine", "attention", "random")):
                mine = [whole[anchors], *(one for one in told["rows"] if one["by"] == by and one["anchors"] == anchors)]
                points(axes, number, [one["share"] for one in mine], [one["accuracy"] for one in mine], by)
            dressed(axes, "share of image tokens kept", "accuracy")
            axes.set_title("with anchors" if anchors else "without anchors", fontsize=9)
        left.legend(frameon=False, fontsize=8)

    def kept(by):
        """The smallest share at which pruning alone is not surely worse, and its difference."""
        fine = [one for one in told["rows"] if one["by"] == by and not one["anchors"]]
        fine = [one for one in fine if sure(one["difference"]["accuracy"]) >= 0]
        return min(fine, key=lambda one: one["share"], default=None)

    parts = []
    for by in ("cosine", "attention", "random"):
        one = kept(by)
        parts.append(
            f"by {by} every share is surely worse" if one is None else
            f"by {by} down to {one['share']:g} nothing is surely lost ({shown(one['difference']['accuracy'], sign=True)})"
        )  # fmt: skip
    halves = {one["by"]: one for one in told["rows"] if one["share"] == 0.5 and not one["anchors"]}
    with_anchors = [one for one in told["rows"] if one["anchors"] and one["by"] != "all"]
    beside = next(one for one in told["rows"] if one["anchors"] and one["by"] == "all")["accuracy"][0]
    gained = sum(one["accuracy"][0] > beside for one in with_anchors)
    said = (
        f"Without anchors, {'; '.join(parts)}. Half the tokens removed by cosine take "
        f"{halves['cosine']['seconds against plain']:.2f} of the plain model's time; by attention nothing is removed "
        f"({halves['attention']['seconds against plain']:.2f}). With "
        f"anchors {gained} of {len(with_anchors)} pruned settings are above anchors alone."
    )
    return (
        f"{told['scenes']} scenes, {told['rows'][0]['questions']} questions; anchors at tau 0.3. Cosine and random remove "
        "tokens before the decoder; attention masks them after layer 1 of 12 (FastV's 2 of 32).\n\n"
        f"{table(['by', 'share', 'anchors', 'accuracy', 'against plain', 'seconds'], rows)}\n\n"
        f"{figure('open-pruning', draw)}\n\n**Verdict.** {said}"
    )


def degraded():
    told = load("degraded")
    if told is None:
        return NOT_RUN.format("degraded")
    taus = list(told["rows"][0]["anchors"])
    rows = [
        [one["kind"], one["strength"], shown(one["plain"]["accuracy"]),
         *(shown(one["anchors"][tau]["difference"]["accuracy"], sign=True) for tau in taus),
         f"{one['cosines']['separation']:.2f}", f"{one['cosines']['there']:.2f} / {one['cosines']['absent']:.2f}",
         f"{one['cosines']['entropy']:.2f}"]
        for one in told["rows"]
    ]  # fmt: skip
    head = ["image", "strength", "plain", *(f"anchors, tau {tau}" for tau in taus), "separation", "cosine there / absent",
            "entropy"]  # fmt: skip

    def draw(figure):
        kinds = list(dict.fromkeys(one["kind"] for one in told["rows"]))[1:]
        for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
            mine = [told["rows"][0], *(one for one in told["rows"] if one["kind"] == kind)]
            for number, tau in enumerate(taus):
                spans = [one["anchors"][tau]["difference"]["accuracy"] for one in mine]
                points(axes, number, range(len(mine)), spans, f"tau {tau}")
            axes.set_xticks(range(len(mine)), ["none", *(f"{one['strength']:g}" for one in mine[1:])], fontsize=7)
            dressed(axes, kind, "", zero=True)
        figure.axes[0].set_ylabel("points that anchors change")
        figure.axes[0].legend(frameon=False, fontsize=8)

    def cases(side):
        return {
            tau: [f"{one['kind']} {one['strength']:g}" for one in told["rows"]
                  if sure(one["anchors"][tau]["difference"]["accuracy"]) == side]
            for tau in taus
        }  # fmt: skip

    harm, help_ = cases(-1), cases(1)
    said = " ".join(
        f"At tau {tau} anchors surely harm in {len(harm[tau])} of {len(told['rows'])} conditions and surely help in "
        f"{len(help_[tau])}{': ' + ', '.join(help_[tau]) if help_[tau] else ''}."
        for tau in taus
    )
    clear = told["rows"][0]
    helped = [
        one for one in told["rows"] if any(sure(one["anchors"][tau]["difference"]["accuracy"]) > 0 for tau in taus)
    ]
    if helped:
        best, yes = (max(one["plain"][name][0] for one in helped) for name in ("accuracy", "yes"))
        said += (
            f" The boundary runs the other way round than one would fear: anchors help where the plain model sees "
            "next to nothing "
            f"(accuracy {best:.0f} or less, {clear['plain']['accuracy'][0]:.0f} on clear images) and seldom says "
            f"yes ({yes:.0f} % or less), "
            "while the cosine, however low, still separates better than chance."
        )
    said += (
        " `calibrate` warns where the words that anchor do not stand out from the others (`stand_out` below 3: here the "
        "darkest scenes and the strongest blur); `diagnose` reports separation and entropy where boxes are known."
    )
    return (
        f"{told['scenes']} scenes, {clear['plain']['questions']} questions a condition. Separation: how often an object that is "
        "there has the higher best cosine than one that is not. Entropy: of an asked word's cosines over the patches.\n\n"
        f"{table(head, rows)}\n\n{figure('open-degraded', draw, 10)}\n\n**Verdict.** {said}"
    )


def variants():
    told = load("variants")
    if told is None:
        return NOT_RUN.format("variants")
    taus = list(dict.fromkeys(one["tau"] for one in told["rows"]))
    names = list(dict.fromkeys(one["variant"] for one in told["rows"]))
    of = {(one["tau"], one["variant"]): one for one in told["rows"]}
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
        f"In a model as it is, {'no variant helps' if not better else ', '.join(better) + ' helps'}. Where the anchor stands "
        f"decides: right behind its patch it costs {-published[0]:.0f} points at tau {low}, at the image's end {-end[0]:.0f}. "
        f"Without the words in the prompt nothing is gained: the best of the variants that leave them out loses "
        f"{-worst:.0f} points, since the question is then no longer one. Whether training with a "
        "variant changes this was not run."
    )
    return (
        f"{told['plain']['scenes']} scenes, {told['plain']['questions']} questions; plain {shown(told['plain']['accuracy'])}. "
        "The model was not trained with anchors. Differences of accuracy from plain; false yes: absent objects whose word "
        f"anchored.\n\n{table(head, rows)}\n\n{figure('open-variants', draw, 7.2, 4.2)}\n\n**Verdict.** {said}"
    )


def evidence():
    told = load("evidence")
    if told is None:
        return NOT_RUN.format("evidence")
    head = ["training", "accuracy with anchors", "against plain", "without", "false yes with anchors", "the same without",
            "a forced anchor moves yes, absent", "there"]  # fmt: skip
    arms = {one["arm"]: one for one in told["arms"]}
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
        f"{told['steps']} batches of 12 existence questions about {told['training scenes']} scenes, LoRA on the decoder, the "
        f"projector as it is; {told['asked scenes']} scenes asked about; tau {told['tau']}; one seed. Forced: the asked word "
        "anchors beside its best patch whatever its cosine."
    )
    return f"{sizes}\n\n{table(head, rows)}\n\n{figure('open-evidence', draw, 9)}\n\n**Verdict.** {said}"


def alignment():
    told = load("alignment")
    if told is None:
        return NOT_RUN.format("alignment")
    rows = [
        [one["steps"], f"{one['kept']:.2f}", f"{one['cosines']['there']:.2f} / {one['cosines']['absent']:.2f}",
         f"{one['cosines']['separation']:.3f}", shown([one["best"][key] for key in ("tau", "tau_low", "tau_high")], 2),
         f"{one['best']['f1']:.3f}", shown(one["plain"]["accuracy"]), shown(one["anchors"]["difference"]["accuracy"], sign=True)]
        for one in told["rows"]
    ]  # fmt: skip
    head = ["steps", "cosine with the old patches", "cosine there / absent", "separation", "best tau", "its F1", "plain",
            f"anchors, tau {told['tau']}"]  # fmt: skip

    def draw(figure):
        left, right = figure.subplots(1, 2)
        for number, one in enumerate(told["rows"]):
            left.plot([row["tau"] for row in one["by tau"]], [row["f1"] for row in one["by tau"]], color=COLOURS[number],
                      marker=MARKERS[number], markersize=3, label=f"{one['steps']} steps")  # fmt: skip
        left.legend(frameon=False, fontsize=8)
        dressed(left, "tau", "F1 of selection")
        steps = [one["steps"] for one in told["rows"]]
        points(right, 0, steps, [one["plain"]["accuracy"] for one in told["rows"]], "plain")
        points(right, 1, steps, [one["anchors"]["accuracy"] for one in told["rows"]], "anchors")
        right.legend(frameon=False, fontsize=8)
        dressed(right, "steps of alignment", "accuracy")

    first, last = told["rows"][0], told["rows"][-1]
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
        f"The projector alone is trained on {told['training scenes']} scenes: a cross-entropy that pulls each patch on an object "
        "to the object's word among all objects' words, and a term that keeps patches where they were. The decoder stays. "
        f"{told['scenes']} scenes asked about, {told['selection scenes']} for selection (Theorem 4).\n\n"
        f"{table(head, rows)}\n\n{figure('open-alignment', draw)}\n\n**Verdict.** {said}"
    )


def projectors():
    told, others = load("projectors"), load("degraded")
    if told is None:
        return NOT_RUN.format("projectors")
    rows = [
        [one["projector"], one["tokens"], f"{one['cosines']['spread']:.2f}", f"{one['cosines']['separation']:.3f}",
         f"{one['cosines']['entropy']:.2f}", shown(one["plain"]["accuracy"]),
         shown(one["anchors"]["difference"]["accuracy"], sign=True)]
        for one in told["rows"]
    ]  # fmt: skip
    head = ["projector", "image tokens", "spread", "separation", "entropy", "plain", f"anchors, tau {told['tau']}"]
    pairs = [(one["cosines"], one["anchors"]["difference"]["accuracy"]) for one in told["rows"]]
    if others is not None:
        pairs += [
            (one["cosines"], one["anchors"][f"{told['tau']:g}"]["difference"]["accuracy"]) for one in others["rows"]
        ]
    names = ("spread", "separation", "entropy")
    ranks = {name: spearman([c[name] for c, _ in pairs], [gap[0] for _, gap in pairs]) for name in names}

    def draw(figure):
        for axes, name in zip(figure.subplots(1, 3, sharey=True), names, strict=True):
            axes.scatter([c[name] for c, _ in pairs], [gap[0] for _, gap in pairs], color=COLOURS[0], s=14)
            mine = pairs[: len(told["rows"])]
            axes.scatter([c[name] for c, _ in mine], [gap[0] for _, gap in mine], color=COLOURS[1], s=22, marker="s")
            dressed(axes, name, "", zero=True)
        figure.axes[0].set_ylabel("points that anchors change")

    listed = ", ".join(f"{name} {value:+.2f}" for name, value in ranks.items())
    best = max(ranks, key=lambda name: abs(ranks[name]))
    predicts = "None of them predicts it well." if abs(ranks[best]) < 0.5 else f"{best.capitalize()} predicts it best."
    said = (
        f"Over {len(pairs)} conditions (these projectors, and the degraded images of question c) the rank correlation with what "
        f"anchors change is {listed}. {predicts} " + told["not run"]
    )
    return (
        f"{told['scenes']} scenes; projectors as they are made, without training.\n\n{table(head, rows)}\n\n"
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


SECTIONS = (
    ("a: many image tokens", "cost", cost),
    ("b: with pruning", "pruning", pruning),
    ("c: degraded images", "degraded", degraded),
    ("e: without the whole prompt", "variants", variants),
    ("Why is an anchor read as evidence?", "evidence", evidence),
    ("d: alignment", "alignment", alignment),
    ("f: projectors", "projectors", projectors),
)


def made(name):
    told = load(name)
    if told is None:
        return ""
    lib = told["versions"]
    return (
        f"\n\n*`{told['command']}`: {told['device']}, seed {told['seed']}, commit {told['commit']}, {told['date']}; torch "
        f"{lib['torch']}, transformers {lib['transformers']}.*"
    )


def page():
    parts = [f"## {title}\n\n{section()}{made(name)}" for title, name, section in SECTIONS]
    return "\n\n".join([INTRO.rstrip(), *parts]) + "\n"


def main():
    text = page()
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text("utf-8") != text
        lacking = [name for name in DRAWN if not (FIGURES / f"{name}.png").exists()]
        sys.exit(f"stale: {PAGE} {lacking}; run python runs/open_questions/page.py" if stale or lacking else 0)
    PAGE.write_text(text, "utf-8")
    from matplotlib.figure import Figure

    for name, (draw, width, height) in DRAWN.items():
        drawn = Figure(figsize=(width, height), layout="constrained")
        draw(drawn)
        drawn.savefig(FIGURES / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
