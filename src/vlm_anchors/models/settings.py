"""Where and how a model is loaded: device, dtype, quantization, the area of its images. Imports nothing heavy."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from ..errors import BadSetting, MissingPackage

DTYPES = ("auto", "float32", "bfloat16", "float16")


def device_of(device: Any) -> Any:
    """The device that is asked for, else a CUDA device where there is one; raises `BadSetting` where it cannot be used."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = _device_named(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise BadSetting(f"Device {device} was asked for, but PyTorch finds no CUDA device here. Use cpu.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise BadSetting(f"No device {device}: this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}.")
    backend: Any = torch.backends.mps if target.type == "mps" else getattr(torch, target.type, None)
    if target.type not in ("cpu", "cuda") and not (hasattr(backend, "is_available") and backend.is_available()):
        raise BadSetting(f"Device {device} was asked for, but PyTorch finds none here. Use cpu.")
    return target


def _device_named(device: Any) -> Any:
    import torch

    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BadSetting(f"No device {device!r}. Expected cpu, cuda or cuda:N.") from error
    if target.type == "meta":
        raise BadSetting(
            "Device meta holds no numbers, so nothing can be answered there. Expected cpu, cuda or cuda:N."
        )
    return target


def dtype_of(dtype: Any, device: Any, exact: bool) -> Any:
    """The dtype that is asked for; by default as stored, and on a CPU float32 where the model is to be `exact`."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:  # a CPU gains nothing from the bundled model's two-byte weights, and float32 is exact
        return torch.float32 if device.type == "cpu" and exact else "auto"
    if dtype not in DTYPES:
        raise BadSetting(f"No dtype {dtype!r}. Expected one of {', '.join(DTYPES)}.")
    return (
        "auto" if dtype == "auto" else {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype, torch.float16)
    )


def quantization_of(asked: Any, device: Any) -> Any:
    """A quantization config, or None. "4bit" and "8bit" are bitsandbytes', which need an NVIDIA card."""
    if asked is None or not isinstance(asked, str):
        return asked
    _require_bits(asked)
    if device.type != "cuda":
        raise BadSetting(f"Quantization {asked} needs an NVIDIA card; the device here is {device}. Leave it out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadSetting(f"Quantization {asked} needs bitsandbytes: pip install bitsandbytes.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=asked == "4bit", load_in_8bit=asked == "8bit")


def _require_bits(asked: str) -> None:
    if asked not in ("4bit", "8bit"):
        raise BadSetting(f"No quantization {asked!r}. Expected 4bit, 8bit or a quantization config of transformers.")


def require_settings(settings: Mapping[str, Any]) -> None:
    """Refuses settings that no machine could use, before anything is loaded.

    Args:
        settings: Those of `load`, as a file holds them. Whether this machine has the device is not looked at.

    Raises:
        BadSetting: The first that is wrong.
        MissingPackage: A device map is asked for, and accelerate is not installed.
    """
    device, bits = settings.get("device"), settings.get("quantization")
    if device is not None:
        _device_named(device)
    dtype_of(settings.get("dtype"), _device_named("cpu"), exact=False)
    if bits is not None:
        _require_bits(bits)
    device_map_of(settings.get("device_map"), device)
    least, most = settings.get("min_pixels"), settings.get("max_pixels")
    _require_areas(1 if least is None else least, 10**9 if most is None else most)
    for name in ("attn_implementation", "revision"):
        word = settings.get(name)
        if word is not None and not (isinstance(word, str) and word.strip()):
            raise BadSetting(f"Expected a text as {name}; found {word!r}. Put it in quotes, or leave it out.")


def device_map_of(asked: Any, device: Any) -> Any:
    """Where the parts of a model go, as accelerate takes it; None: all of it to one device.

    Raises:
        BadSetting: It is none, or a device is asked for beside it.
        MissingPackage: accelerate is not installed.
    """
    if asked is None:
        return None
    names = ("auto", "balanced", "balanced_low_0", "sequential")
    if not (isinstance(asked, dict) or asked in names):
        raise BadSetting(
            f"No device map {asked!r}. Expected one of {', '.join(names)}, or a dictionary of module names; one device is "
            f"chosen by device."
        )
    if device is not None:
        raise BadSetting(f"Expected a device or a device map; found both, {device} and {asked!r}. Leave one out.")
    if importlib.util.find_spec("accelerate") is None:
        raise MissingPackage("A device map needs accelerate: pip install accelerate.")
    return asked


def set_pixels(processor: Any, name: str, least: int | None, most: int | None) -> None:
    """Limits the area, in pixels, that images are scaled to, where the processor keeps images' proportions (Qwen's).

    Raises:
        BadSetting: The processor makes all images one size, or the numbers are no areas.
    """
    if least is None and most is None:
        return
    size = getattr(getattr(processor, "image_processor", None), "size", None)
    if size is None or not {"longest_edge", "shortest_edge"} <= {key for key in _items(size) if size[key]}:
        raise BadSetting(
            f"The processor of {name} makes all images one size, so no number of pixels can be kept. Leave it out."
        )
    low = size["shortest_edge"] if least is None else least
    high = size["longest_edge"] if most is None else most
    _require_areas(low, high)
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": high}


def _require_areas(low: Any, high: Any) -> None:
    for pixels in (low, high):
        if not isinstance(pixels, int) or isinstance(pixels, bool) or not 1 <= pixels <= 10**9:
            raise BadSetting(f"Numbers of pixels are whole numbers from 1 to 10^9; found {pixels!r}.")
    if low > high:
        raise BadSetting(f"Expected min_pixels up to max_pixels; found {low:,} and {high:,}.")


def _items(size: Any) -> list[str]:
    return [key for key in ("longest_edge", "shortest_edge") if key in size]
