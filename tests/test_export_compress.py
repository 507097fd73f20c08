"""Compressed exported graphs: what they keep, what they compute, what is refused, and whether the proof can fail."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.autodiff import engine
from export.cli import cli
from export.compress import compress, find_images
from export.compress import methods as compressions
from export.metadata import PREFIX
from export.proof import parity
from export.proof.rounded import Difference
from export.sources.onnx import Preprocessing, export_onnx
from export.write import Request
from harness.common.errors import CannotEvaluateError, InputError
from harness.models.session import Model
from tests import tiny_graphs

TARGETS = ("int8", "float16")
ROLES = {"early": "penultimate", "late": "last"}
MASKS = {"int8": 0.2, "float16": 0.05}  # an element of a gradient whose rectifier switches moves by its full size
NEAR = {"int8": 0.05, "float16": 2e-3}  # relative: 8 bits over the range of a tensor; 11 bits of every number


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_graphs.write_images(tmp_path_factory.mktemp("images"))


def compressed(graph: Path, target: str, manifest: Path, **asked: Any) -> Path:
    out = graph.with_name(f"{graph.stem}.{target}.onnx")
    differences = compress(graph, target, out, find_images(manifest, 24), **asked)
    assert all(item.passes for item in differences)
    return out


def batch(size: tuple[int, int] = (32, 32), count: int = 6) -> np.ndarray:
    grey = np.random.default_rng(3).uniform(0, 255, (count, 1, *(side // 4 for side in size)))
    return grey.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("target", TARGETS)
def test_a_compressed_graph_keeps_what_it_says_about_itself(tmp_path: Path, manifest: Path, target: str) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx", roles=ROLES, thresholds=None, seed=1)
    before, after = Model.open(source).metadata, Model.open(compressed(source, target, manifest)).metadata
    assert after.phase == f"transfer.{target}"
    assert [(layer.name, layer.role) for layer in after.layers] == [("early", "penultimate"), ("late", "last")]
    assert after.weights_digest != before.weights_digest
    changed = {"phase", "weights_digest", "tools"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)


@pytest.mark.parametrize("lacking", ["preserved", "thresholds", "layers", "phase"])
def test_what_earlier_versions_did_not_write_may_be_absent(lacking: str, tmp_path: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx", roles=ROLES)
    model = onnx.load(source)
    kept = [entry for entry in model.metadata_props if entry.key != f"{PREFIX}{lacking}"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, source)
    with nullcontext() if lacking in ("preserved", "thresholds") else pytest.raises(InputError, match="is damaged"):
        compress(source, "float16", tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").exists() == (lacking in ("preserved", "thresholds"))


@pytest.mark.parametrize(
    ("target", "facts"),
    [
        ("int8", {"to": "int8", "calibration": "minmax", "calibration_images": 24, "reduce_range": True}),
        ("float16", {"to": "float16"}),
    ],
)
def test_how_a_graph_was_compressed_stands_in_it(tmp_path: Path, manifest: Path, target: str, facts: dict) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    model = onnx.load(compressed(source, target, manifest, reduce_range=True))
    (found,) = (entry.value for entry in model.metadata_props if entry.key == "evidence_drift.compression")
    assert json.loads(found) == facts


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_stored_small(tmp_path: Path, manifest: Path, target: str) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    model = onnx.load(compressed(source, target, manifest))
    kinds = Counter(tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) in (2, 4))
    assert kinds[{"int8": TensorProto.INT8, "float16": TensorProto.FLOAT16}[target]] >= 3, "two kernels and the head"
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert {output.type.tensor_type.elem_type for output in model.graph.output} == {TensorProto.FLOAT}


@pytest.mark.parametrize("kind", ["softmax", "multilabel", "binary"])
@pytest.mark.parametrize("target", TARGETS)
def test_numbers_are_near_those_before(tmp_path: Path, manifest: Path, target: str, kind: str) -> None:
    limits = [0.3, 0.5, 0.7] if kind == "multilabel" else None
    source = tiny_graphs.write_graph(tmp_path / "a.onnx", score_kind=kind, thresholds=limits)
    models = [Model.open(path) for path in (source, compressed(source, target, manifest))]
    assert models[1].metadata.thresholds == limits
    a, b = (model.explain(batch(), np.array([0, 1, 1, 0, -1, -1]), ["early", "late"]) for model in models)
    assert relative(b.logits, a.logits) < NEAR[target]
    for layer in ("early", "late"):
        assert 0 < relative(b.layers[layer][0], a.layers[layer][0]) < NEAR[target], "the activations were rounded"
        assert relative(b.layers[layer][1], a.layers[layer][1]) < MASKS[target]


def test_it_is_compared_by_role_like_any_other_graph(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx", roles=ROLES, balanced=True)
    with tiny_graphs.in_brief():
        result = tiny_graphs.evaluate(
            tmp_path / "out", "--before", source, "--after", compressed(source, "int8", manifest), "--data", manifest,
            "--select", "all", "--layer", "penultimate", "--layer", "last", "--method", "layercam",
        )  # fmt: skip
    found = {item.layer: item for item in result.pairs[0].metrics if (item.metric, item.scope) == ("pearson", "all")}
    assert set(found) == {"penultimate", "last"}
    assert min(item.estimate.mean for item in found.values()) > 0.9


def test_a_target_out_of_range_still_has_no_gradient(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx", tensors=("late",))
    model = Model.open(compressed(source, "float16", manifest))
    feeds = {"image": batch(count=2), "target": np.array([0, 9])}
    (found,) = model._session.run(["gradients"], feeds)
    assert [np.isfinite(part).all() for part in found] == [True, False]


@pytest.mark.parametrize("target", TARGETS)
def test_fused_maps_and_probabilities_stay(tmp_path: Path, manifest: Path, target: str) -> None:
    source = foreign(tmp_path, ["penultimate=inner", "last=sum"], methods=["layercam"], probability=True)
    after = Model.open(compressed(source, target, manifest))
    assert after.metadata.explained == "probability"
    assert [list(layer.maps) for layer in after.metadata.layers] == [["layercam"], ["layercam"]]
    found = after.explain(batch((16, 16)), np.full(6, 1), ["last"]).layers["last"]
    fused = after._session.run(["layercam:sum"], {"image": batch((16, 16)), "target": np.full(6, 1)})[0]
    np.testing.assert_allclose(fused, np.maximum((np.maximum(found[1], 0) * found[0]).sum(axis=1), 0), rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_before_a_rectifier_is_not_rectified(tmp_path: Path, manifest: Path, target: str) -> None:
    """ONNX Runtime gives the input of a rectifier the range of its output: its pair would cut off half of A."""
    source = foreign(tmp_path, ["inner"])
    models = [Model.open(path) for path in (source, compressed(source, target, manifest))]
    a, b = (model.explain(batch((16, 16)), np.full(6, -1), ["inner"]).layers["inner"][0] for model in models)
    assert (a < 0).mean() > 0.2, "the case has negative activations"
    assert relative(b, a) < NEAR[target]


def foreign(folder: Path, layers: list[str], **asked: Any) -> Path:
    """An exported graph with a residual block: `inner` lies before a rectifier, and a skip goes around it."""
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "h": (4, 3)}
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["inner"], pads=[1] * 4),
        helper.make_node("Relu", ["inner"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["p"]),
        helper.make_node("Flatten", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "h"], ["out"]),
    ]
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
            (("pixels", [1, 3, 16, 16]), ("out", [1, 3]))]  # fmt: skip
    graph = helper.make_graph(nodes, "foreign", ends[:1], ends[1:], weights)
    path = folder / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    out = folder / "exported.onnx"
    export_onnx(path, Request(layers, out, **asked), Preprocessing(1 / 255))
    return out


def test_the_same_images_give_the_same_file(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    first = compressed(source, "int8", manifest).read_bytes()
    assert compressed(source, "int8", manifest).read_bytes() == first


def test_a_gradient_that_ignores_a_rectifier_is_caught(tmp_path: Path, manifest: Path, monkeypatch: Any) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    rule = engine.rule_for(engine.ir.Node("", "Relu", []), 18)
    assert rule is not None
    blind = dataclasses.replace(rule, vjp=lambda step, _active: [step.g])
    monkeypatch.setitem(engine._RULES, ("", "Relu"), [blind])
    for target in TARGETS:
        with pytest.raises(CannotEvaluateError, match="differs from its source: slopes:activations:early"):
            compressed(source, target, manifest)
    assert not (tmp_path / "a.int8.onnx").exists()


def test_a_pair_that_changes_the_gradient_is_caught(tmp_path: Path, manifest: Path, monkeypatch: Any) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    rule = engine.rule_for(engine.ir.Node("", "QuantizeLinear", []), 18)
    assert rule is not None
    wrong = dataclasses.replace(rule, vjp=lambda step, _: [step.op.Mul(step.g, step.number(1.2)), None, None])
    monkeypatch.setitem(engine._RULES, ("", "QuantizeLinear"), [wrong])
    with pytest.raises(CannotEvaluateError, match="slopes"):
        compressed(source, "int8", manifest)


def test_a_quantiser_that_takes_out_rectifiers_is_refused(tmp_path: Path, manifest: Path, monkeypatch: Any) -> None:
    """ONNX Runtime's default lets the saturation of a QuantizeLinear rectify, where no gradient rule sees it."""
    import onnxruntime.quantization as ort_quantization

    real = ort_quantization.quantize_static

    def default(*arguments: Any, **options: Any) -> None:
        real(*arguments, **{**options, "extra_options": {}})

    monkeypatch.setattr(ort_quantization, "quantize_static", default)
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    with pytest.raises(CannotEvaluateError, match="quantising took out or added the operators Relu; nothing was"):
        compressed(source, "int8", manifest)


