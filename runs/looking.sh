#!/usr/bin/env bash
# Makes the figures of docs/looking.md with the bundled model (or MODEL=...): a drawn scene looked at, 100 scenes diagnosed.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${MODEL:-scenes}
seen=$(mktemp -d)
trap 'rm -r "$seen"' EXIT
echo '{"kitchen": ["cup", "bowl", "fork", "microwave"]}' > "$seen/objects.json"
.venv/bin/vlm-anchors scenes render --objects "$seen/objects.json" --out "$seen"
.venv/bin/vlm-anchors look "$seen/kitchen.png" "Is there a cup in the image?" --model "$model" --out "$seen/look" \
  --method none --method clva --method attanchor:tau=0.3
.venv/bin/vlm-anchors diagnose --model "$model" --limit 100 --out "$seen/look/drift.png" --json > "$seen/diagnosis.json"
mkdir -p docs/figures
.venv/bin/python - "$seen/look" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

for name in ("layers-none", "shares", "drift", "before-after-clva", "anchors-attanchor-tau=0.3"):
    path = Path(sys.argv[1], name + ".png")
    if path.exists():  # without a signpost there is nothing to draw
        image = Image.open(path).convert("RGB")
        image.thumbnail((1100, 900))  # true colours: a palette would break the order of a colour bar
        image.save(Path("docs/figures", name.replace("anchors-attanchor-tau=0.3", "signposts") + ".png"), optimize=True)
PYTHON
