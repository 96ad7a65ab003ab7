"""`vlm-anchors app`: the page in a browser."""

from typing import Annotated

import typer

from . import options
from .printing import say


@options.takes_model
def app(
    model: options.Chosen,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Other than 127.0.0.1: whoever reaches it can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Where to listen.")] = 7860,
) -> None:
    """Ask in a browser: methods and their parameters side by side, and where the model looked.

    The page is served to this machine only, needs no network, and keeps nothing on disk.
    """
    _require_packages()
    require_port(host, port)
    vlm = model.load()
    from ..web.server import start

    page = start(vlm, host, port)
    try:
        say(f"Open http://{host}:{port} in a browser. Ctrl+C stops.")
        page.blocks.block_thread()
    finally:  # an interrupt before the blocking would leave the server's threads running
        page.blocks.close(verbose=False)


def _require_packages() -> None:
    import importlib.util

    from ...errors import MissingPackage

    for name in ("gradio", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise MissingPackage(f"The app needs {name}: pip install 'vlm-anchors[app]'.")


def require_port(host: str, port: int) -> None:
    """Said before a model is loaded, which may take minutes."""
    import socket

    from ...errors import BadSetting

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # a name that is too long, or no name, cannot be encoded
        why = getattr(error, "strerror", None) or error
        raise BadSetting(
            f"Cannot listen on {host[:80]}, port {port}: {why}. Choose another with --host or --port."
        ) from error
