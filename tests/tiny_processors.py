"""The real processor of each family around a word-level tokenizer, where it can be built without a download."""

import functools
import importlib
from types import SimpleNamespace

import transformers as hf
from tiny_models import BREAK, CLIP_END, CLIP_START, END, IMAGE, NEWLINE, START, TILE, VIDEO, WHOLE, WORD
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

_QWEN = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", START: "<|vision_start|>", END: "<|vision_end|>"}
_TILES = {
    IMAGE: "<image>", START: "<fake_token_around_image>", TILE: "<row_1_col_1>", TILE + 1: "<row_1_col_2>",
    TILE + 5: "<row_2_col_1>", TILE + 6: "<row_2_col_2>", WHOLE: "<global-img>", NEWLINE: "\n",
}  # fmt: skip
SPELLINGS = {
    "llava": {IMAGE: "<image>"},
    "llava-next": {IMAGE: "<image>"},
    "llava-onevision": {IMAGE: "<image>", VIDEO: "<video>"},
    "qwen2-vl": _QWEN,
    "qwen2.5-vl": _QWEN,
    "qwen3-vl": _QWEN,
    "glm-4v": {
        IMAGE: "<|image|>", VIDEO: "<|video|>", START: "<|begin_of_image|>", END: "<|end_of_image|>",
        CLIP_START: "<|begin_of_video|>", CLIP_END: "<|end_of_video|>",
    },
    "internvl": {IMAGE: "<IMG_CONTEXT>", VIDEO: "<video>", START: "<img>", END: "</img>"},
    "idefics3": _TILES,
    "smolvlm": _TILES,
    "gemma3": {IMAGE: "<image_soft_token>", START: "<start_of_image>", END: "<end_of_image>", NEWLINE: "\n\n"},
    "paligemma": {IMAGE: "<image>", NEWLINE: "\n"},
    "paligemma2": {IMAGE: "<image>", NEWLINE: "\n"},
    "mistral3": {IMAGE: "[IMG]", BREAK: "[IMG_BREAK]", END: "[IMG_END]"},
}  # fmt: skip
_NAMED = {
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>",
    },
    "paligemma": {"image_token": "<image>"},
}  # fmt: skip
"""Tokens that a family's tokenizer has as attributes."""


@functools.cache
def tokenizer(name):
    """Ids as in the tiny models: tags below WORD, words "w20" to "w99" above."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{spelling: one for one, spelling in SPELLINGS[name].items()}}
    taken = set(words.values())
    words |= {f"unused{one}": one for one in range(WORD) if one not in taken}
    words |= {f"w{one}": one for one in range(WORD, 99)} | {"<unk>": 99}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        padding_side="left", extra_special_tokens=_NAMED.get(name, {}),
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": list(SPELLINGS[name].values())})
    return made


def stand_in(name):
    """What `attach` looks at in a processor, for families whose real one needs more than is installed."""
    return SimpleNamespace(tokenizer=tokenizer(name))


def _pil(module, kind, **settings):
    return getattr(importlib.import_module(f"transformers.models.{module}"), kind)(**settings)


def _images_only(kind):
    """The processor without its video half, which needs torchvision; images go the way they always go."""

    class ImagesOnly(kind):
        def check_argument_for_proper_class(self, name, argument):
            return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)

    return ImagesOnly


def llava():
    images = _pil("clip", "CLIPImageProcessorPil", size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    return hf.LlavaProcessor(images, tokenizer("llava"), 4, "default", num_additional_image_tokens=1)


_ANYRES = {"size": {"shortest_edge": 16}, "image_grid_pinpoints": [[16, 32], [32, 16]]}


def llava_next():
    images = _pil("llava_next", "LlavaNextImageProcessorPil", crop_size={"height": 16, "width": 16}, **_ANYRES)
    return hf.LlavaNextProcessor(images, tokenizer("llava-next"), 4, "default", num_additional_image_tokens=1)


def llava_onevision():
    size = {"height": 16, "width": 16}
    images = _pil("llava_onevision", "LlavaOnevisionImageProcessorPil", **{**_ANYRES, "size": size})
    return _images_only(hf.LlavaOnevisionProcessor)(images, tokenizer("llava-onevision"), None, 16, "full")


def _patched(module, kind):
    return _pil(module, kind, patch_size=4, size={"shortest_edge": 1024, "longest_edge": 2048})


def qwen2_vl():
    return _images_only(hf.Qwen2VLProcessor)(_patched("qwen2_vl", "Qwen2VLImageProcessorPil"), tokenizer("qwen2-vl"))


def qwen2_5_vl():
    return _images_only(hf.Qwen2_5_VLProcessor)(
        _patched("qwen2_vl", "Qwen2VLImageProcessorPil"), tokenizer("qwen2.5-vl")
    )


def qwen3_vl():
    return _images_only(hf.Qwen3VLProcessor)(_patched("qwen2_vl", "Qwen2VLImageProcessorPil"), tokenizer("qwen3-vl"))


def glm4v():
    return _images_only(hf.Glm4vProcessor)(_patched("glm4v", "Glm4vImageProcessorPil"), tokenizer("glm-4v"))


def internvl():
    images = _pil("got_ocr2", "GotOcr2ImageProcessorPil", size={"height": 32, "width": 32}, max_patches=2)
    return _images_only(hf.InternVLProcessor)(images, tokenizer("internvl"), None, 16)


def idefics3():
    images = _pil(
        "idefics3", "Idefics3ImageProcessorPil", size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    return hf.Idefics3Processor(images, tokenizer("idefics3"), 16)


def gemma3():
    images = _pil("gemma3", "Gemma3ImageProcessorPil", size={"height": 32, "width": 32})
    return hf.Gemma3Processor(images, tokenizer("gemma3"), image_seq_length=16)


def paligemma():
    images = _pil("siglip", "SiglipImageProcessorPil", size={"height": 16, "width": 16})
    images.image_seq_length = 16
    return hf.PaliGemmaProcessor(images, tokenizer("paligemma"))
