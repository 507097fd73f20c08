"""Keras checkpoint to exported graph: equal to Keras, targets, metadata, the padding trap, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the Keras front end needs the extra `train`")

from export import passes
from export.cli import cli
from export.sources.keras import CheckpointRecord, export_checkpoint, find_checkpoints
from export.sources.onnx import Preprocessing
from export.write import Request
from harness.common.errors import CannotEvaluateError, InputError
from harness.images.loading import RULE
from harness.models.metadata import Graph, common_layers
from harness.models.session import Model
from tests import keras_models

ROOT = Path(__file__).parent.parent
LAYERS = ["pool", "added", "joined", "map"]
BACKBONES = {  # of `training`: an early layer, a middle one, and the two that its runs record
    "DenseNet201": ("pool3_pool", "conv4_block48_concat", "conv5_block31_concat", "relu"),
    "ResNet50V2": ("pool1_pool", "conv4_block6_out", "conv5_block2_out", "post_relu"),
    "InceptionV3": ("mixed2", "mixed7", "mixed9", "mixed10"),
    "MobileNetV2": ("block_3_expand_BN", "block_9_add", "block_16_project_BN", "out_relu"),
}
APPLICATIONS = {  # an early, a middle and the last layer; more of them: tests/test_export_keras_tutorials.py
    "VGG16": ("block2_pool", "block4_conv2", "block5_pool"),
    "EfficientNetV2B0": ("block2b_add", "block5b_add", "top_activation"),
}


@pytest.fixture(scope="module")
def small() -> Any:
    return keras_models.small()


@pytest.fixture(scope="module")
def checkpoint(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "small.keras"
    small.save(path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    out = checkpoint.with_suffix(".onnx")
    differences = export_checkpoint(
        CheckpointRecord(checkpoint, "small"), Request(LAYERS, out, classes=["a", "b", "c"])
    )
    assert {item.level for item in differences} == {"disabled", "basic", "extended", "all"}
    assert {item.output for item in differences} >= {f"gradients:{layer}" for layer in LAYERS}
    assert all(item.passes for item in differences)
    assert max(item.relative_l2 for item in differences) < 1e-4  # no switched rectifier in a net this small
    return out


def images(count: int, seed: int = 1) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 1, 4, 4)).astype(np.float32)
    return coarse.repeat(8, axis=2).repeat(8, axis=3).repeat(3, axis=1)


def gradients(model: Model, batch: np.ndarray, target: list[int], layer: str) -> np.ndarray:
    return model.explain(batch, np.array(target, np.int64), [layer]).layers[layer][1]


def test_metadata_says_what_the_graph_is(exported: Path) -> None:
    metadata = Model.open(exported).metadata
    assert metadata.format == 1
    assert metadata.classes == ["a", "b", "c"]
    assert metadata.image_rule == RULE
    assert metadata.input_size == (32, 32)
    assert metadata.score_kind == "softmax"
    assert [layer.name for layer in metadata.layers] == LAYERS
    assert {"onnx", "keras", "tf2onnx"} <= metadata.tools.keys()


def test_gradient_at_the_last_map_is_the_weight_of_its_channel(exported: Path, small: Any) -> None:
    weights = small.get_layer("logits").kernel.numpy()  # (C, K)
    found = gradients(Model.open(exported), images(3), [0, 2, 1], "map")
    expected = weights[:, [0, 2, 1]].T[:, :, None, None] / 16  # a map of 4x4
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-5)


def test_gradient_before_it_varies_with_image_and_target(exported: Path) -> None:
    model, batch = Model.open(exported), images(2)
    one, other = gradients(model, batch, [0, 0], "joined")
    assert not np.allclose(one, other)
    assert not np.allclose(one, gradients(model, batch, [1, 0], "joined")[0])


def test_target_minus_one_is_the_predicted_class(exported: Path) -> None:
    model, batch = Model.open(exported), images(4)
    predicted = model.explain(batch, np.full(4, -1), ["added"]).logits.argmax(axis=1)
    np.testing.assert_array_equal(
        gradients(model, batch, [-1] * 4, "added"), gradients(model, batch, list(predicted), "added")
    )


def test_target_out_of_range_is_refused_and_never_another_class(exported: Path) -> None:
    model, batch = Model.open(exported), images(3)
    with pytest.raises(InputError, match=r"target 3 is out of range; .* has classes 0\.\.2"):
        gradients(model, batch, [0, 3, 1], "map")
    for wrong in (3, -2, 2**40):
        found = model._session.run(["gradients:map"], {"image": batch, "target": np.array([0, wrong, 1])})[0]
        assert np.isnan(found[1]).all()
        assert np.isfinite(found[[0, 2]]).all()


def test_without_the_padding_rewrite_the_export_fails(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "separate_padding_from_max_pool", lambda _graph: 0)
    out = tmp_path / "x.onnx"
    with pytest.raises(CannotEvaluateError, match=r"differs from its source: .* nothing was written"):
        export_checkpoint(CheckpointRecord(checkpoint, "small"), Request(["joined"], out))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("activation", "classes", "kind"),
    [("softmax", 3, "softmax"), ("sigmoid", 3, "multilabel"), ("sigmoid", 1, "binary"), (None, 1, "binary")],
)
def test_final_activation_is_cut_off_and_remembered(
    tmp_path: Path, activation: str | None, classes: int, kind: str
) -> None:
    path = tmp_path / "m.keras"
    keras_models.small(classes=classes, activation=activation).save(path)
    names = ["no", "yes"] if classes == 1 else []
    export_checkpoint(CheckpointRecord(path, "m"), Request(["map"], tmp_path / "m.onnx", classes=names))
    model = Model.open(tmp_path / "m.onnx")
    assert model.metadata.score_kind == kind
    logits = model.explain(images(3), np.zeros(3, np.int64), ["map"]).logits
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3  # not probabilities
    if kind == "binary":
        no, yes = (gradients(model, images(1), [target], "map") for target in (0, 1))
        np.testing.assert_array_equal(no, -yes)


def test_a_graph_that_the_runtime_refuses_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime 1.31 fuses two scales before a MatMul into an invalid graph, for one."""

    def refused(*_: Any) -> None:
        raise RuntimeError("Invalid model.")

    monkeypatch.setattr("export.proof.parity.compare", refused)
    with pytest.raises(CannotEvaluateError, match=r"ONNX Runtime cannot run the exported graph \(Invalid model\.\)"):
        export_checkpoint(CheckpointRecord(checkpoint, "m"), Request(["map"], tmp_path / "x.onnx"))
    assert not list(tmp_path.iterdir())


