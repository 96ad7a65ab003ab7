"""`eval` beside lmms-eval's own `llava_hf` class, on the same questions: results/lmms_eval_pope_cpu.json.

LMMS_PYTHON=/path/to/python runs/lmms_eval_pope.py      a Python of an environment with this package and lmms-eval

POPE's adversarial questions over bundled scenes, the bundled model as a folder that both load, float32, one thread. Both
commands answer the first FEW questions and then MANY; the difference of their CPU seconds is the time of the others, without
imports and loading. `llava_hf` refuses a batch size above 1. Scores are lmms-eval's of its own answers, and this package's.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import vlm_anchors as va
from vlm_anchors.provenance import provenance

OUT = Path(__file__).parent.parent / "results" / "lmms_eval_pope_cpu.json"
FEW, MANY, ROUNDS = 30, 300, 1
METRICS = ("accuracy", "precision", "recall", "yes_ratio")


def seconds(command: list[object]) -> float:
    """CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rate(run) -> list[float]:
    """Questions a CPU second, one figure for each round; `run(limit, round)` returns seconds."""
    return [round((MANY - FEW) / (run(MANY, turn) - run(FEW, turn)), 3) for turn in range(ROUNDS)]


def main() -> None:
    python = os.environ.get("LMMS_PYTHON", sys.executable)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = str(folder / "hf")
        vlm = va.load("scenes")
        vlm.model.save_pretrained(folder / "model")
        vlm.processor.save_pretrained(folder / "model")
        ours = [sys.executable, "-m", "vlm_anchors"]
        seconds([*ours, "scenes", "export", "--out", folder / "scenes", "--images", MANY // 6])
        data = [
            "--data",
            folder / "scenes" / "pope",
            "--images",
            folder / "scenes" / "images",
            "--split",
            "adversarial",
        ]
        seconds([*ours, "lmms-task", "pope", *data, "--out", folder / "task"])
        task = next((folder / "task").glob("*.yaml")).stem

        def theirs(limit: int, turn: int) -> float:
            return seconds([
                python, "-m", "lmms_eval", "--model", "llava_hf", "--model_args",
                f"pretrained={folder / 'model'},dtype=float32,device_map=cpu", "--tasks", task, "--include_path",
                folder / "task", "--batch_size", 1, "--device", "cpu", "--limit", limit, "--log_samples",
                "--output_path", folder / "lmms" / f"{limit}-{turn}",
            ])  # fmt: skip

        def eval_at(batch: int):
            def run(limit: int, turn: int) -> float:
                out = folder / f"batch-{batch}" / f"{limit}-{turn}"
                return seconds([
                    *ours, "eval", "pope", "--model", folder / "model", *data, "--limit", limit, "--batch-size", batch,
                    "--out", out,
                ])  # fmt: skip

            return run

        rates = {"lmms-eval, llava_hf, batch 1": rate(theirs)}
        for batch in (1, 24):
            rates[f"vlm-anchors, batch {batch}"] = rate(eval_at(batch))
        version = subprocess.run(
            [python, "-c", "import importlib.metadata as m; print(m.version('lmms-eval'))"],
            capture_output=True,
            text=True,
        ).stdout.strip()
        whole = folder / "lmms" / f"{MANY}-0"
        scores = json.loads(next(whole.rglob("*_results.json")).read_text("utf-8"))["results"][task]
        said = [json.loads(line) for line in next(whole.rglob("*samples*.jsonl")).read_text("utf-8").splitlines()]
        found = {"lmms-eval, llava_hf, batch 1": {name: round(scores[f"{name},none"], 4) for name in METRICS}}
        documents = [
            json.loads(line) for line in next((folder / "task").glob("*.jsonl")).read_text("utf-8").splitlines()
        ]
        texts = {json.loads(documents[one["doc_id"]]["record"])["id"]: one["filtered_resps"] for one in said}
        same = {}
        for batch in (1, 24):
            run = folder / f"batch-{batch}" / f"{MANY}-0"
            report = folder / f"report-{batch}.json"
            seconds([*ours, "report", run, "--format", "json", "--out", report])
            row = json.loads(report.read_text("utf-8"))["tables"][0]["rows"][0]
            found[f"vlm-anchors, batch {batch}"] = {name: round(row["cells"][name]["value"], 4) for name in METRICS}
            lines = (run / "records.jsonl").read_text("utf-8").splitlines()
            records = [json.loads(line) for line in lines if line]
            same[f"vlm-anchors, batch {batch}"] = sum(texts.get(one["id"]) == one["answer"] for one in records)
    middle = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
    base = middle["lmms-eval, llava_hf, batch 1"]
    OUT.write_text(
        json.dumps(
            {
                "model": "scenes",
                "questions": MANY,
                "questions_a_cpu_second": rates,
                "times_lmms_eval": {name: round(each / base, 2) for name, each in middle.items()},
                "scores": found,
                "same_text_as_lmms_eval": same,
                "lmms-eval": version,
                "batches": "llava_hf asserts a batch size of 1.",
                **provenance(),
            },
            indent=1,
        )
        + "\n",
        "utf-8",
    )


if __name__ == "__main__":
    main()
