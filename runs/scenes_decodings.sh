#!/usr/bin/env bash
# Plain and CLVA, greedy, with five beams and sampled with three seeds (Table 6's shape): results/scenes_BENCHMARK.json
#     runs/scenes_decodings.sh pope|chair|mme          DECODINGS="greedy nucleus" leaves one out
set -euo pipefail
shopt -s extglob nullglob
cd "$(dirname "$0")/.."
folders=()
for decoding in ${DECODINGS:-greedy beam nucleus}; do
  runs/scenes_answer.sh "$1" "$decoding" "$decoding" none clva
  folders+=("${RUN:-runs/out}/scenes/$1/$decoding"?(-[0-9]))
done
.venv/bin/python runs/scenes_report.py "scenes_$1" "${folders[@]}"
