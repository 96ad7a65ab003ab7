"""Pruning of image tokens as plain loops: which are kept, and FastV's masked attention with every matrix written out."""

import math

from reference_clva import _repeat, _softmax


def kept(scores, images, share):
    """Positions that stay: of each image (a list of positions) the share with the highest scores, at least one."""
    stay = set()
    for places in images:
        number = max(1, math.floor(share * len(places) + 0.5))
        stay |= set(sorted(places, key=lambda place: -scores[place])[:number])
    return stay


class FastV:
    """A kernel for prompt and answer in one piece; the prompt's last row ranks the visual tokens in `layer`."""

    def __init__(self, images, last, layer, share):
        self.images, self.last, self.layer, self.share = images, last, layer, share
        self.hidden = []

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        layer = module.layer_idx + 1
        weights = _softmax(query, key, attention_mask, scaling)
        visual = [place for image in self.images for place in image]
        if layer == self.layer:
            looks = {place: float(weights[0, :, self.last, place].mean()) for place in visual}
            stay = kept(looks, self.images, self.share)
            self.hidden = [place for place in visual if place not in stay]
        if layer > self.layer:
            for row in range(visual[0], query.shape[2]):
                seen = weights[0, :, row].clone()
                seen[:, self.hidden] = 0
                if float(seen.sum()) > 0:
                    weights[0, :, row] = seen / seen.sum(-1, keepdim=True)
        return (weights @ _repeat(value, query)).transpose(1, 2).contiguous(), None
