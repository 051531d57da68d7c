"""What handlers of the page need where there is no browser."""

from __future__ import annotations

import gradio as gr
import pytest


@pytest.fixture
def popups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page would have told in a corner, in order."""
    told: list[str] = []
    for popup in ("Info", "Warning"):
        monkeypatch.setattr(gr, popup, told.append)
    return told
