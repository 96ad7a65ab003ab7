"""Run by test_runner.py in processes of their own, to be killed: answers a few bundled questions with a tiny model.

Slowly, so that the killer is in time on a busy machine.
"""

import sys
import time
import warnings

import torch

from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.models.load import load

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def main(model, data, images, out, ray_workers=None):
    added = evaluate(
        load(model), "pope", out, data=data, images=images, methods=["none", "clva"], batch_size=4,
        protocol_name="deco", split="adversarial", ray_workers=ray_workers and int(ray_workers),
        progress=lambda done, of: time.sleep(0.1),
    )  # fmt: skip
    sys.stdout.write(f"{added}\n")


main(*sys.argv[1:])
