#!/usr/bin/env bash
# Questions a second, six an image: one at a time against batches that share the image's prefix.
set -euo pipefail
cd "$(dirname "$0")/.."
for subject in "--shape mid" "--model scenes"; do
  .venv/bin/vlm-anchors bench $subject --questions 6 --method none --method clva --rounds "${ROUNDS:-3}" --threads 1 \
    --device cpu --out "results/bench_questions_${subject##* }_cpu.json"
done
