"""What the logit, MLP and two-branch baselines are compared with: one sequence, no cache, double precision, plain hooks.

`whole` feeds prompt and answer in one piece, so a decoding step is a row of it. Every reference returns the logits of the
prompt's last row and of each answer row.
"""

import contextlib
import copy

import tiny_models
import torch
from cases import STEPS, in_double, model_of, run

from vlm_anchors.interventions.attachment import attach

FRAME = {tiny_models.IMAGE, tiny_models.START, tiny_models.END}


def whole(case, single, tokens):
    """Prompt and answer as one sequence."""
    ids = torch.cat([single["input_ids"], tokens], 1)
    out = {**single, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in single:
        out["mm_token_type_ids"] = (ids == tiny_models.IMAGE).long()
    return in_double(out)


@contextlib.contextmanager
def hooked(*hooks):
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read(case, model, inputs, count):
    """Logits of the last `count` rows, and every layer's output of all rows."""
    seen = []
    layers = case.stack(model).layers
    hooks = [layer.register_forward_hook(lambda m, a, out: seen.append(out[0])) for layer in layers]
    with hooked(*hooks), torch.no_grad():
        logits = model(**inputs).logits[0]
    return logits[-count:], seen


@torch.no_grad()
def early(case, model, hidden, norm=True):
    """lm_head(norm(h)) of one row."""
    hidden = case.stack(model).norm(hidden) if norm else hidden
    return case.head(model).get_output_embeddings()(hidden)


def without_image(case, model, single, tokens, count):
    """The language model alone on the words: visual tokens and the tags around them left out."""
    delimiters = {tiny_models.IMAGE} if case.name != "qwen2.5-vl" else FRAME
    words = [token for token in single["input_ids"][0].tolist() if token not in delimiters]
    ids = torch.cat([torch.tensor([words]), tokens], 1)
    seen = []
    hooks = [layer.register_forward_hook(lambda m, a, out: seen.append(out[0])) for layer in case.stack(model).layers]
    with hooked(*hooks), torch.no_grad():
        logits = case.head(model)(input_ids=ids).logits[0]
    return logits[-count:], seen


def cut(scores, logits, beta):
    """Tokens less probable than beta times the most probable one are left out, one by one."""
    probable = logits.softmax(-1)
    for row in range(len(scores)):
        for token in range(scores.shape[1]):
            if probable[row, token] < beta * probable[row].max() * (1 - 1e-12):
                scores[row, token] = -float("inf")
    return scores


def compare(case, method, reference, bound=1e-5, processor=None, seed=0, moved=20):
    """The method on a left-padded batch against `reference(model, single, answer)` sample by sample."""
    model, batch = model_of(case.name), case.batch(seed)
    with attach((model, processor) if processor else model, method) as handle:
        fast, tokens = run(model, batch)
        effects = handle.effects
    plain, _ = run(model, batch, tokens)
    double = copy.deepcopy(model).double()
    for sample in range(3):
        single = case.split(batch, sample)
        slow = reference(double, single, tokens[sample : sample + 1, :STEPS])
        mine = fast[:, sample].double()
        seen = torch.isfinite(slow)
        assert torch.equal(torch.isfinite(mine), seen)
        worst = float((mine - slow)[seen].abs().max())
        assert worst < bound, worst
        assert (fast[:, sample] - plain[:, sample])[seen].abs().max() >= moved * worst
    return effects
