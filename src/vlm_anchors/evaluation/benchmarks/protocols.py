"""How a benchmark's questions are put to a model: the words added, tokens allowed, decoding and seed, each with its source.

Numbers of different protocols are not comparable; the protocol is printed with every number. What a source does not
state is listed in `inferred`: our reading, not theirs.
"""

from dataclasses import dataclass

from ...errors import UnknownName
from ...registry import did_you_mean

ONE_WORD = " Please answer this question with one word."
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
DESCRIBE = "Please describe this image in detail."
YES_OR_NO = " Please answer yes or no."


@dataclass(frozen=True)
class Protocol:
    """prompt = template with {q} replaced; `drop` is cut from the end of the question first.

    Args:
        decoding: a SPEC.
        seed: None where the decoding draws nothing.
        inferred: Fields the source does not state.
    """

    name: str
    template: str
    max_new_tokens: int
    decoding: str
    seed: int | None
    source: str
    drop: str = ""
    inferred: tuple[str, ...] = ()

    def prompt(self, question: str) -> str:
        """The words the model is asked, before the chat template."""
        return self.template.replace("{q}", question.removesuffix(self.drop) if self.drop else question)

    def describe(self) -> str:
        """One line to print beside a number."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        guess = f"; inferred: {', '.join(self.inferred)}" if self.inferred else ""
        return f"{self.name}: {self.template!r}, {self.max_new_tokens} new tokens, {self.decoding}{seed}{guess} [{self.source}]"


def _suffix(name: str, words: str, tokens: int, decoding: str, source: str, **more) -> Protocol:
    seed = more.pop("seed", None)
    return Protocol(name, "{q}" + words, tokens, decoding, seed, source, **more)


SAMPLED = "nucleus:top_p=1.0"

POPE = [
    _suffix("llava", SHORT, 128, "greedy", "LLaVA docs/Evaluation.md, model_vqa_loader.py"),
    _suffix("vcd", ONE_WORD, 1024, SAMPLED, "VCD object_hallucination_vqa_llava.py", seed=42),
    _suffix(
        "opera", "", 10, "beam:num_beams=5", "OPERA pope_eval.py, beams of its README", inferred=("max_new_tokens",)
    ),
    _suffix("icd", ONE_WORD, 1024, SAMPLED, "ICD's scripts, one of their three suffixes", seed=42, inferred=("seed",)),
    _suffix("pai", "", 512, "greedy", "PAI pope_eval.py", inferred=("decoding",)),
    _suffix(
        "clearsight",
        " Please just answer yes or no.",
        1024,
        "greedy",
        "ClearSight's POPE script",
        inferred=("decoding",),
    ),
    _suffix("imccd", ONE_WORD, 64, SAMPLED, "IMCCD's POPE script", seed=42),
    _suffix("deco", "", 5, "greedy", "DeCo's POPE script"),
    _suffix("vista", "", 32, "greedy", "VISTA's POPE script"),
    _suffix("lmms", SHORT, 128, "greedy", "lmms-eval pope"),
    _suffix(
        "clva",
        ONE_WORD,
        1024,
        "greedy",
        "arXiv 2603.25088; its sampled baseline is close to VCD's, so VCD's words are taken",
        inferred=("suffix", "max_new_tokens", "temperature", "seed"),
    ),
    _suffix(
        "bare", "", 128, "greedy", "AoiDragon/POPE states no prompt", inferred=("suffix", "max_new_tokens", "decoding")
    ),
]
CHAIR = [
    Protocol("opera", DESCRIBE, 512, "beam:num_beams=5", None, "OPERA chair_eval.py"),
    Protocol("greedy", DESCRIBE, 512, "greedy", None, "OPERA chair_eval.py with one beam; DeCo's CHAIR script"),
    Protocol("short", DESCRIBE, 64, "greedy", None, "OPERA's issue 30: 64 tokens, last unfinished sentence kept here"),
    Protocol("pai", "Please help me describe the image in detail.", 512, "greedy", None, "PAI and VISTA chair scripts"),
    Protocol("memvr", DESCRIBE, 1024, "greedy", None, "MemVR's CHAIR script"),
    Protocol("imccd", DESCRIBE, 1024, SAMPLED, 42, "IMCCD's CHAIR script"),
    Protocol(
        "clva",
        DESCRIBE,
        128,
        "greedy",
        None,
        "arXiv 2603.25088: 500 images of val2014, 128 new tokens",
        inferred=("words", "temperature", "seed", "image ids"),
    ),
]
MME = [
    _suffix("mme-official", "", 128, "greedy", "MME's question files, asked as they are", inferred=("max_new_tokens",)),
    _suffix("llava", SHORT, 128, "greedy", "LLaVA-1.5 as lmms-eval mme does it", drop=YES_OR_NO),
    _suffix("memvr", SHORT, 1, "greedy", "MemVR: LLaVA's MME file, one token", drop=YES_OR_NO),
    _suffix("imccd", ONE_WORD, 64, SAMPLED, "IMCCD's MME script", seed=42),
    _suffix(
        "clva", "", 128, "greedy", "arXiv 2603.25088", inferred=("suffix", "max_new_tokens", "temperature", "seed")
    ),
]
AMBER = [
    _suffix(
        "amber-official",
        "",
        512,
        "greedy",
        "AMBER's queries as they are",
        inferred=("max_new_tokens", "decoding"),
    ),
    _suffix(
        "vlmevalkit",
        "\nPlease answer yes or no.",
        128,
        "greedy",
        "VLMEvalKit PR 955",
        inferred=("max_new_tokens",),
    ),
    _suffix("llava", SHORT, 128, "greedy", "LLaVA docs/Evaluation.md, short answers", inferred=("use on AMBER",)),
]
HALLUSION = [
    _suffix(
        "hallusion-official",
        "",
        512,
        "greedy",
        "its questions as they are",
        inferred=("max_new_tokens", "decoding"),
    ),
    _suffix(
        "vlmevalkit",
        " Please answer yes or no.",
        128,
        "greedy",
        "VLMEvalKit, yes-or-no data",
        inferred=("max_new_tokens",),
    ),
    _suffix(
        "llava", SHORT, 128, "greedy", "LLaVA docs/Evaluation.md, short answers", inferred=("use on HallusionBench",)
    ),
]
SHORT_ANSWER = [
    _suffix("llava", SHORT, 128, "greedy", "LLaVA docs/Evaluation.md"),
    _suffix("bare", "", 128, "greedy", "the question alone", inferred=("suffix", "max_new_tokens", "decoding")),
]
VIZWIZ = [
    _suffix(
        "llava",
        "\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT,
        128,
        "greedy",
        "LLaVA's VizWiz question file",
    ),
    *SHORT_ANSWER[1:],
]
CHOICE = [
    _suffix("llava", LETTER, 1024, "greedy", "LLaVA docs/Evaluation.md, model_vqa_science.py, model_vqa_mmbench.py")
]
AS_ASKED = _suffix(
    "as-asked", "", 128, "greedy", "the question as the file has it", inferred=("max_new_tokens", "decoding")
)
CAPTIONS = [
    AS_ASKED,
    Protocol(
        "describe", DESCRIBE, 128, "greedy", None, "for files that hold captions and no question", inferred=("all",)
    ),
]
LLAVA_BENCH = [_suffix("llava", "", 1024, "greedy", "LLaVA scripts/v1_5/eval/llavabench.sh")]

PROTOCOLS: dict[str, list[Protocol]] = {
    "pope": POPE,
    "chair": CHAIR,
    "mme": MME,
    "amber": AMBER,
    "hallusion": HALLUSION,
    "vqav2": SHORT_ANSWER,
    "vizwiz": VIZWIZ,
    "gqa": SHORT_ANSWER,
    "scienceqa": CHOICE,
    "mmbench": CHOICE,
    "captions": CAPTIONS,
    "mmhal": [AS_ASKED],
    "llava-bench": LLAVA_BENCH,
}


def protocols(benchmark: str) -> list[Protocol]:
    """A benchmark's protocols, the default first; one that nobody has published a prompt for is asked as its file has it."""
    return PROTOCOLS.get(benchmark, [AS_ASKED])


def protocol(benchmark: str, name: str | None = None) -> Protocol:
    """A benchmark's protocol by name; without one, the first of its list."""
    known = {each.name: each for each in protocols(benchmark)}
    if name is None:
        return protocols(benchmark)[0]
    if name not in known:
        raise UnknownName(f"{benchmark} has no protocol {name!r}.{did_you_mean(name, known)}")
    return known[name]
