"""Your own yes-or-no questions as a benchmark: POPE's file format, answers that resume, a table with intervals."""

import json
from pathlib import Path

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text
from vlm_anchors.evaluation.runner import evaluate
from vlm_anchors.scenes.draw import save

images, questions = Path("images"), Path("questions.json")
images.mkdir(exist_ok=True)
lines = []
for number, scene in enumerate(scenes.sample(12, seed=3)):
    save(scene, images / f"{number}.png")
    for name in (sorted(scene.present)[0], "toaster"):
        text, label = f"Is there a {name} in the image?", "yes" if name in scene.present else "no"
        lines.append({"question_id": len(lines), "image": f"{number}.png", "text": text, "label": label})
questions.write_text("\n".join(map(json.dumps, lines)))

vlm = va.load("scenes")
evaluate(
    vlm, "pope", "run-pope", data=questions, images=images, methods=["none", "clva"]
)  # again: only what is missing
print(report_text.terminal(report.tables(["run-pope"])))
