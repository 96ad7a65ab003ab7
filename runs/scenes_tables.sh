#!/usr/bin/env bash
# Every table over held-out scenes, the most wanted first, then the page that shows them: docs/results.md and README's table.
# About two hours on one core. Stopped at any moment and run again, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f results/scenes_tau.json ] || .venv/bin/python runs/scenes_tau.py
runs/scenes_all_methods.sh
runs/scenes_pope.sh
runs/scenes_chair.sh
runs/clva_ablations.sh
runs/scenes_all_methods.sh nucleus
runs/scenes_mme.sh
.venv/bin/python runs/readme_table.py
.venv/bin/python runs/results_page.py
