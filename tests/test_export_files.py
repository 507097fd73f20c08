"""Forms in which files come: fixed batches, computed shapes, fused operators, halves, integers, several ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from export.cli import cli
from export.sources.onnx import Choices, Preprocessing, export_onnx, list_layers
from export.write import Request
from harness.common.errors import CannotEvaluateError, InputError
from harness.models.session import Model

PLAIN = Preprocessing(1 / 255)
CHANNELS, SIZE, CLASSES = 4, (8, 6), 3


class Network:
    """A network under construction, with seeded weights; `save` writes it with the input `pixels`."""

    def __init__(self, batch: Any = "n", opset: int = 18, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)
        self.batch, self.opset = batch, opset
        self.input = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, *SIZE])
        self.outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])]

    def constant(self, array: Any, dtype: Any = None) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 0.5, shape), np.float32)

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        outputs = out.split()
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs[0]

    def features(self, source: str = "pixels") -> str:
        """(N, 4, 8, 6)."""
        made = self.add("Conv", source, self.weight(CHANNELS, 3, 3, 3), self.weight(CHANNELS), pads=[1] * 4)
        return self.add("Relu", made, out="features")

    def head(self, source: str) -> None:
        pooled = self.add("Flatten", self.add("GlobalAveragePool", source))
        self.add("MatMul", pooled, self.weight(CHANNELS, CLASSES), out="scores")

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "network", [self.input], self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return path


def pictures(count: int = 5, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 255, (count, 1, *size)).astype(np.float32).repeat(3, axis=1)


def exported(path: Path, layer: str = "features", choices: Choices | None = None, **asked: Any) -> Model:
    out = path.with_suffix(".exported.onnx")
    assert all(item.passes for item in export_onnx(path, Request([layer], out, **asked), PLAIN, None, choices))
    return Model.open(out)


def by_file(path: Path, images: np.ndarray, batch: int = 1) -> np.ndarray:
    """The first output of the file for each image, which fills the file's batch alone."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ready = images * np.float32(1 / 255)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one[None].repeat(batch, 0)})[0][:1] for one in ready])


def agrees(path: Path, model: Model, batch: int = 1) -> None:
    """The export says of five images at once what the file says of each."""
    layer = model.metadata.layers[0].name
    found = model.explain(pictures(), np.full(5, -1), [layer])
    np.testing.assert_allclose(found.logits, by_file(path, pictures(), batch), rtol=1e-4, atol=1e-5)
    assert len(found.layers[layer][0]) == 5


def attention(n: Network, heads: int = 2, tokens: int = 48, token: bool = False) -> None:
    """MultiheadAttention as PyTorch exports it for a batch of fixed size: (L, N, E), (L, N h, d), (L N, E)."""
    batch, width = n.batch, CHANNELS
    flat = n.add("Reshape", n.features(), n.integers(batch, width, tokens))
    x = n.add("Transpose", flat, perm=[0, 2, 1])
    if token:
        x = n.add("Concat", n.constant(np.repeat(n.rng.normal(size=(1, 1, width)), batch, 0), np.float32), x, axis=1)
        tokens += 1
    x = n.add("Transpose", x, perm=[1, 0, 2])  # (L, N, E)
    parts = []
    for _ in range(3):
        made = n.add("MatMul", x, n.weight(width, width))
        split = n.add("Reshape", made, n.integers(tokens, batch * heads, width // heads))
        parts.append(n.add("Transpose", split, perm=[1, 0, 2]))  # (N h, L, d)
    q, k, v = parts
    share = n.add("Softmax", n.add("MatMul", q, n.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    mixed = n.add("Transpose", n.add("MatMul", share, v), perm=[1, 0, 2])
    rows = n.add("Reshape", mixed, n.integers(tokens * batch, width))
    out = n.add("Reshape", n.add("Gemm", rows, n.weight(width, width)), n.integers(tokens, batch, width))
    read = n.add("Gather", out, n.constant(0, np.int64), axis=0)  # the first token of every image: (N, E)
    n.add("MatMul", read, n.weight(width, CLASSES), out="scores")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_of_attention_is_freed(batch: int, tmp_path: Path) -> None:
    n = Network(batch)
    attention(n)
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path), batch)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_with_a_class_token_is_freed(batch: int, tmp_path: Path) -> None:
    n = Network(batch)
    attention(n, token=True)
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path), batch)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_of_windows_is_freed(batch: int, tmp_path: Path) -> None:
    """(N, 8, 6, C) -> (N, 2, 4, 2, 3, C) -> (4 N, 12, C), something per window, and back."""
    n = Network(batch)
    last = n.add("Transpose", n.features(), perm=[0, 2, 3, 1])
    cut = n.add("Reshape", last, n.integers(batch, 2, 4, 2, 3, CHANNELS))
    windows = n.add("Reshape", n.add("Transpose", cut, perm=[0, 1, 3, 2, 4, 5]), n.integers(4 * batch, 12, CHANNELS))
    mean = n.add("ReduceMean", windows, n.integers(1), keepdims=1)
    mixed = n.add("Mul", windows, n.add("Sigmoid", mean))
    back = n.add("Reshape", mixed, n.integers(batch, 2, 2, 4, 3, CHANNELS))
    whole = n.add("Reshape", n.add("Transpose", back, perm=[0, 1, 3, 2, 4, 5]), n.integers(batch, *SIZE, CHANNELS))
    n.head(n.add("Transpose", whole, perm=[0, 3, 1, 2]))
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path), batch)


