"""How to train: the values of AttAnchor's paper (arXiv 2509.23109) for its three models, by name. Imports nothing heavy."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..errors import BadSetting, UnknownName
from ..registry import did_you_mean

OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd", "lion_32bit",
    "lion_8bit", "rmsprop", "adagrad",
)  # fmt: skip
"""Those of transformers' names that need no package but bitsandbytes."""


@dataclass(frozen=True)
class Settings:
    """What a training run is made of.

    Args:
        tau: The method's, where its SPEC names none.
        rank: Of the LoRA adapters.
        alpha: Scale of the LoRA adapters; their product is multiplied by alpha / rank.
        dropout: Share of the adapters' inputs that is set to zero.
        projector: "lora", "full" (trained whole) or "frozen".
        learning_rate: At its highest; it falls as a cosine after the warm-up.
        warmup: Share of the steps in which the learning rate rises.
        batch_size: Conversations in each forward pass of a process.
        accumulation: Forward passes in each step.
        epochs: Times that the data is seen.
        max_steps: Ends the run earlier; None: after the epochs.
        patience: Steps without a better validation loss.
        eval_steps: Steps between two validations and checkpoints, a twentieth of all by default.
        precision: "fp32", "bf16" or "fp16" (the last on cards only).
        optimizer: Name of one of transformers' optimizers.
        pixels: Area to which each image is scaled, for processors that keep the size of images.
        checkpointing: Recompute activations instead of keeping them.
    """

    tau: float = 0.12
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    projector: str = "lora"
    learning_rate: float = 1e-4
    warmup: float = 0.03
    weight_decay: float = 0.003
    batch_size: int = 4
    accumulation: int = 4
    epochs: float = 4
    max_steps: int | None = None
    patience: int = 10_000
    eval_steps: int | None = None
    precision: str = "fp16"
    optimizer: str = "adamw_torch"
    pixels: int | None = None
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "batch_size", "accumulation", "max_steps", "patience", "eval_steps", "pixels"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise BadSetting(f"{name} must be a whole number of 1 or more; found {value!r}.")
            if value is not None and value > 10**9:
                raise BadSetting(f"{name} must be at most 10^9; found {value!r:.40}.")
        bounds = {
            "dropout": (0, 0.99),
            "learning_rate": (0, 1),
            "warmup": (0, 0.99),
            "weight_decay": (0, 1),
            "tau": (-1, 1),
        }
        for name, (low, high) in {**bounds, "epochs": (1e-6, 1e6)}.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
                raise BadSetting(f"{name} must be a number from {low:g} to {high:g}; found {value!r:.40}.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**32:
            raise BadSetting(f"seed must be a whole number from 0 to {2**32 - 1}; found {self.seed!r:.40}.")
        if not isinstance(self.checkpointing, bool):
            raise BadSetting(f"checkpointing must be true or false; found {self.checkpointing!r:.40}.")
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName(
                f"No optimizer {self.optimizer!r:.40}.{did_you_mean(str(self.optimizer)[:40], OPTIMIZERS)}"
            )
        for name, known in {"projector": ("lora", "full", "frozen"), "precision": ("fp32", "bf16", "fp16")}.items():
            if getattr(self, name) not in known:
                raise BadSetting(f"{name} must be one of {', '.join(known)}; found {getattr(self, name)!r}.")


_LARGE: dict[str, Any] = {"batch_size": 8, "epochs": 2, "optimizer": "paged_adamw_8bit"}

PRESETS = {
    "tinyllava-1b": Settings(),
    "llava-1.5-7b": Settings(rank=8, alpha=16, learning_rate=2e-4, weight_decay=0.0, patience=5_000, **_LARGE),
    "qwen2.5-vl-3b": Settings(
        tau=0.08, warmup=0.1, weight_decay=0.03, precision="bf16", patience=4_500, pixels=451_584, **_LARGE
    ),
}


def settings(preset: str = "tinyllava-1b", **changed: Any) -> Settings:
    """A preset's values with some of them changed."""
    if preset not in PRESETS:
        raise UnknownName(f"No preset {preset!r}.{did_you_mean(preset, PRESETS)}")
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in changed:
        if name not in known:
            raise BadSetting(f"Training has no setting {name!r}.{did_you_mean(name, known)}")
    return dataclasses.replace(PRESETS[preset], **changed)
