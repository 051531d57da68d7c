"""Serve the page with Gradio, the language that a browser gets, and `/healthz`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from backend.address import Address, find_free_port
from ui.annotator.uploads import uploads_root
from ui.bindings import read_static
from ui.figures.theme import build_theme
from ui.health import Health
from ui.layout import build_app
from ui.text.language_choice import PERSIAN_FILES, LanguageChoice


def start_page(runs_dir: Path, data_root: Path, asked: Address) -> tuple[gr.Blocks, Address]:
    """Build the page and serve it in a thread, at the first free port from the one that is asked for on.

    Returns the page, whose `close` ends it, and its address, once it answers. Raises UserError if it cannot
    be served there.
    """
    page = build_app(runs_dir, data_root)
    page.queue(default_concurrency_limit=8)
    address = replace(asked, port=find_free_port(asked.host, asked.port))
    page.launch(
        server_name=address.host,
        server_port=address.port,
        root_path=address.root_path,
        allowed_paths=[str(runs_dir), str(PERSIAN_FILES), str(uploads_root())],
        theme=build_theme(),
        css=read_static("page.css"),
        footer_links=["api"],
        app_kwargs={"middleware": [Middleware(Health), Middleware(LanguageChoice)]},
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        share=False,
    )
    return page, address
