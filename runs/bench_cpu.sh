#!/usr/bin/env bash
# What CLVA costs on a CPU: results/bench_mid_cpu.json. One thread, so that a busy machine disturbs it less.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/vlm-anchors bench --shape mid --method clva --method literal:clva --rounds "${ROUNDS:-21}" --threads 1 \
  --device cpu --out results/bench_mid_cpu.json
