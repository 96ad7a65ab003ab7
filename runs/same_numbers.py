"""Whether an earlier commit gives the same answers and numbers: results/same_numbers.json.

    python runs/same_numbers.py COMMIT [--limit 20] [--methods clva vcd ...]

Both versions answer the first questions of the three bundled benchmarks with every method that both know. Answers, prompts,
and the logits of yes and no as records hold them (four decimals) must be equal. Four minutes on two cores.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from vlm_anchors.provenance import provenance

ROOT = Path(__file__).parent.parent
BENCHMARKS = {
    "pope": ["pope", "--split", "adversarial", "--protocol", "llava"], "chair": ["chair", "--decoding", "greedy"], "mme": ["mme"],
}  # fmt: skip
METHODS = ["none", "clva", "attanchor:tau=0.135", "clearsight", "deco", "pai", "vcd", "memvr", "icd", "imccd", "vista"]
COMPARED = ("answer", "prompt", "yes_no")


def unpacked(commit: str, folder: Path) -> Path:
    """The sources of a commit."""
    done = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def records(source: Path, benchmark: str, methods: list[str], limit: int, out: Path) -> dict:
    chosen = [word for method in methods for word in ("--method", method)]
    command = [sys.executable, "-m", "vlm_anchors", "eval", *BENCHMARKS[benchmark], *chosen, "--limit", str(limit)]
    subprocess.run(
        [*command, "--max-new-tokens", "16", "--batch-size", "5", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=out.parent,
    )  # fmt: skip
    lines = map(json.loads, (out / "records.jsonl").read_text("utf-8").splitlines())
    return {(one["method"], one["id"]): one for one in lines}


def compared(before: dict, after: dict) -> dict:
    if before.keys() != after.keys():
        raise SystemExit("The two versions asked different questions, so nothing can be compared.")
    same = {what: sum(before[key].get(what) == after[key].get(what) for key in after) for what in COMPARED}
    return {"answers": len(after), "the same": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    chosen = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as place:
        old = unpacked(chosen.commit, Path(place) / "old")
        for name in BENCHMARKS:
            both = [
                records(source, name, chosen.methods, chosen.limit, Path(place) / f"{name}-{which}")
                for which, source in (("before", old), ("after", ROOT / "src"))
            ]
            found[name] = compared(*both)
            print(name, found[name], flush=True)
    result = {"before": chosen.commit, "methods": chosen.methods, "questions": chosen.limit, "benchmarks": found}
    file = ROOT / "results" / "same_numbers.json"
    file.write_text(json.dumps(result | provenance("cpu"), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
