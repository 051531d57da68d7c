"""Read a CSV file as rows of text with their line numbers. Knows no columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from backend.errors import UserError

Row = tuple[int, list[str]]  # line number from 1, cells without surrounding blanks


def read_rows(path: Path) -> list[Row]:
    """All rows that are not blank. UTF-8 with or without byte order mark; comma, semicolon or tab.

    Raises UserError where the file cannot be read as such text.
    """
    try:
        return list(_iterate_rows(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", field="dataset_path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", field="dataset_path", cure="save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(
            f"{path} is no CSV file ({error})", field="dataset_path", cure="export it again"
        ) from error


def read_header(path: Path, num_rows: int = 1) -> list[list[str]]:
    """The first rows' cells, without reading on; fewer or none where the file has no more or is no CSV."""
    try:
        return [cells for _, cells in islice(_iterate_rows(path), num_rows)]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _iterate_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first_line = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=first_line.count)
        reader = csv.reader(file, delimiter=delimiter)
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield reader.line_num, cells
