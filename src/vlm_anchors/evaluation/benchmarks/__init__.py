"""The catalogue of benchmarks: one line each. Importing this package imports no benchmark and nothing heavy."""

from ...registry import Catalogue, Entry


def _entry(name: str, target: str, summary: str, source: str) -> Entry:
    return Entry(name, f"vlm_anchors.evaluation.benchmarks.{target}", summary, source)


BENCHMARKS = Catalogue(
    "benchmark",
    [
        _entry("pope", "pope:Pope", "Is there a ... in the image? Yes or no, half and half", "arXiv 2305.10355"),
        _entry("chair", "chair:Chair", "Objects a caption mentions that are not in the image", "arXiv 1809.02156"),
        _entry("mme", "mme:Mme", "Fourteen sub-tasks, two yes-no questions an image", "arXiv 2306.13394"),
        _entry(
            "amber", "amber:Amber", "Inventions in descriptions, and yes-no questions about them", "arXiv 2311.07397"
        ),
        _entry("hallusion", "hallusion:Hallusion", "Figures true and edited: seen, or expected?", "arXiv 2310.14566"),
        _entry("vqav2", "vqa:Vqav2", "Short answers that ten people gave", "arXiv 1612.00837"),
        _entry("vizwiz", "vqa:Vizwiz", "Questions blind people asked about their photos", "arXiv 1802.08218"),
        _entry("gqa", "vqa:Gqa", "Questions made from scene graphs, one short answer", "arXiv 1902.09506"),
        _entry("scienceqa", "choice:ScienceQa", "School science with options, some with an image", "arXiv 2209.09513"),
        _entry("mmbench", "choice:MmBench", "Multiple choice by ability, also circular", "arXiv 2307.06281"),
        _entry(
            "captions",
            "captions:Captions",
            "BLEU, METEOR, CIDEr, ROUGE-L on any caption file",
            "pycocoevalcap, sacrebleu",
        ),
        _entry("mmhal", "mmhal:Mmhal", "Open questions rated for hallucination by a judge model", "arXiv 2309.14525"),
        _entry("llava-bench", "llava_bench:LlavaBench", "Open questions marked by a judge model", "arXiv 2304.08485"),
    ],
    group="vlm_anchors.benchmarks",
)
