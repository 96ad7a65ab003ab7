#!/usr/bin/env bash
# What every method costs on a CPU, at batch 1 and 8: results/bench_methods_mid_b{1,8}_cpu.json. One thread, and its own seconds.
# AttAnchor makes the prompt longer, which is counted here; runs/attanchor_cost.sh compares it with a prompt as long. OPERA
# takes one prompt at a time. ViCrop needs an image, which a shape has not: results/bench_vicrop_scenes_cpu.json.
set -euo pipefail
cd "$(dirname "$0")/.."
methods=(clva attanchor attanchor-i2t clearsight deco dola memvr pai:gamma=1 middle-layers only vista prune:share=0.5 pai icd m3id
  vcd avisc sid imccd)
common=(--rounds "${ROUNDS:-5}" --max-new-tokens "${TOKENS:-16}" --threads 1 --device cpu)
single=("${methods[@]}" beam:num_beams=5 opera)
.venv/bin/vlm-anchors bench --shape mid "${single[@]/#/--method=}" "${common[@]}" --out results/bench_methods_mid_b1_cpu.json
.venv/bin/vlm-anchors bench --model scenes --method vicrop --method clva "${common[@]}" --out results/bench_vicrop_scenes_cpu.json
.venv/bin/vlm-anchors bench --shape mid --batch-size 8 "${methods[@]/#/--method=}" "${common[@]}" \
  --out results/bench_methods_mid_b8_cpu.json
