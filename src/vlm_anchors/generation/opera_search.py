"""The beam search of OPERA (equations in opera.py): one pass over the candidates of all beams a token, and its rollback."""

import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import AnchorsWarning, CannotAct
from ..interventions.hooks import BEYOND
from ..interventions.method import Method
from ..interventions.recorders import LastLayerAttention
from ..models.families import Family
from ..parameters import name_of
from .opera import Opera
from .sibling_pass import BeamReader, SiblingPass

SMALLEST = torch.tensor(1e-7, dtype=torch.float64).log()
LARGEST = 80.0


@dataclass
class BeamState:
    """The beams before one token is chosen; `scores` of an empty beam are -inf."""

    tokens: Int[Tensor, "b t"]
    scores: Float[Tensor, " b"]
    columns: Float[Tensor, "b t"]
    """log prod (scale A) of each column so far, double precision."""
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    chosen: list[tuple[int, int]] = field(default_factory=list)
    """(beam, token) of what was chosen from here."""

    @property
    def live(self) -> list[bool]:
        return (self.scores > -torch.inf).tolist()


@dataclass(frozen=True)
class NextBeams:
    """Which beams go on: from which beam, with which of its options, which token, at which score."""

    parents: list[int]
    slots: list[int]
    tokens: list[int]
    scores: list[float]


def check(methods: Sequence[Method], family: Family) -> None:
    """Refuse methods that cannot run while a beam's candidates are read in one pass."""
    for method in methods:
        if method.active_hooks() & BEYOND:
            raise CannotAct(
                f"opera reads the candidates of a beam in one pass, and {name_of(method)} changes one next token at a time. Use "
                f"{name_of(method)} with beam, or opera with methods that edit attention alone (clva, clearsight, "
                "middle-layers, pai:gamma=1) or inputs."
            )
        if family.target == "qformer" and method.hooks - {"prepare"} and getattr(method, "target", "auto") != "decoder":
            raise CannotAct(
                f"opera reads attention in the language model, and {name_of(method)} edits {family.title}'s Q-Former. Give "
                f"{name_of(method)} target='decoder', or use beam."
            )


def log_columns(columns: Float[Tensor, "b t"], siblings: SiblingPass, scale: float) -> Float[Tensor, "b n s"]:
    """log prod_(i >= j) scale A(i, j) of each answer column j with each candidate as the last row; s = t + 1."""
    said = columns[:, None] + (scale * siblings.said).log()
    return torch.cat([said, (scale * siblings.own).log()[..., None]], -1)


def commonest(values: Sequence[int]) -> int:
    """The value that occurs most often, the smallest of several."""
    return min(statistics.multimode(values))


def place_to_return_to(
    history: Sequence[Sequence[int]], live: Sequence[bool], opera: Opera, returns: "Counter[int]"
) -> int | None:
    """The token to choose again, where each live beam has noted one column too often; None to go on.

    Args:
        history: the column that each beam noted, one list a step.
        live: which beams are not empty.
        opera: `threshold`, `early`, and `candidates` as the limit of returns to one place.
        returns: returns to each place so far; the one decided on is counted.
    """
    beams = [beam for beam, on in enumerate(live) if on]
    column = commonest([history[-1][beam] for beam in beams])
    if column < opera.early or any(sum(row[beam] == column for row in history) <= opera.threshold for beam in beams):
        return None
    place = next((one for one in (column + 1, column) if returns[one] < opera.candidates), None)
    if place is None or place >= len(history) - 1:
        return None
    returns[place] += 1
    return place


