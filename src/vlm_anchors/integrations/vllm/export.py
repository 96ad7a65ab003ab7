"""Writes a model folder that vLLM loads and that answers exactly as ours.

transformers 5 writes the vision tower's weights as `vision_tower.X`; vLLM's LLaVA expects `vision_tower.vision_model.X`,
as transformers 4 wrote them, and refuses the folder otherwise. And vLLM's chat requests add no special tokens, which a
processor does: where the tokenizer begins a prompt with a token that the chat template lacks, the template gets it, or
the model would read another prompt. Weights, processor and tokenizer are copied; the folder is for vLLM only.
"""

import json
import shutil
from pathlib import Path

from ...errors import BadModel, BadSetting
from ...models import adapter
from ...models.load import BUNDLED, BUNDLED_FOLDER
from .settings import DEFAULT_FILE

TOWER, INNER = "vision_tower.", "vision_tower.vision_model."


def export_vllm(source: str | Path, out: Path, method: str | None = None) -> Path:
    """Write `source` for vLLM.

    Args:
        source: "scenes" (the bundled model), or the folder of a LLaVA model.
        out: The new folder. Files of a former export are written anew.
        method: SPEC of the method of requests that name none; written to `anchors.json`.

    Returns:
        `out`.

    Raises:
        BadModel: The source is no folder with safetensors, or an adapter.
        BadSetting: `out` is the source itself.
        UserError: The method does not exist, or cannot run inside vLLM.
    """
    from .request_methods import parse_method

    folder = BUNDLED_FOLDER if str(source) == BUNDLED else Path(source).expanduser()
    if adapter.is_adapter(folder):
        raise BadModel(f"{source} is an adapter. Merge it into its base model first: vlm-anchors merge {source}.")
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise BadModel(f"Expected {BUNDLED!r}, or a model folder with config.json and safetensors; found {source}.")
    if out.resolve() == folder.resolve():
        raise BadSetting(f"{out} is the model itself. Name another folder to write to.")
    if method is not None:
        parse_method(method)
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.name.endswith(".safetensors.index.json"):
            index = json.loads(file.read_text())
            index["weight_map"] = {renamed(name): shard for name, shard in index["weight_map"].items()}
            (out / file.name).write_text(json.dumps(index, indent=1))
        elif file.is_file() and file not in weights:
            shutil.copyfile(file, out / file.name)
    for file in weights:
        _write_shard(file, out / file.name)
    _begin_template(out)
    if method is not None:
        (out / DEFAULT_FILE).write_text(json.dumps({"method": method}) + "\n")
    return out


def renamed(name: str) -> str:
    """A weight's name as vLLM expects it."""
    at = name.find(TOWER)
    inside = at in (0, len("model.")) and INNER not in name
    return name[:at] + INNER + name[at + len(TOWER) :] if inside else name


def _begin_template(folder: Path) -> None:
    """Put the token that begins every prompt into the chat template, if it is not there."""
    from transformers import AutoTokenizer

    file = folder / "chat_template.jinja"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if begins and file.is_file() and not any(one in file.read_text() for one in (tokenizer.bos_token, "bos_token")):
        file.write_text(tokenizer.bos_token + file.read_text())


def _write_shard(source: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({renamed(name): tensor for name, tensor in load_file(source).items()}, target, {"format": "pt"})
