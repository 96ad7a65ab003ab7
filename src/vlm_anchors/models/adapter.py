"""A folder that training made: LoRA weights, and `anchors.json`, which names their base model and their method.

A model trained on anchored sequences and asked without anchors (or the other way round) would be a model nobody trained,
so model, adapter and method travel and load together.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadModel, MissingPackage

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ANCHORS = "anchors.json"
CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no whole model."""
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name and revision of the model that an adapter belongs to."""
    content, config = _read(folder / ANCHORS) if (folder / ANCHORS).exists() else {}, _read(folder / CONFIG)
    if not list(folder.glob("adapter_model*.safetensors")):
        raise BadModel(f"{folder} has no adapter_model.safetensors. Expected an adapter saved in safetensors.")
    if content.get("model"):
        return content["model"], content.get("revision")
    if not config.get("base_model_name_or_path"):
        raise BadModel(f"{folder / CONFIG} names no base model. Write base_model_name_or_path into it.")
    return config["base_model_name_or_path"], config.get("revision")


def put_on(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The model with the folder's adapter inside its layers, in a PEFT wrapper (`get_base_model()` is without it)."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingPackage(
            f'{folder} holds a LoRA adapter, which needs peft. Run: pip install "vlm-anchors[train]"'
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's own, about names that transformers will drop
            return PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # weights of other shapes, unknown settings: peft raises very different things
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadModel(f"The adapter in {folder} does not fit its base model: {first[:200]}") from error


def write_anchors(folder: Path, method: str, model: str | None = None, revision: str | None = None) -> None:
    """Notes the method, a SPEC, that a folder's weights were trained under; of an adapter, its base model as well.

    A base that is a folder is named by its whole path, to mean the same wherever the adapter is loaded from.
    """
    content: dict[str, Any] = {"method": method}
    if model is not None:
        base = Path(model).expanduser()
        content |= {"model": str(base.resolve()) if base.is_dir() else model, "revision": revision}
    (folder / ANCHORS).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


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
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(f"{file} is no valid JSON: {error}. Copy the folder again.") from error
    if not isinstance(found, dict):
        raise BadModel(f"{file} holds no JSON object. Copy the folder again.")
    return found
