"""Attention edits of the baselines straight from their equations: full matrices, one sequence, double precision.

`Rows` stands in for a model's attention kernel, as `reference_clva.Literal` does: it computes every score of every row
and lets `edit` change scores (or weights) of the rows it names, one at a time.
"""

from reference_clva import _repeat, _softmax


class Rows:
    """images: visual key positions, one list an image. text: text-row positions of the prompt. layers: edited, from 1.

    scores(z, row, layer): the new scores (h, k) of one text row. Only the prompt's last row and later ones, if `last_only`.
    """

    def __init__(self, images, text, layers, scores, last_only=False):
        self.visual = [j for image in images for j in image]
        self.first = min(self.visual)
        self.text, self.last = set(text), max(text)
        self.edited, self.scores, self.last_only = layers, scores, last_only
        self.near = 0

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        layer = module.layer_idx + 1
        weights = _softmax(query, key, attention_mask, scaling, softcap)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        raw = query @ _repeat(key, query).transpose(-1, -2) * scale
        first = key.shape[2] - query.shape[2]
        if layer in self.edited:
            before, weights = weights, weights.clone()
            for i in range(query.shape[2]):
                at = first + i
                wanted = at >= self.last if self.last_only else at in self.text or at > self.last
                if wanted:
                    seen = weights[0, :, i] > 0
                    new = self.scores(raw[0, :, i].clone(), self, before[0])
                    weights[0, :, i] = new.masked_fill(~seen, -float("inf")).softmax(-1)
        return (weights @ _repeat(value, query)).transpose(1, 2).contiguous(), None
