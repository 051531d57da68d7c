from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UserError
from backend.numbers import format_number, read_number, read_whole_number, read_whole_numbers

DIGITS = {"latin": "0123456789", "persian": "۰۱۲۳۴۵۶۷۸۹", "arabic": "٠١٢٣٤٥٦٧٨٩"}


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("20", 20),
        ("0.001", 0.001),
        ("0,001", 0.001),
        ("۰٫۰۰۱", 0.001),
        ("٠٫٠٠١", 0.001),
        ("۰.۰۰۱", 0.001),
        ("1e-4", 1e-4),
        ("۱E−۴", 1e-4),
        ("1,5e+2", 150),
        ("−۲٫۵", -2.5),
        ("+7", 7),
        (".5", 0.5),
        ("٫۵", 0.5),
        ("5.", 5),
        ("1234,567", 1234.567),  # nobody separates thousands so
        ("0,500", 0.5),
        ("1.000", 1),
        ("  \u00a0۱۲ ", 12),
        ("\u200e1\u200c2\u200f", 12),
        ("\u2066-3\u2069", -3),
        (7, 7),
        (2.5, 2.5),
    ],
)
def test_a_number_is_read_in_every_digit_system_and_with_every_separator(typed: Any, number: float) -> None:
    assert read_number(typed) == number


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([*DIGITS]), st.sampled_from(".,٫"))
def test_every_number_that_is_written_is_read_back_the_same(value: float, digits: str, point: str) -> None:
    for text in (format_number(value), repr(value), f"{value:.17E}"):
        written = text.replace(".", point).translate(str.maketrans(DIGITS["latin"], DIGITS[digits]))
        try:
            assert read_number(written) == value
        except UserError as error:
            assert point == "," and "can mean" in str(error)  # 1,234 and nothing else


@given(st.integers(-(10**300), 10**300), st.sampled_from([*DIGITS]))
def test_every_whole_number_that_is_written_is_read_back_exactly(value: int, digits: str) -> None:
    written = format_number(value).translate(str.maketrans(DIGITS["latin"], DIGITS[digits]))
    assert read_whole_number(written) == value == read_whole_number(value)


@given(st.text(st.sampled_from("0123456789۰۵٠٥.,٫٬،eE+-− \u200e'/_x"), max_size=12))
def test_whatever_is_typed_is_read_or_refused_with_a_cure(typed: str) -> None:
    for read in (read_number, read_whole_number):
        try:
            assert math.isfinite(read(typed))
        except UserError as error:
            assert error.cure and "\n" not in str(error)


@pytest.mark.parametrize(
    "typed",
    [
        "", " ", ".", "-", "e5", "1e", "fast", "auto", "nan", "inf", "-Infinity",
        "0x10", "1_000", "- 3", "--3", "1 e5", "۰/۵", "1،5", "１２", "½", "²", "12%", "1.2.3", "1e5.5",
        b"12", None, [1], True, False, math.nan, math.inf,
        "1e999", "1e-999", 10**400, "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_not_one_number_is_refused(typed: Any) -> None:
    for read in (read_number, read_whole_number):
        with pytest.raises(UserError) as caught:
            read(typed)
        assert caught.value.cure and len(caught.value.what) < 120


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("1,000", "'1,000' can mean 1.000 or 1000"),
        ("-12,345", "can mean -12.345 or -12345"),
        ("۱,۲۵۰", "can mean 1.250 or 1250"),
        ("1,000e3", "can mean"),
        ("1,000,000", "thousands together"),
        ("1٬000", "thousands together"),
        ("1 000", "thousands together"),
        ("1\u00a0000", "thousands together"),
        ("1\u2009000", "thousands together"),
        ("1'000", "thousands together"),
        ("1.000,5", "thousands together"),
        ("256 256", "write one number"),
    ],
)
def test_a_separator_of_thousands_is_refused_rather_than_guessed(typed: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_number(typed)
    assert message in str(caught.value)


@pytest.mark.parametrize(("typed", "number"), [("2.0", 2), ("۲٫۰", 2), ("1e2", 100), (3.0, 3), ("-4", -4)])
def test_a_whole_number_may_be_written_with_a_fraction_of_zero(typed: Any, number: int) -> None:
    assert read_whole_number(typed) == number
    assert isinstance(read_whole_number(typed), int)


@pytest.mark.parametrize(("typed", "cure"), [("2.5", "2 or 3"), (2.5, "2 or 3"), ("-0,5", "-1 or 0")])
def test_a_fraction_of_what_is_counted_is_refused_and_never_cut_off(typed: Any, cure: str) -> None:
    with pytest.raises(UserError, match="not a whole number") as caught:
        read_whole_number(typed)
    assert caught.value.cure == f"write {cure}"


def test_what_is_refused_is_repeated_without_marks_that_cannot_be_seen() -> None:
    with pytest.raises(UserError) as caught:
        read_number("\u2066۲x\u2069")
    assert str(caught.value).startswith("'۲x' is not a number; ")


def test_an_integer_that_python_itself_does_not_write_is_refused() -> None:
    with pytest.raises(UserError, match="too large"):
        read_whole_number(10**5000)


def test_in_a_list_a_comma_stands_between_numbers() -> None:
    assert read_whole_numbers("128, 96,64") == (128, 96, 64)
    assert read_whole_numbers("۱۲۸، ٩٦ ,64,") == (128, 96, 64)
    assert read_whole_numbers("") == read_whole_numbers(" \u200e") == ()
    with pytest.raises(UserError, match=r"'2\.5' is not a whole number"):
        read_whole_numbers("64, 2.5")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20, "20"),
        (20.0, "20"),
        (0.001, "0.001"),
        (1e-5, "0.00001"),
        (1e-9, "1e-09"),
        (-2.5, "-2.5"),
        (1e22, "1e+22"),
    ],
)
def test_a_number_is_shown_in_latin_digits_without_an_exponent_where_it_is_short(
    value: float, text: str
) -> None:
    assert format_number(value) == text


@given(st.floats(-1e15, 1e15).filter(lambda value: abs(value) >= 1e-7))
def test_a_number_that_is_shown_has_no_superfluous_zero(value: float) -> None:
    text = format_number(value)
    assert "e" not in text
    assert "." not in text or not text.endswith("0")
