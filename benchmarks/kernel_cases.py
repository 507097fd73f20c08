"""What is timed: one case per kernel, ours beside its rivals, on the same data and with the same result.

Maps are 224 x 224, made like attribution maps (7 x 7 raw, rectified, upsampled); pairs are eight, related by
half. Tensors are those of DenseNet201 at 224: 1,920 channels of 7 x 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import kernel_rivals as rivals
from benchmarks.timing import OURS
from harness.results.part_files import BLOCK
from kernels.cam import cams
from kernels.catalogue import METRICS
from kernels.metrics import pair_metrics
from kernels.pairwise import pairwise_mask_iou, pairwise_soft_iou
from kernels.partners import partner_metrics
from kernels.resize import upsample
from tests.map_samples import cam_like, related

SIZE = (224, 224)
PAIRS = 8
MANY = BLOCK  # as many as an evaluation hands over at a time


@dataclass(frozen=True)
class Case:
    """`contenders` by name, OURS among them; `wanted`: how many times faster than the best rival ours shall be;
    `items`: how many pairs, maps or images one call does; `tolerance` between the results.
    """

    name: str
    wanted: float
    contenders: dict[str, Callable[[], Any]]
    items: int = PAIRS
    tolerance: float = 1e-6
    threads: int = 1


def cases() -> list[Case]:
    """All cases, in the order of the table."""
    return [*_full_set(), *_single_metrics(), *_maps(), *_sets()]


def _pairs(count: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    before = cam_like(count, SIZE)
    return before, related(before)


def _full_set() -> list[Case]:
    before, after = _pairs()
    one = {
        OURS: lambda: pair_metrics(before, after).values,
        "numpy + scipy + skimage": lambda: np.array(list(map(rivals.full_set, before, after))),
    }
    many = _pairs(MANY)
    two = {
        OURS: lambda: pair_metrics(*many, threads=2).values,
        "ours, one thread": lambda: pair_metrics(*many).values,
    }
    partners = (np.arange(PAIRS) + np.arange(1, PAIRS)[:, None]) % PAIRS
    further = {
        OURS: lambda: partner_metrics(before, after, partners, near=True).values,
        "numpy + scipy + skimage": lambda: np.array([list(map(rivals.full_set, before, after[of])) for of in partners]),
    }
    return [
        Case("full set of a pair", 8, one),
        Case("full set of a further partner", 8, further, items=partners.size),
        Case("full set of a pair, two threads", 1.85, two, items=MANY, threads=2),
    ]


def _single_metrics() -> list[Case]:
    wanted = {"ssim": 4, "spearman": 8}
    return [
        Case(name, wanted.get(name, 1), _contenders(name, others))
        for name, others in (rivals.PAIR | rivals.CONCENTRATION).items()
    ]


def _contenders(name: str, others: dict[str, Callable[..., float]]) -> dict[str, Callable[[], Any]]:
    maps = _pairs() if METRICS[name].kind == "pair" else _pairs()[:1]
    ours = {OURS: lambda: METRICS[name](*maps)[0]}
    return ours | {rival: _over(function, maps) for rival, function in others.items()}


def _over(function: Callable[..., float], maps: tuple[np.ndarray, ...]) -> Callable[[], np.ndarray]:
    return lambda: np.array(list(map(function, *maps)))


def _maps() -> list[Case]:
    raw = cam_like(PAIRS, (7, 7))
    resize = {OURS: lambda: upsample(raw, SIZE), "cv2": lambda: rivals.resize(raw, SIZE)}
    random = np.random.default_rng(0)
    A = np.maximum(random.normal(size=(PAIRS, 1920, 7, 7)), 0).astype(np.float32)
    G = random.normal(size=A.shape).astype(np.float32)
    each = [Case(name, 1, _explainers([name], A, G), tolerance=1e-4) for name in rivals.CAM]
    return [
        Case("bilinear resize", 1, resize),
        *each,
        Case("all CAM methods", 1, _explainers(list(rivals.CAM), A, G), tolerance=1e-4),
    ]


def _explainers(names: list[str], A: np.ndarray, G: np.ndarray) -> dict[str, Callable[[], Any]]:
    def theirs() -> np.ndarray:
        return np.array([[rivals.CAM[name](a, g) for a, g in zip(A, G, strict=True)] for name in names])

    return {OURS: lambda: np.array([maps for maps, _ in cams(names, A, G).values()]), "numpy": theirs}


def _sets() -> list[Case]:
    maps = cam_like(1000, (56, 56))
    relative = (maps / maps.max(axis=(1, 2), keepdims=True)).reshape(len(maps), -1)
    masks = maps > 0.5
    soft = {
        OURS: lambda: pairwise_soft_iou(maps).values,
        "numpy in blocks": lambda: rivals.pairwise_soft_iou(relative),
    }
    hard = {
        OURS: lambda: pairwise_mask_iou(masks),
        "matrix product": lambda: rivals.pairwise_mask_iou(masks.reshape(len(masks), -1)),
    }
    return [
        Case("soft IoU, all pairs of 1,000 maps of 56 x 56", 5, soft, items=1),
        Case("mask IoU, all pairs of 1,000 masks of 56 x 56", 1, hard, items=1),
    ]
