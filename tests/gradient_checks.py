"""One operator in a graph, differentiated by the engine and by central differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from export import passes
from export.autodiff.emit import Emitter
from export.autodiff.engine import backward
from tests.literal_operators import LITERAL

STEP = 1e-5  # of the central differences
TOLERANCE = 1e-7  # relative: the differences' own error is of order STEP^2 plus 1e-16 / STEP


@dataclass(frozen=True)
class Case:
    """An operator with its inputs. `active` inputs are variables, the others constants of the graph.

    `dynamic` declares the first axis of the active inputs as unknown.
    """

    operator: str
    inputs: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    active: tuple[int, ...] = (0,)
    outputs: int = 1
    dynamic: bool = False
    opset: int = 18
    label: str = ""

    @property
    def id(self) -> str:
        shapes = "x".join(str(np.shape(value)).replace(" ", "") for value in self.inputs if value is not None)
        extra = ",".join(f"{key}={value}" for key, value in self.attributes.items())
        return "-".join(filter(None, [self.operator, self.label, shapes, extra, f"opset{self.opset}"]))[:110]


@dataclass
class Built:
    """The model of a case, and the arrays of its variables by name."""

    model: ir.Model
    variables: dict[str, np.ndarray]
    outputs: list[ir.Value]


def evaluator(model: ir.Model) -> ReferenceEvaluator:
    """The float64 witness: `onnx.reference`, with literal operators where it departs from the specification."""
    return ReferenceEvaluator(ir.to_proto(model), new_ops=LITERAL)


def build(case: Case, dtype: type = np.float64) -> Built:
    """A graph of one node: active inputs are graph inputs x0, x1 ..., the others initializers.

    Types are not checked: some operators are specified for float32 alone, and are differentiated in float64, too.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": case.opset}, name="case")
    op = Emitter(graph, "case")
    variables, values = {}, []
    for index, given in enumerate(case.inputs):
        values.append(_value(graph, op, case, index, given, dtype, variables))
    made = op.__getattr__(case.operator)(*values, **case.attributes, _outputs=case.outputs)
    outputs = [made] if case.outputs == 1 else list(made)
    for number, value in enumerate(outputs):
        value.name = f"y{number}"
        graph.outputs.append(value)
    model = ir.Model(graph, ir_version=8)
    passes.infer_shapes(model, check_type=False)
    return Built(model, variables, list(graph.outputs))


def _value(graph: Any, op: Emitter, case: Case, index: int, given: Any, dtype: type, variables: dict) -> Any:
    if given is None:
        return None
    array = np.asarray(given)
    array = array.astype(dtype) if array.dtype == np.float64 else array  # float32 stays: scales must be
    if index not in case.active:
        return op.constant(array)
    shape = ["N", *array.shape[1:]] if case.dynamic else list(array.shape)
    value = ir.val(f"x{index}", ir.DataType.from_numpy(array.dtype), shape)
    graph.inputs.append(value)
    variables[f"x{index}"] = array
    return value


def add_gradients(built: Built, cotangents: Sequence[np.ndarray], case: Case) -> ir.Model:
    """Append the gradients dx0, dx1 ... of sum(cotangent * y), all outputs added up to one score."""
    graph = built.model.graph
    op = Emitter(graph)
    terms = [
        op.ReduceSum(op.Mul(value, op.constant(g)), keepdims=0)
        for value, g in zip(built.outputs, cotangents, strict=True)
        if value.dtype == ir.DataType.from_numpy(cotangents[0].dtype)
    ]
    score = op.Sum(*terms) if len(terms) > 1 else terms[0]
    score.name = "score"
    graph.outputs.clear()
    graph.outputs.append(score)
    score.type = ir.TensorType(ir.DataType.from_numpy(cotangents[0].dtype))
    passes.infer_shapes(built.model, check_type=False)
    wrt = list(graph.inputs)
    one = op.constant(np.ones((), cotangents[0].dtype))
    for value, gradient in zip(wrt, backward(graph, case.opset, score, one, wrt, op), strict=True):
        output = op.Identity(gradient)
        output.name, output.type, output.shape = f"d{value.name}", value.type, value.shape
        graph.outputs.append(output)
    passes.infer_shapes(built.model, check_type=False)
    return built.model


def engine_gradients(case: Case, cotangents: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """{x0: gradient ...} by the engine, run in float64."""
    built = build(case)
    model = add_gradients(built, cotangents, case)
    names = [f"d{name}" for name in built.variables]
    found = evaluator(model).run(names, built.variables)
    return dict(zip(built.variables, found, strict=True))


def _central(score: Callable[[dict], float], variables: dict[str, np.ndarray], name: str) -> np.ndarray:
    base = variables[name]
    gradient = np.zeros(base.shape)
    for place in np.ndindex(base.shape):
        low, high = base.copy(), base.copy()
        low[place] -= STEP
        high[place] += STEP
        gradient[place] = (score({**variables, name: high}) - score({**variables, name: low})) / (2 * STEP)
    return gradient


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])


def output_cotangents(case: Case) -> list[np.ndarray]:
    """Seeded random cotangents in the shapes of the outputs."""
    return Derivation(case).cotangents


class Derivation:
    """What is computed of one case, each model made once: the operator and its gradients in float64 and in float32."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.exact = build(case)
        self.forward = evaluator(self.exact.model)
        self.values: list[np.ndarray] = list(self.forward.run(None, self.exact.variables))
        rng = np.random.default_rng(99)
        self.cotangents = [rng.uniform(-1, 1, np.shape(y)) for y in self.values]

    @cached_property
    def narrow(self) -> Built:
        """The operator in float32."""
        return build(self.case, np.float32)

    @cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """{x0: gradient ...} by the engine, run in float64."""
        return engine_gradients(self.case, self.cotangents)

    def gradients_at(self, opset: int) -> dict[str, np.ndarray]:
        """The same with the operator and its rule of another opset."""
        if opset == self.case.opset:
            return self.gradients
        return engine_gradients(replace(self.case, opset=opset), self.cotangents)

    def numerical_gradients(self) -> dict[str, np.ndarray]:
        """{x0: gradient ...} by central differences of the forward pass alone."""

        def score(variables: dict[str, np.ndarray]) -> float:
            found = self.forward.run(None, variables)
            return sum(
                float((y * g).sum()) for y, g in zip(found, self.cotangents, strict=True) if y.dtype == np.float64
            )

        return {name: _central(score, self.exact.variables, name) for name in self.exact.variables}

    def values_in_onnxruntime(self) -> list[np.ndarray]:
        """The forward pass in float32 by ONNX Runtime."""
        return _session(self.narrow.model).run(None, self.narrow.variables)

    def gradients_in_onnxruntime(self, cotangents: Sequence[np.ndarray] = ()) -> dict[str, np.ndarray]:
        """{x0: gradient ...} by the engine, run in float32 by ONNX Runtime; call it last, it adds to `narrow`."""
        narrow = [g.astype(np.float32) if g.dtype == np.float64 else g for g in cotangents or self.cotangents]
        model = add_gradients(self.narrow, narrow, self.case)
        variables = self.narrow.variables
        return dict(zip(variables, _session(model).run([f"d{name}" for name in variables], variables), strict=True))
