"""Statistics of a set of maps: all pairs of maps against each other, and the consistency of a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import types
from numba.extending import intrinsic

from kernels.cached_maps import MapFacts, Memory, Slot
from kernels.checks import positive_integer, real_array
from kernels.jit import inlined, kernel, sums
from kernels.reasons import Reason
from kernels.threads import for_each

_BLOCK = 16  # maps that are compared with 16 others at a time
_TILE = 4  # of them, maps whose sums stay in registers together
_CHUNK = 1024  # pixels that are added up in float32 before they go to float64; 32 maps of them stay in cache


@dataclass(frozen=True)
class SetScores:
    """`values` float64 (N, N), symmetric, NaN in the rows and columns of maps whose code in `reasons` (N,) is not
    DEFINED: in a set nothing is before or after, so an empty map is undefined like a broken one.
    """

    values: np.ndarray
    reasons: np.ndarray


@dataclass(frozen=True)
class Consistency:
    """`value` in 0..1, NaN with a `reason` where it is undefined; `n` maps entered it; `reasons` (N,) of all maps."""

    value: float
    reason: Reason
    n: int
    reasons: np.ndarray


def consistency(
    maps: np.ndarray, probabilities: np.ndarray, limit: int = 1000, seed: int = 0, threads: int = 1
) -> Consistency:
    """How alike the evidence for one class is from image to image, for maps (N, h, w) of the class.

    sum_{i<j} p_i p_j S_ij / sum_{i<j} p_i p_j, where p (N,) are the probabilities of the class and S_ij is the
    soft IoU of (map_i / max)^2 and (map_j / max)^2, over at most `limit` images drawn with `seed`. Our own
    definition, after the C-Score of arXiv 2604.08502. Undefined where fewer than two maps with p > 0 are left.
    """
    maps = real_array(maps, "maps", "Nhw")
    weights = _checked_probabilities(probabilities, len(maps))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(maps))[: positive_integer(limit, "limit")])
    scores = pairwise_soft_iou(maps[drawn], power=2, threads=threads)
    usable = (scores.reasons == Reason.DEFINED) & (weights[drawn] > 0)
    weights = weights[drawn] * usable
    upper = np.triu(np.outer(weights, weights), k=1)
    if usable.sum() < 2:
        return Consistency(np.nan, Reason.TOO_FEW_MAPS, int(usable.sum()), scores.reasons)
    value = float((upper * np.nan_to_num(scores.values)).sum() / upper.sum())
    return Consistency(value, Reason.DEFINED, int(usable.sum()), scores.reasons)


def pairwise_soft_iou(maps: np.ndarray, power: int = 1, threads: int = 1) -> SetScores:
    """Soft IoU of x_i = (map_i / max map_i)^power and x_j for all pairs of maps (N, h, w).

    sum min(x_i, x_j) / sum max(x_i, x_j), with sum max = sum x_i + sum x_j - sum min. Pixels are float32, sums
    of 1,024 of them too, sums of those float64: the error is below 1e-6. The diagonal is exactly 1.
    """
    maps = real_array(maps, "maps", "Nhw")
    threads = positive_integer(threads, "threads")
    rows, reasons = _relative_rows(maps, positive_integer(power, "power"))
    values = _iou(_over_blocks(_sum_of_minima, rows, threads)[: len(maps), : len(maps)])
    values[reasons != Reason.DEFINED] = np.nan
    values[:, reasons != Reason.DEFINED] = np.nan
    return SetScores(values, reasons)


def pairwise_mask_iou(masks: np.ndarray, threads: int = 1) -> np.ndarray:
    """IoU of all pairs of masks (N, h, w), where not 0 is inside: float64 (N, N), exact; NaN for two empty masks."""
    masks = real_array(masks, "masks", "Nhw") != 0
    words = _packed(masks.reshape(len(masks), -1))
    both = _over_blocks(_common_bits, words, positive_integer(threads, "threads"))
    return _iou(both[: len(masks), : len(masks)])


def _checked_probabilities(probabilities: object, count: int) -> np.ndarray:
    weights = np.asarray(real_array(probabilities, "probabilities", "N"), np.float64)
    if weights.shape != (count,):
        raise ValueError(f"probabilities must have the shape ({count},), one per map, not {weights.shape}")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1; apply softmax or sigmoid to logits first")
    return weights


def _relative_rows(maps: np.ndarray, power: int) -> tuple[np.ndarray, np.ndarray]:
    """(map / max)^power as float32 (N', h w), N' the next multiple of the tile, zero where undefined; reasons (N,)."""
    count, *shape = maps.shape
    rows = np.zeros((-(-count // _TILE) * _TILE, shape[0] * shape[1]), np.float32)
    reasons = np.empty(count, np.uint8)
    slot = Slot(tuple(shape), Memory())
    for n in range(count):
        a_map = slot.load(maps[n])
        reasons[n] = a_map.reason or (Reason.EMPTY_MAP if a_map.is_empty else Reason.DEFINED)
        if reasons[n] == Reason.DEFINED:
            rows[n] = _relative(a_map, power)
    return rows, reasons


def _relative(a_map: MapFacts, power: int) -> np.ndarray:
    return (a_map.flat / np.float64(a_map.maximum)) ** power


def _packed(masks: np.ndarray) -> np.ndarray:
    """Masks (N, P) as bits in uint64 (N', ceil(P / 64)), N' the next multiple of the tile."""
    count, pixels = masks.shape
    octets = np.zeros((-(-count // _TILE) * _TILE, -(-pixels // 64) * 8), np.uint8)
    octets[:count, : -(-pixels // 8)] = np.packbits(masks, axis=1)
    return octets.view(np.uint64)


def _over_blocks(fill: Callable, rows: np.ndarray, threads: int) -> np.ndarray:
    """The symmetric (N', N') matrix that `fill` writes in blocks of rows, from the diagonal on, and mirrors."""
    matrix = np.zeros((len(rows), len(rows)))
    for_each(range(0, len(rows), _BLOCK), threads, lambda: lambda first: fill(rows, first, matrix))
    return matrix


def _iou(common: np.ndarray) -> np.ndarray:
    """common / (own_i + own_j - common), in place, where own is the diagonal."""
    own = common.diagonal()
    either = np.add.outer(own, own)
    either -= common
    with np.errstate(invalid="ignore"):  # 0 / 0 for two empty ones
        return np.divide(common, either, out=common)


@sums
def _sum_of_minima(rows, first, matrix):
    """matrix[i, j] = sum_p min(rows[i, p], rows[j, p]) for the block of rows i from `first` on, and j >= first."""
    count, pixels = rows.shape
    for column in range(first, count, _BLOCK):
        for start in range(0, pixels, _CHUNK):
            end = min(start + _CHUNK, pixels)
            for i in range(first, min(first + _BLOCK, count)):
                for j in range(column, min(column + _BLOCK, count), _TILE):
                    a, b = rows[j, start:end], rows[j + 1, start:end]
                    c, d = rows[j + 2, start:end], rows[j + 3, start:end]
                    _add_minima(rows[i, start:end], a, b, c, d, matrix[i, j : j + _TILE])
        _mirror(matrix, first, column)


@inlined
def _add_minima(row, a, b, c, d, out):
    to_a, to_b, to_c, to_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for p in range(row.size):
        to_a += min(row[p], a[p])
        to_b += min(row[p], b[p])
        to_c += min(row[p], c[p])
        to_d += min(row[p], d[p])
    out[0] += to_a
    out[1] += to_b
    out[2] += to_c
    out[3] += to_d


@kernel
def _common_bits(rows, first, matrix):
    """matrix[i, j] = number of bits set in both rows[i] and rows[j], for i and j as above."""
    count, words = rows.shape
    for column in range(first, count, _BLOCK):
        for i in range(first, min(first + _BLOCK, count)):
            for j in range(column, min(column + _BLOCK, count)):
                bits = np.uint64(0)
                for w in range(words):
                    bits += _popcount(rows[i, w] & rows[j, w])
                matrix[i, j] = bits
        _mirror(matrix, first, column)


@kernel
def _mirror(matrix, row, column):
    """Copy the block at (row, column) to (column, row)."""
    for i in range(row, min(row + _BLOCK, len(matrix))):
        for j in range(column, min(column + _BLOCK, len(matrix))):
            matrix[j, i] = matrix[i, j]


@intrinsic
def _popcount(_context, _word):
    """The number of bits set in a uint64."""
    return types.uint64(types.uint64), lambda _context, builder, _, values: builder.ctpop(values[0])