class OperaSearch:
    """OPERA as a callable for `generate(custom_generate=...)`; `attention` must be attached to the model as its recorder.

    One object a generation. `effects` says afterwards what was done.
    """

    def __init__(self, opera: Opera, attention: LastLayerAttention):
        self.opera, self.attention = opera, attention
        self.rollbacks = self.reordered = self.passes = 0

    @property
    def effects(self) -> dict[str, int]:
        """rollbacks; tokens before which the penalty changed a beam's best candidate; forward passes after the prompt's."""
        return {"rollbacks": self.rollbacks, "reordered": self.reordered, "passes": self.passes}

    def __call__(
        self,
        model: Any,
        input_ids: Int[Tensor, "b q"],
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> Int[Tensor, "1 n"]:
        beams = self.opera.num_beams
        if len(input_ids) != beams or generation_config.num_return_sequences != 1 or model.config.is_encoder_decoder:
            raise CannotAct(
                f"opera searches for one answer to one prompt with a decoder-only model; found {len(input_ids)} rows for "
                f"{beams} beams. Call it prompt by prompt (ask_many does), with num_beams={beams}."
            )
        self.reader = BeamReader(model, input_ids, generation_config, kwargs, self.attention)
        self.prompt, self.process, self.stop = input_ids, logits_processor, stopping_criteria
        ends = generation_config._eos_token_tensor
        self.ends = frozenset() if ends is None else frozenset(ends.flatten().tolist())
        self.longest = generation_config.max_length - input_ids.shape[1]
        best = self._search()
        self.passes = self.reader.passes
        return torch.cat([input_ids[0], torch.tensor(best, dtype=torch.long, device=input_ids.device)])[None]

    def _search(self) -> list[int]:
        opera, device = self.opera, self.prompt.device
        logits = self.reader.prompt()
        scores = torch.full((opera.num_beams,), -torch.inf, dtype=torch.float64, device=device)
        scores[0] = 0.0
        state = BeamState(self.prompt[:, :0], scores, scores.new_zeros(opera.num_beams, 0))
        past: list[BeamState] = []
        history: list[list[int]] = []
        returns: Counter[int] = Counter()
        banned: dict[int, set[tuple[int, int]]] = defaultdict(set)
        while True:
            del past[state.tokens.shape[1] :]
            past.append(state)
            log_probs, options = self._log_probs(logits, state).topk(min(opera.candidates, logits.shape[-1]), dim=-1)
            siblings = self.reader.siblings(state.tokens, options)
            columns = log_columns(state.columns, siblings, opera.scale)
            history.append([commonest(row) for row in columns.argmax(-1).tolist()])
            place = place_to_return_to(history, state.live, opera, returns) if self.reader.seen else None
            if place is None:
                log_probs = self._penalised(log_probs, columns, siblings, state)
                chosen = self._choose(log_probs, options, state)
                if chosen is None:
                    return self._best(state)
                parents, slots = (torch.tensor(one, device=device) for one in (chosen.parents, chosen.slots))
                self.reader.keep(parents, slots, options.shape[1])
                logits, columns = siblings.logits[parents, slots], columns[parents, slots]
            else:
                self.rollbacks += 1
                state = past[place]
                del history[place + 1 :]
                banned = defaultdict(set, {one: pairs for one, pairs in banned.items() if one <= place})
                banned[place].update(state.chosen)
                found = self._chosen_again(state, banned[place])
                if found is None:
                    return self._best(state)
                chosen, logits, columns = found
            state = self._next(state, chosen, columns)
            if self._is_done(state):
                return self._best(state)

    def _log_probs(self, logits: Float[Tensor, "b v"], state: BeamState) -> Float[Tensor, "b v"]:
        log_probs = logits.log_softmax(-1)
        return self.process(torch.cat([self.prompt, state.tokens], 1), log_probs) if self.process else log_probs

    def _penalised(
        self,
        log_probs: Float[Tensor, "b n"],
        columns: Float[Tensor, "b n s"],
        siblings: SiblingPass,
        state: BeamState,
    ) -> Float[Tensor, "b n"]:
        """Scores of the candidates, normalised over them."""
        if not self.reader.seen and not state.tokens.shape[1]:
            warnings.warn(
                "No visual tokens in this prompt, so opera searches without its penalty.", AnchorsWarning, stacklevel=2
            )
        early = columns.shape[-1] <= self.opera.early
        leaning = (SMALLEST.to(columns.device) + columns.amax(-1)).clamp(max=LARGEST).exp()
        penalty = -siblings.image if early else leaning
        if not self.reader.seen:
            penalty = torch.zeros_like(penalty)
        scores = log_probs.double() - self.opera.weight * penalty
        live = torch.tensor(state.live, device=scores.device)
        self.reordered += int(bool(((scores.argmax(-1) != log_probs.argmax(-1)) & live).any()))
        return scores.log_softmax(-1)

    def _choose(
        self, log_probs: Float[Tensor, "b n"], tokens: Int[Tensor, "b n"], state: BeamState
    ) -> NextBeams | None:
        """The best options over all beams, as beam search has it; answers that end are put among the finished ones."""
        beams, length = self.opera.num_beams, state.tokens.shape[1] + 1
        total = (state.scores[:, None] + log_probs.double()).flatten()
        scores, places = total.topk(min(len(total), max(2, 1 + len(self.ends)) * beams))
        goes_on: list[tuple[int, int, int, float]] = []
        finished = list(state.finished)
        for rank, (score, at) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
            beam, slot = divmod(at, tokens.shape[1])
            token = int(tokens[beam, slot])
            if score == -torch.inf:
                break
            if token in self.ends or length == self.longest:
                if rank < beams:
                    answer = [*state.tokens[beam].tolist(), token]
                    finished.append((score / length**self.opera.length_penalty, answer))
            elif len(goes_on) < beams:
                goes_on.append((beam, slot, token, score))
        state.chosen = [(beam, token) for beam, _, token, _ in goes_on]
        self.finished = sorted(finished, key=lambda one: -one[0])[:beams]
        if not goes_on:
            return None
        empty = (*goes_on[0][:3], -torch.inf)
        goes_on += [empty] * (beams - len(goes_on))
        return NextBeams(*map(list, zip(*goes_on, strict=True)))  # type: ignore[arg-type]

    def _chosen_again(
        self, state: BeamState, banned: set[tuple[int, int]]
    ) -> tuple[NextBeams, Float[Tensor, "b v"], Float[Tensor, "b s"]] | None:
        """What goes on from an earlier state without what was chosen there before, its logits and its columns."""
        log_probs = self._log_probs(self.reader.reread(state.tokens), state).clone()
        for beam, token in banned:
            log_probs[beam, token] = -torch.inf
        every = torch.arange(log_probs.shape[-1], device=log_probs.device).expand_as(log_probs)
        chosen = self._choose(log_probs.log_softmax(-1), every, state)
        if chosen is None:
            return None
        parents = torch.tensor(chosen.parents, device=log_probs.device)
        self.reader.move(parents)
        tokens = torch.tensor(chosen.tokens, device=log_probs.device)[:, None]
        siblings = self.reader.siblings(state.tokens[parents], tokens)
        return chosen, siblings.logits[:, 0], log_columns(state.columns[parents], siblings, self.opera.scale)[:, 0]

    def _next(self, state: BeamState, chosen: NextBeams, columns: Float[Tensor, "b s"]) -> BeamState:
        device = state.tokens.device
        parents = torch.tensor(chosen.parents, device=device)
        tokens = torch.cat([state.tokens[parents], torch.tensor(chosen.tokens, device=device)[:, None]], 1)
        return BeamState(
            tokens, torch.tensor(chosen.scores, dtype=torch.float64, device=device), columns, self.finished
        )

    def _is_done(self, state: BeamState) -> bool:
        """No live beam can still beat the worst of `num_beams` finished answers, or the caller wants no more."""
        length = state.tokens.shape[1]
        if len(state.finished) == self.opera.num_beams:
            best = float(state.scores.max()) / length**self.opera.length_penalty
            if best <= state.finished[-1][0]:
                return True
        if self.stop is None or not bool(self.stop(torch.cat([self.prompt, state.tokens], 1), None).all()):
            return False
        for score, tokens in zip(state.scores.tolist(), state.tokens.tolist(), strict=True):
            if score > -torch.inf:
                self.finished.append((score / length**self.opera.length_penalty, tokens))
        return True

    def _best(self, state: BeamState) -> list[int]:
        return max(self.finished, key=lambda one: one[0])[1] if self.finished else state.tokens[0].tolist()
