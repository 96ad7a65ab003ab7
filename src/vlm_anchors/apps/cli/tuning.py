"""`vlm-anchors tune`: the parameters of methods, chosen on some images and judged on the others."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import evaluating, options, outputs
from .printing import say

Methods = Annotated[
    list[str],
    typer.Option(
        "--method", metavar="SPEC", help="What to tune; repeat for several. Parameters that a SPEC names are kept."
    ),
]
Name = Annotated[
    str, typer.Option("--benchmark", metavar="BENCHMARK", help="A name or SPEC: pope, chair:lemma=fixed, ...")
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="NAME=V,V,...",
        help="Values to try: alpha=2,5,14 or layers=13-24,15-32 or clva.beta=0,0.9. Repeat: all combinations.",
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget",
        metavar="N",
        min=1,
        help="Settings of each method: --start's, the grid's, then random ones. Default: starts and largest grid, else 12.",
    ),
]
Start = Annotated[
    list[str] | None,
    typer.Option(
        "--start",
        metavar="SPEC",
        help="Try this first, the rest as in the method's SPEC; 'diagnose': what diagnose suggests.",
    ),
]
Aim = Annotated[str | None, typer.Option("--objective", metavar="METRIC", help="Default: the benchmark's headline.")]
HeldOut = Annotated[
    float, typer.Option("--held-out", metavar="SHARE", help="Share of the images that the choice is judged on.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="S", min=0, max=2**63 - 1, help="Of the division, the draws and nucleus sampling. Default: 0."
    ),
]


@options.takes_model
def tune(
    model: options.Chosen,
    out: Annotated[Path, outputs.folder(help="Folder of answers and results; run again to go on.")],
    method: Methods,
    benchmark: Name = "pope",
    grid: Grid = None,
    budget: Budget = None,
    start: Start = None,
    objective: Aim = None,
    held_out: HeldOut = 0.5,
    data: evaluating.Data = None,
    images: evaluating.Images = None,
    split: evaluating.Split = None,
    limit: evaluating.Limit = None,
    protocol: evaluating.How = None,
    decoding: options.Decoding = None,
    seed: Seed = None,
    max_new_tokens: evaluating.NewTokens = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="B", min=1)] = 16,
    ray: evaluating.Ray = None,
    skip_bad: evaluating.SkipBad = False,
    json: options.Json = False,
) -> None:
    """Choose a method's parameters on some images and judge the choice on the others.

    Every method gets as many settings. Without --data: bundled scenes.
    """
    from ...evaluation.runner.run import plan, refuse_other_run, shortened
    from ...tuning.asking import metric_of, seed_of
    from ...tuning.space import axes_of, parse_grid, with_starts
    from ...tuning.starts import DIAGNOSE
    from ...tuning.tune import VALIDATION, tunables_of
    from ...tuning.tune import tune as search

    evaluating.both_or_neither(data, images)
    methods, values = options.each_method(method), parse_grid(grid or [])
    bench, official = plan(benchmark, [], protocol, decoding)  # names first: a model may take minutes to load
    shortened(official, max_new_tokens)
    metric_of(bench, objective)
    seed_of(decoding, seed)
    tunables = tunables_of(methods)
    axes_of(with_starts(tunables, [each for each in start or [] if each != DIAGNOSE]), values)
    if ray:  # only the workers answer: the card is theirs
        model = replace(model, settings={**model.settings, "device": "cpu"})
    vlm = model.load()
    refuse_other_run(vlm, benchmark, out / VALIDATION, protocol, max_new_tokens)
    data, images = evaluating.questions_of(benchmark, data, images, out, split, limit)
    found = search(
        vlm, methods, benchmark, out, data=data, images=images, grid=values, budget=budget,
        start=start or [], objective=objective, held_out=held_out, split=split, limit=limit, protocol_name=protocol,
        decoding=decoding, seed=seed, max_new_tokens=max_new_tokens, batch_size=batch_size, ray_workers=ray,
        skip_bad=skip_bad, progress=options.progress(), say=lambda words: print(words, file=sys.stderr),
    )  # fmt: skip
    if json:
        options.print_json(found.as_dict())
    else:
        say(found.text(), nl=False)
    print(
        f"{out} holds anchors.json (the winner), tune.json (every number) and tune.png. Next: vlm-anchors report "
        f"{out / 'held-out'}",
        file=sys.stderr,
    )
