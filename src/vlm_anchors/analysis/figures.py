"""The figures of one study, ready to be written: which ones there are, what each is called, and what it shows."""

from typing import TYPE_CHECKING, Any, NamedTuple

from . import measures, plots
from .study import Seen, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .measures import Table


class Drawn(NamedTuple):
    """A figure, what it shows in a sentence or two, and its file's name without ending."""

    name: str
    caption: str
    figure: "Figure"


def figures_of(study: Study) -> list[Drawn]:
    """All that can be drawn of a study; what a shallow model lacks is left out."""
    plain = study.plain
    drawn = [
        Drawn("shares", "How much of the question's attention lands on the image, layer by layer (mean over heads and words, "
              "after each method's edit); dotted: what it would be if all tokens were alike.",
              plots.share_curves({one.name: measures.shares(one.after[0]) for one in study.seen})),
        Drawn("heads", f"Every head of every layer, {plain.name}: the share of the question's attention on the image (Eq. 1).",
              plots.intensity_matrix(measures.head_intensity(plain.before[0]))),
    ]  # fmt: skip
    drawn += [
        Drawn(
            f"layers-{slug(one.name)}", f"{one.name}: where each layer looks as the first word of the answer is chosen (Eq. 4, "
            "all heads). Colours are scaled to each map's own peak.", _strip(study, one)
        )
        for one in study.seen
    ]  # fmt: skip
    depth = max(plain.before[0].layers)
    if depth >= 3:
        middle = measures.middle_layer(depth)
        drawn.append(
            Drawn(
                "drift", f"{plain.name}: how each layer's map correlates with the negative anchor (insensitive heads of layer 1) "
                f"and the positive one (sensitive heads of layer {middle}); Eq. 6. CLVA repairs models whose curves cross.",
                plots.drift_curves(measures.drift(plain.before[0]), middle),
            )
        )  # fmt: skip
    drawn += [_before_after(study, one) for one in study.seen if one is not plain]
    drawn += [
        Drawn(
            f"crop-{slug(one.name)}", f"{one.name}: the part of the image that was given to the model once more.",
            plots.crop(study.image, one.answer.effects["vicrop"]["crop"]),
        )
        for one in study.seen
        if "crop" in one.answer.effects.get("vicrop", {})
    ]  # fmt: skip
    drawn += [
        Drawn(
            f"anchors-{slug(spec)}", f"{spec}: words copied into the image, each right behind the patch that it resembles "
            "most, with their cosine.", plots.anchor_table(study.grid.image, table, study.grid.rows, study.grid.columns)
        )
        for spec, table in study.anchor_table.items()
        if table and study.grid.whole
    ]  # fmt: skip
    return drawn


def _strip(study: Study, one: Seen) -> "Figure":
    trace = one.after[0]
    maps = study.grid.grid(measures.saliency_maps(trace))
    step = -(-len(trace.layers) // 13)
    chosen = {
        layer: values for at, (layer, values) in enumerate(zip(trace.layers, maps, strict=True)) if at % step == 0
    }
    return plots.heat_strip(study.grid.image, chosen)


def _before_after(study: Study, one: Seen) -> Drawn:
    """The layer whose map the method changed most, in the sum of absolute differences."""
    plain, edited = (measures.saliency_maps(each) for each in (study.plain.after[0], one.after[0]))
    shared = min(plain.shape[-1], edited.shape[-1])  # a method may have shown a second image
    plain, edited = plain[:, :shared], edited[:, :shared]
    at = int((plain - edited).abs().sum(-1).argmax())
    layer = study.plain.after[0].layers[at]
    figure = plots.before_after(
        study.grid.image, study.grid.grid(plain[at]), study.grid.grid(edited[at]), (study.plain.name, one.name),
        f"decoder layer {layer}",
    )  # fmt: skip
    caption = (
        f"{one.name} against {study.plain.name} in layer {layer}, where the map for the answer's first word changed most "
        "(Fig. 6 and 7 of the paper); one scale for both."
    )
    return Drawn(f"before-after-{slug(one.name)}", caption, figure)


def slug(text: str) -> str:
    """A name that any file system takes."""
    kept = "".join(letter if letter.isalnum() or letter in "-=." else "-" for letter in text)
    return "-".join(part for part in kept.split("-") if part)[:80]


def tables_of(study: Study) -> dict[str, Any]:
    """The numbers behind the figures, as plain values."""
    methods = {}
    for one in study.seen:
        trace = one.before[0]
        summary: dict[str, Table] = {
            "shares": measures.shares(trace, one.after[0]),
            "heads": measures.head_sets(trace),
            "entropy": measures.entropy(trace),
        }
        if max(trace.layers) >= 3:
            summary |= {"drift": measures.drift(trace), "anchors": measures.anchors(trace)}
        if trace.norms is not None:
            summary["norms"] = measures.norms(trace)
        methods[one.name] = summary
    return {"model": study.model, "question": study.question, "methods": methods, "anchor_table": study.anchor_table}
