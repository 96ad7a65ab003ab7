"""One question asked with several methods, and everything that was seen while they answered."""

import dataclasses
import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, CannotAct
from ..generation.generate import answer_prepared, prepared
from ..generation.plan import GenerationPlan
from ..generation.sample_batches import read_sample
from ..inputs.prompt_builder import prepare
from ..interventions.attachment import attach
from ..methods.attanchor import AttAnchor
from ..models.decoder import find_target
from ..models.vlm import Vlm
from ..specs import MethodLike, spec_of_all
from ..types import Answer
from .anchor_distances import anchor_table
from .capture import Capture, Trace
from .image_grid import ImageGrid, grid_of

if TYPE_CHECKING:
    from PIL import Image

    from ..inputs.prompt_builder import Sample
    from .measures import Table


@dataclass(frozen=True)
class Seen:
    """One method's answer. Traces: the prompt's, then one for each later token; `after` has the method's edit in it.

    words: the answer's tokens as text, one for each trace: the prompt's last row chose the first of them.
    """

    answer: Answer
    words: tuple[str, ...]
    before: tuple[Trace, ...]
    after: tuple[Trace, ...]
    left_out: int = 0
    """Tokens at the end of the answer of which nothing was kept."""

    @property
    def name(self) -> str:
        plain = self.answer.decoding == "greedy"
        return self.answer.method if plain else f"{self.answer.method}, {self.answer.decoding}"


@dataclass(frozen=True)
class Study:
    """Everything about one image and question.

    Args:
        asked: The prompt's text rows as text.
    """

    model: str
    question: str
    image: "Image.Image"
    grid: ImageGrid
    asked: tuple[str, ...]
    seen: tuple[Seen, ...]
    anchor_table: "dict[str, Table]"

    @property
    def plain(self) -> Seen:
        """The answer without a method, or the first one where all had one."""
        return next((one for one in self.seen if one.answer.method == "none"), self.seen[0])


def study(
    vlm: Vlm,
    image: "Image.Image | Any",
    question: str,
    methods: Sequence[MethodLike] = ("none", "clva"),
    *,
    decoding: Any = None,
    max_new_tokens: int = 64,
    norms: bool = False,
) -> Study:
    """Ask with each method in turn, watching all layers and heads.

    Raises what `va.ask` raises, and `CannotAct` for beam search, whose beams change places while they are watched, and
    for Q-Former models, whose words see no image.
    """
    runs = [GenerationPlan.of(vlm, method, decoding, max_new_tokens) for method in methods]
    for run in runs:
        check_recordable(run)
    sample = read_sample(image, question)
    answered = [(run, see(run, sample, Capture(norms=norms))) for run in runs]
    left_out = max(seen.left_out for _, seen in answered)
    if left_out:
        warnings.warn(
            f"The answer is long: of its last {left_out} tokens nothing was kept.", AnchorsWarning, stacklevel=2
        )
    return study_of(sample, answered)


def check_recordable(run: GenerationPlan) -> None:
    """Raise `CannotAct` where nobody can say what a word saw."""
    if run.beams > 1:
        raise CannotAct("Beam search moves answers from row to row, so nobody can say what a word saw. Use greedy.")
    if find_target(run.vlm.model, run.vlm.processor.tokenizer).kind != "decoder":
        raise CannotAct(
            f"{run.vlm.name} looks at its image in a Q-Former, once and before any word, so no word can be followed. "
            "Watch its latent queries with look.Capture, or choose another model."
        )


def study_of(sample: "Sample", answered: "Sequence[tuple[GenerationPlan, Seen]]") -> Study:
    """One or more answers to the same question, and what they share: the image as the model saw it, the prompt's words."""
    (first, seen), *_ = answered
    vlm, rows = first.vlm, seen.before[0].positions
    inputs = prepare(vlm, [sample], first.max_new_tokens)
    ids = [] if rows is None else prepared(first, inputs, [sample])["input_ids"][0].cpu()[rows].tolist()
    return Study(
        model=vlm.name,
        question=sample.question,
        image=sample.images[0],
        grid=grid_of(vlm, inputs.tensors, sample.images[0], len(seen.before[0].image)),
        asked=pieces(vlm.processor.tokenizer, ids),
        seen=tuple(each for _, each in answered),
        anchor_table={
            spec_of_all(run.methods): anchor_table(vlm, inputs.tensors, method)
            for run, _ in answered
            for method in run.methods
            if isinstance(method, AttAnchor)
        },
    )


def see(run: GenerationPlan, sample: "Sample", recorder: Capture, **extra: Any) -> Seen:
    """One method's answer under a watcher that is new; `extra` goes to `generate`."""
    began = time.perf_counter()
    inputs = prepare(run.vlm, [sample], run.max_new_tokens)
    with attach(run.vlm, run.attached, recorder=recorder) as handle:
        answer = answer_prepared(run, [sample], inputs, handle, began, **extra)[0]
    # Watching a plain model attaches "none", which has nothing to tell.
    answer = dataclasses.replace(answer, effects={name: did for name, did in answer.effects.items() if name != "none"})
    before, after = recorder.of(0), recorder.of(0, edited=True)
    if not before:
        raise CannotAct(
            f"{run.vlm.name} showed no attention from words to an image: the prompt holds no visual tokens. "
            "Ask about an image, with a model of `vlm-anchors families`."
        )
    special = set(run.vlm.processor.tokenizer.all_special_ids)
    tokens = [token for token in answer.tokens if token not in special]
    words = pieces(run.vlm.processor.tokenizer, tokens)
    kept = min(len(words), len(before))
    return Seen(answer, words[:kept], tuple(before[: max(kept, 1)]), tuple(after[: max(kept, 1)]), recorder.left_out)


def pieces(tokenizer: Any, ids: list[int]) -> tuple[str, ...]:
    """Each token's text with the spaces it has in the whole: what decoding one more token adds."""
    whole = [tokenizer.decode(ids[:end]) for end in range(len(ids) + 1)]
    return tuple(longer[len(shorter) :] for shorter, longer in itertools.pairwise(whole))
