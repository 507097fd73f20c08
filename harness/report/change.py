"""The picture of a difference of two maps: where evidence was lost and gained, and how the most important fifth moved.

Both maps are relative to their own maxima, so their difference d lies in -1..1. Lost evidence is sky blue, gained
evidence orange: hues that colour-blind readers tell apart, of one lightness (CIE L* 70 and 71; Okabe and Ito 2008,
https://jfly.uni-koeln.de/color/). Their opacity grows with |d| up to FULL on one scale for all cases, over a dimmed
picture. Lines go round the top 20 % of either map, dashed before and solid after, so that what was lost (inside the
dashed line alone) and gained (inside the solid one alone) is told apart on paper, too. `report.js` draws by this rule.
"""

from __future__ import annotations

import numpy as np

LOST, GAINED = (86, 180, 233), (230, 159, 0)
LINE_BEFORE, LINE_AFTER = (214, 238, 255), (255, 236, 190)  # nearly white, with a tint of the two
FULL = 0.4  # |difference| of the strongest colour; what is larger looks the same
OPACITY = 0.9  # of the strongest colour
DIM = 0.45  # brightness that is left of the picture
TOP = 20  # per cent of the pixels, as `iou_top20`
_PER_WIDTH = 112  # pixels of the shorter side to one of a line's width
_DASH, _PERIOD = 3, 5  # length of a dash, and of a dash with its gap, in line widths


def paint(picture: np.ndarray, before: np.ndarray, after: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """RGB (H, W, 3) in 0..1 of two relative maps (H, W), 0..1, over a picture of the same form.

    :param seen: (H, W) bool, what the maps cover; they are 0 elsewhere.
    """
    count = before.size if seen is None else int(seen.sum())
    difference = after - before
    opacity = (OPACITY * np.minimum(np.abs(difference) / FULL, 1))[..., None]
    colour = np.where(difference[..., None] < 0, LOST, GAINED) / 255
    painted = (1 - opacity) * DIM * picture + opacity * colour
    painted[outline(top(before, count), dashed=True)] = np.array(LINE_BEFORE) / 255
    painted[outline(top(after, count), dashed=False)] = np.array(LINE_AFTER) / 255
    return painted


def top(share: np.ndarray, count: int | None = None) -> np.ndarray:
    """The mask {x >= t and x > 0}, t the k-th largest value, k = (20 n + 99) // 100, as `kernels.overlap`.

    :param count: n, how many of the values belong to the map, the others being 0; None: all.
    """
    k = max(1, (TOP * (share.size if count is None else count) + 99) // 100)
    threshold = np.partition(share, share.size - k, axis=None)[share.size - k]
    return (share >= threshold) & (share > 0)


def outline(mask: np.ndarray, dashed: bool) -> np.ndarray:
    """The pixels of a mask (H, W) from which one outside it, or beyond the edge, is no farther than a line is wide.

    Dashes are counted in columns where that pixel lies above or below, else in rows.
    """
    width = max(1, min(mask.shape) // _PER_WIDTH)
    padded = np.pad(mask, width)
    height, across = mask.shape
    beside = range(-width, width + 1)
    flat = mask & ~np.all([padded[width + d : width + d + height, width : width + across] for d in beside], axis=0)
    steep = mask & ~np.all([padded[width : width + height, width + d : width + d + across] for d in beside], axis=0)
    if not dashed:
        return flat | steep
    rows, columns = np.indices(mask.shape)
    return (flat | steep) & (np.where(flat, columns, rows) % (_PERIOD * width) < _DASH * width)


def scale() -> np.ndarray:
    """Colours (256, 3) in 0..1 of differences -FULL..FULL over a picture of middle grey, for a scale bar."""
    difference = np.linspace(-FULL, FULL, 256, dtype=np.float32)
    opacity = (OPACITY * np.abs(difference) / FULL)[:, None]
    return (1 - opacity) * DIM * 0.5 + opacity * np.where(difference[:, None] < 0, LOST, GAINED) / 255


def rule() -> dict[str, object]:
    """What a page needs to draw by the same rule; JSON."""
    return {
        "lost": LOST,
        "gained": GAINED,
        "lineBefore": LINE_BEFORE,
        "lineAfter": LINE_AFTER,
        "full": FULL,
        "opacity": OPACITY,
        "dim": DIM,
        "top": TOP,
        "perWidth": _PER_WIDTH,
        "dash": _DASH,
        "period": _PERIOD,
    }
