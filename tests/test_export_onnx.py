"""Any ONNX classifier to exported graph: the nine light models, preprocessing, score kinds, fused maps, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.autodiff.emit import Emitter
from export.graph import fused_maps
from export.sources.onnx import Preprocessing, export_onnx
from export.write import Request
from harness.common.errors import InputError
from harness.models.session import Model
from kernels import cam as kernel_cam
from kernels.cam import cam
from kernels.reasons import Reason
from tests import light_models, tiny_graphs

METHODS = list(fused_maps.METHODS)
PLAIN = Preprocessing(1 / 255)


def layer_names(model: Model) -> list[str]:
    return [layer.name for layer in model.metadata.layers]


def foreign(
    path: Path,
    final: str = "Softmax",
    opset: int = 18,
    batch: Any = 1,
    channels: int = 3,
    classes: int = 3,
    **changed: Any,
) -> Path:
    """A classifier as another tool might write it: convolution, pooling, 1x1 head (N, K, 1, 1), activation."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(classes, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "head"], ["scores"]),
    ]
    if final:
        nodes.append(helper.make_node(final, ["scores"], ["out"], **({"axis": 1} if "Softmax" in final else {})))
    graph = helper.make_graph(
        changed.get("nodes", nodes),
        "foreign",
        changed.get("inputs", [_float("pixels", [batch, channels, 16, 12])]),
        changed.get("outputs", [_float("out" if final else "scores", [batch, classes, 1, 1])]),
        [numpy_helper.from_array(rng.normal(size=(4, channels, 3, 3)).astype(np.float32), "w"),
         numpy_helper.from_array(head, "head")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def _float(name: str, shape: list) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def exported(path: Path, preprocessing: Preprocessing = PLAIN, **asked: Any) -> Model:
    out = path.with_suffix(".exported.onnx")
    differences = export_onnx(path, Request(asked.pop("layers", ["auto"]), out, **asked), preprocessing)
    assert all(item.passes for item in differences)
    assert {item.output.split(":")[0] for item in differences} == {"logits", "gradients", "slopes", "rules"}
    return Model.open(out)


def images(count: int, size: tuple[int, int] = (16, 12)) -> np.ndarray:
    return np.random.default_rng(5).uniform(0, 255, (count, 1, *size)).astype(np.float32).repeat(3, axis=1)


def test_auto_finds_the_map_before_pooling(tmp_path: Path) -> None:
    model = exported(foreign(tmp_path / "m.onnx"))
    assert layer_names(model) == ["features"]
    assert model.metadata.score_kind == "softmax"
    found = model.explain(images(5), np.full(5, -1), ["features"])  # more than the file's own batch of one
    assert found.logits.shape == (5, 3)
    assert found.layers["features"][0].shape == (5, 4, 16, 12)


@pytest.mark.parametrize("final", ["Softmax", "LogSoftmax", "Sigmoid", ""])
def test_final_activation_is_cut_off(tmp_path: Path, final: str) -> None:
    plain = exported(foreign(tmp_path / "plain.onnx", final=""))
    model = exported(foreign(tmp_path / "m.onnx", final=final))
    kinds = {"Sigmoid": "multilabel"}
    assert model.metadata.score_kind == kinds.get(final, "softmax")
    target = np.array([0, 2])
    for a, b in zip(
        model.explain(images(2), target, ["features"]).layers["features"],
        plain.explain(images(2), target, ["features"]).layers["features"],
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_one_logit_is_a_binary_model(tmp_path: Path) -> None:
    model = exported(foreign(tmp_path / "m.onnx", final="Sigmoid", classes=1), classes=["healthy", "ill"])
    assert model.metadata.score_kind == "binary"
    no, yes = (model.explain(images(2), np.full(2, t), ["features"]).layers["features"][1] for t in (0, 1))
    np.testing.assert_array_equal(no, -yes)


@pytest.mark.parametrize("final", ["Softmax", "Sigmoid"])
def test_probability_instead_of_logit(tmp_path: Path, final: str) -> None:
    model = exported(foreign(tmp_path / "m.onnx", final=final), probability=True)
    assert model.metadata.explained == "probability"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", [1, 3])
def test_own_preprocessing_moves_into_the_graph(tmp_path: Path, layout: str, channels: int) -> None:
    path = foreign(tmp_path / "m.onnx", channels=channels)
    if layout == "nhwc":
        model = onnx.load(path)
        model.graph.node.insert(0, helper.make_node("Transpose", ["pixels"], ["moved"], perm=[0, 3, 1, 2]))
        model.graph.node[1].input[0] = "moved"
        model.graph.input[0].CopyFrom(_float("pixels", [1, 16, 12, channels]))
        onnx.save(model, path)
    three = Preprocessing(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), layout)
    exported(path, three)  # proved against the file fed with what NumPy made of the pixels


@pytest.mark.parametrize("opset", [9, 13, 17, 22, 25, 26, 27, 28])
def test_other_opsets(tmp_path: Path, opset: int) -> None:
    assert layer_names(exported(foreign(tmp_path / "m.onnx", final="", opset=opset))) == ["features"]


def test_fused_maps_have_the_limits_of_the_kernels() -> None:
    """`export` imports no kernels, so the constants stand twice."""
    for name in ("SINGULAR_BELOW", "SINGULAR_SHARE", "XGRAD_EMPTY"):
        assert getattr(fused_maps, name) == getattr(kernel_cam, name)


def test_several_layers_and_all_methods_fused(tmp_path: Path) -> None:
    model = exported(foreign(tmp_path / "m.onnx"), layers=["c", "features"], methods=METHODS)
    target = np.array([0, 1, 2])
    found = model.explain(images(3), target, ["c", "features"])
    for layer in model.metadata.layers:
        assert list(layer.maps) == METHODS
        fused = model._session.run(list(layer.maps.values()), {"image": images(3), "target": target})
        for method, inside in zip(METHODS, fused, strict=True):
            outside, _ = cam(method, *found.layers[layer.name])
            np.testing.assert_allclose(inside, outside, rtol=1e-4, atol=1e-5 * np.abs(outside).max())


def test_a_layer_that_a_pass_would_fold_away_is_pinned(tmp_path: Path) -> None:
    """The convolution before a BatchNormalization, and the normalization itself, stay what their names say."""
    rng = np.random.default_rng(1)
    statistics = [numpy_helper.from_array(rng.uniform(0.5, 2, 4).astype(np.float32), name) for name in "sbmv"]
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", *"sbmv"], ["normed"]),
        helper.make_node("Relu", ["normed"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "head"], ["out"]),
    ]
    path = foreign(tmp_path / "m.onnx", final="Softmax", nodes=nodes)
    file = onnx.load(path)
    file.graph.initializer.extend(statistics)
    onnx.save(file, path)
    for layers in (["c", "normed"], ["c"], ["normed"], ["features"]):
        assert layer_names(exported(path, layers=layers)) == layers


def test_fused_maps_are_undefined_where_kernels_say_so() -> None:
    """Grad-CAM++ weights with 2 + G sum(A) <= 1e-6 are singular; a target out of range has no map."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="fused")
    a, g = (ir.val(name, ir.DataType.FLOAT, ["N", 2, 2, 2]) for name in "ag")
    graph.inputs.extend([a, g])
    made = fused_maps.fuse(Emitter(graph), "gradcam++", a, g)
    made.name, made.type, made.shape = "m", a.type, ir.Shape(["N", 2, 2])
    graph.outputs.append(made)
    activations = np.ones((2, 2, 2, 2), np.float32)
    activations[1] *= -1  # sum(A) = -4: singular where G >= 1/2
    gradients = np.full((2, 2, 2, 2), 0.6, np.float32)
    content = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
    session = assemble_session(content)
    found = session.run(None, {"a": activations, "g": gradients})[0]
    maps, reasons = cam("gradcam++", activations, gradients)
    assert reasons.tolist() == [Reason.DEFINED, Reason.SINGULAR_ALPHA]
    np.testing.assert_allclose(found, maps, rtol=1e-6)


def assemble_session(content: bytes) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_target_out_of_range_gives_nan_in_maps_too(tmp_path: Path) -> None:
    model = exported(foreign(tmp_path / "m.onnx"), methods=METHODS)
    feeds = {"image": images(2), "target": np.array([1, 7])}
    for found in model._session.run([*METHODS, "gradients"], feeds):
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()


def test_an_exported_graph_is_not_exported_again(tmp_path: Path) -> None:
    export_onnx(foreign(tmp_path / "m.onnx"), Request(["auto"], tmp_path / "once.onnx"), PLAIN)
    with pytest.raises(InputError, match=r"once\.onnx: is an exported graph already; use it as it is"):
        export_onnx(tmp_path / "once.onnx", Request(["auto"], tmp_path / "twice.onnx"), PLAIN)
    assert not (tmp_path / "twice.onnx").exists()


def test_our_own_graph_equals_itself_when_exported_again(tmp_path: Path) -> None:
    tiny = tiny_graphs.forward()
    tiny.graph.outputs[:] = [tiny.logits]
    ir.save(tiny.model, tmp_path / "m.onnx")
    model = exported(tmp_path / "m.onnx", Preprocessing(), layers=["early", "late"])
    assert layer_names(model) == ["early", "late"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"nodes": [helper.make_node("LSTM", ["pixels", "w", "head"], ["out"])]}, "recurrent operators (LSTM)"),
        ({"outputs": [_float("out", [1, 3, 1, 1]), _float("pooled", [1, 4, 1, 1])]}, "the outputs out, pooled"),
        ({"inputs": [_float("pixels", [1, 3, "H", "W"])]}, "has a free height; say which it is with --input-size"),
        ({"inputs": [_float("pixels", [1, 48])]}, "not a valid ONNX model|expected four axes"),
        ({"channels": 4}, "has 4 channels as nchw; expected 1 or 3"),
        ({"nodes": [helper.make_node("Identity", ["pixels"], ["out"])]}, "expected one row of class scores"),
        ({"inputs": [helper.make_tensor_value_info("pixels", TensorProto.BOOL, [1, 3, 16, 12])]}, "input is bool"),
    ],
)
def test_what_cannot_be_differentiated_is_refused(tmp_path: Path, changed: dict, sentence: str) -> None:
    path = foreign(tmp_path / "m.onnx", **changed)
    with pytest.raises(InputError) as caught:
        export_onnx(path, Request(["auto"], tmp_path / "out.onnx"), PLAIN)
    assert any(part in str(caught.value) for part in sentence.split("|")), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Relu", ["pooled"], ["b"])], "branch", [], [_float("b", None)])
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=branch),
    ]
    path = foreign(tmp_path / "m.onnx", nodes=nodes)
    with pytest.raises(InputError, match=r"has control flow \(If\)"):
        export_onnx(path, Request(["auto"], tmp_path / "out.onnx"), PLAIN)


def test_missing_rules_are_named_all_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Bernoulli", ["c"], ["d"], name="first"),
        helper.make_node("RandomNormalLike", ["d"], ["e"], name="second"),
        helper.make_node("GlobalAveragePool", ["e"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "head"], ["out"]),
    ]
    path = foreign(tmp_path / "m.onnx", final="Softmax", nodes=nodes)
    with pytest.raises(InputError, match=r"Bernoulli \(first\); RandomNormalLike \(second\)"):
        export_onnx(path, Request(["c"], tmp_path / "out.onnx"), PLAIN)


def test_unknown_layer_is_answered_with_candidates_and_shapes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no spatial tensor 'feature'; nearest \(C, h, w\): features \(4, 16, 12\)"):
        exported(foreign(tmp_path / "m.onnx"), layers=["feature"])


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x03abc"])
def test_corrupt_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx: not a valid ONNX model"):
        export_onnx(tmp_path / "m.onnx", Request(["auto"], tmp_path / "out.onnx"), PLAIN)


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.onnx")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="keeps weights outside its own folder"):
        export_onnx(path, Request(["auto"], tmp_path / "out.onnx"), PLAIN)


def test_a_file_over_two_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # sparse: takes no room
    with pytest.raises(InputError, match="is larger than 2 GB"):
        export_onnx(path, Request(["auto"], tmp_path / "out.onnx"), PLAIN)


def test_wrong_number_of_class_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tells 3 classes apart, but --classes names 2"):
        exported(foreign(tmp_path / "m.onnx"), classes=["a", "b"])


HIDDEN = {"vgg19": 64, "zfnet512": 64}  # units: the nodes of 0.6 and 0.4 GB in small files; AlexNet keeps its 0.24 GB


@pytest.mark.slow
@pytest.mark.parametrize("name", light_models.NAMES)
def test_light_model(name: str, tmp_path: Path) -> None:
    """Old files (opset 9, IR version 3, initializers as inputs): converted, differentiated, proved."""
    path = tmp_path / f"{name}.onnx"
    light_models.with_random_weights(name, path, HIDDEN.get(name, light_models.HIDDEN))
    model = exported(path, Preprocessing(1 / 64, (2.0,)))
    assert len(model.metadata.classes) == 1000
