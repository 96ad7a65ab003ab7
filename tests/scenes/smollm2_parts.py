"""Projector and LoRA beside a tiny decoder."""

import torch

from tools.scenes_smollm2 import train
from tools.scenes_smollm2.projector import projector


def sized(lora):
    """LoRA with a B that is not zero."""
    for value in lora.B.values():
        torch.nn.init.normal_(value, std=0.1)
    return lora


def learner(small, words):
    torch.manual_seed(1)
    made = train.Learner(small, words, projector(192, 64), rank=4)
    sized(made.lora)
    return made
