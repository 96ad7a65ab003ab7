"""A method under transformers' own `generate`, on a model you loaded yourself; afterwards the model is as it was."""

from transformers import AutoModelForImageTextToText, AutoProcessor

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.models.load import BUNDLED_FOLDER

model = AutoModelForImageTextToText.from_pretrained(BUNDLED_FOLDER)
processor = AutoProcessor.from_pretrained(BUNDLED_FOLDER)
image = scenes.render(scenes.from_objects(["dog", "frisbee", "person"], seed=2))
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is the dog in the image?"}]}
prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
inputs = processor(text=prompt, images=image, return_tensors="pt")
length = inputs["input_ids"].shape[1]

with va.attach((model, processor), va.CLVA(alpha=14.0, beta=0.9)) as handle:
    tokens = model.generate(**inputs, max_new_tokens=20)
print(processor.decode(tokens[0, length:], skip_special_tokens=True))
print(handle.effects)

inputs = va.AttAnchor(tau=0.2).prepare((model, processor), inputs)  # AttAnchor changes the inputs, before `generate`
tokens = model.generate(**inputs, max_new_tokens=20)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
