#!/usr/bin/env bash
# The evidence on `scenes-smollm2`: results/smollm2_{gates,diagnose,pope}.json, then docs/smollm2.md.
#
# Gates first. Then, on validation scenes (seed 1), diagnose, and CLVA's parameters: its suggested layers at three strengths. What
# is best there, `TUNED`, goes beside the paper's values, ablations, controls and baselines over IMAGES test scenes.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${RUN:-runs/out}/smollm2" python="${PYTHON:-.venv/bin/python}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
anchors() { "$python" -m vlm_anchors "$@"; }
answer() { # NAME IMAGES DATA METHOD...: the answer is the first word
  local name=$1 images=$2 data=$3 methods=()
  shift 3
  for method in "$@"; do methods+=(--method "$method"); done
  anchors eval pope --model scenes-smollm2 --protocol deco --max-new-tokens 1 --batch-size 18 --data "$data/pope" \
    --images "$images" "${methods[@]}" --out "$out/$name"
}
anchors scenes export --out "$out/data" --images "${IMAGES:-500}"
anchors scenes export --out "$out/validation" --images "${VALIDATION:-100}" --seed 1
"$python" runs/smollm2_gates.py images "$out/data"
answer greedy "$out/data/images" "$out/data" none
for kind in blank shuffled; do answer "$kind" "$out/data/$kind" "$out/data" none; done
"$python" runs/smollm2_gates.py collect "$out/greedy" "$out/blank" "$out/shuffled"

anchors diagnose --model scenes-smollm2 --images "$out/validation/images" --limit "${VALIDATION:-100}" --json \
  > "$out/diagnose.json"
"$python" runs/smollm2_gates.py diagnosis "$out/diagnose.json"
layers=$("$python" -c 'import json; print(json.load(open("results/smollm2_diagnose.json"))["suggestion"]["clva"].partition(":")[2])')
answer tuning "$out/validation/images" "$out/validation" none clva "clva:$layers" "clva:$layers,alpha=4" "clva:$layers,alpha=40"
anchors report "$out/tuning"
tuned="${TUNED:-clva:$layers}"

answer greedy "$out/data/images" "$out/data" none clva
answer methods "$out/data/images" "$out/data" none "$tuned" clva:places=random clva:heads=all clva:beta=0 clva:alpha=0
answer baselines "$out/data/images" "$out/data" none pai clearsight deco
"$python" runs/logit_shift.py "$out/greedy" "$out/logit-shift"
"$python" runs/scenes_report.py smollm2_pope "$out"/{greedy,methods,baselines,logit-shift}
"$python" runs/smollm2_page.py
