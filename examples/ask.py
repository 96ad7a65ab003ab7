"""One question to the plain model and to methods: what each says, how sure it is, and what the method did."""

import vlm_anchors as va
from vlm_anchors import scenes

vlm = va.load("scenes")  # or "llava-hf/llava-1.5-7b-hf", or a folder
image = scenes.render(scenes.from_objects(["cup", "fork", "bowl"], seed=1))  # or "kitchen.jpg"

for method in ("none", "clva", va.CLVA(alpha=5.0), "attanchor:tau=0.2+clva"):
    answer = va.ask(vlm, image, "Is there a dining table in the image?", method=method)
    yes, no = answer.yes_no
    print(f"{answer.method:22} {answer.text:3}  yes - no: {yes - no:+.2f}")
print(answer.effects)
