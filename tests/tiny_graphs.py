"""Small exported graphs and image folders, made without TensorFlow, for tests of the harness."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir

from export import assemble, passes
from export.emit import Emitter
from export.metadata import Metadata, stamp
from harness.images import RULE

SIZE = 32
CLASSES = ["dark", "bright", "left"]


def forward(seed: int = 0, classes: int = 3) -> assemble.Forward:
    """image -> 4x4 tiles -> convolution, relu (`early`) -> convolution, relu (`late`) -> pooling -> logits."""
    rng = np.random.default_rng(seed)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="tiny")
    image = ir.val("image", ir.DataType.FLOAT, ["N", 3, SIZE, SIZE])
    graph.inputs.append(image)
    op = Emitter(graph, "weights")
    tiles = op.AveragePool(op.Mul(image, op.constant(np.float32(1 / 255))), kernel_shape=[4, 4], strides=[4, 4])
    early = op.Relu(_convolution(op, tiles, rng, 3, 6))
    late = op.Relu(_convolution(op, early, rng, 6, 4))
    pooled = op.Flatten(op.GlobalAveragePool(late))
    weights = rng.normal(size=(4, classes)).astype(np.float32)
    logits = op.Gemm(pooled, op.constant(weights), op.constant(rng.normal(size=classes).astype(np.float32)))
    for value, name in ((early, "early"), (late, "late"), (logits, "logits")):
        value.name = name
        graph.outputs.append(value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(graph, ir_version=10)
    passes.infer_shapes(model)
    return assemble.Forward(model, "logits", {"early": "early", "late": "late"})


def _convolution(op: Emitter, x: Any, rng: np.random.Generator, inside: int, outside: int) -> Any:
    weights = rng.normal(size=(outside, inside, 1, 1)).astype(np.float32)
    return op.Conv(x, op.constant(weights), op.constant(rng.normal(0, 0.1, outside).astype(np.float32)))


def write_graph(path: Path, seed: int = 0, **changed: Any) -> Path:
    """An exported graph with metadata; `changed` replaces fields of it."""
    fields: dict[str, Any] = {
        "architecture": "Tiny",
        "phase": "transfer",
        "classes": CLASSES,
        "preprocessing": "divided by 255",
        "image_rule": RULE,
        "input_size": [SIZE, SIZE],
        "input_range": [0.0, 255.0],
        "score_kind": "softmax",
        "explained": "logit",
        "weights_digest": f"weights {seed}",
        "data_digest": "",
        "seed": seed,
        "git_commit": None,
    }
    made = forward(seed, len(fields["classes"]))
    outputs = assemble.output_names(made.layer_names)
    layers = [{"name": name, **asdict(names)} for name, names in outputs.items()]
    model = assemble.add_backward(made, "softmax")
    stamp(model, Metadata(**{**fields, "layers": layers, **changed}))
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path)
    return path


def write_images(folder: Path, patients: int = 24, each: int = 2, seed: int = 0) -> Path:
    """Random smooth images as PNG with a manifest; returns the manifest."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients * each):
        coarse = rng.uniform(0, 255, (5, 5)).astype(np.float32)
        name = f"image-{number:03d}.png"
        cv2.imwrite(str(folder / name), cv2.resize(coarse, (48, 40)).astype(np.uint8))
        rows.append({"file": name, "class": CLASSES[number % 3], "group": f"patient {number // each}"})
    return write_manifest(folder / "manifest.csv", rows)


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
