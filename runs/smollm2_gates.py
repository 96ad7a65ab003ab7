"""The gates of `scenes-smollm2`: does it see, does it lean on its language, does it still speak?

    python runs/smollm2_gates.py images DATA           DATA/blank and DATA/shuffled, beside DATA/images
    python runs/smollm2_gates.py collect RUN BLANK SHUFFLED    -> results/smollm2_gates.json
    python runs/smollm2_gates.py diagnosis FILE        what `diagnose --json` said -> results/smollm2_diagnose.json
    python runs/smollm2_gates.py captions RUN          distinct words of captions, into results/smollm2_chair.json

A method is tried on the model only if, on held-out scenes, POPE's random split has F1 >= 0.80, the adversarial one lies
below it, and accuracy falls to chance or to the prior with blank images and with another scene's. The prior is what the
objects' frequency in COCO tells alone, at the best threshold for these very questions. The perplexity of a fixed text, before
and after, is reported.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image

from vlm_anchors.evaluation.reporting.runs import read_run
from vlm_anchors.evaluation.reporting.tables import tables
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes import coco, smollm2

ROOT = Path(__file__).parent.parent
F1 = 0.80
TEXT = """\
The harbour was quiet when the ferry came in. A few people stood on the quay with bags and bicycles, waiting for the gate to open.
Behind them a man sold coffee from a small blue van, and the smell of it drifted over the water. The captain waved to the boy who
caught the rope, as he had done every morning that summer, and the boy tied it to the iron post. Then the passengers walked up the
hill into the town, where the market had just begun. There were tables with apples, bread and cheese, a woman who repaired clocks,
and at the end of the street a school from which one could hear children singing. Nobody was in a hurry. It would rain later in
the day, the radio had said, but for the moment the sky was clear and the roofs were warm in the sun."""


def images(data: Path) -> None:
    """Every image grey, and every image another scene's."""
    names = sorted(path.name for path in (data / "images").glob("*.png"))
    for kind in ("blank", "shuffled"):
        (data / kind).mkdir(exist_ok=True)
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        Image.new("RGB", Image.open(data / "images" / name).size, (128, 128, 128)).save(data / "blank" / name)
        shutil.copy(data / "images" / other, data / "shuffled" / name)


def pope(run: Path) -> dict:
    """The plain model's figures by split, in per cent with their intervals, and the share of yes."""
    found = {}
    for table in tables([run]):
        row = next(row for row in table.rows if row.method == "none")
        cells = {name: row.cells[name] for name in ("f1", "accuracy", "yes_ratio") if name in row.cells}
        found[table.group or "all"] = {"n": row.n} | {
            name: [round(x, 2) for x in (cell.value, cell.low, cell.high)] for name, cell in cells.items()
        }
    return found


def prior(run: Path) -> float:
    """The best accuracy, in per cent, of "yes if the object is frequent enough"."""
    counts = dict(zip(coco.CATEGORIES, coco.counts()["single"], strict=True))
    pairs = []
    for record in read_run(run).records:
        name = record["question"].removeprefix("Is there a").removeprefix("n").removesuffix(" in the image?").strip()
        pairs.append((counts[name], record["truth"]["label"] == "yes"))
    right = [sum((n >= least) == yes for n, yes in pairs) for least in {0, *(n + 1 for n, _ in pairs)}]
    return round(100 * max(right) / len(pairs), 2)


def perplexity(model, words) -> float:
    """Of TEXT, each token from those before it; the first is not counted."""
    ids = words(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, :-1].float()
    return math.exp(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))


def collect(run: Path, blank: Path, shuffled: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import vlm_anchors as va

    source = smollm2.gguf_folder()
    before = AutoModelForCausalLM.from_pretrained(source, gguf_file=smollm2.GGUF, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(source, gguf_file=smollm2.GGUF)
    told = {"pope": pope(run), "blank": pope(blank), "shuffled": pope(shuffled)}
    vlm = va.load(smollm2.NAME, device="cpu")
    told["perplexity"] = {
        "before": round(perplexity(before, words), 2),
        "after": round(perplexity(vlm.model, words), 2),
    }
    by_split = {name.rsplit("/", 1)[-1]: value for name, value in told["pope"].items()}
    random, adversarial = by_split["random"]["f1"][0], by_split["adversarial"]["f1"][0]
    unseen = [next(iter(told[kind].values()))["accuracy"][0] for kind in ("blank", "shuffled")]
    told["prior"] = prior(blank)
    told["gates"] = {
        "random F1 >= 80": random >= 100 * F1,
        "adversarial F1 below random": adversarial < random,
        "no better than the prior without the image": max(unseen) <= max(50, told["prior"]),
    }
    told |= provenance()
    (ROOT / "results" / "smollm2_gates.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    print(json.dumps(told["gates"]))


def diagnosis(file: Path) -> None:
    """With where it comes from, and without the folder of one machine."""
    told = json.loads(file.read_text("utf-8")) | {"images": "validation scenes"} | provenance()
    (ROOT / "results" / "smollm2_diagnose.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def captions(run: Path) -> None:
    """Distinct words of a caption as a share of all its words, the mean of each method: a caption that repeats itself has few."""
    shares: dict[str, list[float]] = {}
    for record in read_run(run).records:
        words = record["answer"].lower().split()
        shares.setdefault(record["method"], []).append(len(set(words)) / max(len(words), 1))
    file = ROOT / "results" / "smollm2_chair.json"
    means = {method: round(sum(own) / len(own), 3) for method, own in shares.items()}
    file.write_text(
        json.dumps(json.loads(file.read_text("utf-8")) | {"distinct words": means}, indent=1) + "\n", "utf-8"
    )


if __name__ == "__main__":
    what, *folders = sys.argv[1:]
    {"images": images, "collect": collect, "diagnosis": diagnosis, "captions": captions}[what](*map(Path, folders))
