"""Interleaved pairs: in each round every method answers once, plain first, and is divided by that round's plain run.

Machines drift; a ratio inside one round does not. Medians over the rounds, with a bootstrap interval. On a CPU with one
thread time is the thread's own, which other programs on the machine do not stretch; elsewhere it is the clock's on the wall.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import BadSetting
from ..generation.decodings import Beam, Greedy
from ..generation.opera import Opera
from ..generation.opera_search import OperaSearch
from ..inputs.prompt_builder import Sample
from ..interventions.attachment import attach
from ..interventions.method import Method, preparing
from ..interventions.recorders import LastLayerAttention
from ..models.vlm import Vlm
from ..specs import Decoding, choose

PARTS = ("first token", "decoding", "total")
LITERAL = "literal:"
"""Prefix of a SPEC that is run in its literal form: full matrices, as the papers' repositories do it."""


@dataclass
class TimingRow:
    """One method's measurements: seconds of each part in each round, and bytes at the peak of one run."""

    name: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    peak_bytes: int = 0
    effects: bool = False


class Stopwatch:
    """A logits processor that notes when the first token's logits are there."""

    def __init__(self, device: torch.device):
        self.device = device
        self.first: float | None = None

    def __call__(self, ids: Any, scores: Any) -> Any:
        if self.first is None:
            self.first = now(self.device)
        return scores


def clock_of(device: torch.device) -> tuple[str, Callable[[], float]]:
    """Which seconds are counted, and their clock."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return "CPU", time.process_time
    return "wall", time.perf_counter


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock_of(device)[1]()


def measure(
    model: Any, inputs: dict[str, Any], specs: Sequence[str], *, new_tokens: int, rounds: int = 15, warm: int = 2,
    plain: dict[str, Any] | None = None, processor: Any = None, asked: tuple[Vlm, Sequence[Sample]] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[TimingRow]:  # fmt: skip
    """Times plain generation and every SPEC in turn, `rounds` times; the order rotates from round to round.

    Args:
        model: The transformers model.
        inputs: What the processor made of the prompts.
        specs: Methods; decodings that search ("opera", "beam") are timed too, all against plain greedy decoding.
        new_tokens: Tokens of each answer.
        rounds: How often each is timed.
        warm: Rounds before that.
        plain: Another prompt for plain generation, such as one as long as a method makes it (`padded`).
        processor: The model's, for methods that write text.
        asked: The loaded model and the questions with their images, for methods that change the images ("vicrop").
        progress: Called with the number of each round that is done.

    Raises:
        UserError: A SPEC is wrong, or cannot be timed on these inputs.
    """
    check(specs)
    rows = [TimingRow(name) for name in ["greedy", *specs]]
    prepared = dict.fromkeys(specs, inputs) | {"greedy": inputs if plain is None else plain}
    for done in range(-warm, rounds):
        turn = done % len(rows)
        for row in rows[turn:] + rows[:turn]:
            parts = _once(model, processor, prepared[row.name], row, new_tokens, asked)
            if done >= 0:
                for part in PARTS:
                    row.seconds[part].append(parts[part])
        progress(done)
    for row in rows:
        row.peak_bytes = _peak(model, processor, prepared[row.name], row, new_tokens, asked)
    return rows


def check(specs: Sequence[str], known: tuple[type, ...] = (Greedy, Beam, Opera)) -> None:
    """Refuses a SPEC that is wrong, or a decoding that is not timed: sampled answers differ in length and cost."""
    for spec in specs:
        decoding = choose(spec.removeprefix(LITERAL))[1]
        if not isinstance(decoding, known):
            names = " and ".join(one.__name__.lower() for one in known)
            raise BadSetting(
                f"bench times {names} decoding here; found {decoding.spec()} in --method {spec}. Name the methods alone."
            )


def padded(model: Any, inputs: dict[str, Any], spec: str) -> dict[str, Any]:
    """The inputs with their last word repeated as often as a method that prepares inputs makes them longer."""
    (method,) = _methods(spec)
    length = inputs["input_ids"].shape[1]
    more = method.prepare(model, inputs)["input_ids"].shape[1] - length
    return {
        name: torch.cat([each, each[:, -1:].expand(-1, more)], 1) if each.shape[:2] == (len(each), length) else each
        for name, each in inputs.items()
    }


def _methods(name: str) -> tuple[Method, ...]:
    return choose(name.removeprefix(LITERAL), None)[0] if name != "greedy" else ()


def _decoding(row: TimingRow) -> Decoding:
    return choose(row.name.removeprefix(LITERAL))[1]


def _attached(model: Any, processor: Any, row: TimingRow) -> Any:
    """The row's methods on the model; nothing is attached for plain greedy decoding."""
    methods, decoding = [one for one in _methods(row.name) if not one.reads_samples], _decoding(row)
    recorder = LastLayerAttention() if isinstance(decoding, Opera) else None
    if not methods and recorder is None:
        return nullcontext()
    return attach((model, processor), methods or "none", recorder=recorder, literal=row.name.startswith(LITERAL))


