"""Rows of the family table: what cannot be steered, and why."""

from .family import Family

_OTHER = "Choose a model of another family (vlm-anchors families)."
_CROSS = (
    "it reads its image in separate cross-attention layers, so text and image never share a softmax and no visual token "
    f"stands in the prompt. {_OTHER}"
)
_ENCODER = (
    "it is an encoder-decoder: its text reads the image and the prompt in cross-attention, where prompt and answer are not "
    f"in one sequence and no row of the prompt is its last. {_OTHER}"
)
_BIAS = (
    "its attention adds a learned position bias to the scores inside its own kernel, which a method cannot see, so anchors "
    f"found without it would be wrong. {_OTHER}"
)

REFUSED: tuple[Family, ...] = (
    Family("inkling", ("inkling2", "inkling_mm_model"), "Inkling", refused=_BIAS),
    Family("mllama", ("mllama",), "Llama 3.2 Vision", refused=_CROSS),
    Family("idefics", ("idefics",), "IDEFICS (9B, 80B)", refused=_CROSS),
    Family("evolla", ("evolla",), "Evolla", refused=_CROSS.replace("image", "protein")),
    Family("blip", ("blip",), "BLIP", refused=_CROSS),
    Family("florence2", ("florence2",), "Florence-2", refused=_ENCODER),
    Family("t5gemma2", ("t5gemma2",), "T5Gemma 2", refused=_ENCODER),
    Family("udop", ("udop",), "UDOP", refused=_ENCODER),
    Family("pix2struct", ("pix2struct",), "Pix2Struct", refused=_ENCODER),
    Family("pp-formulanet", ("pp_formulanet",), "PP-FormulaNet", refused=_ENCODER),
    Family("vision-encoder-decoder", ("vision-encoder-decoder",), "TrOCR, Donut, Nougat", refused=_ENCODER),
    Family(
        "git",
        ("git",),
        "GIT",
        refused="its attention is no function that can be exchanged, and no placeholder of its "
        "image stands among the prompt's tokens. " + _OTHER,
    ),
    Family(
        "diffusion-gemma",
        ("diffusion_gemma",),
        "Diffusion Gemma",
        refused="it denoises whole blocks of text, so there is "
        "no last row of a prompt whose attention could be an anchor. " + _OTHER,
    ),
    Family("pi0", ("pi0",), "pi0", refused="it puts out a robot's actions, no text. " + _OTHER),
    Family("mistral4", ("mistral4",), "Mistral 4 (text)", refused="it reads text only. " + _OTHER),
)
