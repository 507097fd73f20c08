"""Small exported graphs and image folders, made without TensorFlow, for tests of the harness."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import pyarrow.parquet as pq
import pytest

from export import passes
from export.autodiff.emit import Emitter
from export.graph import Forward, add_backward, output_names
from export.metadata import Metadata, stamp
from harness import cli as command_lines
from harness.cli import cli
from harness.common.storage import Location
from harness.images.loading import RULE, channels_first, load_grey
from harness.models.session import Model
from harness.results.schema import Evaluation, MetricSummary

ROOT = Path(__file__).parent.parent

SIZE = 32
CLASSES = ["dark", "bright", "left"]


def forward(
    seed: int = 0,
    logits: int = 3,
    tensors: Sequence[str] = ("early", "late"),
    nudge: float = 0.0,
    scale: float = 1.0,
    balanced: bool = False,
    head: float | None = None,
    bias: float | None = None,
    work: int = 0,
) -> Forward:
    """image -> 4x4 tiles -> convolution, relu (`early`) -> convolution, relu (`late`) -> pooling (`pooled`) -> logits.

    :param tensors: which of the three CAM layers `early` (8, 8), `late` (8, 8) and `pooled` (1, 1) the graph has.
    :param nudge: relative change of every weight, drawn with `seed`.
    :param scale: factor of the convolutions' weights; with 0 the layers hold the same value everywhere.
    :param balanced: a picture of medium grey has logits near 0, so that pictures are given to different classes.
    :param head: weights of the logits, all alike; a negative one leaves LayerCAM at `late` nothing but zeros.
    :param bias: biases of the logits, all alike.
    :param work: channels of two convolutions 3 x 3 over the whole picture, 0 for none: 110,592 multiplications each.
    """
    weights = _Weights(np.random.default_rng(seed), np.random.default_rng([seed, 1]), nudge, scale)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="tiny")
    image = ir.val("image", ir.DataType.FLOAT, ["N", 3, SIZE, SIZE])
    graph.inputs.append(image)
    op = Emitter(graph, "weights")
    scaled = op.Mul(image, op.constant(np.float32(1 / 255)))
    for inside, outside in ((3, work), (work, 3)) if work else ():
        kernel = weights.draw(outside, inside, 3, 3, sd=(9 * inside) ** -0.5)
        scaled = op.Relu(op.Conv(scaled, op.constant(kernel), pads=[1, 1, 1, 1]))
    tiles = op.AveragePool(scaled, kernel_shape=[4, 4], strides=[4, 4])
    first, second = weights.convolution(3, 6), weights.convolution(6, 4)
    early = op.Relu(op.Conv(tiles, *map(op.constant, first)))
    late = op.Relu(op.Conv(early, *map(op.constant, second)))
    pooled = op.GlobalAveragePool(late)
    middle = _through(second, _through(first, np.full(3, 0.5, np.float32))) if balanced else None
    slopes, shifts = _head(weights, logits, middle, head, bias)
    found = op.Gemm(op.Flatten(pooled), op.constant(slopes), op.constant(shifts))
    layers = {name: value for name, value in (("early", early), ("late", late), ("pooled", pooled)) if name in tensors}
    return finished(graph, {**layers, "logits": found})


def _head(
    weights: _Weights, logits: int, middle: np.ndarray | None, head: float | None, bias: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (4, logits) and biases of the logits, which are near 0 for the features `middle`."""
    slopes, shifts = weights.draw(4, logits), weights.draw(logits)
    if middle is not None:
        shifts = -middle @ slopes * (1 + 0.2 * (weights.factor(logits) - 1))
    slopes = slopes if head is None else np.full_like(slopes, head)
    return slopes, shifts if bias is None else np.full_like(shifts, bias)


def finished(graph: ir.Graph, outputs: Mapping[str, Any]) -> Forward:
    """The graph with its outputs: `logits`, and CAM layers."""
    for name, value in outputs.items():
        value.name = name
        graph.outputs.append(value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(graph, ir_version=10)
    passes.infer_shapes(model)
    return Forward(model, "logits", {name: name for name in outputs if name != "logits"})


@dataclass(frozen=True)
class _Weights:
    """Draws weights; the nudge comes from a stream of its own, so that it changes no other draw."""

    random: np.random.Generator
    other: np.random.Generator
    nudge: float
    scale: float

    def draw(self, *shape: int, sd: float = 1.0) -> np.ndarray:
        return self.random.normal(0, sd, shape).astype(np.float32) * self.factor(*shape)

    def factor(self, *shape: int) -> np.ndarray:
        return (1 + self.nudge * self.other.normal(size=shape)).astype(np.float32)

    def convolution(self, inside: int, outside: int) -> tuple[np.ndarray, np.ndarray]:
        kernel = self.draw(outside, inside, 1, 1) * np.float32(self.scale)
        return kernel, self.draw(outside, sd=0.1)


def _through(convolution: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> np.ndarray:
    """What a convolution and a rectifier make of one position."""
    kernel, bias = convolution
    return np.maximum(kernel[:, :, 0, 0] @ values + bias, 0)


def write_graph(
    path: Path,
    seed: int = 0,
    tensors: Sequence[str] = ("early", "late"),
    roles: Mapping[str, str] | None = None,
    nudge: float = 0.0,
    scale: float = 1.0,
    balanced: bool = False,
    head: float | None = None,
    bias: float | None = None,
    methods: Sequence[str] = (),
    work: int = 0,
    **changed: Any,
) -> Path:
    """An exported graph with metadata; `changed` replaces fields of it, `roles` gives CAM layers their role.

    Maps of `methods` are outputs, too.

    With `score_kind="binary"` there are two classes and one logit.
    """
    kind = changed.get("score_kind", "softmax")
    fields = {"classes": CLASSES[: 2 if kind == "binary" else None], "weights_digest": f"weights {seed} {nudge}"}
    fields = {**fields, "seed": seed, **changed}
    logits = 1 if kind == "binary" else len(fields["classes"])
    made = forward(seed, logits, tensors, nudge, scale, balanced, head, bias, work)
    return write_forward(path, made, roles, methods, **fields)


def write_forward(
    path: Path, made: Forward, roles: Mapping[str, str] | None = None, methods: Sequence[str] = (), **changed: Any
) -> Path:
    """A forward graph differentiated, with metadata; see `write_graph`."""
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
        "weights_digest": "",
        "data_digest": "",
        "seed": 0,
        "git_commit": None,
        **changed,
    }
    outputs = output_names(made.layer_names, methods)
    layers = [{"name": name, "role": (roles or {}).get(name), **asdict(names)} for name, names in outputs.items()]
    model = add_backward(made, fields["score_kind"], methods)
    stamp(model, Metadata(**{"layers": layers, **fields}))
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path)
    return path


