"""CAM layers of foreign graphs that are no (N, C, h, w) maps: tokens, channels last; names and roles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from export.autodiff import engine
from export.cli import cli
from export.graph.arrangements import Arrangement, arrangement_of
from export.sources.onnx import Preprocessing, export_onnx, list_layers
from export.write import Request
from harness.common.errors import CannotEvaluateError, InputError
from harness.models.session import Model

WIDTH, PATCH, IMAGE = 6, 4, (16, 12)
GRID = (IMAGE[0] // PATCH, IMAGE[1] // PATCH)  # 4 x 3
COUNT = GRID[0] * GRID[1]
PLAIN = Preprocessing(1 / 255)
SCOPE = "pkg.torch.onnx.name_scopes"


class Graph:
    """A graph under construction; weights are seeded."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 0.4, shape).astype(np.float32))

    def constant(self, array: object) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, out: str = "", module: str = "", **attributes: object) -> str:
        out = out or f"t{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [out], name=out, **attributes)
        if module:
            node.metadata_props.add(key=SCOPE, value=str(["", module, out]))
        self.nodes.append(node)
        return out

    def save(self, path: Path, classes: int = 3) -> Path:
        image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, *IMAGE])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])
        graph = helper.make_graph(self.nodes, "vision", [image], [scores], self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
        return path


def patches(g: Graph) -> str:
    """(N, WIDTH, 4, 3)."""
    return g.add("Conv", "pixels", g.weight(WIDTH, 3, PATCH, PATCH), strides=[PATCH, PATCH], out="patches")


def normalised(g: Graph, x: str, out: str, module: str = "") -> str:
    return g.add("LayerNormalization", x, g.weight(WIDTH), g.weight(WIDTH), out=out, module=module)


def attended(g: Graph, x: str, number: int) -> str:
    """One block: x + softmax(q k) v of the normalised tokens."""
    inner = normalised(g, x, f"norm{number}", f"blocks.{number}.norm")
    q, k, v = (g.add("MatMul", inner, g.weight(WIDTH, WIDTH)) for _ in range(3))
    share = g.add("Softmax", g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    return g.add("Add", x, g.add("MatMul", share, v), out=f"block{number}", module=f"blocks.{number}")


def transformer(path: Path, class_token: bool = True, extra: int = 1) -> Path:
    """Patches as tokens, two attention blocks; read from the class token, or from the mean of all."""
    g = Graph()
    flat = g.add("Reshape", patches(g), g.constant(np.array([0, WIDTH, -1])))
    tokens = g.add("Transpose", flat, perm=[0, 2, 1], out="tokens")
    if class_token:
        batch = g.add("Shape", tokens, start=0, end=1)
        shape = g.add("Concat", batch, g.constant(np.array([extra, WIDTH])), axis=0)
        tokens = g.add("Concat", g.add("Expand", g.weight(1, extra, WIDTH), shape), tokens, axis=1, out="all_tokens")
    last = normalised(g, attended(g, attended(g, tokens, 0), 1), "norm")
    if class_token:
        read = g.add("Gather", last, g.constant(np.int64(0)), axis=1)
    else:
        read = g.add("ReduceMean", last, g.constant(np.array([1])), keepdims=0)
    g.add("MatMul", read, g.weight(WIDTH, 3), out="scores")
    return g.save(path)


def channels_last(path: Path) -> Path:
    """As ConvNeXt or Swin: maps (N, h, w, C) normalised over their last axis, with a skip."""
    g = Graph()
    turned = g.add("Transpose", patches(g), perm=[0, 2, 3, 1], out="turned")
    inner = g.add("Gelu", g.add("MatMul", normalised(g, turned, "norm0"), g.weight(WIDTH, WIDTH)))
    added = g.add("Add", turned, inner, out="added", module="stages.0")
    pooled = g.add("ReduceMean", normalised(g, added, "norm"), g.constant(np.array([1, 2])), keepdims=0)
    g.add("MatMul", pooled, g.weight(WIDTH, 3), out="scores")
    return g.save(path)


def squeezed(path: Path) -> Path:
    """As RegNetY: grouped convolution, squeeze and excitation, a skip."""
    g = Graph()
    x = patches(g)
    inner = g.add("Relu", g.add("Conv", x, g.weight(WIDTH, WIDTH // 3, 3, 3), group=3, pads=[1] * 4))
    mean = g.add("ReduceMean", inner, g.constant(np.array([2, 3])), keepdims=1)
    gate = g.add("Sigmoid", g.add("Conv", mean, g.weight(WIDTH, WIDTH, 1, 1)))
    out = g.add("Relu", g.add("Add", x, g.add("Mul", inner, gate)), out="stage")
    g.add("MatMul", g.add("Flatten", g.add("GlobalAveragePool", out)), g.weight(WIDTH, 3), out="scores")
    return g.save(path)


def explained(source: Path, layers: list[str], grid: tuple[int, int] | None = None) -> tuple[Model, dict]:
    """The export, whose proof holds the gradients to central differences, and what it says of three images."""
    out = source.with_suffix(".graph.onnx")
    assert all(item.passes for item in export_onnx(source, Request(layers, out), PLAIN, grid))
    model = Model.open(out)
    images = np.random.default_rng(1).uniform(0, 255, (3, 3, *IMAGE)).astype(np.float32)
    labels = [layer.role or layer.name for layer in model.metadata.layers]
    return model, {"images": images, **model.explain(images, np.array([0, 1, 2]), labels).layers}


def source_tensor(source: Path, name: str, images: np.ndarray) -> np.ndarray:
    """A tensor of the source file, by ONNX's own reference implementation."""
    model = onnx.load(source)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return onnx.reference.ReferenceEvaluator(model).run(None, {"pixels": images / np.float32(255)})[0]


@pytest.mark.parametrize("extra", [1, 2, 5])
def test_tokens_become_a_map_without_those_in_front(tmp_path: Path, extra: int) -> None:
    source = transformer(tmp_path / "m.onnx", extra=extra)
    _, found = explained(source, ["block0", "penultimate=norm0"])
    for label, tensor in (("block0", "block0"), ("penultimate", "norm0")):
        tokens = source_tensor(source, tensor, found["images"])
        activations, gradients = found[label]
        expected = tokens[:, extra:].transpose(0, 2, 1).reshape(3, WIDTH, *GRID)
        np.testing.assert_allclose(activations, expected, rtol=1e-4, atol=1e-5)
        assert gradients.shape == expected.shape
        assert np.abs(gradients).max() > 0


def test_auto_is_the_last_normalised_input_of_attention_where_a_class_token_is_read(tmp_path: Path) -> None:
    model, _ = explained(transformer(tmp_path / "m.onnx"), ["auto"])
    assert [(layer.name, layer.role) for layer in model.metadata.layers] == [("norm1", "last")]


def test_auto_is_the_last_map_where_all_tokens_are_read(tmp_path: Path) -> None:
    model, _ = explained(transformer(tmp_path / "m.onnx", class_token=False), ["auto"])
    assert model.metadata.layers[0].name == "norm"


def test_a_layer_behind_the_last_attention_is_refused(tmp_path: Path) -> None:
    source = transformer(tmp_path / "m.onnx")
    with pytest.raises(
        InputError, match=r"the score does not depend on the map at 'block1' .* choose an earlier layer"
    ):
        export_onnx(source, Request(["block1"], tmp_path / "x.onnx"), PLAIN)
    assert not (tmp_path / "x.onnx").exists()


def test_a_grid_that_is_given_beats_the_proportions(tmp_path: Path) -> None:
    source = transformer(tmp_path / "m.onnx", class_token=False)
    _, found = explained(source, ["block0"], grid=(2, 6))
    tokens = source_tensor(source, "block0", found["images"])
    np.testing.assert_allclose(
        found["block0"][0], tokens.transpose(0, 2, 1).reshape(3, WIDTH, 2, 6), rtol=1e-4, atol=1e-5
    )


def test_a_grid_that_nothing_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no spatial map of 9x9 on the way to its score"):
        export_onnx(transformer(tmp_path / "m.onnx"), Request(["auto"], tmp_path / "x.onnx"), PLAIN, (9, 9))


def test_channels_last_becomes_a_map(tmp_path: Path) -> None:
    source = channels_last(tmp_path / "m.onnx")
    _, found = explained(source, ["penultimate=turned", "last=stages.0"])
    for role, tensor in (("penultimate", "turned"), ("last", "added")):
        expected = source_tensor(source, tensor, found["images"]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found[role][0], expected, rtol=1e-4, atol=1e-5)


def test_squeeze_and_excitation(tmp_path: Path) -> None:
    _, found = explained(squeezed(tmp_path / "m.onnx"), ["penultimate=patches", "auto"])
    assert found["last"][0].shape == found["penultimate"][0].shape == (3, WIDTH, *GRID)


def test_two_layers_of_one_chain_have_the_gradients_that_each_has_alone(tmp_path: Path) -> None:
    """The maps are on the way to the score: making a second one must not cut off the first."""
    source = transformer(tmp_path / "m.onnx")
    _, both = explained(source, ["norm0", "norm1"])
    for name in ("norm0", "norm1"):
        _, alone = explained(source, [name])
        np.testing.assert_allclose(both[name][1], alone[name][1], rtol=1e-4, atol=1e-7)


def test_a_pytorch_module_names_what_it_returns(tmp_path: Path) -> None:
    source = transformer(tmp_path / "m.onnx")
    model, _ = explained(source, ["penultimate=blocks.0.norm", "last=blocks.1.norm"])
    assert [(layer.name, layer.role) for layer in model.metadata.layers] == [
        ("blocks.0.norm", "penultimate"),
        ("blocks.1.norm", "last"),
    ]


def test_layers_are_listed_with_their_modules(tmp_path: Path) -> None:
    source = transformer(tmp_path / "m.onnx")
    listed = {row[0]: row[1:] for row in list_layers(source, PLAIN)}
    assert listed["patches"] == (f"{WIDTH} x 4 x 3", "nchw", "")
    assert listed["block0"] == (f"{WIDTH} x 4 x 3", "tokens after 1", "blocks.0")
    shown = CliRunner().invoke(cli, ["layers", str(source)])
    assert shown.exit_code == 0
    assert "PyTorch module" in shown.output
    assert "blocks.1.norm" in shown.output


@pytest.mark.parametrize(
    ("sizes", "grid", "expected"),
    [
        ((None, 8, 7, 7), None, Arrangement("nchw", (7, 7))),
        ((None, 7, 7, 8), None, Arrangement("nhwc", (7, 7))),
        ((None, 8, 8, 8), None, Arrangement("nchw", (8, 8))),
        ((None, 5, 5, 4), None, Arrangement("nhwc", (5, 5))),
        ((None, 6, 5, 4), None, Arrangement("nchw", (5, 4))),  # of no proportions: rounded strides
        ((None, 768, 1, 1), None, None),
        ((None, 1, 1, 768), None, None),
        ((None, 49, 8), None, Arrangement("tokens", (7, 7), 0)),
        ((None, 50, 8), None, Arrangement("tokens", (7, 7), 1)),
        ((None, 201, 8), None, Arrangement("tokens", (14, 14), 5)),
        ((None, 48, 8), None, None),
        ((None, 48, 8), (6, 8), Arrangement("tokens", (6, 8), 0)),
        ((None, 52, 8), (6, 8), Arrangement("tokens", (6, 8), 4)),
        ((None, 58, 8), (6, 8), None),  # ten tokens in front are none of ours
        ((None, 12, 197, 64), None, None),  # heads of attention
        ((None, 1, 7, 7), None, Arrangement("nchw", (7, 7))),
        ((None, 40, 8), (6, 8), None),
        ((None, 6, 8, 5), (6, 8), Arrangement("nhwc", (6, 8))),
        ((None, 5, 6, 8), (6, 8), Arrangement("nchw", (6, 8))),
        ((None, 5, 7, 7), (6, 8), None),
        ((None, None, 7, 7), None, None),
        ((None, 10), None, None),
    ],
)  # fmt: skip
def test_how_shapes_are_read(sizes: tuple, grid: tuple | None, expected: Arrangement | None) -> None:
    assert arrangement_of(sizes, (224, 224), grid) == expected


@pytest.mark.parametrize(
    ("sizes", "image", "expected"),
    [
        ((None, 13, 10, 6), (50, 38), Arrangement("nhwc", (13, 10))),
        ((None, 6, 13, 10), (50, 38), Arrangement("nchw", (13, 10))),
        ((None, 1, 1, 6), (24, 16), None),
        ((None, 6, 1, 1), (24, 16), None),
        ((None, 16, 12, 10), (64, 48), Arrangement("nhwc", (16, 12))),
        ((None, 130, 8), (50, 38), Arrangement("tokens", (13, 10), 0)),
    ],
)
def test_maps_of_pictures_that_are_not_square(sizes: tuple, image: tuple, expected: Arrangement | None) -> None:
    assert arrangement_of(sizes, image) == expected


def test_auto_is_not_penultimate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="auto is the last map; name the tensor that is the penultimate one"):
        export_onnx(channels_last(tmp_path / "m.onnx"), Request(["penultimate=auto"], tmp_path / "x.onnx"), PLAIN)


def test_the_long_name_of_the_domain_is_understood(tmp_path: Path) -> None:
    source = squeezed(tmp_path / "m.onnx")
    model = onnx.load(source)
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, source)
    explained(source, ["auto"])


def broken(
    monkeypatch: pytest.MonkeyPatch, operator: str, changed: Callable[[engine.Step, ir.Value], ir.Value]
) -> None:
    """Let the rule of an operator give another cotangent than the right one."""
    (right,) = engine._RULES["", operator]
    assert right.vjp is not None

    def vjp(step: engine.Step, active: frozenset[int]) -> list:
        return [None if g is None else changed(step, g) for g in right.vjp(step, active)]

    monkeypatch.setitem(engine._RULES, ("", operator), [dataclasses.replace(right, vjp=vjp)])


@pytest.mark.parametrize(
    "changed",
    [
        lambda s, g: s.op.Mul(g, s.number(3.0)),
        lambda s, g: s.op.Mul(g, s.op.Cast(s.op.Greater(s.a, s.number(0.2)), to=ir.DataType.FLOAT)),
        lambda s, g: s.op.Neg(g),
    ],
    ids=["three times", "some dropped", "downhill"],
)
def test_a_wrong_gradient_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Callable) -> None:
    """The proof against differences is all that stands between a wrong rule and a foreign file."""
    source = squeezed(tmp_path / "m.onnx")
    broken(monkeypatch, "GlobalAveragePool", changed)
    with pytest.raises(CannotEvaluateError, match=r"the exported graph differs from its source: (slopes|rules)"):
        export_onnx(source, Request(["patches"], tmp_path / "x.onnx"), PLAIN)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("text", ["7", "7x", "axb", "0x7", "1x1", "-7x7"])
def test_a_grid_must_be_two_numbers(text: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["onnx", "m.onnx", "--out", str(tmp_path / "x"), f"--grid={text}"])
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == f"--grid takes a height and a width such as 14x14, not {text!r}"
