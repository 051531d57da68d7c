"""What handlers of the page need if there is no browser."""

from __future__ import annotations

import gradio as gr
import pytest


@pytest.fixture
def popups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what the page would show in a corner, in order."""
    messages: list[str] = []
    for popup in ("Info", "Warning"):
        monkeypatch.setattr(gr, popup, messages.append)
    return messages
