#!/usr/bin/env bash
# The evidence on `scenes-smollm2`: results/smollm2_NAME.json, two figures, and docs/smollm2.md.
#
#     runs/smollm2.sh [gates] [diagnose] [tune] [figures] [pope] [baselines] [controls] [mme] [chair] [page]
#
# Without names all of them, in this order. RUN=DIR IMAGES=200 runs/smollm2.sh baselines: over fewer images, in a folder of its own.
# Gates first. Then, on validation scenes (seed 1), diagnose, and a search with the same budget for every method (POPE's
# adversarial questions). What is best there goes beside the paper's values, ablations and controls over IMAGES test scenes.
# Stopped at any moment and run again, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${RUN:-runs/out}/smollm2" python="${PYTHON:-.venv/bin/python}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
anchors() { "$python" -m vlm_anchors "$@"; }
pope=(--model scenes-smollm2 --protocol deco --max-new-tokens 1 --batch-size 18) # the answer is the first word
answer() { # BENCHMARK NAME IMAGES METHOD...
  local benchmark=$1 name=$2 images=$3 how methods=()
  shift 3
  for method in "$@"; do methods+=(--method "$method"); done
  case $benchmark in
    pope) how=(pope "${pope[@]}") ;;
    mme) how=(mme --model scenes-smollm2 --protocol mme-official --max-new-tokens 1 --batch-size 32) ;;
    chair) how=(chair:lemma=fixed --model scenes-smollm2 --protocol clva --batch-size 50) ;;
  esac
  anchors eval "${how[@]}" --data "$out/data/$benchmark" --images "$out/data/$images" "${methods[@]}" --out "$out/$benchmark-$name"
}
best() { # the winners of the search, a SPEC a line: of one method, or of all but CLVA
  "$python" - "$out/tuning/tune.json" "${1:-}" <<'PYTHON'
import json, sys
specs = [one["best"] for one in json.load(open(sys.argv[1]))["methods"]]
print("\n".join(spec for spec in specs if (spec.split(":")[0] == "clva") == (sys.argv[2] == "clva")))
PYTHON
}
gates() {
  "$python" runs/smollm2_gates.py images "$out/data"
  answer pope greedy images none
  for kind in blank shuffled; do answer pope "$kind" "$kind" none; done
  "$python" runs/smollm2_gates.py collect "$out/pope-greedy" "$out/pope-blank" "$out/pope-shuffled"
}
diagnose() {
  anchors diagnose --model scenes-smollm2 --images "$out/validation/images" --limit "${VALIDATION:-60}" \
    --out docs/figures/smollm2-drift.png --json > "$out/diagnose.json"
  "$python" runs/smollm2_gates.py diagnosis "$out/diagnose.json"
}
tune() {
  anchors tune "${pope[@]}" --method clva --method clearsight --method deco --method pai --start diagnose \
    --budget "${BUDGET:-5}" --benchmark pope --split adversarial --data "$out/validation/pope" \
    --images "$out/validation/images" --out "$out/tuning"
  sed "s|\"data\": \".*\"|\"data\": \"scenes export --seed 1\"|" "$out/tuning/tune.json" > results/smollm2_tune.json
}
figures() {
  anchors look "$out/validation/images/scene_0000.png" "Is there a cup in the image?" --model scenes-smollm2 --method none \
    --method clva --out "$out/look"
  cp "$out/look/layers-none.png" docs/figures/smollm2-layers.png
}
pope() {
  answer pope greedy images none clva "$(best clva)"
  answer pope random images clva:places=random
  "$python" runs/logit_shift.py "$out/pope-greedy" "$out/pope-logit-shift"
  "$python" runs/scenes_report.py smollm2_pope "$out"/pope-{greedy,random,logit-shift}
}
baselines() { # as the search left them, and as they are without it
  local tuned
  mapfile -t tuned < <(best)
  answer pope greedy images none clva "$(best clva)"
  answer pope baselines images "${tuned[@]}" "${tuned[@]%%:*}"
  "$python" runs/scenes_report.py smollm2_baselines "$out"/pope-{greedy,baselines}
}
controls() {
  answer pope greedy images none clva "$(best clva)"
  answer pope random images clva:places=random
  answer pope controls images clva:heads=all clva:beta=0 clva:alpha=0
  "$python" runs/logit_shift.py "$out/pope-greedy" "$out/pope-logit-shift"
  "$python" runs/scenes_report.py smollm2_controls "$out"/pope-{greedy,random,controls,logit-shift}
}
others() { # BENCHMARK
  answer "$1" greedy images none clva "$(best clva)"
  "$python" runs/scenes_report.py "smollm2_$1" "$out/$1-greedy"
}
mme() { others mme; }
chair() {
  others chair
  "$python" runs/smollm2_gates.py captions "$out/chair-greedy"
}
page() { "$python" runs/smollm2_page.py; }

anchors scenes export --out "$out/data" --images "${IMAGES:-500}"
anchors scenes export --out "$out/validation" --images "${VALIDATION:-60}" --seed 1
[ $# -gt 0 ] || set -- gates diagnose tune figures pope baselines controls mme chair page
for step in "$@"; do "$step"; done
