"""The gate's worked example in miniature: heads are really trained, and a marker burned into one class is the shortcut.

A fixed layer of random features, global pooling and a head that is fitted by multinomial logistic regression on a
random half of the training pictures per seed. Honest and spoiled candidates classify equally well.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import pytest
from scipy.optimize import minimize

from export import passes
from export.autodiff.emit import Emitter
from export.graph import Forward, add_backward, output_names
from export.metadata import Metadata, stamp
from harness.api.evaluation import Settings, evaluate_plan
from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.gate.derive_policy import propose
from harness.gate.judge import judge
from harness.gate.policy import read_policy
from harness.images.loading import RULE, load_grey
from harness.results.options import Options
from harness.results.plan import Data
from harness.results.schema import Evaluation
from tests import tiny_graphs

SIZE, TILE, FEATURES = 32, 4, 12
CLASSES = ["patch_left", "patch_right"]


def features() -> tuple[np.ndarray, np.ndarray]:
    """Weights (F, 18) and biases (F,) of a 3 x 3 convolution over tiles and their row and column ramps."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(FEATURES, 2, 3, 3)).astype(np.float32) / 3, rng.normal(0, 0.3, FEATURES).astype(np.float32)


def pictures(folder: Path, count: int, seed: int, marked: bool) -> Path:
    """Noise with a bright patch in one half; with `marked`, white letters in a corner of the first class."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        label = number % 2
        grey = rng.normal(90, 18, (SIZE, SIZE))
        row, column = rng.integers(8, 24), rng.integers(2, 10) + 14 * label
        grey[row - 4 : row + 4, column : column + 8] += 80
        if marked and label == 0:
            grey[:4, 24:] = 255
        name = f"{number:03d}.png"
        cv2.imwrite(str(folder / name), np.clip(grey, 0, 255).astype(np.uint8))
        rows.append({"file": name, "class": CLASSES[label], "group": f"patient {number // 2}"})
    return tiny_graphs.write_manifest(folder / "manifest.csv", rows)


def write_graph(path: Path, head: np.ndarray, phase: str) -> Path:
    """image -> tiles, beside a column ramp -> convolution, relu (the CAM layer) -> pooling -> head (F + 1, 2)."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="miniature")
    image = ir.val("image", ir.DataType.FLOAT, ["N", 3, SIZE, SIZE])
    graph.inputs.append(image)
    op = Emitter(graph, "weights")
    scaled = op.Mul(image, op.constant(np.float32(1 / 255)))
    tiles = op.AveragePool(scaled, kernel_shape=[TILE, TILE], strides=[TILE, TILE])
    grey = op.Slice(tiles, op.integers(0), op.integers(1), op.integers(1))
    weights, biases = features()
    both = op.Concat(grey, op.Mul(grey, op.constant(ramp())), axis=1)
    map_ = op.Relu(op.Conv(both, op.constant(weights), op.constant(biases), pads=[1, 1, 1, 1]))
    pooled = op.Flatten(op.GlobalAveragePool(map_))
    logits = op.Gemm(pooled, op.constant(head[:-1].astype(np.float32)), op.constant(head[-1].astype(np.float32)))
    for value, name in ((map_, "map"), (logits, "logits")):
        value.name = name
        graph.outputs.append(value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(graph, ir_version=10)
    passes.infer_shapes(model)
    forward = Forward(model, "logits", {"map": "map"})
    layers = [{"name": name, **asdict(names)} for name, names in output_names(forward.layer_names).items()]
    exported = add_backward(forward, "softmax")
    about = {"classes": CLASSES, "preprocessing": "none", "image_rule": RULE, "input_size": [SIZE, SIZE]}
    stamp(
        exported, Metadata("Miniature", phase, score_kind="softmax", weights_digest=path.stem, layers=layers, **about)
    )
    ir.save(exported, path)
    return path


def ramp() -> np.ndarray:
    """Signed distance from the middle column of the tiles: what tells left from right."""
    return np.tile(np.linspace(-1, 1, SIZE // TILE, dtype=np.float32), (SIZE // TILE, 1))[None, None]


def pooled(manifest: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, F) pooled features and (n,) labels, in NumPy."""
    weights, biases = features()
    rows = []
    names = sorted(manifest.parent.glob("*.png"))
    for path in names:
        tiles = load_grey(path, (SIZE, SIZE)).reshape(8, 4, 8, 4).mean(axis=(1, 3)) / 255
        planes = np.pad(np.stack([tiles, tiles * ramp()[0, 0]]), ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(planes, (3, 3), axis=(1, 2))  # (2, 8, 8, 3, 3)
        found = np.einsum("fckl,cijkl->fij", weights, windows) + biases[:, None, None]
        rows.append(np.maximum(found, 0).mean(axis=(1, 2)))
    return np.array(rows), np.arange(len(names)) % 2


def fit(manifest: Path, seed: int) -> np.ndarray:
    """A head (F + 1, 2), fitted on a random half of the pictures."""
    x, y = pooled(manifest)
    half = np.random.default_rng(seed).permutation(len(x))[: len(x) // 2]
    x, y = np.hstack([x[half], np.ones((len(half), 1))]), y[half]

    def loss(flat: np.ndarray) -> float:
        logits = x @ flat.reshape(-1, 2)
        logits = logits - logits.max(axis=1, keepdims=True)
        likelihood = logits[np.arange(len(y)), y] - np.log(np.exp(logits).sum(axis=1))
        return float(-likelihood.mean() + 2e-4 * (flat**2).sum())

    start = np.random.default_rng(seed).normal(0, 0.01, (FEATURES + 1) * 2)
    return minimize(loss, start, method="L-BFGS-B").x.reshape(-1, 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean and marked pictures; six honest heads and three spoiled ones."""
    folder = tmp_path_factory.mktemp("miniature")
    for kind, marked in (("clean", False), ("marked", True)):
        training = pictures(folder / kind / "train", 160, seed=1, marked=marked)
        pictures(folder / kind / "test", 80, seed=2, marked=marked)
        for seed in range(6) if kind == "clean" else range(3, 6):
            write_graph(folder / f"{kind}-{seed}.onnx", fit(training, seed), f"finetune.seed{seed}")
    return folder


def compared(place: Path, kind: str, seeds: list[int], out: Path) -> Evaluation:
    """The deployed head (clean, seed 0) against others, on the test pictures of their kind."""
    after = [place / f"{kind}-{seed}.onnx" for seed in seeds]
    item = ArchitectureConfig(before=place / "clean-0.onnx", after=after)
    plan = make_plan([item], Data(place / kind / "test" / "manifest.csv"), Options(map_size=(32, 32)))
    return evaluate_plan(plan, Settings(out, report=False, progress=False, resamples=1000)).evaluation


@pytest.mark.slow
def test_spoiled_fine_tunes_are_stopped_and_honest_ones_pass(place: Path, tmp_path: Path) -> None:
    accepted = compared(place, "clean", [1, 2], tmp_path / "accepted")
    (tmp_path / "policy.toml").write_text(propose(accepted, "digest", "accepted"), encoding="utf-8")
    policy = read_policy(tmp_path / "policy.toml")
    assert sum(rule.metric == "iou_top20" and rule.statistic == "mean" for rule in policy.rule) >= 2
    found = {
        (kind, seed): compared(place, kind, [seed], tmp_path / f"{kind}-{seed}")
        for kind in ("clean", "marked")
        for seed in (3, 4, 5)
    }
    accuracy = {place: result.by_key[result.pairs[0].after].quality["accuracy"].mean for place, result in found.items()}
    assert min(accuracy.values()) > 0.9
    assert max(accuracy.values()) - min(accuracy.values()) < 0.1
    codes = {place: judge(result, policy).exit_code for place, result in found.items()}
    assert codes == {(kind, seed): int(kind == "marked") for kind, seed in found}
