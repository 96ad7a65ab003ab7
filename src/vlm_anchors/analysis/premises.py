"""Does a model meet what the methods assume? Measured on questions, reported premise by premise with its number.

CLVA (arXiv 2603.25088) assumes that deep layers drift: their maps leave the middle layer's anchors for the first layer's,
and their attention leaves the image. AttAnchor (arXiv 2509.23109) assumes that words resemble their patches. A model that
does neither is not helped by them, whatever a table of accuracies says by chance.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import AnchorsWarning, BadSetting, CannotAct
from ..generation.sample_batches import read_sample
from ..inputs.prompt_builder import prepare
from ..interventions.attachment import attach
from ..models.decoder import find_target
from . import measures
from .anchor_distances import cosine_map
from .calibration import calibrate
from .capture import Capture, Trace
from .image_grid import ImageGrid, grid_of
from .samples import Probe, cells_on, naming

if TYPE_CHECKING:
    from ..models.vlm import Vlm
    from .measures import Table

BATCH = 8
HEAT = 0.1
ENOUGH = 16
"""Questions about objects with known boxes from which a positive layer is chosen; with fewer the paper's rule stands."""


@dataclass
class Observed:
    """Measurements, one entry a question; those on objects only where boxes are known."""

    depth: int
    middle: int
    positive_layer: int = 0
    """Where positive anchors come from: `middle`, or the layer whose anchors lie on the asked object most often."""
    chosen_on: int = 0
    """Questions that chose it. `drift` and `on_asked` then hold the other questions only; 0 if it was not chosen."""
    shares: "list[Table]" = field(default_factory=list)
    drift: "list[Table]" = field(default_factory=list)
    entropy: "list[Table]" = field(default_factory=list)
    no_sensitive: list[dict[int, bool]] = field(default_factory=list)
    """Whether no head of a layer stands out, by layer of `candidates`."""
    no_insensitive: list[bool] = field(default_factory=list)
    positive: list[dict[int, int]] = field(default_factory=list)
    """How many positive anchors a layer would give, by layer of `candidates`."""
    negative: list[int] = field(default_factory=list)
    on_asked: "list[Table]" = field(default_factory=list)
    """By layer: what part of the sensitive heads' anchors lies on the asked object, and what part would by chance."""
    negative_on_objects: list[tuple[float, float]] = field(default_factory=list)
    word_on_asked: list[tuple[float, float]] = field(default_factory=list)
    """Whether the asked word's best patch lies on its object, and the chance of that."""
    cosines: list[tuple[float, float]] = field(default_factory=list)
    """Best cosine of the asked word, and the median of the best cosines of the question's other words."""
    word_entropy: list[float] = field(default_factory=list)
    """Entropy of the asked word's cosines over the patches, as a softmax at temperature `HEAT`, from 0 (one patch) to 1."""

    def __post_init__(self):
        self.positive_layer = self.positive_layer or self.middle

    @property
    def candidates(self) -> range:
        """Layers that may give the positive anchors: 2 to two thirds of the depth."""
        return range(2, max(2 * self.depth // 3, 2) + 1)


def observe(vlm: "Vlm", probes: Sequence[Probe], progress: Any = lambda done: None) -> Observed:
    """Run every question through the plain model once, as a prompt; nothing is generated.

    Where boxes are known for `ENOUGH` questions, every second one chooses the positive layer, as the paper chose its own on
    validation data, and the others show whether maps drift from its anchors.

    Raises `CannotAct` for models that look at their image in a Q-Former, or that are too shallow for a middle layer, and
    `BadSetting` for a single question, from which nothing can be distinguished from chance.
    """
    if len(probes) < 2:
        raise BadSetting(
            f"diagnose tells a difference from chance by how much questions differ; found {len(probes)}. Give two images or "
            "questions, better a hundred."
        )
    target = find_target(vlm.model, vlm.processor.tokenizer)
    if target.kind != "decoder" or target.depth < 4:
        why = "looks at its image in a Q-Former" if target.kind != "decoder" else f"has {target.depth} decoder layers"
        raise CannotAct(f"{vlm.name} {why}; diagnose reads decoders of 4 layers or more. Choose another model.")
    seen = Observed(target.depth, measures.middle_layer(target.depth))
    drifts: list[dict[int, Table]] = []
    for start in range(0, len(probes), BATCH):
        batch = probes[start : start + BATCH]
        for probe, trace, grid in _traced(vlm, batch):
            _note(seen, trace)
            drifts.append({layer: measures.drift(trace, layer) for layer in seen.candidates})
            if grid is not None and probe.asked:
                _note_places(seen, trace, grid, probe)
                _note_words(seen, vlm, grid, probe)
        progress(min(start + BATCH, len(probes)))
    _choose_positive_layer(seen, drifts)
    return seen


def _choose_positive_layer(seen: Observed, drifts: "Sequence[dict[int, Table]]") -> None:
    """Every second question chooses; only the others are kept for what is said about the chosen layer."""
    if len(seen.on_asked) < ENOUGH or len(seen.on_asked) != len(drifts):
        return
    gains: dict[int, list[float]] = {}
    for row in (row for table in seen.on_asked[::2] for row in table):
        if row["layer"] in seen.candidates:
            gains.setdefault(row["layer"], []).append(row["on_asked"] - row["chance"])
    seen.chosen_on = len(seen.on_asked[::2])
    # A layer that has anchors in few questions is no place to take them from, however well those few lie.
    known = {layer: each for layer, each in gains.items() if 2 * len(each) >= seen.chosen_on}
    seen.positive_layer = max(known, key=lambda layer: math.fsum(known[layer]) / len(known[layer]), default=seen.middle)
    seen.on_asked = seen.on_asked[1::2]
    seen.drift = [each[seen.positive_layer] for each in drifts[1::2]]


def _traced(vlm: "Vlm", batch: Sequence[Probe]) -> Iterator[tuple[Probe, Trace, ImageGrid | None]]:
    samples = [read_sample(probe.image, probe.question) for probe in batch]
    inputs = prepare(vlm, samples)
    recorder = Capture(rows="last", dtype=torch.float32)
    with attach(vlm, "none", recorder=recorder), torch.no_grad():
        vlm.model(**inputs.tensors)
    for at, (probe, sample) in enumerate(zip(batch, samples, strict=True)):
        traces = recorder.of(at)
        if not traces:
            raise CannotAct(f"{vlm.name} showed no attention to an image. Choose a model of `vlm-anchors families`.")
        grid = None
        if probe.things:
            single = prepare(vlm, [sample])
            grid = grid_of(vlm, single.tensors, sample.images[0], len(traces[0].image))
            grid = grid if grid.shows_all_of(sample.images[0]) else None
        yield probe, traces[0], grid


def _note(seen: Observed, trace: Trace) -> None:
    seen.shares.append(measures.shares(trace))
    seen.drift.append(measures.drift(trace))
    seen.entropy.append(measures.entropy(trace))
    intensity = trace.visual.mean(-1)
    maps = dict(zip(trace.layers, measures.saliency_maps(trace, "sensitive"), strict=True))
    heads = dict(zip(trace.layers, intensity, strict=True))
    layers = seen.candidates
    seen.no_sensitive.append({layer: not measures.standing_out(heads[layer], True).any() for layer in layers})
    seen.no_insensitive.append(not measures.standing_out(intensity[0], False).any())
    seen.positive.append({layer: int(measures.anchor_mask(maps[layer], trace.image).sum()) for layer in layers})
    seen.negative.append(int(measures.anchor_masks(trace)["negative"].sum()))


def _note_places(seen: Observed, trace: Trace, grid: ImageGrid, probe: Probe) -> None:
    width, height = read_sample(probe.image, probe.question).images[0].size
    asked, every = (cells_on(probe.boxes(every), (width, height), grid.rows, grid.columns) for every in (False, True))
    chance = float(asked.float().mean())
    maps = measures.saliency_maps(trace, "sensitive")
    rows = []
    for layer, saliency in zip(trace.layers, maps, strict=True):
        mask = measures.anchor_mask(saliency, trace.image)[grid.token]
        if mask.any():
            rows.append({"layer": layer, "on_asked": float(asked[mask].float().mean()), "chance": chance})
    seen.on_asked.append(rows)
    negative = measures.anchor_masks(trace)["negative"][grid.token]
    if negative.any():
        seen.negative_on_objects.append((float(every[negative].float().mean()), float(every.float().mean())))


def _note_words(seen: Observed, vlm: "Vlm", grid: ImageGrid, probe: Probe) -> None:
    """The asked object's word (its last piece) against its patches."""
    sample = read_sample(probe.image, probe.question)
    words, cosine = cosine_map(vlm, prepare(vlm, [sample]).tensors)
    named = naming(words, probe.asked)
    if not named or cosine.shape[1] != len(grid.token):
        return
    at = named[-1]
    asked = cells_on(probe.boxes(), sample.images[0].size, grid.rows, grid.columns)
    seen.word_on_asked.append((float(asked[int(cosine[at].argmax())]), float(asked.float().mean())))
    share = (cosine[at] / HEAT).softmax(0)
    entropy = -(share * share.clamp(min=1e-12).log()).sum() / math.log(max(len(share), 2))
    seen.word_entropy.append(float(entropy))
    others = torch.cat([cosine[:at], cosine[at + 1 :]]).amax(-1)
    if len(others):
        seen.cosines.append((float(cosine[at].max()), float(others.median())))


def mean_and_error(values: Sequence[float] | Tensor) -> tuple[float, float]:
    """Mean, and its standard error over questions."""
    numbers = [float(value) for value in values]
    mean = math.fsum(numbers) / len(numbers)
    spread = math.fsum((number - mean) ** 2 for number in numbers) / max(len(numbers) - 1, 1)
    return mean, math.sqrt(spread / len(numbers))


def suggested_tau(vlm: "Vlm", probes: Sequence[Probe]) -> tuple[float | None, str]:
    """The tau that anchors a tenth of the words, and why it should not be trusted, or ""."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        try:
            found = calibrate(vlm, [(probe.image, probe.question) for probe in probes])
        except CannotAct as error:
            return None, str(error)
    return found.tau, found.concern
