"""Methods that insert tokens into a prompt, for vLLM: the prompt as embeddings, made by transformers ahead of the engine.

vLLM writes image features where the prompt has placeholders, and has no place for copies of words among them. A prompt of
embeddings may hold anything, and where a model counts positions by ones, both engines count them alike.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import CannotAct
from ...generation.sample_batches import read_sample
from ...inputs.prompt_builder import Sample, prepare
from ...interventions.method import Method, compose, name_of
from ...models.decoder import find_target
from ...models.vlm import Vlm
from .prompt_map import FAMILIES

if TYPE_CHECKING:
    from ...generation.generate import Images


class _Enough(Exception):
    """The decoder was reached."""


def embedded_prompt(vlm: Vlm, image: "Images", question: str, method: Any = "attanchor") -> dict[str, Tensor]:
    """A prompt for `vllm.LLM.generate`, with tokens inserted (AttAnchor, ViCrop).

    The engine needs `enable_prompt_embeds=True`, and the same weights and dtype.

    Args:
        vlm: The model, as `va.load` returns it. Only its embeddings, vision tower and projector run.
        image: As in `va.ask`.
        question: As in `va.ask`.
        method: The method or SPEC.

    Returns:
        `prompt_embeds`, a tensor (tokens, width) in the model's dtype.

    Raises:
        CannotAct: The method acts inside the model too, or the model's positions are not counted by ones (M-RoPE).
        UserError: As in `va.ask`.
    """
    return {"prompt_embeds": embeddings_of(vlm, inserting(method), read_sample(image, question, None))}


def inserting(method: Any) -> list[Method]:
    """The methods of a SPEC that prepare a prompt.

    Raises:
        CannotAct: One of them acts inside the model: vLLM cannot tell where a prompt of embeddings has its images.
    """
    inside, prepares = compose(method)
    acting = [part for part in inside.parts if part.active_hooks()]
    if acting or not prepares:
        raise CannotAct(
            f"{name_of((acting or [method])[0])} acts inside the model, and in a prompt of embeddings its images are not known. "
            "Embed the prompt of a method that only inserts tokens; one that acts inside takes an ordinary prompt, in extra_args."
        )
    return prepares


def embeddings_of(vlm: Vlm, methods: Sequence[Method], sample: Sample) -> Float[Tensor, "q d"]:
    """What the decoder reads of a sample whose inputs these methods prepared."""
    target = find_target(vlm.model, vlm.processor.tokenizer)
    if target.family.name not in FAMILIES or target.family.mrope:
        known = ", ".join(name for name in FAMILIES if not name.startswith("qwen"))
        raise CannotAct(
            f"A prompt of embeddings carries no positions, and vLLM counts them by ones; {target.family.title} places an image's "
            f"patches otherwise, or was not tried. Use {known}, or run {name_of(methods[0])} through transformers."
        )
    tensors: Mapping[str, Any] = prepare(vlm, [sample]).tensors
    for method in methods:
        tensors = method.prepare(vlm, tensors, samples=[sample])
    given = _given_to(target.stack, vlm.model, tensors)
    embeds, positions = given["inputs_embeds"][0], given.get("position_ids")
    if positions is not None and not torch.equal(positions.flatten(), torch.arange(len(embeds), device=embeds.device)):
        raise CannotAct(
            f"{name_of(methods[0])} with these parameters leaves gaps between positions, which a prompt of embeddings does not "
            "carry. Run it through transformers."
        )
    return embeds


def _given_to(stack: nn.Module, model: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's decoder is called with; it does not run."""
    given: dict[str, Any] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.update(kwargs)
        raise _Enough

    hook = stack.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**tensors, use_cache=False)
    except _Enough:
        pass
    finally:
        hook.remove()
    return given
