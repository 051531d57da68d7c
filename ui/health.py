"""`/healthz` says that the server lives, to a container or a proxy that asks; it needs no login."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.text.language_choice import path_below_root

HEALTH_PATH = "/healthz"


class Health:
    """ASGI middleware in front of Gradio and its login. It says nothing of runs, data or versions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer "ok" to a GET or a HEAD of `/healthz`, and pass on every other request."""
        asks = scope["type"] == "http" and path_below_root(scope) == HEALTH_PATH
        is_asked = asks and scope["method"] in ("GET", "HEAD")
        await (PlainTextResponse("ok") if is_asked else self._app)(scope, receive, send)
