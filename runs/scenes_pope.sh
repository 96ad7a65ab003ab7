#!/usr/bin/env bash
# POPE over held-out scenes on the bundled model: plain and CLVA, greedy, the adversarial split (SPLIT= for all three).
# results/scenes_pope.json
#   METHODS="none clva clva:beta=0" DECODING=nucleus NAME=... runs/scenes_pope.sh   runs others
set -euo pipefail
cd "$(dirname "$0")/.."
name="${NAME:-scenes_pope}"
methods=()
for method in ${METHODS:-none clva}; do methods+=(--method "$method"); done
split=${SPLIT-adversarial}
.venv/bin/vlm-anchors eval pope --out "${RUN:-runs/out}/$name" "${methods[@]}" --protocol bare \
  --decoding "${DECODING:-greedy}" --batch-size 72 ${split:+--split "$split"}
.venv/bin/vlm-anchors report "${RUN:-runs/out}/$name" --format json --out "results/$name.json"
