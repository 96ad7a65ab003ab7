#!/usr/bin/env bash
# AttAnchor trained on the bundled model and fresh scenes, a model a tau; about 40 minutes of one core at TRAIN=64 SCENES=50.
# results/attanchor_scenes.json
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python runs/attanchor_scenes.py --train "${TRAIN:-150}" --scenes "${SCENES:-100}" "$@"
