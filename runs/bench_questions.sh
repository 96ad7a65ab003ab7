#!/usr/bin/env bash
# Questions a second, six an image: one at a time against batches that share the image's prefix. The curve over batch
# sizes takes a quarter of an hour on the shape mid; one size alone, a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
bench() { .venv/bin/vlm-anchors bench --questions 6 --rounds "${ROUNDS:-3}" --threads 1 --device cpu "$@"; }
for subject in "--shape mid" "--model scenes"; do
  bench $subject --method none --method clva --out "results/bench_questions_${subject##* }_cpu.json"
done
for method in none clva; do
  bench --shape mid --batch-size 12 --method "$method" --out "results/bench_questions_mid_12_${method}_cpu.json"
done
