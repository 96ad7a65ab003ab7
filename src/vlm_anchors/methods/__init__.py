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
            "avisc",
            "vlm_anchors.methods.avisc:AvisC",
            "Takes off what the model says of the few visual tokens that draw attention whatever is asked",
            "arXiv 2405.17820",
        ),
        Entry(
            "clearsight",
            "vlm_anchors.methods.clearsight:ClearSight",
            "Scales the scores of middle layers: up on the image, down on the system prompt",
            "arXiv 2503.13107",
        ),
        Entry(
            "deco",
            "vlm_anchors.methods.deco:DeCo",
            "Adds the logits of the middle layer that is surest",
            "arXiv 2410.11779",
        ),
        Entry(
            "dola",
            "vlm_anchors.methods.dola:DoLa",
            "Takes off the log-probabilities of the early layer that differs most from the last",
            "arXiv 2309.03883",
        ),
        Entry(
            "icd",
            "vlm_anchors.methods.icd:ICD",
            "Takes off what a confusing instruction makes the model say",
            "arXiv 2403.18715",
        ),
        Entry(
            "imccd",
            "vlm_anchors.methods.imccd:IMCCD",
            "Takes off what the model says when its looks at the image are blurred; closes up image positions",
            "arXiv 2501.01926",
        ),
        Entry(
            "m3id",
            "vlm_anchors.methods.m3id:M3ID",
            "Takes off what a reading without the image says, more with every token",
            "arXiv 2403.14003",
        ),
        Entry(
            "memvr",
            "vlm_anchors.methods.memvr:MemVR",
            "Looks at the image again in an MLP, when a middle layer is unsure",
            "arXiv 2410.03577",
        ),
        Entry(
            "middle-layers",
            "vlm_anchors.methods.middle_layers:MiddleLayers",
            "Lets the newest row look at the image where the heads of middle layers look on average",
            "arXiv 2411.16724",
        ),
        Entry(
            "only",
            "vlm_anchors.methods.only:ONLY",
            "Adds or takes off one extra output, made from the heads of one layer that lean on text",
            "arXiv 2507.00898",
        ),
        Entry(
            "pai",
            "vlm_anchors.methods.pai:PAI",
            "Boosts the newest row's attention to the image, against a reading without it",
            "arXiv 2407.21771",
        ),
        Entry(
            "prune",
            "vlm_anchors.methods.prune:Prune",
            "Drops image tokens by an early layer's attention (FastV), by cosine with the words, or at random",
            "arXiv 2403.06764",
        ),
        Entry(
            "sid",
            "vlm_anchors.methods.sid:SID",
            "Takes off what the model says when it sees only the visual tokens it attends to least",
            "arXiv 2408.02032",
        ),
        Entry(
            "vcd",
            "vlm_anchors.methods.vcd:VCD",
            "Takes off what the model says of a noised image",
            "arXiv 2311.16922",
        ),
        Entry(
            "vicrop",
            "vlm_anchors.methods.vicrop:ViCrop",
            "Shows the part of the image that the question makes the model look at once more, as a crop",
            "arXiv 2502.17422",
        ),
        Entry(
            "vista",
            "vlm_anchors.methods.vista:VISTA",
            "Steers every layer towards what the image adds; mixes in the logits of late layers",
            "arXiv 2502.03628",
        ),
    ],
    group="vlm_anchors.methods",
)
