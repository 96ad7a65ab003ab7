#!/usr/bin/env bash
# What every method costs on a CPU, at batch 1 and 8: results/bench_methods_mid_b{1,8}_cpu.json. One thread, and its own seconds.
# AttAnchor makes the prompt longer, which is counted here; runs/attanchor_cost.sh compares it with a prompt as long.
set -euo pipefail
cd "$(dirname "$0")/.."
methods=(clva attanchor attanchor-i2t clearsight deco dola memvr pai:gamma=1 middle-layers only vista prune:share=0.5 pai icd m3id vcd avisc sid imccd)
for batch in 1 8; do
  .venv/bin/vlm-anchors bench --shape mid --batch-size "$batch" "${methods[@]/#/--method=}" --rounds "${ROUNDS:-5}" \
    --max-new-tokens "${TOKENS:-16}" --threads 1 --device cpu --out "results/bench_methods_mid_b${batch}_cpu.json"
done