@pytest.mark.parametrize("batch", [1, 2])
def test_other_constants_of_a_fixed_batch_are_freed(batch: int, tmp_path: Path) -> None:
    """Expand, Resize by sizes, a summand of as many rows, Squeeze without axes."""
    n = Network(batch)
    wide = n.add("Resize", n.features(), "", "", n.integers(batch, CHANNELS, 16, 12), mode="nearest")
    summed = n.add("Add", wide, n.constant(np.full((batch, CHANNELS, 1, 1), 0.3), np.float32))
    grown = n.add("Expand", n.add("GlobalAveragePool", summed), n.integers(batch, CHANNELS, 1, 1))
    flat = n.add("Reshape", grown, n.integers(batch, CHANNELS)) if batch > 1 else n.add("Squeeze", grown)
    flat = flat if batch > 1 else n.add("Reshape", flat, n.integers(1, CHANNELS))
    n.add("MatMul", flat, n.weight(CHANNELS, CLASSES), out="scores")
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path), batch)


def test_a_network_that_reads_one_image_of_its_batch_is_refused(tmp_path: Path) -> None:
    n = Network(2)
    n.features()
    first = n.add("Slice", "features", n.integers(0), n.integers(1), n.integers(0))
    n.head(first)
    n.outputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(
        InputError, match=r"takes single images out of the batch of 2 that the file fixes; export the model"
    ):
        exported(n.save(tmp_path / "m.onnx"))


def test_a_batch_of_minus_one_is_free(tmp_path: Path) -> None:
    """As Paddle writes it."""
    n = Network(-1)
    n.head(n.features())
    path = n.save(tmp_path / "m.onnx")
    assert exported(path).metadata.layers[0].name == "features"


def test_shapes_computed_of_the_batch_are_known(tmp_path: Path) -> None:
    """PyTorch's channel shuffle: (N, C, h, w) -> (N, 2, C / 2, h, w), with every size computed."""
    n = Network()
    x = n.features()
    sizes = [n.add("Gather", n.add("Shape", x), n.constant(axis, np.int64)) for axis in range(4)]
    half = n.add("Div", sizes[1], n.constant(2, np.int64))
    ones = [n.add("Unsqueeze", size, n.integers(0)) for size in (sizes[0], half, sizes[2], sizes[3])]
    split = n.add("Concat", ones[0], n.integers(2), *ones[1:], axis=0)
    mixed = n.add("Transpose", n.add("Reshape", x, split), perm=[0, 2, 1, 3, 4])
    n.head(n.add("Reshape", mixed, n.add("Shape", x)))
    path = n.save(tmp_path / "m.onnx")
    model = exported(path, layer="auto")
    agrees(path, model)
    assert "Shape" not in {node.op_type for node in onnx.load(path.with_suffix(".exported.onnx")).graph.node}


