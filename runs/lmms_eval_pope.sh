#!/usr/bin/env bash
# Not run yet: no result in results/ comes from this file. It needs lmms-eval in an environment of its own, and a card.
#
# The same questions (POPE over the bundled scenes, adversarial split) by lmms-eval's own llava_hf class and by `eval`, at batch 1
# and 24: seconds of each, from which questions a second follow, and both scores by our scorer and dialect.
set -euo pipefail
MODEL=${MODEL:-llava-hf/llava-1.5-7b-hf}
OUT=${OUT:-lmms_eval_pope}
mkdir -p "$OUT"
vlm-anchors scenes export --out "$OUT/scenes" --benchmark pope
vlm-anchors lmms-task pope --data "$OUT/scenes/pope" --images "$OUT/scenes/images" --split adversarial --out "$OUT/task" | tee "$OUT/command.txt"
TASK=$(sed -n 's/.*--tasks \([^ ]*\) .*/\1/p' "$OUT/command.txt")
for BATCH in 1 24; do
  echo "lmms-eval, batch $BATCH"
  time python -m lmms_eval --model llava_hf --model_args "pretrained=$MODEL" --tasks "$TASK" --include_path "$OUT/task" \
    --batch_size "$BATCH" --output_path "$OUT/lmms_$BATCH"
  echo "vlm-anchors, batch $BATCH"
  time vlm-anchors eval pope --model "$MODEL" --data "$OUT/scenes/pope" --images "$OUT/scenes/images" --split adversarial \
    --batch-size "$BATCH" --out "$OUT/ours_$BATCH"
done
vlm-anchors report "$OUT"/ours_* --format csv --out "$OUT/ours.csv"
