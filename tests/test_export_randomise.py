"""Exported graphs with weights that know nothing: what is drawn anew, what stays, and that it is proved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from export.cli import cli
from export.randomise import randomise, weights_from_the_top
from harness.common.errors import InputError
from harness.images.view import channels_first
from harness.models.session import Model
from tests import tiny_graphs

ROLES = {"early": "penultimate", "late": "last"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_graphs.write_graph(tmp_path_factory.mktemp("graph") / "m.onnx", roles=ROLES)


def weights(path: Path) -> list[np.ndarray]:
    """The weights of the learned operators, those nearest to the logits first."""
    model = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [tensors[name] for name in weights_from_the_top(model.graph)]


def test_weights_come_from_the_top(graph: Path) -> None:
    assert [tensor.shape for tensor in weights(graph)] == [(4, 3), (4, 6, 1, 1), (6, 3, 1, 1)]


@pytest.mark.parametrize(("top", "changed"), [(1, 1), (2, 2), (None, 3)])
def test_only_the_top_is_drawn_anew(graph: Path, top: int | None, changed: int, tmp_path: Path) -> None:
    randomise(graph, tmp_path / "r.onnx", top)
    same = [np.array_equal(a, b) for a, b in zip(weights(graph), weights(tmp_path / "r.onnx"), strict=True)]
    assert same == [False] * changed + [True] * (3 - changed)


def test_the_same_seed_draws_the_same_weights(graph: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        randomise(graph, tmp_path / f"{name}.onnx", seed=seed)
    a, b, c = (weights(tmp_path / f"{name}.onnx")[1] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_layers_classes_and_roles_stay_and_gradients_are_those_of_the_new_weights(graph: Path, tmp_path: Path) -> None:
    randomise(graph, tmp_path / "r.onnx")
    before, after = Model.open(graph), Model.open(tmp_path / "r.onnx")
    assert [(layer.name, layer.role) for layer in after.metadata.layers] == [*ROLES.items()]
    assert (after.metadata.classes, after.metadata.phase) == (before.metadata.classes, "transfer.randomised")
    assert after.metadata.weights_digest != before.metadata.weights_digest
    picture = channels_first(np.random.default_rng(0).uniform(0, 255, (1, 32, 32)).astype(np.float32))
    found = after.explain(picture, np.array([1]), ["late"])
    slopes = weights(tmp_path / "r.onnx")[0][:, 1] / 64  # of the mean over 8 x 8 positions
    np.testing.assert_allclose(found.layers["late"][1][0].mean(axis=(1, 2)), slopes, rtol=1e-5)


def test_noise_keeps_the_weights_nearly(graph: Path, tmp_path: Path) -> None:
    randomise(graph, tmp_path / "n.onnx", noise=1e-3)
    for a, b in zip(weights(graph), weights(tmp_path / "n.onnx"), strict=True):
        assert 0 < np.abs(a - b).max() < 6e-3 * a.std()
    facts = {item.key: item.value for item in onnx.load(tmp_path / "n.onnx").metadata_props}
    assert json.loads(facts["evidence_drift.compression"])["to"] == "noisy"


def test_more_tensors_than_there_are_is_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 3 tensors of weights; give --top between 1 and 3"):
        randomise(graph, tmp_path / "r.onnx", 4)


def test_on_the_command_line(graph: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(cli, ["randomise", str(graph), "--top", "1", "--out", str(tmp_path / "r.onnx")])
    assert "equal to the randomised forward graph at all ONNX Runtime optimisation levels" in found.output
    assert (tmp_path / "r.onnx").exists()