@pytest.mark.parametrize("name", ["image", "target"])
def test_tensors_may_be_called_like_our_inputs(name: str, tmp_path: Path) -> None:
    n = Network()
    n.input.name = name
    n.add("Relu", n.features(name), out="target" if name == "image" else "image")
    n.weights.append(numpy_helper.from_array(n.rng.normal(size=(CHANNELS, CLASSES)).astype(np.float32), "unused"))
    n.head(n.nodes[-1].output[0])
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("opset", [12, 18, 22])
def test_a_last_window_that_begins_in_the_padding_does_not_count(
    operator: str, kernel: int, stride: int, opset: int, tmp_path: Path
) -> None:
    n = Network(opset=opset)
    pooled = n.add(
        operator, n.features(), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[1] * 4, ceil_mode=1, out="pooled"
    )
    n.head(n.add("Relu", pooled))
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))


FUSED: dict[str, Callable[[Network, str], str]] = {
    "Gelu": lambda n, x: n.add("Gelu", x, domain="com.microsoft"),
    "BiasGelu": lambda n, x: n.add("BiasGelu", rows(n, x), n.weight(CHANNELS), domain="com.microsoft"),
    "FastGelu": lambda n, x: n.add("FastGelu", rows(n, x), n.weight(CHANNELS), domain="com.microsoft"),
    "QuickGelu": lambda n, x: n.add("QuickGelu", x, alpha=1.5, domain="com.microsoft"),
    "FusedConv": lambda n, x: n.add(
        "FusedConv", x, n.weight(CHANNELS, CHANNELS, 3, 3), n.weight(CHANNELS), x, pads=[1] * 4,
        activation="LeakyRelu", activation_params=[0.2], domain="com.microsoft",
    ),
    "FusedConv with Clip": lambda n, x: n.add(
        "FusedConv", x, n.weight(CHANNELS, CHANNELS, 1, 1), activation="Clip", activation_params=[0.0, 6.0],
        domain="com.microsoft",
    ),
    "FusedMatMul": lambda n, x: n.add(
        "FusedMatMul", n.weight(CHANNELS, 5), rows(n, x), transA=0, transB=1, alpha=0.5, domain="com.microsoft"
    ),
    "SkipLayerNormalization": lambda n, x: n.add(
        "SkipLayerNormalization", tokens(n, x), tokens(n, x), n.weight(CHANNELS), n.weight(CHANNELS), epsilon=1e-3,
        domain="com.microsoft",
    ),
    "SimplifiedLayerNormalization": lambda n, x: n.add(
        "SimplifiedLayerNormalization", tokens(n, x), n.weight(CHANNELS)
    ),
}  # fmt: skip


def tokens(n: Network, x: str) -> str:
    """(N, L, C)."""
    return n.add("Transpose", n.add("Reshape", x, n.integers(0, CHANNELS, -1)), perm=[0, 2, 1])


def rows(n: Network, x: str) -> str:
    """(N, h, w, C)."""
    return n.add("Transpose", x, perm=[0, 2, 3, 1])


@pytest.mark.parametrize("name", [name for name in FUSED if name != "FusedMatMul"])
def test_fused_operators_are_spelled_out(name: str, tmp_path: Path) -> None:
    n = Network()
    made = FUSED[name](n, n.features())
    flat = n.add("Reshape", made, n.integers(0, -1))
    n.add("MatMul", flat, n.weight(CHANNELS * SIZE[0] * SIZE[1], CLASSES), out="scores")
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))
    assert {node.domain for node in onnx.load(path.with_suffix(".exported.onnx")).graph.node} == {""}


def test_a_fused_product_is_spelled_out(tmp_path: Path) -> None:
    n = Network()
    x = tokens(n, n.features())
    share = n.add("FusedMatMul", x, x, transA=1, alpha=0.1, domain="com.microsoft")  # (N, C, C)
    flat = n.add("Reshape", n.add("Tanh", share), n.integers(0, -1))
    n.add("FusedGemm", flat, n.weight(CHANNELS * CHANNELS, CLASSES), n.weight(CLASSES), activation="Tanh", out="scores",
          domain="com.microsoft")  # fmt: skip
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))


