#!/usr/bin/env bash
# CHAIR over held-out scenes on the bundled model: plain and CLVA, greedy, 128 new tokens. results/scenes_chair.json
set -euo pipefail
cd "$(dirname "$0")/.."
name="${NAME:-scenes_chair}"
methods=()
for method in ${METHODS:-none clva}; do methods+=(--method "$method"); done
.venv/bin/vlm-anchors eval chair:lemma=fixed --out "${RUN:-runs/out}/$name" "${methods[@]}" --protocol clva \
  --decoding "${DECODING:-greedy}" --batch-size 16
.venv/bin/vlm-anchors report "${RUN:-runs/out}/$name" --format json --out "results/$name.json"
