"""Which weights train: LoRA on every linear layer of the language model and on the projector; the vision tower stays.

Suffixes such as "q_proj", which adapters are usually placed by, also hit the vision tower, and a misspelt one is passed
over in silence. So modules are named here by where they are in this very model, and counted.
"""

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import BadSetting, CannotAct, MissingPackage
from ..interventions.insertion.checks import insertion_target
from ..models.decoder import AttentionTarget, plain_model
from ..models.vlm import model_and_processor
from ..parameters import known_arguments

if TYPE_CHECKING:
    from peft import LoraConfig


@known_arguments
def lora_config(
    model: Any,
    *,
    projector: str = "lora",
    rank: int = 32,
    alpha: int = 64,
    dropout: float = 0.05,
    projections: "tuple[str, ...] | None" = None,
) -> "LoraConfig":
    """A `peft.LoraConfig` for AttAnchor's training, to be given to `get_peft_model` or `SFTTrainer(peft_config=...)`.

    Args:
        model: What `va.load` returns, a (model, processor) pair or a model.
        projector: Gets adapters ("lora"), trains whole ("full") or stays as it is ("frozen").
        projections: The decoder's linear layers by their last name, ("q_proj", "v_proj"); all of them by default. The
            vision tower never trains.

    Raises `CannotAct` where the adapters would not be layers x projections (a projection is missing somewhere), and where
    the projector has no linear layer.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingPackage(
            'Training needs peft, which is not installed. Run: pip install "vlm-anchors[train]"'
        ) from error
    if projector not in ("lora", "full", "frozen"):
        raise BadSetting(f"projector must be one of lora, full, frozen; found {projector!r}.")
    network, _ = model_and_processor(model)
    target = insertion_target("lora_config", model)
    targets, kept = [_decoder_pattern(plain_model(network), target, projections)], None
    if projector != "frozen":
        name, module = _projector(plain_model(network), target)
        inside = _linears(module)
        if projector == "full":
            kept = [name]
        elif inside:
            targets += [re.escape(f"{name}.{each}".rstrip(".")) for each in inside]
        else:
            raise CannotAct(
                f"The projector of {target.family.title} ({name}) has no linear layer to put an adapter on. Use projector='full'."
            )
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="|".join(targets),
        modules_to_save=kept,
        task_type="CAUSAL_LM",
    )


def _decoder_pattern(base: nn.Module, target: AttentionTarget, projections: "tuple[str, ...] | None") -> str:
    """A pattern of the decoder's linear layers; refused unless every layer has each of them."""
    within = [name.partition(".")[2] for name in _linears(target.stack.get_submodule("layers"))]  # "0.mlp.up_proj", ...
    kinds = sorted(set(within))
    if projections is not None:
        known = {kind.rpartition(".")[2] for kind in kinds}
        lacking = [one for one in projections if one not in known]
        if lacking:
            raise CannotAct(
                f"No linear layer {lacking[0]!r} in the decoder of {target.family.title}; it has {', '.join(sorted(known))}."
            )
        kinds = [kind for kind in kinds if kind.rpartition(".")[2] in projections]
    placed = sum(name in kinds for name in within)
    if placed != target.depth * len(kinds) or not kinds:
        raise CannotAct(
            f"Expected {target.depth} layers x {len(kinds)} projections = {target.depth * len(kinds)} adapters, but this decoder "
            f"has {placed} such modules ({', '.join(kinds)}): its layers differ. Name those that every layer has, "
            "projections=('q_proj', 'v_proj')."
        )
    at = next(name for name, module in base.named_modules() if module is target.stack)
    return rf"{re.escape(at)}\.layers\.\d+\.(?:{'|'.join(map(re.escape, kinds))})"


def _projector(base: nn.Module, target: AttentionTarget) -> tuple[str, nn.Module]:
    wanted = target.family.projector
    for name, module in base.named_modules():
        if name.rpartition(".")[2] == wanted:
            return name, module
    raise CannotAct(f"{type(base).__name__} has no module {wanted!r}, its family's projector. Use projector='frozen'.")


def _linears(module: nn.Module) -> list[str]:
    return [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