def test_fused_operators_without_a_standard_form_are_named(tmp_path: Path) -> None:
    n = Network()
    made = n.add("Attention", tokens(n, n.features()), n.weight(CHANNELS, 12), n.weight(12), num_heads=2,
                 domain="com.microsoft")  # fmt: skip
    n.add("MatMul", n.add("ReduceMean", made, n.integers(1), keepdims=0), n.weight(CHANNELS, CLASSES), out="scores")
    with pytest.raises(
        InputError, match=r"fused operators of com\.microsoft that have no standard form here \(Attention\)"
    ):
        exported(n.save(tmp_path / "m.onnx"))


def test_one_of_several_outputs(tmp_path: Path) -> None:
    n = Network()
    n.head(n.features())
    n.outputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", CHANNELS, *SIZE]))
    path = n.save(tmp_path / "m.onnx")
    with pytest.raises(
        InputError, match="has the outputs scores, features; say which holds the class scores with --output"
    ):
        exported(path)
    with pytest.raises(InputError, match="has no output 'logits'; it has scores, features"):
        exported(path, choices=Choices(output="logits"))
    agrees(path, exported(path, choices=Choices(output="scores")))


def test_inputs_that_nothing_reads_are_dropped(tmp_path: Path) -> None:
    n = Network()
    n.head(n.features())
    path = n.save(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]))
    onnx.save(model, path)
    assert exported(path).metadata.layers[0].name == "features"


def test_two_inputs_that_are_read_are_refused(tmp_path: Path) -> None:
    n = Network()
    n.head(n.add("Add", n.features(), "age"))
    path = n.save(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1, 1, 1]))
    onnx.save(model, path)
    with pytest.raises(InputError, match="has the inputs pixels, age; expected one image"):
        exported(path)


def test_a_free_height_and_width_is_asked_for(tmp_path: Path) -> None:
    n = Network()
    n.input = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, "h", "w"])
    n.head(n.features())
    path = n.save(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="its input has a free height; say which it is with --input-size"):
        exported(path)
    model = exported(path, choices=Choices(size=(10, 12)))
    assert model.metadata.input_size == (10, 12)
    done = CliRunner().invoke(cli, ["layers", str(path), "--input-size", "16"])
    assert "4 x 16 x 16" in done.output


def test_a_size_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    n = Network()
    n.head(n.features())
    with pytest.raises(InputError, match=r"its input has the height 8, not 9 \(--input-size\)"):
        exported(n.save(tmp_path / "m.onnx"), choices=Choices(size=(9, 6)))


@pytest.mark.parametrize("text", ["x", "0", "12x", "axb", "-4"])
def test_sizes_are_numbers(text: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["onnx", "m.onnx", "--out", str(tmp_path / "x"), f"--input-size={text}"])
    assert isinstance(done.exception, InputError)
    assert "--input-size takes a size such as 224" in str(done.exception)


def test_the_layout_follows_from_where_channels_can_be(tmp_path: Path) -> None:
    n = Network()
    n.input = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", *SIZE, 3])
    n.head(n.features(n.add("Transpose", "pixels", perm=[0, 3, 1, 2])))
    path = n.save(tmp_path / "m.onnx")
    model = exported(path)
    assert model.metadata.input_size == SIZE
    assert str(model.metadata.preprocessing).endswith("nhwc")


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
def test_pixels_as_whole_numbers(kind: int, tmp_path: Path) -> None:
    n = Network()
    n.input = helper.make_tensor_value_info("pixels", kind, ["n", 3, *SIZE])
    scaled = n.add("Mul", n.add("Cast", "pixels", to=TensorProto.FLOAT), n.constant(1 / 255, np.float32))
    n.head(n.features(scaled))
    path = n.save(tmp_path / "m.onnx")
    out = tmp_path / "x.onnx"
    export_onnx(path, Request(["features"], out), Preprocessing())
    grey = pictures().round()
    found = Model.open(out).explain(grey, np.full(5, -1), ["features"]).logits
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    whole = grey.astype(np.uint8 if kind == TensorProto.UINT8 else np.int32)
    np.testing.assert_allclose(found, session.run(None, {"pixels": whole})[0], rtol=1e-4, atol=1e-5)


