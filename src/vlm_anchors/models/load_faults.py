"""Why a model cannot be loaded, in one or two sentences for what transformers and the Hub client report in many ways."""

import re
from typing import Any

from ..errors import BadModel, first_line


def is_original_llava(kind: dict[str, Any]) -> bool:
    """Whether a config is of the layout that LLaVA's authors use, which their own code alone can load."""
    return "mm_vision_tower" in kind or str(kind.get("model_type")).startswith(
        ("llava_llama", "llava_mistral", "llava_qwen")
    )


def original_llava(name: str) -> BadModel:
    return BadModel(
        f"{name} holds LLaVA in its authors' own layout, which transformers cannot load. Use a conversion for transformers: "
        "llava-hf/llava-1.5-7b-hf, llava-hf/llava-v1.6-vicuna-7b-hf or another model of llava-hf on huggingface.co."
    )


def why_not(name: str, error: BaseException) -> BadModel:
    """The error for what transformers and the Hub client report in many ways."""
    from huggingface_hub import errors as hub

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(each, (hub.GatedRepoError,)) for each in chain):
        return BadModel(f"{name} is gated: accept its terms on huggingface.co and log in with `hf auth login`.")
    if any(isinstance(each, hub.RevisionNotFoundError) for each in chain):
        return BadModel(f"{name} has no such revision. Name a branch, tag or commit that exists there.")
    if any(isinstance(each, (hub.RepositoryNotFoundError, hub.HFValidationError)) for each in chain):
        return BadModel(f"No model {name} on huggingface.co, and no such folder here. Check the spelling.")
    if any(
        isinstance(each, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError)) for each in chain
    ):
        return BadModel(
            f"{name} is not on this disk and huggingface.co cannot be reached. Connect once to download it, "
            f"or load a local folder or 'scenes'."
        )
    if any(f"llava_{each}" in str(one) for one in chain for each in ("llama", "mistral", "qwen")):
        return original_llava(name)
    if isinstance(error, ImportError):
        return BadModel(f"{name} cannot be loaded as asked: {first_line(error)}.")
    return BadModel(f"{name} cannot be loaded: {first_line(error)}.")


def missing_package(error: BaseException) -> str | None:
    """The library that transformers says a class requires; None where the fault is another one."""
    found = re.search(r"requires the (\w+) library", str(error))
    return found.group(1).lower() if found and isinstance(error, ImportError) else None
