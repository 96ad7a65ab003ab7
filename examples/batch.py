"""Many questions in batches, once for each setting of a parameter, and sampled: the same seed draws the same noise."""

import vlm_anchors as va
from vlm_anchors import scenes

vlm = va.load("scenes")
drawn = [scenes.render(scene) for scene in scenes.sample(4, seed=1)]
pairs = [(image, question) for image in drawn for question in ("Is there a person?", "How many chairs are there?")]

for alpha in (0, 5, 14):
    method = va.CLVA(alpha=alpha)
    answers = va.ask_many(vlm, pairs, method=method, decoding=va.Nucleus(top_p=0.9, seed=0), batch_size=8)
    print(f"alpha {alpha:2}:", " | ".join(answer.text for answer in answers))
