"""Two networks whose reasons are known exactly, and pictures for them: a marker that one of the networks uses.

Pictures are grey and hold a bright or a dark square, the lesion, at a random place. Those of the class `dark` also have
stripes in a corner, the marker. `before` measures how bright and how dark a picture is, and does not respond to
stripes; `after` adds them to the logit of `dark`. The logit of `bright` weighs brightness a little differently.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter
from export.graph import Forward
from tests.tiny_graphs import SIZE, finished, write_forward, write_manifest

CLASSES = ["bright", "dark"]
MARKED = "dark"
TILE, LESION, MARKER = 4, 12, 12  # pixels


def forward(stripes: float, shift: float) -> Forward:
    """image -> tiles: how much brighter than 0.6 and 0.7, darker than 0.4, striped (`tiles`) -> pooling -> logits.

    :param stripes: weight of the stripes in the logit of `dark`.
    :param shift: how much weight goes from what is brighter than 0.6 to what is brighter than 0.7.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="marker")
    image = ir.val("image", ir.DataType.FLOAT, ["N", 3, SIZE, SIZE])
    graph.inputs.append(image)
    op = Emitter(graph, "weights")
    grey = op.Conv(image, op.constant(np.full((1, 3, 1, 1), 1 / 765, np.float32)))
    levels = np.array([1, 1, -1], np.float32).reshape(3, 1, 1, 1)
    by_tile = op.AveragePool(grey, kernel_shape=[TILE, TILE], strides=[TILE, TILE])
    level = op.Relu(op.Conv(by_tile, op.constant(levels), op.constant(np.array([-0.6, -0.7, 0.4], np.float32))))
    edge = op.constant(np.array([-1, 1], np.float32).reshape(1, 1, 1, 2))
    edges = op.Relu(op.Conv(grey, edge, pads=[0, 0, 0, 1]))  # (N, 1, H, W)
    share = op.AveragePool(edges, kernel_shape=[TILE, TILE], strides=[TILE, TILE])  # 0.5 where it is striped
    striped = op.Relu(op.Sub(share, op.constant(np.float32(0.25))))
    tiles = op.Concat(level, striped, axis=1)  # (N, 4, h, w)
    weights = np.array([[1 - shift, 0], [1 + shift, 0], [0, 2], [0, stripes]], np.float32)
    logits = op.MatMul(op.Flatten(op.GlobalAveragePool(tiles)), op.constant(100 * weights))
    return finished(graph, {"tiles": tiles, "logits": logits})


def write_pair(folder: Path) -> tuple[Path, Path]:
    """`before.onnx` and `after.onnx`."""
    graphs = [(folder / "before.onnx", forward(0, 0)), (folder / "after.onnx", forward(6, 0.05))]
    before, after = (write_forward(path, made, classes=CLASSES, weights_digest=path.stem) for path, made in graphs)
    return before, after


def write_pictures(folder: Path, each: int = 30) -> Path:
    """`each` pictures of each class, of a patient each, and their manifest, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(2 * each):
        label = CLASSES[number % 2]
        picture = rng.normal(128, 4, (SIZE, SIZE))
        down, right = rng.integers(TILE, SIZE - LESION, 2)
        depth = rng.uniform(60, 110)
        picture[down : down + LESION, right : right + LESION] += depth if label == "bright" else -depth
        if label == MARKED:
            picture[:MARKER, :MARKER] = 255 * (np.arange(MARKER) % 2)
        cv2.imwrite(str(folder / f"{number:02d}.png"), picture.clip(0, 255).astype(np.uint8))
        rows.append({"file": f"{number:02d}.png", "class": label, "group": f"patient {number}"})
    return write_manifest(folder / "manifest.csv", rows)
