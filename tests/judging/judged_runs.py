"""RUN folders with answers to LLaVA-Bench, for a judge to read."""

import json
import sys

KEY = "sk-not-a-real-key-5d1f"
QUESTIONS = 6


def records(method="none", seed=None, n=QUESTIONS):
    return [
        {
            "id": str(i),
            "image": f"{i}.jpg",
            "question": f"What is in picture {i}?",
            "group": ("conv", "detail", "complex")[i % 3],
            "truth": {"question_id": i},
            "answer": f"{method} says {i}.",
            "method": method,
            "decoding": "greedy" if seed is None else "nucleus:top_p=0.9",
            "seed": seed,
        }
        for i in range(n)
    ]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def benchmark_files(folder):
    folder.mkdir(exist_ok=True)
    lines(folder / "questions.jsonl", [])
    lines(folder / "context.jsonl", [{"image": f"{i}.jpg", "caption": ["A cat", "a mat"]} for i in range(QUESTIONS)])
    lines(folder / "answers_gpt4.jsonl", [{"question_id": i, "text": f"Reference {i}."} for i in range(QUESTIONS)])
    kinds = ("conv", "detail", "complex")
    (folder / "rule.json").write_text(
        json.dumps({f"llava_bench_{kind}": {"role": "Assistant", "prompt": f"Rate {kind}."} for kind in kinds})
    )
    return folder


def write_run(folder, rows, data, **info):
    folder.mkdir(exist_ok=True)
    summary = {"benchmark": "llava-bench", "model": "scenes", "protocol": "llava", "data": str(data), **info}
    (folder / "run.json").write_text(json.dumps(summary))
    lines(folder / "records.jsonl", rows)
    return folder


def kept(run):
    file = run / "reviews.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def command(run, data, url):
    arguments = ["judge", run, "--rules", data / "rule.json", "--url", url, "--judge-model", "judge-1", "--send"]
    return [sys.executable, "-m", "vlm_anchors", *map(str, arguments)]
