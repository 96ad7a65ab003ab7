"""What methods add to a decoding step, counted: kernels launched, not seconds."""

import pytest
import tiny
import torch
from stand_ins import Processor
from test_clva import split
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods import METHODS
from vlm_anchors.methods.clva import CLVA

VIEWS = {
    "view", "_unsafe_view", "expand", "transpose", "unsqueeze", "squeeze", "slice", "select", "permute", "t",
    "detach", "alias", "split", "unbind", "as_strided", "reshape", "lift_fresh", "diagonal",
}  # fmt: skip


class Count(TorchDispatchMode):
    """Dispatches that are not views: on a GPU, kernel launches."""

    def __init__(self):
        super().__init__()
        self.launched = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.launched += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def launches(layers, method):
    """Kernels of one decoding step at batch 1."""
    model = tiny.llava(layers=layers)
    with torch.no_grad(), attach((model, Processor()), method):
        cache = model(**split(tiny.llava_batch(), 0), use_cache=True).past_key_values
        with Count() as count:
            model(input_ids=torch.tensor([[9]]), past_key_values=cache)
    return count.launched


def test_a_decoding_step_adds_few_kernels_and_none_a_layer():
    extra = {n: launches(n, CLVA()) - launches(n, CLVA().disabled()) for n in (8, 32)}
    assert extra[32] <= 60, extra
    assert extra[32] - extra[8] <= 2


@pytest.mark.grid
@pytest.mark.parametrize(
    ("spec", "bound"),
    [
        ("clearsight", 1.1), ("deco", 1.1), ("dola", 1.1), ("memvr", 1.1), ("pai:gamma=1", 1.1), ("middle-layers", 1.1),
        ("vista", 1.25),  # eight small kernels in each layer, which turn its MLP's output
        ("pai", 2.1), ("icd", 2.1), ("vcd", 2.1), ("m3id", 2.1), ("avisc", 2.1), ("only", 1.1),
        ("sid", 2.3),  # each layer of the branch has a mask of its own
        ("imccd", 2.4),  # the blurred rows of each layer are written out
    ],
)  # fmt: skip
def test_a_decoding_step_costs_what_its_forwards_cost(spec, bound):
    method = METHODS.build(spec)
    assert launches(32, method) <= bound * launches(32, method.disabled())


def test_no_query_by_key_matrix_is_made():
    """In a prompt, nothing of the size heads x rows x keys is allocated beyond the text rows'."""
    model = tiny.llava()
    batch = split(tiny.llava_batch(texts=((90, 2),)), 0)
    heads, q = 4, batch["input_ids"].shape[1]

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-2:] == (q, q):
                self.seen = max(self.seen, out.shape[:-2].numel())
            return out

    with torch.no_grad(), attach(model, CLVA()), Largest() as largest:
        model(**batch)
    assert largest.seen < heads
