#!/usr/bin/env bash
# Plain and CLVA, greedy, with five beams and sampled with three seeds (Table 6's shape): results/scenes_BENCHMARK.json
#     runs/scenes_decodings.sh pope|chair|mme
set -euo pipefail
cd "$(dirname "$0")/.."
for decoding in ${DECODINGS:-greedy beam nucleus}; do runs/scenes_answer.sh "$1" "$decoding" "$decoding" none clva; done
.venv/bin/python runs/scenes_report.py "scenes_$1" "${RUN:-runs/out}/scenes/$1/"{greedy,beam,nucleus-?}
