"""What is a logit: final steps cut from foreign graphs, outputs judged by their numbers, one-output heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.proof.scores import Probabilities, probabilities_in
from export.sources.onnx import Choices, Preprocessing, export_onnx
from export.write import Request
from harness.common.errors import CannotEvaluateError, InputError
from harness.models.session import Model

PLAIN = Preprocessing(1 / 255)
CONSTANTS = {
    "one": np.float32(1), "minus": np.float32(-1), "half": np.float32(0.5), "two": np.float32(2),
    "hundred": np.float32(100), "low": np.float32(1e-7), "high": np.float32(1 - 1e-7), "tenth": np.float32(0.1),
    "axis": np.array([1]), "zero": np.array(0), "first": np.array([0]), "second": np.array([1]),
    "pair": np.array([-1, 2]), "triple": np.array([-1, 3]),
}  # fmt: skip

Step = tuple[Any, ...]  # (operator, inputs, output, attributes); z are the logits, p the output
MAX: list[Step] = [("ReduceMax", "z axis", "m", {"keepdims": 1}), ("Sub", "z m", "d", {})]
EXP: list[Step] = [("Exp", "d", "e", {}), ("ReduceSum", "e axis", "s", {"keepdims": 1})]
NEGATED: list[Step] = [("Neg", "z", "n", {}), ("Exp", "n", "e", {}), ("Add", "e one", "b", {})]
SIGMOID: list[Step] = [("Sigmoid", "z", "q", {})]
SOFTMAX: list[Step] = [("Softmax", "z", "q", {"axis": 1})]


def classifier(path: Path, steps: Sequence[Step], classes: int = 3, rank: int = 2, seed: int = 0) -> Path:
    """Convolution, rectifier, pooling, linear head (z), and the steps that end in p."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(4, classes)).astype(np.float32),
        "other": rng.normal(size=(4, classes)).astype(np.float32),
        **CONSTANTS,
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["z"]),
        *(helper.make_node(name, inputs.split(), [out], **attributes) for name, inputs, out, attributes in steps),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 16, 12])],
        [helper.make_tensor_value_info("p" if steps else "z", TensorProto.FLOAT, ["n", *[None] * (rank - 1)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items() if name in used],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def pictures(count: int = 4) -> np.ndarray:
    return np.random.default_rng(5).uniform(0, 255, (count, 1, 16, 12)).astype(np.float32).repeat(3, axis=1)


def said_by(path: Path, tensor: str = "p") -> np.ndarray:
    """A tensor of the file, by ONNX's own reference implementation."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return onnx.reference.ReferenceEvaluator(model).run(None, {"pixels": pictures() / np.float32(255)})[0]


def exported(path: Path, **asked: Any) -> Model:
    out = path.with_suffix(".exported.onnx")
    assert all(item.passes for item in export_onnx(path, Request(["features"], out, **asked), PLAIN))
    return Model.open(out)


def explained(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, gradients) for class 1 of each picture."""
    found = model.explain(pictures(), np.ones(4, np.int64), ["features"])
    return model.metadata.probabilities(found.logits), found.layers["features"][1]


HEADS: dict[str, tuple[list[Step], str, int]] = {
    "softmax by Div": ([*MAX, *EXP, ("Div", "e s", "p", {})], "softmax", 3),
    "softmax by Reciprocal": ([*MAX, *EXP, ("Reciprocal", "s", "r", {}), ("Mul", "r e", "p", {})], "softmax", 3),
    "softmax without shift": (
        [("Exp", "z", "e", {}), ("ReduceSum", "e axis", "s", {"keepdims": 1}), ("Div", "e s", "p", {})], "softmax", 3),
    "softmax clipped": ([*SOFTMAX, ("Clip", "q low high", "p", {})], "softmax", 3),
    "softmax kept off zero": ([*SOFTMAX, ("Max", "q low", "p", {})], "softmax", 3),
    "softmax cast twice": (
        [*SOFTMAX, ("Cast", "q", "k", {"to": TensorProto.DOUBLE}), ("Cast", "k", "p", {"to": TensorProto.FLOAT})],
        "softmax", 3),
    "softmax reshaped": ([*SOFTMAX, ("Reshape", "q triple", "p", {})], "softmax", 3),
    "softmax in per cent": ([*SOFTMAX, ("Mul", "q hundred", "p", {})], "softmax", 3),
    "log of softmax": ([*SOFTMAX, ("Log", "q", "p", {})], "softmax", 3),
    "log of softmax kept off zero": ([*SOFTMAX, ("Add", "q low", "k", {}), ("Log", "k", "p", {})], "softmax", 3),
    "minus log-sum-exp": (
        [("ReduceLogSumExp", "z axis", "l", {"keepdims": 1}), ("Sub", "z l", "p", {})], "softmax", 3),
    "minus log of sum": ([*MAX, *EXP, ("Log", "s", "l", {}), ("Sub", "d l", "p", {})], "softmax", 3),
    "sigmoid by Reciprocal": ([*NEGATED, ("Reciprocal", "b", "p", {})], "multilabel", 3),
    "sigmoid by Div": ([*NEGATED, ("Div", "one b", "p", {})], "binary", 1),
    "sigmoid by Exp": ([("Exp", "z", "e", {}), ("Add", "one e", "b", {}), ("Div", "e b", "p", {})], "multilabel", 3),
    "sigmoid by Tanh": (
        [("Mul", "z half", "h", {}), ("Tanh", "h", "t", {}), ("Add", "t one", "b", {}), ("Mul", "half b", "p", {})],
        "multilabel", 3),
    "sigmoid by scaled Tanh": (
        [("Div", "z two", "h", {}), ("Tanh", "h", "t", {}), ("Mul", "t half", "b", {}), ("Add", "b half", "p", {})],
        "binary", 1),
    "sigmoid squeezed": ([*SIGMOID, ("Squeeze", "q axis", "p", {})], "binary", 1),
    "sigmoid's only column": ([*SIGMOID, ("Gather", "q zero", "p", {"axis": 1})], "binary", 1),
    "sigmoid clipped": ([*SIGMOID, ("Clip", "q low high", "p", {})], "multilabel", 3),
    "log of sigmoid": ([*SIGMOID, ("Log", "q", "p", {})], "multilabel", 3),
    "minus softplus": ([("Neg", "z", "n", {}), ("Softplus", "n", "s", {}), ("Neg", "s", "p", {})], "multilabel", 3),
}  # fmt: skip
BINARY: dict[str, tuple[list[Step], int]] = {  # ending, sign of the logit of class 1
    "1 - p, p": ([*SIGMOID, ("Sub", "one q", "o", {}), ("Concat", "o q", "p", {"axis": 1})], 1),
    "p, 1 - p": ([*SIGMOID, ("Sub", "one q", "o", {}), ("Concat", "q o", "p", {"axis": -1})], -1),
}


@pytest.mark.parametrize("name", HEADS)
def test_final_steps_are_cut_off(name: str, tmp_path: Path) -> None:
    """The product says the file's probabilities, and explains the same z as the network without its last steps."""
    steps, kind, classes = HEADS[name]
    path = classifier(tmp_path / "m.onnx", steps, classes)
    model = exported(path)
    assert (model.metadata.score_kind, model.metadata.explained) == (kind, "logit")
    probabilities, gradients = explained(model)
    said = said_by(path).reshape(4, -1)
    said = np.exp(said) if name.startswith(("log", "minus")) else said
    said = said / 100 if "per cent" in name else said
    np.testing.assert_allclose(probabilities[:, -said.shape[1] :], said, atol=1e-5)
    plain = exported(classifier(tmp_path / "plain.onnx", [], classes))
    np.testing.assert_allclose(gradients, explained(plain)[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", BINARY)
def test_two_columns_of_one_probability_are_a_binary_model(name: str, tmp_path: Path) -> None:
    steps, sign = BINARY[name]
    path = classifier(tmp_path / "m.onnx", steps, 1)
    model = exported(path, classes=["healthy", "ill"])
    assert model.metadata.score_kind == "binary"
    probabilities, gradients = explained(model)
    np.testing.assert_allclose(probabilities, said_by(path), atol=1e-6)
    plain = exported(classifier(tmp_path / "plain.onnx", [], 1))
    np.testing.assert_allclose(gradients, sign * explained(plain)[1], rtol=1e-5, atol=1e-7)


OTHER: list[Step] = [("MatMul", "f other", "y", {})]
MEAN: list[Step] = [
    *OTHER, *SOFTMAX, ("Softmax", "y", "r", {"axis": 1}), ("Add", "q r", "a", {}), ("Mul", "a half", "p", {}),
]  # fmt: skip
MEANS: list[Step] = [*OTHER, *SIGMOID, ("Sigmoid", "y", "r", {}), ("Add", "q r", "a", {}), ("Div", "a two", "p", {})]
UNRECOGNISED: dict[str, tuple[list[Step], int, str, str]] = {
    "mean of two softmax": (MEAN, 3, "lie in 0..1 and sum to 1", "softmax"),
    "mean in per cent": ([*MEAN[:-1], ("Mul", "a hundred", "p", {})], 3, "lie in 0..200 and sum to 200", "softmax"),
    "mean of two sigmoids": (MEANS, 3, "lie in 0..1", "multilabel"),
    "one mean of two sigmoids": (MEANS, 1, "lie in 0..1", "binary"),
    "softmax clipped hard": ([*SOFTMAX, ("Max", "q tenth", "p", {})], 3, "lie in 0..1", "multilabel"),
}


@pytest.mark.parametrize("name", UNRECOGNISED)
def test_probabilities_are_known_by_their_numbers(name: str, tmp_path: Path) -> None:
    steps, classes, how, kind = UNRECOGNISED[name]
    path = classifier(tmp_path / "m.onnx", steps, classes)
    sentence = f"m.onnx: its outputs {how} on every image, so they are probabilities, not logits; export it without its"
    with pytest.raises(InputError) as caught:
        exported(path)
    assert sentence in str(caught.value)
    assert "--probability" in str(caught.value)
    model = exported(path, probability=True)
    assert (model.metadata.score_kind, model.metadata.explained) == (kind, "probability")
    said = said_by(path)
    said = said / said.sum(axis=1, keepdims=True) if kind == "softmax" else said
    np.testing.assert_allclose(explained(model)[0][:, -classes:], said, atol=1e-5)


def test_the_gradient_of_a_probability_is_that_of_the_files_own_output(tmp_path: Path) -> None:
    """Central differences of the file's output, in float64."""
    path = classifier(tmp_path / "m.onnx", MEAN)
    _, gradients = explained(exported(path, probability=True))
    model = onnx.load(path)
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    features = said_by(path, "features").astype(np.float64)

    def score(a: np.ndarray) -> np.ndarray:
        heads = [np.exp(a.mean((2, 3)) @ weights[name]) for name in ("v", "other")]
        return sum(e / e.sum(axis=1, keepdims=True) for e in heads)[:, 1] / 2

    step = np.random.default_rng(0).normal(size=features.shape) * 1e-4
    slopes = (score(features + step) - score(features - step)) / 2
    np.testing.assert_allclose((gradients * step).sum(axis=(1, 2, 3)), slopes, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_logits_are_not_taken_for_probabilities(classes: int, flat: bool, tmp_path: Path) -> None:
    """Outputs of 0.5 and a little more lie in 0..1 on all ordinary images, but not on probes."""
    steps: list[Step] = [("Mul", "z low", "k", {}), ("Add", "k half", "p", {})]
    if flat and classes == 1:
        steps = [*steps[:1], ("Add", "k half", "j", {}), ("Squeeze", "j axis", "p", {})]
    path = classifier(tmp_path / "m.onnx", steps, classes)
    weights = onnx.load(path)
    for tensor in weights.graph.initializer:
        if tensor.name == "low":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(0.02), "low"))
    onnx.save(weights, path)
    model = exported(path)
    assert model.metadata.score_kind == ("binary" if classes == 1 else "softmax")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([[0.2, 0.8], [0.5, 0.5]], Probabilities(1.0)),
        ([[20, 80], [50, 50]], Probabilities(100.0)),
        ([[0.2, 0.9], [0.5, 0.5]], Probabilities(None)),
        ([[0.2], [0.5]], Probabilities(None)),
        ([[0.2], [1.1]], None),
        ([[-0.2], [0.1]], None),
        ([[-0.2, 1.2], [0.5, 0.5]], None),  # sums to 1, but outside 0..1
        ([[0.5, 0.5], [0.5, 0.5]], None),  # the same on every image: says nothing
        ([[np.nan, 0.5], [np.nan, 0.5]], None),
    ],
)
def test_how_numbers_are_judged(values: list, found: Probabilities | None) -> None:
    got = probabilities_in(np.array(values))
    assert (got is None) == (found is None)
    assert got is None or found is None or got.total == pytest.approx(found.total)


def test_what_looks_like_probabilities_is_logits_where_the_user_says_so(tmp_path: Path) -> None:
    path, out = classifier(tmp_path / "m.onnx", MEANS), tmp_path / "x.onnx"
    export_onnx(path, Request(["features"], out), PLAIN, None, Choices(logits=True))
    assert Model.open(out).metadata.score_kind == "softmax"


def test_a_misread_ending_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read from operators is held to the file's own numbers."""
    from export.graph import head
    from export.graph.final_steps import Cut, final_step

    def misread(value: Any) -> Cut | None:
        cut = final_step(value)
        return cut.complement if cut is not None else None

    monkeypatch.setattr(head, "final_step", misread)
    with pytest.raises(
        CannotEvaluateError, match=r"its output 'p' was taken for the probability of 'z', but they differ"
    ):
        exported(classifier(tmp_path / "m.onnx", [("Sigmoid", "z", "p", {})], 1))


def test_class_numbers_are_refused(tmp_path: Path) -> None:
    path = classifier(tmp_path / "m.onnx", [("ArgMax", "z", "p", {"axis": 1, "keepdims": 0})], rank=1)
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("p", TensorProto.INT64, ["n"]))
    onnx.save(model, path)
    with pytest.raises(InputError, match="'p' holds integers, not class scores; export the model without ArgMax"):
        exported(path)
