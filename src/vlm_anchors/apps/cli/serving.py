"""`vlm-anchors serve`: an OpenAI-compatible server."""

from typing import Annotated

import typer

from . import options
from .web import require_port


@options.takes_model
def serve(
    model: options.Chosen,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="SPEC",
            help="Acts where a request names no method. Default: what the model was trained with, else none.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Other than 127.0.0.1: whoever reaches it can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Where to listen.")] = 8000,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The model's name in requests. Default: --model.")
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", min=1, max=1024, help="Most rows generated together.")
    ] = 16,
    max_wait_ms: Annotated[
        int, typer.Option("--max-wait-ms", metavar="MS", min=0, max=10_000, help="How long a request waits for others.")
    ] = 10,
    max_queue: Annotated[
        int, typer.Option("--max-queue", metavar="N", min=1, help="Most requests that wait; more are refused with 429.")
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, max=100_000, help="Most new tokens of one answer.")
    ] = 512,
    image_cache_mb: Annotated[
        int, typer.Option("--image-cache-mb", metavar="N", min=0, help="Memory for encoded images; 0: none is kept.")
    ] = 256,
    prefix_cache_mb: Annotated[
        int,
        typer.Option("--prefix-cache-mb", metavar="N", min=0, help="Memory for prompts up to their image; 0: none."),
    ] = 512,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds the key.")
    ] = None,
    allow_remote_images: Annotated[
        bool, typer.Option("--allow-remote-images", help="Fetch http(s) images; private addresses never.")
    ] = False,
) -> None:
    """Serve /v1/chat/completions, /v1/models, /health and /metrics, with a method for each request."""
    key = _require(api_key_env)
    require_port(host, port)
    from ...specs import choose, spec_of_all

    if method is not None:
        choose(method)
    vlm = model.load()
    from ...integrations.serving.server import ServerSettings, run

    settings = ServerSettings(
        name=name or vlm.name,
        method=spec_of_all(choose(vlm.method if method is None else method)[0]),
        max_batch=max_batch,
        max_wait=max_wait_ms / 1000,
        max_queue=max_queue,
        max_tokens=max_tokens,
        remote_images=allow_remote_images,
        api_key=key,
        image_cache=image_cache_mb * 2**20,
        prefix_cache=prefix_cache_mb * 2**20,
    )
    typer.echo(f"Serving {settings.name} with {settings.method} on http://{host}:{port}/v1. Ctrl+C stops.", err=True)
    run(vlm, settings, host, port)


def _require(api_key_env: str | None) -> str | None:
    """The packages and the key, before a model is loaded."""
    import importlib.util
    import os

    from ...errors import BadSetting, MissingPackage

    for package in ("fastapi", "uvicorn", "openai", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(f"The server needs {package}: pip install 'vlm-anchors[serve]'.")
    if api_key_env is None:
        return None
    key = os.environ.get(api_key_env, "")
    if not key:
        raise BadSetting(f"The environment variable {api_key_env} is not set. Expected the key that clients must send.")
    return key
