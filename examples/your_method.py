"""A method of your own: the words look at the image `times` as much as they would, in the second half of the model."""

import math
from dataclasses import dataclass

import vlm_anchors as va
from vlm_anchors import scenes


@dataclass(frozen=True)
class Brighter(va.Method):
    hooks = frozenset({"attention"})
    times: float = va.parameter(2.0, 0.01, 100, slider=(1, 10, 0.5))

    def disabled(self):
        return Brighter(times=1.0)

    def attention_layers(self, target):
        return frozenset(range(target.depth // 2 + 1, target.depth + 1))

    def attention(self, view):
        return va.AttentionEdit(
            bias=math.log(self.times) * view.visible[:, None, None].float()
        )  # (b, 1, 1, visual keys)


vlm = va.load("scenes")
image = scenes.render(scenes.from_objects(["cup", "fork", "bowl"], seed=1))
for method in ("none", Brighter(), [va.AttAnchor(tau=0.2), Brighter(times=4.0)]):
    answer = va.ask(vlm, image, "Is there a dining table in the image?", method=method, shares=True)
    last = answer.effects["visual_share"][-1]
    print(f"{answer.method}: {answer.text}; on the image in layer 12: {last['before']:.0%} -> {last['after']:.0%}")
