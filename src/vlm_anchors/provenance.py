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
    """Versions, commit ("-dirty" where files other than results were changed), device name, date; plus what is given."""
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
    """The commit, "-dirty" where tracked files differ from it; results don't count, a run may write several of them.

    None where git is missing, or the package is no checkout: one installed inside another project is not that project's.
    """
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
    named = _git("describe", "--always", "--abbrev=12")
    if tracked is None or tracked.returncode or named is None or named.returncode:
        return None
    changed = _git("diff", "--quiet", "HEAD", "--", ":(top)", ":(top,exclude)results")
    return named.stdout.strip() + ("-dirty" if changed is not None and changed.returncode else "")


def _git(*arguments: str) -> "subprocess.CompletedProcess[str] | None":
    try:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