def in_precision(path: Path, kind: type, whole: bool) -> Path:
    """A file in another precision throughout, or with weights in it that a Cast makes float32."""
    model = onnx.load(path)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    for tensor in weights:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
    if whole:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    else:
        casts = [helper.make_node("Cast", [t.name], [f"{t.name}/single"], to=TensorProto.FLOAT) for t in weights]
        names = {t.name for t in weights}
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = f"{name}/single" if name in names else name
        nodes = [*casts, *model.graph.node]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(kept)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("kind", "rounding"), [(np.float16, 5e-3), (np.float64, 1e-5)])
def test_another_precision_becomes_float32(kind: type, rounding: float, whole: bool, tmp_path: Path) -> None:
    """ONNX's own definition is the witness: ONNX Runtime convolves no doubles."""
    n = Network()
    n.head(n.features())
    path = in_precision(n.save(tmp_path / "m.onnx"), kind, whole)
    found = exported(path).explain(pictures(), np.full(5, -1), ["features"]).logits
    pixels = (pictures() / 255).astype(kind if whole else np.float32)
    said = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"pixels": pixels})[0]
    np.testing.assert_allclose(found, said, rtol=0, atol=rounding if whole else 1e-5)


@pytest.mark.filterwarnings("error")
def test_the_lowest_double_stays_finite(tmp_path: Path) -> None:
    """Masks are filled with it: as minus infinity it would make NaN of 0 times itself."""
    n = Network()
    wide, lowest = n.add("Cast", n.features(), to=TensorProto.DOUBLE), n.constant(np.finfo(np.float64).min, np.float64)
    n.head(n.add("Cast", n.add("Max", wide, lowest), to=TensorProto.FLOAT))
    model = exported(n.save(tmp_path / "m.onnx"))
    plain = Network()
    plain.head(plain.features())
    np.testing.assert_allclose(
        model.explain(pictures(), np.full(5, -1), ["features"]).logits,
        exported(plain.save(tmp_path / "plain.onnx")).explain(pictures(), np.full(5, -1), ["features"]).logits,
        rtol=1e-5,
    )


def test_a_model_that_needs_double_precision_is_refused(tmp_path: Path) -> None:
    """A difference of 1e-9 from 1 is none in float32."""
    n = Network()
    wide = n.add("Cast", n.features(), to=TensorProto.DOUBLE)
    near = n.add("Add", n.add("Mul", wide, n.constant(1e-9, np.float64)), n.constant(1.0, np.float64))
    back = n.add("Mul", n.add("Sub", near, n.constant(1.0, np.float64)), n.constant(1e9, np.float64))
    n.head(n.add("Cast", back, to=TensorProto.FLOAT))
    path = n.save(tmp_path / "m.onnx")
    with pytest.raises(CannotEvaluateError, match=r"m\.onnx: computes something else in float32 than in its own"):
        export_onnx(path, Request(["features"], tmp_path / "x.onnx"), PLAIN)
    assert not (tmp_path / "x.onnx").exists()


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    n = Network()
    n.head(n.add("Swish", n.features(), domain="mine"))
    path = n.save(tmp_path / "m.onnx")
    model = onnx.load(path)
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    model.functions.append(helper.make_function("mine", "Swish", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, path)
    agrees(path, exported(path))


@pytest.mark.parametrize("by_shape", [True, False])
def test_a_branch_with_a_known_condition_is_taken(by_shape: bool, tmp_path: Path) -> None:
    """PyTorch writes `squeeze` as an If on the size of the axis."""
    n = Network()
    pooled = n.add("GlobalAveragePool", n.features())
    size = n.add("Gather", n.add("Shape", pooled), n.integers(2))
    condition = n.add("Equal", size, n.integers(1)) if by_shape else n.constant([True])
    yes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
        helper.make_node("Squeeze", [pooled, "axes"], ["a"]),
    ]
    no = [helper.make_node("Identity", [pooled], ["b"])]
    branches = {
        f"{name}_branch": helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=out)])
        for name, nodes, out in (("then", yes, "a"), ("else", no, "b"))
    }
    flat = n.add("If", condition, **branches)
    n.add("MatMul", flat, n.weight(CHANNELS, CLASSES), out="scores")
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))


