"""Train a landmark detector from the command line: `python train.py --help`.

Makes a run folder and trains it in this process; the dashboard sees the same run.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from backend.config import RunConfig, parse_settings
from backend.flags import OneLineParser, add_preset_flag, add_setting_flags, given_settings, run_command
from backend.geometry import adaptive_sigma, sigma_in_force
from backend.logs import configure_logging, logged_to
from backend.presets import with_preset
from backend.run.folder import RunFolder, open_run
from backend.run.supervisor import record_launch
from backend.start_run import TorchAnswers, resume_run, start_run
from backend.torch_devices import describe_machine

log = logging.getLogger("backend.train")


def main(arguments: Sequence[str]) -> int:
    """Create or resume a run and train it. Return the exit code."""
    configure_logging()
    options = _parser().parse_args(arguments)
    flags = given_settings(options)
    if options.resume:
        folder = open_run(options.resume)
        first_lines = _resume(folder, flags, options.preset)
    else:
        folder, first_lines = _start(flags, options.preset, Path(options.runs_dir).absolute())
    with _copy_output(folder.log_path), logged_to(folder.log_path):
        for line in (f"run: {folder.path.absolute()}", *first_lines):
            log.info("%s", line)
        from backend.worker import train_run

        return train_run(folder)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python train.py", description=__doc__)
    parser.add_argument(
        "--resume", metavar="RUN", help="folder of a run, or its last.pt: go on there with its settings"
    )
    parser.add_argument("--runs_dir", default="runs", help="folder in which runs are made (default: runs)")
    add_preset_flag(parser)
    add_setting_flags(parser)
    return parser


def _resume(folder: RunFolder, flags: dict[str, object], preset: str | None) -> list[str]:
    """Record that the run trains again here, with these flags. Return what to report of it."""
    changes = {**({"preset": preset} if preset else {}), **flags}

    def relaunch(folder: RunFolder, overrides: Mapping[str, Any]) -> None:
        record_launch(folder, overrides=overrides)

    overrides = resume_run(folder, changes, describe_machine(), relaunch, may_share=True)
    override_lines = [f"{name}: {choice['value']} ({choice['reason']})" for name, choice in overrides.items()]
    return [f"resuming with the settings in {folder.config_path}", *override_lines]


def _start(flags: dict[str, object], preset: str | None, runs_dir: Path) -> tuple[RunFolder, list[str]]:
    """Make the run and record that it trains here. Return what to report of it.

    It may share its device with other runs: that is up to the user.
    """
    from backend.memory.batch_size import recommend_for_settings
    from backend.training.start_checks import check_start

    settings = parse_settings(with_preset(preset, flags))
    answers = TorchAnswers(describe_machine(), recommend_for_settings, check_start)
    folder, configured = start_run(
        settings, runs_dir, answers, record_launch, preset=preset or "", may_share=True
    )
    config, annotations = configured.config, configured.splits.annotations
    choice_lines = [f"{name}: {choice.value} ({choice.reason})" for name, choice in config.chosen.items()]
    data_line = f"format: {annotations.format}, {len(annotations.problems)} problems"
    return folder, [*choice_lines, data_line, _sigma_line(config)]


def _sigma_line(config: RunConfig) -> str:
    settings = config.settings
    stride = settings.stride_in_force
    sigma = sigma_in_force(settings.sigma, settings.image_size, stride)
    return (
        f"sigma: {sigma:g} px of the input, {sigma / stride:g} heatmap cells at output stride {stride} "
        f"(adaptive rule: {adaptive_sigma(*settings.image_size):g})"
    )


@contextmanager
def _copy_output(log_path: Path) -> Iterator[None]:
    """Copy what is printed (progress bars, warnings of libraries) to the run's log as well."""
    with (
        log_path.open("a", encoding="utf-8", errors="backslashreplace") as log,
        redirect_stdout(_Tee(sys.stdout, log)),
        redirect_stderr(_Tee(sys.stderr, log)),
    ):
        yield


class _Tee(io.TextIOBase):
    """A stream that writes to the screen and to the log."""

    def __init__(self, screen: TextIO, log: TextIO) -> None:
        self._screen, self._log = screen, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        with suppress(OSError):  # a terminal that was closed, or a pipe that nobody reads: training goes on
            self._screen.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._screen.flush()

    def isatty(self) -> bool:
        return self._screen.isatty()

    def fileno(self) -> int:
        return self._screen.fileno()


if __name__ == "__main__":
    sys.exit(run_command(main))
