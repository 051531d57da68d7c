"""A server that is busy, as the page has it: what the page asks is held back until it is let through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, Route

QUESTIONS = "**/gradio_api/queue/join*"


@contextmanager
def held_back(page: Page) -> Iterator[None]:
    """Whatever the page asks meanwhile is answered afterwards."""
    waiting: list[Route] = []
    is_busy = True

    def hold(route: Route) -> None:
        if is_busy:
            waiting.append(route)
        else:
            route.continue_()

    page.route(QUESTIONS, hold)
    yield
    is_busy = False
    for route in waiting:
        route.continue_()
    page.unroute(QUESTIONS)
