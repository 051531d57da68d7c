"""Write the demo data set: `python -m backend.data.demo --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from backend.data.demo.dataset import create_demo_dataset
from backend.errors import UserError
from backend.flags import whole_number


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m backend.data.demo", description="Write the demo data set."
    )
    parser.add_argument("path", type=Path, help="folder to create")
    parser.add_argument("--num_train", type=whole_number, default=16, help="images to train on")
    parser.add_argument("--num_valid", type=whole_number, default=4, help="images to validate on")
    parser.add_argument("--num_test", type=whole_number, default=10, help="images to test on")
    parser.add_argument("--seed", type=whole_number, default=0, help="another seed, other patients")
    flags = parser.parse_args(argv)
    try:
        path = create_demo_dataset(
            flags.path,
            num_train=flags.num_train,
            num_valid=flags.num_valid,
            num_test=flags.num_test,
            seed=flags.seed,
        )
    except UserError as error:
        parser.exit(2, f"{error}\n")
    print(f"{path}: {flags.num_train} train, {flags.num_valid} valid, {flags.num_test} test images")


if __name__ == "__main__":
    main()