def test_unknown_layer_is_answered_with_the_nearest(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no spatial layer 'joind'; nearest \(h, w, C\): joined \(8, 8, 16\)"):
        export_checkpoint(CheckpointRecord(checkpoint, "m"), Request(["joind"], tmp_path / "x.onnx"))


def test_changed_weights_are_noticed(checkpoint: Path, tmp_path: Path) -> None:
    record = CheckpointRecord(checkpoint, "transfer", {"classes": ["a", "b", "c"]}, {"weights_digest": "0" * 64})
    with pytest.raises(InputError, match=r"weights are not those that run\.json records for checkpoint 'transfer'"):
        export_checkpoint(record, Request(["map"], tmp_path / "x.onnx"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.keras", None, "no such checkpoint"),
        ("x.keras", b"PK\x03\x04 no", "not a checkpoint that Keras can load"),
        ("x.weights.h5", b"", "holds weights without their model; save the whole model"),
        ("x.h5", b"no", "not a checkpoint that Keras can load"),
    ],
)
def test_unusable_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        export_checkpoint(CheckpointRecord(path, "x"), Request(["map"], tmp_path / "x.onnx"))


def test_a_checkpoint_cannot_bring_code(tmp_path: Path) -> None:
    import keras

    image = keras.Input((32, 32, 3))
    hidden = keras.layers.Lambda(lambda x: x * 2)(image)
    keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(hidden))).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match="holds a Lambda layer, whose code Keras does not run from a file"):
        export_checkpoint(CheckpointRecord(tmp_path / "x.keras", "x"), Request(["auto"], tmp_path / "x.onnx"))


def test_a_layer_that_is_not_part_of_keras_is_named(tmp_path: Path) -> None:
    import keras

    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(Doubled()(image))
    keras.Model(image, keras.layers.Dense(2)(x)).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match="needs 'Doubled', which is not part of Keras"):
        export_checkpoint(CheckpointRecord(tmp_path / "x.keras", "x"), Request(["auto"], tmp_path / "x.onnx"))


