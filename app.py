"""Start the dashboard: `python app.py --help`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page must work on a closed network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# after each event Gradio would sum up the last 10,000, for a view of its own that this page does not offer
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

from backend.address import bypass_proxy, take_address
from backend.data.annotations import find_datasets
from backend.data.demo.dataset import create_demo_dataset
from backend.device.container import is_container
from backend.flags import EXIT_COMPLETED, OneLineParser, run_command, whole_number
from backend.logs import configure_logging
from backend.run.stop_all import longest_wait_s, stop_all
from backend.scheduler import start_scheduler
from backend.signals import on_first_signal

SIGNAL_POLL_S = 0.2  # on Windows a wait without an end would not notice Ctrl-C
log = logging.getLogger("backend.app")


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C, SIGTERM or Ctrl-Break; then trainings continue, or save and end."""
    options = _parser().parse_args(arguments)
    ending = threading.Event()
    restore_signals = on_first_signal(ending.set)
    try:
        _serve(options, ending)
    finally:
        restore_signals()
    return EXIT_COMPLETED


def _serve(options: argparse.Namespace, ending: threading.Event) -> None:
    asked = take_address(options.host, options.port, options.root_path, os.environ)
    bypass_proxy(asked, os.environ)
    from ui.server import start_page  # now, because it imports Gradio, which reads the same variables

    configure_logging(with_times=True)
    runs_dir, data_root = options.runs_dir.absolute(), options.data_root.absolute()
    runs_dir.mkdir(parents=True, exist_ok=True)
    if not find_datasets(data_root):
        log.info("no data set below %s: making demo data", data_root)
        create_demo_dataset(data_root / "demo")
    scheduler = start_scheduler(runs_dir)  # works without an open browser too
    page, address = start_page(runs_dir, data_root, asked)
    if address.port != asked.port:
        print(f"port {asked.port} is busy: taking {address.port}, the next free one", flush=True)
    print(f"Fiducial on {address.url}", flush=True)
    on_exit, reason = _decide_on_exit(options.on_exit)
    print(_ON_EXIT[on_exit].format(reason=reason), flush=True)
    while not ending.wait(SIGNAL_POLL_S):
        pass
    log.info("ending; once more leaves at once")
    page.close(verbose=False)
    scheduler.end()
    if on_exit == "stop":
        stop_all(runs_dir)


_ON_EXIT = {
    "keep": "when this program ends, trainings continue (--on_exit keep{reason})",
    "stop": "when this program ends, trainings are asked to save and end, "
    f"for up to {longest_wait_s():.0f} s (--on_exit stop{{reason}})",
}


def _decide_on_exit(chosen: str | None) -> tuple[str, str]:
    """Return "keep" or "stop", and the reason if the program decides.

    The end of a container kills every process in it, unsaved.
    """
    if chosen is not None:
        return chosen, ""
    return ("stop", ": this is a container") if is_container() else ("keep", "")


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python app.py", description=__doc__)
    parser.add_argument("--host", help="address to serve on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument(
        "--port",
        type=whole_number,
        help="port to serve on; if it is busy, the next free one (default: GRADIO_SERVER_PORT, else 7860)",
    )
    parser.add_argument(
        "--root_path",
        metavar="PATH",
        help="path or whole address at which a proxy serves the page (default: GRADIO_ROOT_PATH)",
    )
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument(
        "--data_root", type=Path, default=Path("data"), help="folder of data sets (default: data)"
    )
    parser.add_argument(
        "--on_exit",
        choices=tuple(_ON_EXIT),
        help="trainings continue when the dashboard ends, or are asked to save and end (default: stop in a "
        "container, else keep)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
