"""A server that is busy, as the page has it: what the page asks is held back until it is let through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, Route

QUESTIONS = "**/gradio_api/queue/join*"
CALLS = "**/gradio_api/component_server/**"  # a component's own questions, such as what a typed number is


@contextmanager
def held_back(page: Page, questions: str = QUESTIONS, *, naming: str = "") -> Iterator[None]:
    """Whatever the page asks meanwhile is answered afterwards, or what names this in its request."""
    waiting: list[Route] = []
    is_busy = True

    def hold(route: Route) -> None:
        if is_busy and naming in (route.request.post_data or ""):
            waiting.append(route)
        else:
            route.continue_()

    page.route(questions, hold)
    yield
    is_busy = False
    for route in waiting:
        route.continue_()
    page.unroute(questions)
