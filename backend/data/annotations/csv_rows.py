"""Reads a CSV file of any tool as numbered rows of text, and writes one that spreadsheets open safely.

Cells are separated by commas, semicolons, tabs or bars, or by what a first line `sep=;` names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from backend.data.annotations.text_encoding import Decoded, NotTextError, decode_table
from backend.errors import UserError
from backend.numbers import to_latin

Row = tuple[int, list[str]]  # line number from 1, cells without surrounding blanks
Report = Callable[[Path, str, str], object]  # file, what, cure

SUFFIXES = (".csv", ".tsv")
EXCEL_MARK = "\ufeff"  # without it, Excel reads UTF-8 as the code page of its machine
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)
_NUM_PROBED = 20  # rows that show which delimiter fits
_HEAD_BYTES = 2**16  # a multiple of 4, the bytes of UTF-32
# What a spreadsheet takes for a formula; an apostrophe before it makes it text, and one more before one that
# is there.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_WITH_COMMA = re.compile(r"[+-]?([0-9]*),[0-9]+")
_LIKE_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
_MAX_COORDINATE = 32_767  # px; larger images are not decoded


def read_rows(path: Path, report: Report) -> list[Row]:
    """Read all rows that are not blank, as long as the header if they differ only by empty cells.

    An encoding other than UTF-8 is reported. Raises UserError if the file cannot be read as text.
    """
    try:
        decoded = decode_table(path.read_bytes(), path.parent)
        if decoded.remark:
            report(path, decoded.remark, "save it as UTF-8 if a name in it looks wrong")
        return _even_out(_iterate_rows(decoded))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", field="dataset_path") from error
    except NotTextError as error:
        raise UserError(f"{path} {error.what}", field="dataset_path", cure=error.cure) from error
    except csv.Error as error:
        raise UserError(
            f"{path} is not a CSV file ({error})", field="dataset_path", cure="export it again"
        ) from error


def read_header(path: Path, num_rows: int = 1) -> list[list[str]]:
    """Read only the first rows' cells; fewer or none if the file has no more or is not CSV."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if len(head) == _HEAD_BYTES and b"\0" not in head:  # not within a character
            head = head[: head.rfind(b"\n") + 1] or head
        return [cells for _, cells in islice(_iterate_rows(decode_table(head)), num_rows)]
    except (OSError, NotTextError, csv.Error):
        return []


def settle_decimals(rows: Sequence[Row], columns: Collection[int]) -> list[Row]:
    """Replace decimal commas in these columns by points, if the numbers show that their commas are decimal.

    12,5 shows it, and so does 103,250: no image has a hundred thousand pixels per side. If every comma could
    separate thousands (1,250), the cells are left as they are: `read_number` refuses them, and says why.
    """
    numbers = [to_latin(cells[k]) for _, cells in rows for k in columns if k < len(cells)]
    with_comma = [number for number in numbers if _WITH_COMMA.fullmatch(number)]
    if not any(
        not _LIKE_THOUSANDS.fullmatch(number) or abs(int(number.replace(",", ""))) > _MAX_COORDINATE
        for number in with_comma
    ):
        return list(rows)
    return [
        (line, [_with_point(c) if k in columns else c for k, c in enumerate(cells)]) for line, cells in rows
    ]


def guard_text(text: str) -> str:
    """Mark text that a spreadsheet would take for a formula; `read_rows` undoes it. Never for numbers."""
    return f"'{text}" if _FORMULA.match(text) else text


def format_rows(rows: Iterable[Sequence[str]]) -> str:
    """Format rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _with_point(cell: str) -> str:
    number = to_latin(cell)
    return number.replace(",", ".") if _WITH_COMMA.fullmatch(number) else cell


def _iterate_rows(decoded: Decoded) -> Iterator[Row]:
    file = io.StringIO(decoded.text, newline="")
    named = _SEPARATOR_LINE.fullmatch(file.readline().rstrip("\r\n"))
    if not named:
        file.seek(0)
    start = file.tell()
    delimiter = named[1] if named else _find_delimiter(file)
    file.seek(start)
    reader = csv.reader(file, delimiter=delimiter)
    for cells in reader:
        cells = [_unguard(cell.strip()) for cell in cells]
        if any(cells):
            yield reader.line_num + bool(named), cells


def _find_delimiter(file: io.StringIO) -> str:
    """Find the delimiter that gives the header several cells, and most of the first rows as many."""

    def fit(delimiter: str) -> tuple[bool, int, int]:
        file.seek(0)
        lengths = [
            len(cells) for cells in islice(csv.reader(file, delimiter=delimiter), _NUM_PROBED) if cells
        ]
        return (
            bool(lengths and lengths[0] > 1),
            sum(n == lengths[0] for n in lengths),
            max(lengths[:1], default=0),
        )

    return max(_DELIMITERS, key=fit)


def _even_out(rows: Iterable[Row]) -> list[Row]:
    """Make rows as long as the header: drop empty cells beyond it, and add empty ones to a shorter row."""
    even: list[Row] = []
    width = needed = 0
    for line, cells in rows:
        if not even:
            width, needed = len(cells), _num_filled(cells)
        if len(cells) > width and _num_filled(cells) <= width:
            cells = cells[:width]
        elif needed <= len(cells) < width:
            cells = cells + [""] * (width - len(cells))
        even.append((line, cells))
    return even


def _num_filled(cells: Sequence[str]) -> int:
    """Count the cells up to the last one that is not empty."""
    return max((k for k, cell in enumerate(cells, start=1) if cell), default=0)


def _unguard(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