def write_images(folder: Path, patients: int = 24, each: int = 2, seed: int = 0, exposure: float = 0.0) -> Path:
    """Random smooth images as PNG with a manifest; returns the manifest.

    :param exposure: 0..1, how much brighter or darker than others a whole picture may be.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients * each):
        coarse = rng.uniform(0, 255, (5, 5)).astype(np.float32)
        if exposure:
            coarse = (1 - exposure) * coarse + exposure * np.float32(rng.uniform(0, 255))
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


def logits_of(graph: Path, manifest: Path) -> np.ndarray:
    """(images, K) what a graph says about the images of a manifest, one call for all of them."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        names = [row["file"] for row in csv.DictReader(stream)]
    model = Model.open(graph)
    greys = np.stack([load_grey(manifest.parent / name, model.metadata.input_size) for name in names])
    layer = next(iter(model.graph.layers))
    return model.explain(channels_first(greys), np.full(len(names), -1), [layer]).logits


def relabel(manifest: Path, labels: Sequence[str]) -> Path:
    """Give the images of a manifest other classes."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return write_manifest(manifest, [{**row, "class": label} for row, label in zip(rows, labels, strict=True)])


def label_as(graph: Path, manifest: Path, wrong_each: int = 5) -> Path:
    """Let a single-label graph be right about all images but one in `wrong_each`."""
    decided = logits_of(graph, manifest).argmax(axis=1)
    shifted = [(k + (n % wrong_each == 0)) % len(CLASSES) for n, k in enumerate(decided)]
    return relabel(manifest, [CLASSES[k] for k in shifted])


def evaluate(out: Location, *arguments: object) -> Evaluation:
    """`python -m harness evaluate ...` in this process; errors come as exceptions."""
    cli.main(["evaluate", *map(str, arguments), "--out", str(out), "--quiet"], standalone_mode=False)
    return Evaluation.read(out)


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m harness ...` in a process of its own that works in `folder`."""
    return subprocess.run(
        command_line(*arguments), cwd=folder, env=process_environment(**environment), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def command_line(*arguments: object) -> list[str]:
    """What starts `python -m harness ...`."""
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def process_environment(**changed: str) -> dict[str, str]:
    """An environment in which our packages are found from any folder, and no accelerator is."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **changed}


def read_rows(out: Location, kind: str, **equal: object) -> list[dict[str, Any]]:
    """The rows of all parts of `predictions`, `maps` or `scores`, in order, whose columns have these values."""
    files: list[Location] = [*(out / kind).iterdir()]
    parts = [BytesIO(file.read_bytes()) for file in sorted(files) if file.suffix == ".parquet"]
    where = [(name, "==", value) for name, value in equal.items()] or None
    return [row for part in parts for row in pq.read_table(part, filters=where, partitioning=None).to_pylist()]


def maps_of(out: Path, **equal: object) -> dict[tuple[str, str], np.ndarray]:
    """(image, class) -> raw map, of the rows of `maps/` with these values."""
    return {
        (row["image"], row["class"]): np.array(row["map"], np.float32).reshape(row["height"], row["width"])
        for row in read_rows(out, "maps", **equal)
    }


def metric(result: Evaluation, name: str, method: str = "layercam", scope: str = "all", pair: int = 0) -> MetricSummary:
    """One metric of one method and scope, at the first layer that has it."""
    return next(
        item for item in result.pairs[pair].metrics if (item.metric, item.method, item.scope) == (name, method, scope)
    )


@contextmanager
def in_brief() -> Iterator[None]:
    """Command lines with fewer resamples and without a report, which take longer than the rest of a tiny evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        asked = command_lines._settings
        brief = {"report": False, "resamples": 300}
        patch.setattr(command_lines, "_settings", lambda out, given: replace(asked(out, given), **brief))
        yield
