#!/usr/bin/env bash
# What AttAnchor costs on a CPU, against plain generation on a prompt as long: results/attanchor_cost_{mid,scenes}_cpu.json
set -euo pipefail
cd "$(dirname "$0")/.."
for subject in "--shape mid" "--model scenes"; do
  .venv/bin/vlm-anchors bench $subject --method attanchor --padded --rounds "${ROUNDS:-21}" --threads 1 --device cpu \
    --out "results/attanchor_cost_${subject##* }_cpu.json"
done