def test_run_directory_lists_its_checkpoints(tmp_path: Path) -> None:
    phases = {name: {"phase": name, "checkpoint": f"{name}.keras"} for name in ("transfer", "finetune")}
    (tmp_path / "run.json").write_text(json.dumps({"classes": ["a"], "phases": phases}))
    assert [record.name for record in find_checkpoints(tmp_path)] == ["transfer", "finetune"]
    assert find_checkpoints(tmp_path / "finetune.keras")[0].classes == ["a"]
    assert find_checkpoints(tmp_path / "other.keras")[0].classes == []
    with pytest.raises(InputError, match=r"no run\.json that lists a checkpoint"):
        find_checkpoints(tmp_path.parent)


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """A run directory with one phase that kept a checkpoint on its way, and a checkpoint that it does not list."""
    for name in ("finetune", "finetune.epoch002", "elsewhere"):
        shutil.copy(checkpoint, tmp_path / f"{name}.keras")
    along = [{"epoch": 2, "checkpoint": "finetune.epoch002.keras"}]
    phase = {"phase": "finetune", "checkpoint": "finetune.keras", "along": along, "seed": 7}
    facts = {"classes": ["a", "b", "c"], "phases": {"finetune": phase}}
    roles = {"cam_layers": {"penultimate": "joined", "last": "map"}}
    (tmp_path / "run.json").write_text(json.dumps(facts | roles))
    return tmp_path


def graph_of(checkpoint: Path, *layers: str) -> Graph:
    out = checkpoint.with_suffix(".onnx")
    export_checkpoint(find_checkpoints(checkpoint)[0], Request(layers, out, classes=["a", "b", "c"]))
    return Graph.read(out)


def test_a_checkpoint_kept_on_the_way_has_the_facts_of_its_phase(run: Path) -> None:
    (record,) = find_checkpoints(run / "finetune.epoch002.keras")
    assert (record.name, record.phase["seed"], record.classes) == ("finetune.epoch002", 7, ["a", "b", "c"])
    assert [record.name for record in find_checkpoints(run)] == ["finetune"]
    assert graph_of(run / "finetune.epoch002.keras", "penultimate").metadata.layers[0].name == "joined"


@pytest.mark.parametrize("other", ["finetune.epoch002.keras", "elsewhere.keras"])
def test_a_layer_is_found_by_name_and_by_role_however_each_checkpoint_was_exported(run: Path, other: str) -> None:
    graphs = [graph_of(run / "finetune.keras", "penultimate", "last"), graph_of(run / other, "joined")]
    assert common_layers(graphs, ["joined"]) == common_layers(graphs, ["penultimate"]) == ["penultimate"]


def test_the_last_map_has_that_role_under_its_name_too(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "a.keras")
    shutil.copy(checkpoint, tmp_path / "b.keras")
    graphs = [graph_of(tmp_path / "a.keras", "auto"), graph_of(tmp_path / "b.keras", "map")]
    assert common_layers(graphs, ["map"]) == common_layers(graphs, []) == ["last"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no run.json beside it says which layer is 'penultimate'"),
        ({"phases": {}}, "run.json beside it does not list it, so 'penultimate' is unknown; use --layer auto"),
        ({"phases": {"x": {"checkpoint": "small.keras"}}}, "run.json does not say which layer is 'penultimate'"),
    ],
)
def test_a_role_that_is_not_known_is_refused(
    checkpoint: Path, tmp_path: Path, content: dict[str, Any] | None, sentence: str
) -> None:
    shutil.copy(checkpoint, tmp_path)
    if content is not None:
        (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        graph_of(tmp_path / "small.keras", "penultimate")


@pytest.mark.parametrize("content", ["[1]", '{"phases": [1]}', '{"phases": {"a": {"checkpoint": 1}}}', '{"phases": 1}'])
def test_a_run_json_of_another_program_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: not the record of a training; move it away"):
        find_checkpoints(tmp_path / "x.keras")


def test_pixels_are_not_scaled_twice(run: Path) -> None:
    (record,) = find_checkpoints(run / "finetune.keras")
    with pytest.raises(InputError, match=r"scales pixels itself, as run\.json says; leave --scale"):
        export_checkpoint(record, Request(["map"], run / "x.onnx"), pixels=Preprocessing(scale=1 / 255))


def test_a_saved_model_is_told_the_way(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"is a SavedModel.*python -m tf2onnx\.convert .*python -m export onnx .*nhwc"):
        find_checkpoints(tmp_path)


@pytest.mark.slow
def test_the_way_of_a_saved_model_can_be_gone(small: Any, tmp_path: Path) -> None:
    small.export(tmp_path / "saved", verbose=False)
    with pytest.raises(InputError) as refused:
        find_checkpoints(tmp_path / "saved")
    for command in re.findall(r"`python (.*?)`", str(refused.value)):
        more = ["--out", "graph.onnx"] if "export" in command.split() else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *command.split(), *more], cwd=tmp_path, env=environment, check=True)
    assert Graph.read(tmp_path / "graph.onnx").metadata.input_size == (32, 32)


