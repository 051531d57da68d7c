"""Read numbers as people type them: Latin, Persian and Arabic digits, three decimal separators, exponents.

Used by the form, the flags, the API and the settings. A text that can be read in two ways, or that is more
than one number, is refused with what to write instead.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from backend.errors import UserError

_PERSIAN, _ARABIC = "۰۱۲۳۴۵۶۷۸۹", "٠١٢٣٤٥٦٧٨٩"
# direction marks, embeddings, isolates, joiners, spaces of no width: they only control how a text is drawn
_INVISIBLE = "".join(
    map(chr, (0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF))
)
_TO_LATIN = str.maketrans(
    {
        **{digit: str(value) for digits in (_PERSIAN, _ARABIC) for value, digit in enumerate(digits)},
        "٫": ".",
        "\u2212": "-",  # the minus sign of mathematics
        **dict.fromkeys(_INVISIBLE, ""),
    }
)
_NUMBER = re.compile(r"([+-]?)(?=[.,]?[0-9])([0-9]*)(?:[.,]([0-9]*))?(?:[eE]([+-]?[0-9]{1,6}))?")
_LIKE_THOUSANDS = re.compile(r"([+-]?[1-9][0-9]{0,2}),([0-9]{3})(?:[eE].*)?")  # 1,000: one, or one thousand?
_SEPARATED = re.compile(r"[+-]?[0-9]+(?:[\s.,٬'’_]+[0-9]+)+")
_BETWEEN_ITEMS = re.compile("[,،]")
MAX_QUOTED = 40  # characters of a wrong text that a message repeats


def to_latin(typed: str) -> str:
    """Replace Arabic digits, minus sign and decimal point by Latin ones, and remove invisible marks."""
    return typed.translate(_TO_LATIN).strip()


def read_number(typed: object) -> float:
    """Return the number that was typed; a number is accepted too. Raises UserError for NaN and infinity too.

    A comma is a decimal separator, like a point and ٫; thousands are not separated.
    """
    return float(_read(typed))


def read_whole_number(typed: object) -> int:
    """Return the whole number that was typed: 20, 20.0 or 2e1; 2.5 is refused and never rounded."""
    value = _read(typed)
    if value != value.to_integral_value():
        below = math.floor(value)
        raise UserError(f"{_quote(typed)} is not a whole number", cure=f"write {below} or {below + 1}")
    return int(value)


def read_whole_numbers(typed: str) -> tuple[int, ...]:
    """Return the whole numbers of a list with commas (, or ،). Raises UserError for any other item."""
    return tuple(read_whole_number(item.strip()) for item in _BETWEEN_ITEMS.split(typed) if to_latin(item))


def format_number(value: float) -> str:
    """Write a number in Latin digits, so that it is read back as the same value: 20, 0.001, 1e-09."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e16):
        return str(int(value))
    return f"{Decimal(repr(value)):f}" if 1e-7 <= abs(value) < 1e16 else repr(value)


def _read(typed: object) -> Decimal:
    """Return the exact number; refuse all that a float cannot hold."""
    if isinstance(typed, bool) or not isinstance(typed, str | int | float):
        raise _not_a_number(typed)
    if isinstance(typed, str):
        value = _read_text(typed)
    else:
        value = Decimal(typed if isinstance(typed, int) else repr(float(typed)))
    if value.is_nan():
        raise _not_a_number(typed)
    if not math.isfinite(float(value)) or (value and not float(value)):
        raise UserError(
            f"{_quote(typed)} is too large or too close to 0", cure="write one that a computer can hold"
        )
    return value


def _read_text(typed: str) -> Decimal:
    text = to_latin(typed)
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise _separated(typed) if _SEPARATED.fullmatch(text) else _not_a_number(typed)
    if thousands := _LIKE_THOUSANDS.fullmatch(text):
        as_decimal, as_thousands = (sign.join(thousands.groups()) for sign in (".", ""))
        raise UserError(
            f"{_quote(typed)} can mean {as_decimal} or {as_thousands}", cure="write the one that you mean"
        )
    sign, integer, fraction, exponent = match.groups()
    return Decimal(f"{sign}{integer or 0}.{fraction or 0}e{exponent or 0}")


def _not_a_number(typed: object) -> UserError:
    return UserError(f"{_quote(typed)} is not a number", cure="write it such as 20, 0.001 or 1e-4")


def _separated(typed: object) -> UserError:
    return UserError(
        f"{_quote(typed)} has more than one separator or a space in it",
        cure="write one number, and its thousands together, such as 1000 or 0.5",
    )


def _quote(typed: object) -> str:
    """Write what was typed for a message: text in quotes, without marks that cannot be seen."""
    if isinstance(typed, str):
        text = repr(typed.translate(dict.fromkeys(map(ord, _INVISIBLE))))
    else:  # Python refuses to write an integer of thousands of digits
        text = str(Decimal(typed)) if isinstance(typed, int) and not isinstance(typed, bool) else repr(typed)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
