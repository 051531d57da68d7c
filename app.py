"""Start the dashboard: `python app.py --help`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page must work on a closed network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# after each event Gradio would sum up the last 10,000, for a view of its own that this page does not offer
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

from starlette.middleware import Middleware

from backend.data.annotations import find_datasets
from backend.data.demo.dataset import create_demo_dataset
from backend.flags import OneLineParser, run_command, whole_number
from backend.logs import configure_logging
from backend.scheduler import start_scheduler
from ui.annotator.uploads import uploads_root
from ui.bindings import read_static
from ui.figures.theme import build_theme
from ui.layout import build_app
from ui.text.language_choice import PERSIAN_FILES, LanguageChoice

log = logging.getLogger("backend.app")


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C. Trainings that it started continue."""
    options = _parser().parse_args(arguments)
    configure_logging(with_times=True)
    runs_dir, data_root = options.runs_dir.absolute(), options.data_root.absolute()
    runs_dir.mkdir(parents=True, exist_ok=True)
    if not find_datasets(data_root):
        log.info("no data set below %s: making demo data", data_root)
        create_demo_dataset(data_root / "demo")
    start_scheduler(runs_dir)  # works without an open browser too
    page = build_app(runs_dir, data_root)
    page.queue(default_concurrency_limit=8)
    print(f"Fiducial on http://{options.host}:{options.port}", flush=True)
    page.launch(
        server_name=options.host,
        server_port=options.port,
        allowed_paths=[str(runs_dir), str(PERSIAN_FILES), str(uploads_root())],
        theme=build_theme(),
        css=read_static("page.css"),
        footer_links=["api"],
        app_kwargs={"middleware": [Middleware(LanguageChoice)]},
        quiet=True,
        ssr_mode=False,
        share=False,
    )
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python app.py", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1)")
    parser.add_argument("--port", type=whole_number, default=7860, help="port to serve on (default: 7860)")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument(
        "--data_root", type=Path, default=Path("data"), help="folder of data sets (default: data)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
