#!/usr/bin/env bash
# What CLVA costs on a card: results/bench_SHAPE_bB_CARD.json, at batch 1 and 16. Needs CUDA; nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
card=$(.venv/bin/python -c 'import re, torch; print(re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower())')
for shape in ${SHAPES:-llava-1.5-7b tinyllava-1b qwen2.5-vl-3b}; do
  for batch in 1 16; do
    .venv/bin/vlm-anchors bench --shape "$shape" --batch-size "$batch" --method clva --method literal:clva --rounds 15 \
      --device cuda --out "results/bench_${shape}_b${batch}_${card}.json"
  done
done
