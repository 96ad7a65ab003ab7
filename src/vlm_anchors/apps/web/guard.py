"""The hook: what the page needs is served, everything else of Gradio's server is refused.

The page's images travel inside its messages, so no file is ever uploaded to disk or served from it: Gradio's routes for
files, uploads and proxying have no use here, and what cannot be reached cannot be misused.
"""

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PAGES = {"/", "/config", "/theme.css", "/manifest.json", "/favicon.ico"}
BELOW = ("/assets/", "/static/", "/svelte/")
CALLS = ("startup-events", "queue/join", "queue/data", "run/predict", "heartbeat/", "cancel", "reset", "app_id")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Refuses other paths with 403, and bodies larger than `most` bytes with 413, before they are read."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if not _needed(scope["path"]):
            return PlainTextResponse("This page serves no such thing.", 403)
        if scope["method"] == "POST":
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit():
                return PlainTextResponse("Expected a Content-Length header.", 411)
            if int(length) > self.most:
                return PlainTextResponse(f"More than {self.most >> 20} MB.", 413)
        return None


def _needed(path: str) -> bool:
    if ".." in path or "\\" in path:
        return False
    call = path.removeprefix("/gradio_api/")
    return path in PAGES or path.startswith(BELOW) or (call != path and call.startswith(CALLS))


def guarded(host: str, most: int) -> list[Middleware]:
    """For `FastAPI(middleware=...)`. On this machine alone, only its own names are answered to: a web page elsewhere whose
    name was pointed at 127.0.0.1 gets nothing."""
    names = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(Guard, most=most)]
