"""Attribution methods that ask a model more than once per map: which inputs they ask about, and what they make of it.

One object per image. It is asked for its points (`fill`), gets scores and gradients at them in any number of pieces
and any order (`take`), and then gives the map before relu (`total`). A point is a layer's activations (C, h, w), or a
picture (3, H, W), as the method's record says (`asks`). Y is the explained score, sums are in float64.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from kernels.jit import sums
from kernels.resize import upsample

PATH_STEPS = 24  # of the path integral: the median image is complete to about 1 % (docs/metrics.md)
SCORED_CHANNELS = 32  # of Score-CAM: each costs a pass of the whole network

NOISES = 25  # of SmoothGrad
NOISE_SD = 0.15 * 255  # grey levels: within the 10 to 20 % of the range that its paper recommends


class Attribution(Protocol):
    """The map of one image by several passes.

    wants_gradients: `take` gets gradients beside scores
    passes: number of points
    """

    wants_gradients: ClassVar[bool]
    passes: int

    def __init__(self, activations: np.ndarray, picture: np.ndarray) -> None:
        """Of activations float32 (C, h, w) and the picture (3, H, W) of one image."""

    def fill(self, first: int, points: np.ndarray) -> None:
        """Write the points first, first + 1 ... into `points` (n, ...)."""

    def take(self, first: int, scores: np.ndarray, gradients: np.ndarray | None) -> None:
        """Scores (n,) float64, and gradients (n, ...) where wanted, of the points from `first` on."""

    def total(self) -> np.ndarray:
        """The map (h, w) float64 before relu; not finite where a score or gradient was not."""

    def residual(self) -> float:
        """|sum of the map - what it should sum up to| / |the latter|, NaN where there is no such thing."""


class _ByScores:
    """What methods have in common that need the score of each point, and nothing else."""

    wants_gradients: ClassVar[bool] = False

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self._scores = np.full(passes, np.nan)

    def take(self, first: int, scores: np.ndarray, _gradients: np.ndarray | None) -> None:
        self._scores[first : first + len(scores)] = scores

    def residual(self) -> float:
        return float("nan")


class Ablation(_ByScores):
    """M_p = Y(A) - Y(A with A[:, p] replaced by `baseline`), the mean of each channel over its positions.

    baseline: (C,), by default that mean; with 0 and a tail that is linear, M equals that of HiResCAM.
    """

    def __init__(self, activations: np.ndarray, _picture: np.ndarray, baseline: np.ndarray | None = None) -> None:
        self._activations = activations
        mean = activations.mean(axis=(1, 2), dtype=np.float64)
        self._baseline = (mean if baseline is None else baseline).astype(np.float32)
        super().__init__(1 + activations[0].size)

    def fill(self, first: int, points: np.ndarray) -> None:
        """The activations themselves, then those without position 0, 1 ... (row by row)."""
        points[:] = self._activations
        flat = points.reshape(*points.shape[:2], -1)  # (n, C, P)
        for n in range(len(points)):
            if first + n > 0:
                flat[n, :, first + n - 1] = self._baseline

    def total(self) -> np.ndarray:
        return (self._scores[0] - self._scores[1:]).reshape(self._activations.shape[1:])


class IntegratedGradients:
    """M = sum_k (A_k - B_k) integral over t in 0..1 of dY/dA_k(B + t (A - B)), B = 0 unless `baseline` (C,) says else.

    The integral is a sum over the nodes of Gauss and Legendre, exact for polynomials of degree 2 steps - 1. Complete:
    sum(M) = Y(A) - Y(B), up to what the sum misses (`residual`).
    """

    wants_gradients: ClassVar[bool] = True

    def __init__(
        self,
        activations: np.ndarray,
        _picture: np.ndarray,
        baseline: np.ndarray | None = None,
        steps: int = PATH_STEPS,
    ) -> None:
        start = np.zeros(len(activations)) if baseline is None else baseline
        self._start = np.broadcast_to(start.astype(np.float32)[:, None, None], activations.shape)
        self._way = np.ascontiguousarray(activations - self._start, np.float32)
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        self._places = np.array([0.0, 1.0, *(nodes + 1) / 2])  # both ends, for the residual alone
        self._weights = np.array([0.0, 0.0, *weights / 2])
        self._total = np.zeros(activations[0].size)
        self._ends = np.full(2, np.nan)
        self.passes = len(self._places)

    def fill(self, first: int, points: np.ndarray) -> None:
        for n, place in enumerate(self._places[first : first + len(points)]):
            points[n] = self._start + np.float32(place) * self._way

    def take(self, first: int, scores: np.ndarray, gradients: np.ndarray | None) -> None:
        assert gradients is not None
        for n, score in enumerate(scores, start=first):
            if n < len(self._ends):
                self._ends[n] = score
            else:
                way = self._way.reshape(len(self._way), -1)  # (C, P)
                gradient = np.ascontiguousarray(gradients[n - first], np.float32).reshape(way.shape)
                _add_product(way, gradient, self._weights[n], self._total)

    def total(self) -> np.ndarray:
        return self._total.reshape(self._way.shape[1:])

    def residual(self) -> float:
        expected = self._ends[1] - self._ends[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.abs(self._total.sum() - expected) / np.abs(expected))


class ScoreCam(_ByScores):
    """M = sum_k w_k A_k, w the softmax over k of Y(picture times A_k, enlarged to the picture and scaled to 0..1).

    k runs over the `channels` of the largest standard deviation over positions (the first of equals); those that are
    the same everywhere are none of them. The paper's baseline is a constant, which softmax ignores.
    """

    def __init__(self, activations: np.ndarray, picture: np.ndarray, channels: int = SCORED_CHANNELS) -> None:
        spread = activations.std(axis=(1, 2), dtype=np.float64)
        order = np.argsort(-spread, kind="stable")[:channels]
        self._activations = activations[np.sort(order[spread[order] > 0])]
        self._picture = picture
        self._shape = activations.shape[1:]
        super().__init__(len(self._activations))

    def fill(self, first: int, points: np.ndarray) -> None:
        chosen = np.ascontiguousarray(self._activations[first : first + len(points)])
        masks = upsample(chosen, self._picture.shape[1:])  # (n, H, W)
        low, high = (end(axis=(1, 2), keepdims=True) for end in (masks.min, masks.max))
        np.multiply(self._picture, ((masks - low) / np.maximum(high - low, _LEAST))[:, None], out=points)

    def total(self) -> np.ndarray:
        if not self.passes:
            return np.zeros(self._shape)
        weights = np.exp(self._scores - self._scores.max())
        return np.tensordot(weights / weights.sum(), self._activations.astype(np.float64), axes=1)


class Occlusion(_ByScores):
    """M_p = mean over the patches that cover pixel p of Y(picture) - Y(picture with the patch filled).

    Patches are an eighth of each side large, half of that apart, and filled with the mean of each channel.
    """

    def __init__(self, activations: np.ndarray, _picture: np.ndarray) -> None:
        self._picture = activations
        self._fill = activations.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
        rows, columns = (_patches(side) for side in activations.shape[1:])
        self._patches = [(row, column) for row in rows for column in columns]
        super().__init__(1 + len(self._patches))

    def fill(self, first: int, points: np.ndarray) -> None:
        points[:] = self._picture
        for n in range(len(points)):
            if first + n > 0:
                row, column = self._patches[first + n - 1]
                points[n, :, row, column] = self._fill

    def total(self) -> np.ndarray:
        effects, covered = np.zeros((2, *self._picture.shape[1:]))
        for patch, score in zip(self._patches, self._scores[1:], strict=True):
            effects[patch] += self._scores[0] - score
            covered[patch] += 1
        return effects / covered


def _patches(side: int) -> list[slice]:
    """Where patches lie along a side: all of it is covered."""
    length = max(1, side // 8)
    starts = [*range(0, side - length, max(1, length // 2)), side - length]
    return [slice(start, start + length) for start in starts]


class SmoothGrad:
    """M = sum_k |mean over n of G_k(picture + noise_n)|, 25 draws, the same for every picture, of sd 0.15 x 255.

    The noise is one of brightness: the same in all channels, and not clipped.
    """

    wants_gradients: ClassVar[bool] = True
    passes = NOISES

    def __init__(self, activations: np.ndarray, _picture: np.ndarray) -> None:
        self._picture = activations
        self._sum = np.zeros(activations.shape)

    def fill(self, first: int, points: np.ndarray) -> None:
        for n in range(len(points)):
            noise = np.random.default_rng(first + n).standard_normal(self._picture.shape[1:], np.float32)
            points[n] = self._picture + np.float32(NOISE_SD) * noise

    def take(self, _first: int, _scores: np.ndarray, gradients: np.ndarray | None) -> None:
        assert gradients is not None
        for gradient in gradients:  # one by one, so that batches change no bit
            self._sum += gradient

    def total(self) -> np.ndarray:
        return np.abs(self._sum / self.passes).sum(axis=0)

    def residual(self) -> float:
        return float("nan")


_LEAST = np.float32(np.finfo(np.float32).tiny)


@sums
def _add_product(way, gradient, weight, total):
    """total_p += weight sum_k way[k, p] gradient[k, p]."""
    for k in range(way.shape[0]):
        for p in range(total.size):
            total[p] += weight * np.float64(gradient[k, p]) * way[k, p]
