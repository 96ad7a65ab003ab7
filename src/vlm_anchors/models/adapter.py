"""A folder that training made: LoRA weights, and `anchors.json`, which names their base model and their method.

A model trained on anchored sequences and asked without anchors (or the other way round) would be a model nobody trained,
so model, adapter and method travel and load together.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import write_whole
from ..errors import BadModel, MissingPackage, first_line
from ..text_files import expand, read_object

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ANCHORS = "anchors.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
"""What peft reads first; under any other name it would read a pickle beside it, which can run code."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no whole model. Some trainers leave the base's config.json beside it."""
    weights = [file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_model")]
    return (folder / CONFIG).exists() and not ((folder / "config.json").exists() and weights)


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name and revision of the model that an adapter belongs to."""
    content, config = _read(folder / ANCHORS) if (folder / ANCHORS).exists() else {}, _read(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise BadModel(f"{folder} has no adapter_model.safetensors. Expected an adapter saved in safetensors.")
    named, revision = content.get("model"), content.get("revision")
    if not named:
        named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not named or not isinstance(named, str) or not (revision is None or isinstance(revision, str)):
        raise BadModel(f"{folder / CONFIG} names no base model. Write base_model_name_or_path into it.")
    return named, revision


def put_on(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The model with the folder's adapter inside its layers, in a PEFT wrapper (`get_base_model()` is without it)."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingPackage(
            f'{folder} holds a LoRA adapter, which needs peft. Run: pip install "vlm-anchors[train]"'
        ) from error
    if _read(folder / CONFIG).get("megatron_config"):  # peft would import a module that the file names
        raise BadModel(f"{folder / CONFIG} asks for Megatron, which is not supported. Save the adapter without it.")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            wrapped = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # weights of other shapes, unknown settings: peft raises very different things
        raise BadModel(f"The adapter in {folder} does not fit its base model: {first_line(error)}.") from error
    if wrapped.active_peft_config.is_prompt_learning:  # it stands before the prompt, which only the wrapper knows
        raise BadModel(
            f"The adapter in {folder} is a learned prompt ({wrapped.active_peft_config.peft_type.value}), not a change of the "
            "model's layers, and is not supported. Expected LoRA or another adapter of layers."
        )
    _require_all_placed(wrapped, folder, [str(one.message) for one in caught])
    return wrapped


def _require_all_placed(wrapped: "PeftModel", folder: Path, warned: list[str]) -> None:
    """Raises `BadModel` where tensors of the file found no place, or adapters no tensor: the base would answer alone."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(str(folder / WEIGHTS), "pt") as file:
        stored = list(file.keys())
    placed = len(get_peft_model_state_dict(wrapped))
    if len(stored) != placed or any("missing adapter keys" in sentence for sentence in warned):
        first = stored[0] if stored else "none"
        raise BadModel(
            f"The adapter in {folder} does not fit its base model: some of its {len(stored)} tensors ({first}, ...) have no "
            f"place among the {placed} that its adapter_config.json makes there. Name its own base model."
        )


def write_anchors(folder: Path, method: str, model: str | None = None, revision: str | None = None) -> None:
    """Notes the method, a SPEC, that a folder's weights were trained under; of an adapter, its base model as well.

    A base that is a folder is named by its whole path, to mean the same wherever the adapter is loaded from.
    """
    content: dict[str, Any] = {"method": method}
    if model is not None:
        base = expand(model)
        content |= {"model": str(base.resolve()) if base.is_dir() else model, "revision": revision}
    write_whole(folder / ANCHORS, json.dumps(content, indent=1) + "\n")


def trained_method(folder: Path) -> str:
    """The SPEC of the method that a folder's weights were trained under; "none" where nobody says."""
    file = folder / ANCHORS
    if not file.exists():
        return "none"
    method = _read(file).get("method")
    if not isinstance(method, str):
        raise BadModel(f'{file} names no method. Expected {{"method": "attanchor:tau=0.12"}}.')
    return method


def _read(file: Path) -> dict[str, Any]:
    return read_object(file, BadModel, "Copy the folder again.")