def test_a_preparation_that_changes_the_result_is_refused(tmp_path: Path, manifest: Path, monkeypatch: Any) -> None:
    import onnxruntime.quantization as ort_quantization

    def wrong(source: Path, made: Path, **_options: Any) -> None:
        model = onnx.load(source)
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
        onnx.save(model, made)

    monkeypatch.setattr(ort_quantization, "quant_pre_process", wrong)
    with pytest.raises(CannotEvaluateError, match=r"preparation changes .+ \(relative L2 error .+\); it cannot be"):
        compressed(tiny_graphs.write_graph(tmp_path / "a.onnx"), "int8", manifest)


def test_numbers_beyond_half_precision_are_refused(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx", scale=1e3)
    with pytest.raises(CannotEvaluateError, match="the model's numbers are too large for float16; nothing was written"):
        compressed(source, "float16", manifest)


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", "flags : fpu avx2 avx512f", True),
        ("x86_64", "flags : fpu avx2 avx512_vnni", False),
        ("AMD64", "flags : fpu avx2 avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_weights_take_seven_bits_where_sums_saturate(
    tmp_path: Path, monkeypatch: Any, machine: str, flags: str | None, reduced: bool
) -> None:
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(flags, encoding="utf-8")
    monkeypatch.setattr(compressions.platform, "machine", lambda: machine)
    monkeypatch.setattr(compressions, "CPU", file)
    assert compressions.saturates_here() is reduced


def test_seven_bits_are_seven_bits(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    largest = {}
    for reduced in (True, False):
        model = onnx.load(compressed(source, "int8", manifest, reduce_range=reduced))
        weights = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
        largest[reduced] = max(np.abs(numpy_helper.to_array(tensor).astype(int)).max() for tensor in weights)
    assert largest == {True: 64, False: 127}


def test_every_output_is_compared_at_every_level(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    found = compress(source, "int8", tmp_path / "b.onnx", find_images(manifest, 8))
    levels = Counter(item.output.split(":")[0] for item in found)
    assert levels == {"logits": 4, "activations": 8, "gradients": 8, "slopes": 2, "rules": levels["rules"]}
    assert levels["rules"] > 2


@pytest.mark.parametrize(
    ("level", "output", "error", "cosine", "passes"),
    [
        ("disabled", "logits", 2e-5, 1.0, False),
        ("all", "logits", 0.1, 0.99, True),
        ("all", "activations:a", 0.3, 0.97, False),
        ("all", "gradients:a", 0.3, 0.99, False),
        ("disabled", "slopes:a", 0.2, 1.0, False),
        ("disabled", "slopes:a", 0.01, 0.9999, True),
        ("all", "logits", float("nan"), float("nan"), False),
    ],
)
def test_what_passes(level: str, output: str, error: float, cosine: float, passes: bool) -> None:
    assert Difference(level, output, error, cosine, 0).passes is passes
    assert isinstance(Difference(level, output, error, cosine, 0), parity.Difference)


def test_images_of_a_manifest_are_spread_over_a_split(tmp_path: Path) -> None:
    rows = [{"file": f"{n}.png", "split": "train" if n % 2 else "test"} for n in range(20)]
    manifest = tiny_graphs.write_manifest(tmp_path / "m.csv", rows)
    assert [path.name for path in find_images(manifest, 3, split="train")] == ["1.png", "9.png", "19.png"]
    assert find_images(manifest, 1, root=tmp_path / "elsewhere") == [tmp_path / "elsewhere" / "0.png"]
    assert len(find_images(manifest, 100)) == 20
    assert [path.name for path in find_images(manifest, 1, columns={"file": "{split}/{file}"})] == ["0.png"]


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a/1.dcm", "notes.txt", "a/._1.dcm", ".hidden/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path, 9)] == ["1.dcm", "2.PNG"]


@pytest.mark.parametrize(
    ("content", "asked", "sentence"),
    [
        ("file,split\na.png,test\n", {"split": "train"}, "no images of split 'train'; give others to calibrate on"),
        ("name\na.png\n", {}, "no column 'file'"),
        ("file\na.png\n", {"split": "train"}, "no column 'split'"),
        ("file,split\n", {}, "no images; give others"),
        (None, {}, "no such manifest or folder"),
        ("file\na.png\n", {"count": 0}, "--images takes a number of images from 1, not 0"),
    ],
)
def test_images_that_cannot_be_had(tmp_path: Path, content: str | None, asked: dict, sentence: str) -> None:
    manifest = tmp_path / "m.csv"
    if content is not None:
        manifest.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        find_images(manifest, **{"count": 5, **asked})
    assert sentence in str(caught.value)


def test_what_cannot_be_compressed_is_refused(tmp_path: Path, manifest: Path) -> None:
    source = tiny_graphs.write_graph(tmp_path / "a.onnx")
    again = compressed(source, "float16", manifest)
    bare = onnx.load(source)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    damaged = onnx.load(source)
    next(entry for entry in damaged.metadata_props if entry.key.endswith("classes")).value = "{"
    onnx.save(damaged, tmp_path / "damaged.onnx")
    apart = onnx.load(source)
    onnx.save(apart, tmp_path / "apart.onnx", save_as_external_data=True, size_threshold=0, location="apart.bin")
    old = tiny_graphs.write_graph(tmp_path / "old.onnx", image_rule="other/9")
    for path, target, sentence in (
        (source, "int4", "cannot compress to 'int4'; choose one of int8, float16"),
        (source, "int8", "quantising needs images to calibrate on; give --data MANIFEST_OR_FOLDER"),
        (tmp_path / "absent.onnx", "float16", "cannot be read as ONNX"),
        (tmp_path / "bare.onnx", "float16", "not a graph of this project; make one with `python -m export onnx bare"),
        (tmp_path / "damaged.onnx", "float16", "its metadata is damaged"),
        (tmp_path / "apart.onnx", "float16", "keeps weights outside of the file"),
        (again, "int8", 'is compressed already ({"to": "float16"}); compress the graph it came from'),
        (old, "float16", "exported under image rule 'other/9'"),
    ):
        with pytest.raises(InputError) as caught:
            compress(path, target, tmp_path / "out.onnx")
        assert sentence in str(caught.value)
        assert not (tmp_path / "out.onnx").exists()


def test_the_command_line(tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tiny_graphs.write_graph(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    arguments = ["compress", str(source), "--to", "int8", "--data", str(manifest), "--images", "5", "--out", str(out)]
    cli.main(arguments, standalone_mode=False)
    assert "the compressed forward graph" in capsys.readouterr().out
    assert Model.open(out).metadata.phase == "transfer.int8"
    with pytest.raises(click.BadParameter, match="'int4' is not one of 'int8', 'float16'"):
        cli.main(["compress", str(source), "--to", "int4", "--out", str(out)], standalone_mode=False)


def test_warnings_are_lines_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.csv").write_text("file,split\na.png,Test\nb.png,Test\n", encoding="utf-8")
    data = ["--data", str(tmp_path / "m.csv"), "--split", "test"]
    with pytest.raises(InputError, match="no images of split 'test'"):
        cli.main(["compress", "none.onnx", "--to", "int8", "--out", "o.onnx", *data], standalone_mode=False)
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}/m.csv: 2 rows have the split 'Test', which is not 'test': they are left out; "
        "spell it alike\n"
    )


@pytest.mark.parametrize("layers", [["penultimate=inner", "last=sum"], ["penultimate=inner", "auto"]])
def test_layers_of_a_foreign_file_get_a_role(tmp_path: Path, layers: list[str]) -> None:
    model = Model.open(foreign(tmp_path, layers))
    assert {layer.name: layer.role for layer in model.metadata.layers} == {"inner": "penultimate", "sum": "last"}
    assert list(model.graph.layers) == ["penultimate", "last"]


def test_a_tensor_without_a_role_has_none(tmp_path: Path) -> None:
    model = Model.open(foreign(tmp_path, ["inner", "penultimate=sum"]))
    assert [(layer.name, layer.role) for layer in model.metadata.layers] == [("inner", None), ("sum", "penultimate")]


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (["last=inner", "last=sum"], "--layer gives the role 'last' to more than one tensor; give it to one"),
        (["last=inner", "auto"], "--layer gives the role 'last' to more than one tensor; give it to one"),
        (["last=sum", "penultimate=sum"], "gives tensor 'sum' the roles 'last' and 'penultimate'; give it one"),
        (["first=sum"], "sum (4, 16, 16); a role is given as penultimate=TENSOR or last=TENSOR"),
        (["last="], "no spatial tensor ''"),
    ],
)
def test_roles_that_cannot_be_given(tmp_path: Path, layers: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        foreign(tmp_path, layers)
    assert sentence in str(caught.value), str(caught.value)


class Pixels:
    """Calibration images under the name that the foreign file has for them."""

    def __init__(self) -> None:
        self.left = [{"pixels": image[None] / 255} for image in batch((16, 16))]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("layer", ["auto", "a_DequantizeLinear_Output"])
def test_a_quantised_file_from_elsewhere_is_explained(tmp_path: Path, layer: str) -> None:
    """ONNX Runtime's quantiser takes rectifiers out; the gradient is that of the float32 file all the same, nearly."""
    from onnxruntime.quantization import quantize_static

    foreign(tmp_path, ["sum"])
    quantize_static(tmp_path / "foreign.onnx", tmp_path / "int8.onnx", Pixels())
    out = tmp_path / "out.onnx"
    found = export_onnx(tmp_path / "int8.onnx", Request([layer], out), Preprocessing(1 / 255))
    assert all(item.passes for item in found)
    explained = Model.open(out).explain(batch((16, 16)), np.zeros(6, int), [layer if layer != "auto" else "last"])
    assert np.abs(explained.layers[next(iter(explained.layers))][1]).max() > 0
    with pytest.raises(InputError, match="no spatial tensor 'sum_QuantizeLinear_Output'"):
        export_onnx(
            tmp_path / "int8.onnx",
            Request(["sum_QuantizeLinear_Output"], tmp_path / "other.onnx"),
            Preprocessing(1 / 255),
        )


def test_a_rectifier_that_a_quantiser_took_in_shuts_its_gradient(tmp_path: Path) -> None:
    """sum of relu(w x), quantised from zero on without a Relu: no gradient where w x is negative."""
    from tests.test_export_files import Network

    n = Network()
    kernel = n.weight(2, 3, 1, 1)
    scale, zero = n.constant(0.02, np.float32), n.constant(0, np.uint8)
    made = n.add("Conv", "pixels", kernel, out="c")
    pair = n.add("DequantizeLinear", n.add("QuantizeLinear", made, scale, zero), scale, zero)
    n.add("Gemm", n.add("Flatten", n.add("GlobalAveragePool", pair)), n.weight(2, 3), out="scores")
    path, out = n.save(tmp_path / "m.onnx"), tmp_path / "x.onnx"
    export_onnx(path, Request(["c"], out), Preprocessing(1 / 255))
    images = np.random.default_rng(3).uniform(0, 255, (6, 3, 8, 6)).astype(np.float32)
    activations, gradients = Model.open(out).explain(images, np.zeros(6, int), ["c"]).layers["c"]
    assert (activations < 0).any()
    np.testing.assert_array_equal(gradients[activations < 0], 0)
    assert (gradients[(activations > 0) & (activations < 0.02 * 255)] != 0).all()
