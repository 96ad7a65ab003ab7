"""OPERA from its equations, slowly: no cache, full attention matrices in double precision, one sequence at a time.

`read(answer)` gives the last row's logits and the last layer's attention, (h, q, q), of prompt and answer. Beams are
plain lists; every product is multiplied out.
"""

import copy
import functools
import math
from dataclasses import dataclass

import torch
from cases import in_double


@dataclass
class State:
    answers: list
    scores: list
    finished: list
    chosen: list


def reader(case, model, single):
    """`read` for one prompt of a tiny model."""
    double = copy.deepcopy(model).double()
    double.set_attn_implementation("eager")

    @functools.cache
    @torch.no_grad()
    def read(answer):
        ids = torch.cat([single["input_ids"], torch.tensor([answer], dtype=torch.long)], 1)
        inputs = {**single, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in single:
            kinds = single["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(answer))], 1)
        seen = []
        hook = case.stack(double).layers[-1].self_attn.register_forward_hook(lambda m, a, out: seen.append(out[1]))
        try:
            logits = double(**in_double(inputs)).logits[0, -1]
        finally:
            hook.remove()
        return logits, seen[-1][0]

    return read


def mode(values):
    return min(set(values), key=lambda one: (-values.count(one), one))


def rows_of(weights):
    """Largest over heads, each row divided by its sum."""
    largest = weights.max(0).values
    return largest / largest.sum(-1, keepdim=True)


def columns(weights, first, scale):
    """phi_j of every answer token j."""
    block = scale * rows_of(weights)[first:, first:]
    return [1e-7 * math.prod(block[i, j].item() for i in range(j, len(block))) for j in range(len(block))]


def opera(read, visual, first, ends, longest, parameters):
    """(answer, how often it went back). visual: key positions of the image. first: length of the prompt."""
    p, beams = parameters, parameters.num_beams
    state = State([()] * beams, [0.0] + [-math.inf] * (beams - 1), [], [])
    past, history, returns, banned, rollbacks = [], [], {}, {}, 0
    while True:
        step = len(state.answers[0])
        past[step:] = [state]
        live = [b for b in range(beams) if state.scores[b] > -math.inf]
        options, noted = [], []
        for b in range(beams):
            logp = read(state.answers[b])[0].log_softmax(-1)
            tokens = logp.topk(p.candidates).indices.tolist()
            scores, places = [], []
            for token in tokens:
                weights = read((*state.answers[b], token))[1]
                phi = columns(weights, first, p.scale)
                places.append(max(range(step + 1), key=lambda j: phi[j]))
                image = sum(rows_of(weights)[-1, j].item() for j in visual)
                penalty = -image if step + 1 <= p.early else max(phi)
                scores.append(logp[token].item() - p.weight * penalty)
            noted.append(mode(places))
            total = torch.tensor(scores, dtype=torch.float64).log_softmax(-1).tolist()
            options += [(state.scores[b] + s, b, token) for s, token in zip(total, tokens, strict=True)]
        history.append(noted)
        place = back_to(history, live, p, returns)
        if place is not None:
            rollbacks += 1
            state = past[place]
            history = history[: place + 1]
            banned = {one: pairs for one, pairs in banned.items() if one <= place}
            banned[place] = banned.get(place, []) + state.chosen
            options = []
            for b in range(beams):
                logp = read(state.answers[b])[0].clone()
                for beam, token in banned[place]:
                    if beam == b:
                        logp[token] = -math.inf
                options += [(state.scores[b] + s, b, t) for t, s in enumerate(logp.log_softmax(-1).tolist())]
        state = select(options, state, ends, longest, p)
        if state is None or done(state, p):
            return max(past[-1].finished if state is None else state.finished)[1], rollbacks


def back_to(history, live, p, returns):
    column = mode([history[-1][b] for b in live])
    if column < p.early:
        return None
    for b in live:
        if [row[b] for row in history].count(column) <= p.threshold:
            return None
    for place in (column + 1, column):
        if returns.get(place, 0) < p.candidates:
            if place >= len(history) - 1:
                return None
            returns[place] = returns.get(place, 0) + 1
            return place
    return None


def select(options, state, ends, longest, p):
    """The next state, the best options first; None where nothing goes on."""
    options = sorted(options, key=lambda one: -one[0])[: max(2, 1 + len(ends)) * p.num_beams]
    on, finished = [], list(state.finished)
    for rank, (score, b, token) in enumerate(options):
        answer = (*state.answers[b], token)
        if score == -math.inf:
            continue
        if token in ends or len(answer) == longest:
            if rank < p.num_beams:
                finished.append((score / len(answer) ** p.length_penalty, answer))
        elif len(on) < p.num_beams:
            on.append((score, b, token))
    state.chosen = [(b, token) for _, b, token in on]
    finished = sorted(finished, reverse=True)[: p.num_beams]
    if not on:
        state.finished = finished
        return None
    on += [(-math.inf, *on[0][1:])] * (p.num_beams - len(on))
    return State([(*state.answers[b], token) for _, b, token in on], [s for s, _, _ in on], finished, [])


def done(state, p):
    best = max(state.scores) / len(state.answers[0]) ** p.length_penalty
    return len(state.finished) == p.num_beams and best <= state.finished[-1][0]
