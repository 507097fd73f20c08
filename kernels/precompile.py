"""Compile every kernel ahead of its first use; later processes load the compiled code from disk."""

from __future__ import annotations

import numpy as np

from kernels.cam import cams, conditioning
from kernels.catalogue import METHODS, of_one_pass
from kernels.metrics import pair_metrics
from kernels.pairwise import pairwise_mask_iou, pairwise_soft_iou
from kernels.resize import upsample
from kernels.structure import WINDOW
from kernels.weighted_ranking import first_reached, weight_beaten


def compile_all() -> None:
    """Call each kernel once on small maps. About a minute where nothing is compiled yet, else a second."""
    random = np.random.default_rng(0)
    maps = random.random((2, WINDOW, WINDOW), np.float32)
    tensors = random.random((2, 1, 2, 2), np.float32)
    cams(of_one_pass(METHODS.built_in), tensors, tensors)
    for method in METHODS.built_in:
        conditioning(method, tensors, tensors)
    upsample(maps, (2 * WINDOW, 2 * WINDOW))
    pair_metrics(maps, maps)
    pairwise_soft_iou(maps)
    pairwise_mask_iou(maps > 0.5)
    row = np.zeros(1, np.int64)
    weight_beaten(np.ones((2, 1)), row, row + 1, row, row)
    first_reached(np.ones((1, 1), np.int32), row.astype(np.int32), np.ones(1), np.ones(1, np.int32))
