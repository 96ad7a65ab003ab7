"""The birth certificate of a result: versions, commit, device, date. Every file in results/ carries one."""

import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from .version import __version__

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "nltk")


def provenance(device: Any = "cpu", **more: Any) -> dict[str, Any]:
    """Versions, commit (with "-dirty" where files were changed), device name, date; plus whatever is given."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "device": device_name(device),
        "versions": versions(),
        **more,
    }


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python and of the libraries that a number may depend on; None where one is missing."""
    ours = {"vlm-anchors": __version__, "python": platform.python_version()}
    return ours | {name: _version(name) for name in _LIBRARIES}


def device_name(device: Any) -> str:
    """The card's name, or the CPU's with the number of threads torch uses."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu()}, {torch.get_num_threads()} threads"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=here, capture_output=True, text=True
    )
    return done.stdout.strip() or None
