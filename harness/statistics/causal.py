"""Whether evidence that moved is used: what occluding it does to the margin, against the same regions elsewhere.

The effect of a region is how far the margin of the explained class falls when it is occluded, in standard deviations of
that checkpoint's margin within a class (`spread`). Effects are (2, n, S, 3): before and after; images; sets of regions
(OWN, and controls); the regions gained, lost and kept. A value that is NaN is not in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from harness.statistics.bootstrap import ROUNDING
from harness.statistics.hypothesis_tests import sign_flip

ALPHA = 0.05
LEAST_CHANGE = 0.05  # standard deviations of the margin: a smaller change of use counts as none
OWN = 0  # the first set of regions are the image's own

Verdict = Literal[
    "moved and used", "moved, not shown to be used", "not moved but use changed", "not moved", "not judged"
]


def spread(margins: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(2,) standard deviation of margins (2, n) within classes (n,): sqrt(sum (m - mean of its class)^2 / (n - K)).

    K is the number of classes. How far the classes lie apart is not in it: else what one class gains would shrink the
    effects of all others, after alone, and as lost regions had an effect before, their double difference would rise.
    NaN where no class has two images, or where margins do not vary within the classes.
    """
    numbers = np.unique(classes, return_inverse=True)[1]
    counts = np.bincount(numbers)
    means = np.stack([np.bincount(numbers, side, len(counts)) / counts for side in margins])  # (2, K)
    squares = ((margins - means[:, numbers]) ** 2).sum(axis=1)
    varies = squares > (ROUNDING * np.abs(margins).sum(axis=1)) ** 2
    degrees = len(classes) - len(counts)
    return np.sqrt(np.where(varies, squares, np.nan) / degrees) if degrees else np.full(len(margins), np.nan)


def double_difference(effects: np.ndarray) -> np.ndarray:
    """(n, S): (gained - lost) after - (gained - lost) before. Above 0 where the moved evidence is used."""
    gained, lost = effects[..., 0], effects[..., 1]
    return (gained - lost)[1] - (gained - lost)[0]


def change_of_kept(effects: np.ndarray) -> np.ndarray:
    """(n, S): kept after - kept before. Not 0 where evidence that stayed is used more, or less."""
    return effects[1, ..., 2] - effects[0, ..., 2]


def joint_p(values: np.ndarray, controls: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """The larger p value of two sign-flip tests, of values (n,) and of values - controls, over the images with both.

    Both must hold; 1 where their means have different signs. NaN for fewer than two patients.

    :param groups: (n,) patient of each image; whole patients are flipped.
    """
    columns = np.stack([values, values - controls], axis=1)
    known = np.isfinite(columns).all(axis=1)
    if not known.any():
        return float("nan")
    first, second = columns[known].mean(axis=0)
    p = sign_flip(columns[known], groups[known], seed)
    return float(p.max()) if first * second > 0 or np.isnan(p).any() else 1.0


def verdict(moved: bool | None, used: float, p_used: float, kept: Sequence[float], p_kept: float) -> Verdict:
    """The words.

    Used: the double difference `used` is above 0, and so is its contrast, at 5 % (`p_used`). Use changed: the kept
    evidence weighs at least LEAST_CHANGE more or less than before, and so does its contrast (both in `kept`), at 5 %.

    :param moved: whether more images moved than noise moves; None where that is not known.
    :param p_used, p_kept: of `joint_p`, adjusted.
    """
    if moved is None or (moved and not np.isfinite(p_used)):
        return "not judged"
    if moved:
        return "moved and used" if used > 0 and p_used < ALPHA else "moved, not shown to be used"
    changed = p_kept < ALPHA and min(map(abs, kept)) >= LEAST_CHANGE
    return "not moved but use changed" if changed else "not moved"
