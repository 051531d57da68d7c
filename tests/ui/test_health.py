"""`/healthz` answers before any login, and says nothing but that the server lives."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from ui.health import Health


async def _locked(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses every request, as Gradio's login does."""
    await PlainTextResponse("log in", status_code=401)(scope, receive, send)


@pytest.mark.parametrize(("root", "path"), [("", "/healthz"), ("/fiducial", "/fiducial/healthz")])
def test_it_needs_no_login(root: str, path: str) -> None:
    client = TestClient(Health(_locked), root_path=root)
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (200, "ok")
    assert set(answer.headers) == {"content-length", "content-type"}
    assert client.head(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/fa", "/healthz/", "/healthz2", "/a/healthz"])
def test_all_else_is_passed_on(path: str) -> None:
    client = TestClient(Health(_locked))
    assert client.get(path).status_code == 401
    assert client.post("/healthz").status_code == 401
