"""`vlm-anchors export-vllm`: a model folder that vLLM loads."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as options
from . import outputs


def export_vllm(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    model: options.Model = "scenes",
    method: Annotated[
        str | None, typer.Option("--method", metavar="SPEC", help="Method of requests that name none.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Write a LLaVA model as a folder that vLLM loads, with the same answers."""
    from ...integrations.vllm import ENVIRONMENT, SCHEDULER
    from ...integrations.vllm.export import export_vllm as export

    export(model, outputs.writable_folder("OUT", str(out)), method)
    server = "python -m vllm.entrypoints.openai.api_server --host 127.0.0.1"
    typer.echo(f"{ENVIRONMENT}={method or 'none'} {server} --model {out} --scheduler-cls {SCHEDULER}")
