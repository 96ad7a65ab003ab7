#!/bin/bash
# The bundled model, from nothing to its figures. Making it takes about an hour and a half on two cores, measuring it
# some minutes; without an argument only the measuring is done, on the model that ships.
#
#     runs/scenes_model.sh             measures -> results/scenes_model.json
#     runs/scenes_model.sh DIR         trains into DIR (goes on after a kill), puts the model in its place, measures
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
if [ $# -gt 0 ]; then
    "$python" -m tools.scenes_model.train --out "$1" --minutes 94 --images 100000
    "$python" runs/scenes_card.py "$1"
fi
# one thread: on a machine with other work to do, two wait for each other
OMP_NUM_THREADS=1 "$python" -m tools.scenes_model.measure src/vlm_anchors/scenes/model --images 250 --out results/scenes_model.json > /dev/null
"$python" runs/scenes_card.py
