#!/usr/bin/env bash
# Every method at its preset on POPE, CHAIR and MME over held-out scenes, beside the plain model and CLVA:
# results/scenes_methods_{pope,chair,mme}.json. OPERA, a decoding, answers captions only (CHAIR), beside five plain beams. The
# rule for presets stands in runs/scenes_methods.py.
#
#     runs/scenes_all_methods.sh            greedy: the published tables
#     runs/scenes_all_methods.sh nucleus    and sampled, with one seed, in the same files
set -euo pipefail
cd "$(dirname "$0")/.."
out="${RUN:-runs/out}/scenes"
export SEEDS=0
runs/scenes_answer.sh chair beam beam none
runs/scenes_answer.sh chair opera opera none
for decoding in greedy ${1:-}; do
  for benchmark in pope chair mme; do
    mapfile -t presets < <(.venv/bin/python runs/scenes_methods.py "$benchmark" "$decoding")
    runs/scenes_answer.sh "$benchmark" "$decoding" "$decoding" none clva
    runs/scenes_answer.sh "$benchmark" "$decoding-others" "$decoding" "${presets[@]}"
    folders=("$out/$benchmark/greedy" "$out/$benchmark/greedy-others")
    [ "$benchmark" != chair ] || folders+=("$out/chair/beam" "$out/chair/opera")
    [ "$decoding" = greedy ] || folders+=("$out/$benchmark/$decoding-0" "$out/$benchmark/$decoding-others-0")
    .venv/bin/python runs/scenes_report.py "scenes_methods_$benchmark" "${folders[@]}"
  done
done
