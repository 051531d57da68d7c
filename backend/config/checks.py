"""Rules of settings that a range cannot express; each check raises ValueError with the cure."""

from __future__ import annotations

from typing import Any

from backend.errors import UserError
from backend.geometry import OUTPUT_STRIDES
from backend.numbers import read_whole_numbers, to_latin

SIZE_MULTIPLE = 32  # every network halves its maps down to 1/32
SIDES = ("height", "width")  # the two numbers of image_size
MAX_SIDE = 4096


def check_image_size(size: tuple[int, int]) -> tuple[int, int]:
    """Check that both sides are in range, and multiples of 32."""
    for name, value in zip(SIDES, size, strict=True):
        if not SIZE_MULTIPLE <= value <= MAX_SIDE:
            raise ValueError(f"{name} {value} is outside {SIZE_MULTIPLE} to {MAX_SIDE}; start from 256 256")
        if value % SIZE_MULTIPLE:
            lower = value // SIZE_MULTIPLE * SIZE_MULTIPLE
            raise ValueError(
                f"{name} {value} is not a multiple of {SIZE_MULTIPLE}; "
                f"the nearest that fit are {lower} and {lower + SIZE_MULTIPLE}"
            )
    return size


def check_output_stride(stride: int | str) -> int | str:
    """Check that the networks have this stride, or that it is auto."""
    if stride not in ("auto", *OUTPUT_STRIDES):
        raise ValueError(f"{stride} is not one of auto, {', '.join(map(str, OUTPUT_STRIDES))}")
    return stride


def with_latin_digits(value: Any) -> Any:
    """Replace the digits of a text, such as cuda:1, by Latin ones; return anything else as it is."""
    return to_latin(value) if isinstance(value, str) else value


def check_refiner_sides(text: str, num_networks: int, crop_size: int) -> str:
    """Check that a crop can be shrunk to these sides, at most one per network; return the list to store."""
    try:
        sides = sides_of(text)
    except UserError as error:
        raise ValueError(f"{text!r} is not a list of sides, such as 128, 96, 64: {error}") from None
    for side in sides:
        if side % SIZE_MULTIPLE or not SIZE_MULTIPLE <= side <= crop_size:
            limits = f"from {SIZE_MULTIPLE} to crop_size, {crop_size}"
            raise ValueError(f"{side} in {text!r} is not a multiple of {SIZE_MULTIPLE} {limits}")
    if len(sides) > num_networks:
        raise ValueError(f"{text!r} needs num_refiners {len(sides)} or more, not {num_networks}")
    return ", ".join(map(str, sides))


def sides_of(text: str) -> tuple[int, ...]:
    """Read the numbers of the setting `refiner_sides`. Raises UserError for what is not a list of them."""
    return read_whole_numbers(text)
