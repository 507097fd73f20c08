"""How numbers and names are written for people."""

from __future__ import annotations

import re

DASH = "\N{EN DASH}"  # where there is no number
MINUS = "\N{MINUS SIGN}"
# Unicode's Default_Ignorable_Code_Point beyond what `str.isprintable` refuses, and the blank pattern of Braille
_WITHOUT_SHAPE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def number(value: float | None, places: int = 3) -> str:
    """A number with a true minus sign, or a dash."""
    return DASH if value is None else f"{_no_negative_zero(value, places):.{places}f}".replace("-", MINUS)


def signed(value: float | None, places: int = 3) -> str:
    """A change, with its sign."""
    return DASH if value is None else f"{_no_negative_zero(value, places):+.{places}f}".replace("-", MINUS)


def span(low: float | None, high: float | None, places: int = 3) -> str:
    """Both ends of an interval in words, since a dash between them could be read as a minus; empty without one."""
    return "" if low is None or high is None else f"{number(low, places)} to {number(high, places)}"


def percent(share: float | None, places: int = 0) -> str:
    """A share in per cent; what would round to 0 or 100 without being it says so."""
    if share is None:
        return DASH
    shown = f"{100 * share:.{places}f}"
    if share > 0 and float(shown) == 0:
        return f"< {10**-places:.{places}f} %"
    if share < 1 and float(shown) == 100:
        return f"> {100 - 10**-places:.{places}f} %"
    return f"{shown} %".replace("-", MINUS)


def points(value: float | None) -> str:
    """A difference of shares in percentage points, without its sign."""
    return DASH if value is None else f"{abs(100 * value):.1f} points"


def count(number_of: int, what: str, many: str | None = None) -> str:
    """`1 image`, `2 images`."""
    return f"{number_of:,} {what if number_of == 1 else many or what + 's'}"


def _no_negative_zero(value: float, places: int) -> float:
    return round(value, places) + 0.0


def inert(text: str) -> str:
    """Text without a meaning of its own in Markdown and HTML."""
    return "".join(f"&#{ord(letter)};" if letter in "&<|`[@*_" else letter for letter in text)


def digits(value: float | None, places: int = 3) -> str:
    """A number, or a dash where it is undefined."""
    return "-" if value is None else f"{value:.{places}f}"


def one_line(name: str) -> str:
    """A text in which every character that is not seen is a blank; for all that people are shown.

    Line breaks and controls would tear a table. Controls of the direction of writing (U+202A to U+202E, U+2066 to
    U+2069, U+200E, U+200F) would mirror the numbers behind them: 0.84 as 48.0. What else has no shape of its own (zero
    width, fillers, variation selectors, halves of surrogate pairs) would make two names look like one.
    """
    if not name.isprintable():
        name = "".join(letter if letter.isprintable() else " " for letter in name)
    return _WITHOUT_SHAPE.sub(" ", name)
