"""Whether a run with these settings could start on this data: `python -m backend.start_check --dataset_path D
...`.

Reads the data set and the files of weights that the settings name, and makes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from backend.config import RunConfig, parse_settings
from backend.errors import UserError
from backend.flags import OneLineParser, add_setting_flags, given_settings, run_command
from backend.training.build import build_splits
from backend.training.start_checks import check_start


def main(arguments: Sequence[str]) -> int:
    """Raise the mistake, or print it as JSON: null, or what, field and cure."""
    parser = OneLineParser(prog="python -m backend.start_check", description=__doc__)
    parser.add_argument(
        "--json", choices=("-",), help="print the mistake to stdout as JSON; null where there is none"
    )
    add_setting_flags(parser)
    options = parser.parse_args(arguments)
    config = RunConfig(parse_settings(given_settings(options)), {})
    mistake = None
    try:
        check_start(config, build_splits(config).annotations.landmark_names)
    except UserError as error:
        if not options.json:
            raise
        mistake = {"what": error.what, "field": error.field, "cure": error.cure}
    print(json.dumps({"mistake": mistake}) if options.json else "a run with these settings can start")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
