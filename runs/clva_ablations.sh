#!/usr/bin/env bash
# CLVA taken apart on held-out scenes, greedy: results/clva_ablations_{pope,mme,chair}.json (Table 4 and controls of ours) and
# results/clva_sweep_{pope,chair}.json (Fig. 5), drawn in docs/figures/clva-sweep.png.
#
# Table 4 gives no sizes for "signs reversed", so both readings are run. Controls: every head instead of those that stand
# out, as many anchors at random places (three seeds), and no attention at all: the plain model's logit of "yes" moved until
# it says yes as often as with CLVA.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${RUN:-runs/out}/scenes"
signs=(clva:beta=0 clva:alpha=0)
ablations=(clva:alpha=-14,beta=-0.9 clva:alpha=-0.9,beta=-14 clva:gain=average clva:heads=all
  clva:places=random clva:places=random,seed=1 clva:places=random,seed=2)
sweep=(clva:alpha=2 clva:alpha=5 clva:alpha=8 clva:alpha=11 clva:alpha=17 clva:alpha=20 clva:alpha=28
  clva:beta=0.3 clva:beta=0.6 clva:beta=1)
for benchmark in pope chair mme; do
  runs/scenes_answer.sh "$benchmark" greedy greedy none clva
  runs/scenes_answer.sh "$benchmark" signs greedy "${signs[@]}"
  runs/scenes_answer.sh "$benchmark" ablations greedy "${ablations[@]}"
  folders=("$out/$benchmark/"{greedy,signs,ablations})
  if [ "$benchmark" != chair ]; then
    .venv/bin/python runs/logit_shift.py "$out/$benchmark/greedy" "$out/$benchmark/logit-shift"
    folders+=("$out/$benchmark/logit-shift")
  fi
  .venv/bin/python runs/scenes_report.py "clva_ablations_$benchmark" "${folders[@]}"
done
for benchmark in pope chair; do
  runs/scenes_answer.sh "$benchmark" sweep greedy "${sweep[@]}"
  .venv/bin/python runs/scenes_report.py "clva_sweep_$benchmark" "$out/$benchmark/"{greedy,signs,sweep}
done
.venv/bin/python runs/clva_sweep.py
