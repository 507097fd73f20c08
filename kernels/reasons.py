"""Why a value is undefined. Undefined is not zero: such a value is NaN and carries one of these codes.

Three cases, told apart by code and value alike:

- `DEFINED`: the value is a number and means what the metric says;
- `VANISHED`: the value is 0 and counts as drift, but the rate of this case is reported by itself;
- any other code: the value is NaN and enters no mean; it is counted under its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np


class Reason(IntEnum):
    """A code of one byte with a sentence for people; `label` is its name in files."""

    DEFINED = 0, "the value is defined"
    EMPTY_MAP = 1, "a map is zero everywhere, so it has no mass to locate, compare or concentrate"
    CONSTANT_MAP = 2, "a map has the same value everywhere, and the metric needs variation"
    EMPTY_UNION = 3, "both maps are zero everywhere, so there is nothing that could overlap"
    VANISHED = 4, "one map is zero everywhere and the other is not: the evidence vanished, the overlap is 0"
    SINGULAR_ALPHA = 5, "more than 1 % of the positive gradients have no Grad-CAM++ weight"
    NON_FINITE = 6, "a value is NaN or infinite, or too large for a 32-bit float"
    NEGATIVE = 7, "a map holds a negative value; attribution maps are rectified"
    TOO_SMALL = 8, "the map has too few pixels for the metric"
    TOO_FEW_MAPS = 9, "fewer than two maps are left to compare"
    NO_PARTNER = 10, "the class has fewer than two patients, so no unrelated image can be drawn"

    sentence: str

    def __new__(cls, code: int, sentence: str) -> Reason:
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    @property
    def label(self) -> str:
        """The name written to files, for example `empty_map`."""
        return self.name.lower()

    @property
    def is_undefined(self) -> bool:
        """True where the value is NaN: every reason but DEFINED and VANISHED."""
        return self not in (Reason.DEFINED, Reason.VANISHED)


BY_CODE: Mapping[int, Reason] = {int(reason): reason for reason in Reason}


def undefined(codes: np.ndarray) -> np.ndarray:
    """True where a reason code says that the value is NaN; any shape."""
    return (codes != Reason.DEFINED) & (codes != Reason.VANISHED)


def tally(codes: np.ndarray) -> dict[Reason, int]:
    """How often each reason but DEFINED occurs, in the order of the codes, without those that do not."""
    counts = np.bincount(np.ravel(codes), minlength=len(Reason))
    return {reason: int(counts[reason]) for reason in Reason if reason and counts[reason]}