def _searching(row: TimingRow, handle: Any) -> dict[str, Any]:
    """What `generate` is given for a decoding that is not greedy."""
    decoding = _decoding(row)
    if isinstance(decoding, Greedy):
        return {}
    how: dict[str, Any] = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}  # type: ignore[union-attr]
    return how | ({"custom_generate": OperaSearch(decoding, handle.recorder)} if isinstance(decoding, Opera) else {})


def _prepared(
    model: Any, inputs: dict[str, Any], row: TimingRow, asked: tuple[Vlm, Sequence[Sample]] | None
) -> dict[str, Any]:
    for method in preparing(_methods(row.name)):
        if method.reads_samples and asked is None:
            raise BadSetting(
                f"{row.name} changes images, and a shape has none. Time it on a model: bench --model M --method {row.name}."
            )
        if method.reads_samples and asked is not None:
            inputs = method.prepare(asked[0], inputs, samples=asked[1])
        else:
            inputs = method.prepare(model, inputs)
    return inputs


@torch.no_grad()
def _once(
    model: Any, processor: Any, inputs: dict[str, Any], row: TimingRow, new_tokens: int,
    asked: tuple[Vlm, Sequence[Sample]] | None = None,
) -> dict[str, float]:  # fmt: skip
    watch = Stopwatch(model.device)
    began = now(model.device)
    with _attached(model, processor, row) as handle:
        model.generate(
            **_prepared(model, inputs, row, asked), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            do_sample=False, logits_processor=[watch], **_searching(row, handle),
        )  # fmt: skip
        row.effects = handle is not None and bool(handle.effects)
    ended = now(model.device)
    assert watch.first is not None, "generate calls its logits processors"
    return {"first token": watch.first - began, "decoding": ended - watch.first, "total": ended - began}


def _peak(
    model: Any, processor: Any, inputs: dict[str, Any], row: TimingRow, new_tokens: int,
    asked: tuple[Vlm, Sequence[Sample]] | None = None,
) -> int:  # fmt: skip
    """Bytes at the peak above what stood before the run; from the allocator on CUDA, from its events on a CPU."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        _once(model, processor, inputs, row, new_tokens, asked)
        return torch.cuda.max_memory_allocated(model.device) - before
    # Read when a process first profiles: above its highest level Kineto says nothing, "profiler_start" neither.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _once(model, processor, inputs, row, min(new_tokens, 4), asked)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def summary(rows: Sequence[TimingRow], weights: int) -> Iterator[dict[str, Any]]:
    """One dictionary a method: medians in seconds, and ratios to greedy with their 95 % interval.

    `memory ratio` counts the weights (bytes) on both sides, as a card's memory does; `extra bytes` leaves them out.
    """
    plain = rows[0]
    for row in rows:
        summary: dict[str, Any] = {"method": row.name}
        for part in PARTS:
            ratios = [a / b for a, b in zip(row.seconds[part], plain.seconds[part], strict=True)]
            summary[part] = {
                "seconds": statistics.median(row.seconds[part]),
                "ratio": statistics.median(ratios),
                "interval": median_interval(ratios),
            }
        summary["peak bytes"] = row.peak_bytes
        summary["memory ratio"] = (weights + row.peak_bytes) / (weights + plain.peak_bytes)
        yield summary


def median_interval(values: Sequence[float], draws: int = 2000) -> list[float]:
    """95 % percentile bootstrap of the median."""
    data = torch.tensor(values, dtype=torch.double)
    picks = torch.randint(len(data), (draws, len(data)), generator=torch.Generator().manual_seed(0))
    medians = data[picks].median(1).values.sort().values
    return [float(medians[int(draws * 0.025)]), float(medians[int(draws * 0.975)])]