@pytest.mark.slow
def test_a_real_run_writes_nothing_of_tensorflow_to_stderr(checkpoint: Path, tmp_path: Path) -> None:
    """TensorFlow's first lines and those of CUDA, on machines without a GPU, came before ours; any log level."""
    silent = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")
    }
    command = [sys.executable, "-m", "export", "keras", str(checkpoint), "--out", str(tmp_path / "x.onnx")]
    done = subprocess.run(command, cwd=ROOT, env=silent, capture_output=True, text=True, check=True)
    assert done.stderr == f"{checkpoint}: loading it with Keras\n"
    done = subprocess.run([*command, "--layer", "mop"], cwd=ROOT, env=silent, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r".*: loading it with Keras\nerror: .*: no spatial layer 'mop'; nearest .*\n", done.stderr)


@pytest.mark.parametrize(("given", "size"), [("40x48", (40, 48)), ("40", (40, 40)), (None, None)])
def test_size_output_and_pixels_are_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, size: tuple[int, int] | None
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("export.sources.keras.export_checkpoint", lambda _record, _request, *how: asked.append(how))
    monkeypatch.setattr("export.cli._report", lambda *_: None)
    options = ["--output", "class", "--std", "2", *(["--input-size", given] if given else [])]
    done = CliRunner().invoke(cli, ["keras", str(tmp_path / "x.keras"), "--out", "x.onnx", *options])
    assert done.exit_code == 0, done.output
    assert asked == [(size, "class", Preprocessing(std=(2.0,)))]


@pytest.mark.parametrize("size", ["0", "1x1", "axb", "40x", "-3"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    arguments = ["keras", str(tmp_path / "x.keras"), "--out", "x.onnx", f"--input-size={size}"]
    with pytest.raises(InputError, match="--input-size takes a size such as 224, or a height and a width"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)


@pytest.mark.slow
def test_another_backend_of_the_environment_is_left_out_of_account(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "keras", str(checkpoint), "--out", str(tmp_path / "x.onnx")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, check=True)


def test_images_of_the_proof_are_the_test_images_of_the_run(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"")
    record = CheckpointRecord(tmp_path / "x.keras", "x", facts={"classes": ["a"]})
    split = tmp_path / "split.csv"
    split.write_text("file,class,group,split\na.png,x,1,test\nb.png,x,2,train\nc.png,y,3,test\ngone.png,y,4,test\n")
    assert record.test_images(5) == [tmp_path / "a.png", tmp_path / "c.png"]
    split.write_text("file;class;group;split\na.png;x;1; test\n")  # saved by a spreadsheet
    assert record.test_images(5) == [tmp_path / "a.png"]
    split.write_text("file,class,group\na.png,x,1\n")
    with pytest.raises(InputError, match=r"split\.csv: no column 'split'; it has: file, class, group"):
        record.test_images(5)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "size"), [*((b, 224) for b in BACKBONES), *((a, 128) for a in APPLICATIONS)])
def test_backbone_equals_keras(architecture: str, size: int, tmp_path: Path) -> None:
    """Logits and activations to 1e-5, gradients to a cosine of 0.9999, the last to 1e-4, at all optimisation levels."""
    path, layers = tmp_path / "m.keras", (BACKBONES | APPLICATIONS)[architecture]
    keras_models.backbone(architecture, size=size).save(path)
    differences = export_checkpoint(CheckpointRecord(path, "m"), Request(layers, tmp_path / "m.onnx"))
    assert len(differences) == 4 * (1 + 2 * len(layers))
    assert all(item.passes for item in differences)
    gradients = [item for item in differences if item.output.startswith("gradients")]
    assert min(item.cosine for item in gradients) >= 0.9999
    assert max(item.relative_l2 for item in gradients if item.output == f"gradients:{layers[-1]}") <= 1e-4


@pytest.mark.slow
def test_resnet_fails_without_the_padding_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "separate_padding_from_max_pool", lambda _graph: 0)
    path = tmp_path / "m.keras"
    keras_models.backbone("ResNet50V2").save(path)
    with pytest.raises(CannotEvaluateError, match="differs from its source"):
        export_checkpoint(CheckpointRecord(path, "m"), Request(["post_relu"], tmp_path / "m.onnx"))
