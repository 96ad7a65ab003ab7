#!/usr/bin/env bash
# POPE over held-out scenes on the bundled model: plain and CLVA, greedy. results/scenes_pope.json
#   METHODS="none clva clva:beta=0" DECODING=nucleus NAME=... runs/scenes_pope.sh   runs others
set -euo pipefail
cd "$(dirname "$0")/.."
name="${NAME:-scenes_pope}"
methods=()
for method in ${METHODS:-none clva}; do methods+=(--method "$method"); done
.venv/bin/vlm-anchors eval pope --out "${RUN:-runs/out}/$name" "${methods[@]}" --protocol bare \
  --decoding "${DECODING:-greedy}" --batch-size 36
.venv/bin/vlm-anchors report "${RUN:-runs/out}/$name" --format json --out "results/$name.json"
