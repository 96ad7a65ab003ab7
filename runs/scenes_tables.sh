#!/usr/bin/env bash
# Every table over held-out scenes, the most wanted first, then the page that shows them: docs/results.md and README's table.
# About two hours on one core. Stopped at any moment and run again, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Memory that a growing cache gives back is asked for again a token later; keeping it saves a third of the time.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
out="${RUN:-runs/out}" python=.venv/bin/python
answer() { .venv/bin/vlm-anchors run "runs/$1.yaml" --out "$out/$1" > /dev/null; }
report() { $python runs/scenes_report.py "$@"; }

[ -f results/scenes_tau.json ] || $python runs/scenes_tau.py
runs/scenes_all_methods.sh
answer scenes_decodings
for benchmark in pope chair mme; do report "scenes_$benchmark" "$out/scenes_decodings/scenes/$benchmark"; done
answer clva_ablations
for benchmark in pope chair mme; do
  folders=("$out/clva_ablations/scenes/$benchmark")
  if [ "$benchmark" != chair ]; then # a control without attention: the plain model's logit of "yes", moved
    $python runs/logit_shift.py "${folders[0]}" "${folders[0]}-logit-shift"
    folders+=("${folders[0]}-logit-shift")
  fi
  report "clva_ablations_$benchmark" "${folders[@]}"
done
answer clva_sweep
for benchmark in pope chair; do report "clva_sweep_$benchmark" "$out/clva_sweep/scenes/$benchmark"; done
$python runs/clva_sweep.py
$python runs/readme_table.py
$python runs/results_page.py