def test_scales_of_groups_become_scales_of_channels(tmp_path: Path) -> None:
    """GroupNormalization of opset 18, which ONNX Runtime does not compute: ONNX's reference is the witness."""
    n = Network(opset=18)
    normed = n.add("GroupNormalization", n.features(), n.weight(2), n.weight(2), num_groups=2)
    n.head(normed)
    path = n.save(tmp_path / "m.onnx")
    model = exported(path, choices=Choices(logits=True))  # normalised, so that they hardly leave 0..1
    found = model.explain(pictures(), np.full(5, -1), ["features"]).logits
    (said,) = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"pixels": pictures() / np.float32(255)})
    np.testing.assert_allclose(found, said, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("opset", "mode"), [(18, "bilinear"), (20, "linear")])
def test_a_map_sampled_at_the_places_of_a_grid(opset: int, mode: str, tmp_path: Path) -> None:
    n = Network(opset=opset)
    places = np.random.default_rng(3).uniform(-1.1, 1.1, (1, 5, 4, 2))
    batch = n.add("Shape", n.features(), start=0, end=1)
    grid = n.add("Expand", n.constant(places, np.float32), n.add("Concat", batch, n.integers(1, 1, 1), axis=0))
    n.head(n.add("GridSample", "features", grid, mode=mode))
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))


def test_cubic_resizing_and_overlapping_blocks(tmp_path: Path) -> None:
    n = Network()
    factors = n.constant([1, 1, 1.5, 0.5], np.float32)
    resized = n.add("Resize", n.features(), "", factors, mode="cubic", antialias=1)  # (N, 4, 12, 3)
    blocks = n.add("Reshape", resized, n.integers(0, CHANNELS, 36))
    summed = n.add("Col2Im", blocks, n.integers(7, 7), n.integers(2, 2))  # (N, 1, 7, 7)
    n.add("MatMul", n.add("Flatten", summed), n.weight(49, CLASSES), out="scores")
    path = n.save(tmp_path / "m.onnx")
    agrees(path, exported(path))


def test_the_model_is_not_overwritten(tmp_path: Path) -> None:
    n = Network()
    n.head(n.features())
    path = n.save(tmp_path / "m.onnx")
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=r"m\.onnx: is the model to be exported; write the exported graph to another file"
    ):
        export_onnx(path, Request(["features"], tmp_path / "." / "m.onnx"), PLAIN)
    assert path.read_bytes() == before


def test_operators_of_other_domains_are_named(tmp_path: Path) -> None:
    n = Network()
    n.head(n.add("Magic", n.features(), domain="elsewhere"))
    path = n.save(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"operators that are not ONNX's own \(elsewhere::Magic\)"):
        exported(path)


@pytest.mark.parametrize("what", ["Dropout", "BatchNormalization"])
def test_a_file_in_training_mode_is_refused(what: str, tmp_path: Path) -> None:
    n = Network()
    if what == "Dropout":
        made = n.add("Dropout", n.features(), n.constant(0.5, np.float32), n.constant(True))
    else:
        ones = [n.constant(np.ones(CHANNELS), np.float32) for _ in range(4)]
        made = n.add("BatchNormalization", n.features(), *ones, training_mode=1, out="normed mean var")
    n.head(made)
    with pytest.raises(
        InputError, match=r"is in training mode, so that its output is random; export it after model\.eval"
    ):
        exported(n.save(tmp_path / "m.onnx"))


def listed(path: Path) -> list[str]:
    return [row[0] for row in list_layers(path, PLAIN)]


