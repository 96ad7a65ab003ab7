#!/usr/bin/env bash
# AttAnchor trained as its paper does, a model a tau, at a size that one CPU core does in about 40 minutes: LoRA on the
# bundled model and freshly drawn scenes, everything alike but tau (tau = 1 is the plain model). Goes on after a kill.
# results/attanchor_scenes.json, docs/figures/attanchor-sweep.png
set -euo pipefail
cd "$(dirname "$0")/.."
out=${RUN:-runs/out}/attanchor_scenes
scenes=${SCENES:-100}
calibrated=$(.venv/bin/python -c 'import json; print(json.load(open("results/scenes_tau.json"))["tau"])')
taus=${TAUS:-1 0.5 0.3 0.2 0.16 0.14 $calibrated 0.12 0.1 0.08}
[ -d "$out/data" ] || .venv/bin/python runs/attanchor_scenes.py draw "$out/data" --train "${TRAIN:-150}" --held "$scenes"
.venv/bin/vlm-anchors scenes export --out "$out/asked" --benchmark pope --benchmark chair --images "$scenes"
for tau in $taus; do
  run=$out/tau-$tau
  if [ ! -e "$run/anchors.json" ]; then
    .venv/bin/vlm-anchors train attanchor --tau "$tau" --data "$out/data/train.json" --validation "$out/data/validation.json" \
      --out "$run" --device cpu --set precision=fp32 --set epochs=1 --set eval_steps=20 --set learning_rate=5e-4
  fi
  ask() { .venv/bin/vlm-anchors eval "$1" --model "$run" --out "$run/$2" --data "$out/asked/$2" --images "$out/asked/images" \
    --protocol "$3" --decoding greedy --batch-size 36; }
  ask pope pope bare
  ask chair:lemma=fixed chair clva
done
.venv/bin/python runs/attanchor_scenes.py collect "$out" --taus $taus
