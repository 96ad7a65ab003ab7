"""The catalogue of methods: one line each. Importing this package imports no method and nothing heavy."""

from ..registry import Catalogue, Entry

METHODS = Catalogue(
    "method",
    [
        Entry("none", "vlm_anchors.methods.none:Plain", "The model as it is", "-"),
        Entry(
            "clva",
            "vlm_anchors.methods.clva:CLVA",
            "Re-anchors attention to visual tokens in the deep layers by cross-layer visual anchors",
            "arXiv 2603.25088",
        ),
        Entry(
            "attanchor",
            "vlm_anchors.methods.attanchor:AttAnchor",
            "Puts copies of the user's words beside the image patches they resemble",
            "arXiv 2509.23109",
        ),
        Entry(
            "attanchor-i2t",
            "vlm_anchors.methods.attanchor_i2t:AttAnchorI2T",
            "Puts copies of image patches beside the user's words they resemble",
            "arXiv 2509.23109",
        ),
        Entry(
            "clearsight",
            "vlm_anchors.methods.clearsight:ClearSight",
            "Scales the scores of middle layers: up on the image, down on the system prompt",
            "arXiv 2503.13107",
        ),
    ],
)