def test_a_mirrored_branch_is_not_taken_for_the_map(tmp_path: Path) -> None:
    """A network on the picture and on its mirror image: the maps of the second lie the other way round."""
    n = Network()
    kernel, head = n.weight(CHANNELS, 3, 3, 3), n.weight(CHANNELS, CLASSES)
    mirrored = n.add("Slice", "pixels", n.integers(-1), n.integers(-(2**60)), n.integers(3), n.integers(-1))
    ends = []
    for source, out in (("pixels", "straight"), (mirrored, "mirrored")):
        made = n.add("Relu", n.add("Conv", source, kernel, pads=[1] * 4), out=out)
        ends.append(n.add("MatMul", n.add("Flatten", n.add("GlobalAveragePool", made)), head))
    n.add("Add", *ends, out="scores")
    path = n.save(tmp_path / "m.onnx")
    model = exported(path, layer="auto")
    assert [layer.name for layer in model.metadata.layers] == ["straight"]


def test_a_map_that_breaks_the_pictures_proportions_is_not_taken(tmp_path: Path) -> None:
    """(8, 6) -> (4, 3), as the picture; -> (2, 3), pooled along one axis."""
    n = Network()
    n.add("MaxPool", n.features(), kernel_shape=[2, 2], strides=[2, 2], out="faithful")
    n.head(n.add("AveragePool", "faithful", kernel_shape=[2, 1], strides=[2, 1], out="flat"))
    path = n.save(tmp_path / "m.onnx")
    assert [layer.name for layer in exported(path, layer="auto").metadata.layers] == ["faithful"]


def test_what_attention_compares_and_what_precedes_all_weights_is_no_map(tmp_path: Path) -> None:
    n = Network(opset=20)
    n.input = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 16, 16])
    patches = n.add("Conv", n.add("Sub", "pixels", n.constant([[[[0.5]]]], np.float32), out="shifted"),
                    n.weight(CHANNELS, 3, 4, 4), strides=[4, 4], out="patches")  # fmt: skip
    x = tokens(n, patches)  # (N, 16, C)
    heads = n.add("Transpose", n.add("Reshape", x, n.integers(0, 16, 2, 2)), perm=[0, 2, 1, 3])
    compared = n.add("MatMul", heads, n.add("Transpose", heads, perm=[0, 1, 3, 2]), out="compared")  # (N, 2, 16, 16)
    share = n.add("Softmax", n.add("Mul", compared, n.constant(0.5, np.float32)), axis=-1, out="share")
    mixed = n.add("Transpose", n.add("MatMul", share, heads), perm=[0, 2, 1, 3])
    back = n.add("Reshape", mixed, n.integers(0, 16, CHANNELS), out="mixed")
    n.add("MatMul", n.add("ReduceMean", back, n.integers(1), keepdims=0), n.weight(CHANNELS, CLASSES), out="scores")
    found = listed(n.save(tmp_path / "m.onnx"))
    assert "patches" in found
    assert "mixed" in found
    assert not {"shifted", "compared", "share"} & set(found)


@pytest.mark.parametrize("layer", ["image", "last=image"])
def test_the_picture_itself_is_a_layer(layer: str, tmp_path: Path) -> None:
    """The gradient down to the grey levels, of three equal channels each."""
    n = Network()
    n.head(n.features())
    model = exported(n.save(tmp_path / "m.onnx"), layer=layer)
    label = model.metadata.layers[0].role or model.metadata.layers[0].name
    assert label == ("last" if "=" in layer else "image")
    images = pictures(2)
    activations, gradients = model.explain(images, np.array([0, 2]), [label]).layers[label]
    np.testing.assert_array_equal(activations, images)
    step = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    scores = [model.explain(images + sign * step, np.zeros(2, int), [label]).logits[[0, 1], [0, 2]] for sign in (1, -1)]
    slopes = (scores[0] - scores[1]) / 2
    np.testing.assert_allclose((gradients * step).sum(axis=(1, 2, 3)), slopes, rtol=0.05, atol=1e-3)


def test_the_picture_and_a_map_at_once(tmp_path: Path) -> None:
    n = Network()
    n.head(n.features())
    path, out = n.save(tmp_path / "m.onnx"), tmp_path / "x.onnx"
    assert all(item.passes for item in export_onnx(path, Request(["image", "auto"], out), PLAIN))
    assert [layer.name for layer in Model.open(out).metadata.layers] == ["image", "features"]
