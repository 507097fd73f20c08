"""The rival of the end-to-end benchmark does the same work as `evaluate`: same maps, same metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import evaluations, explainers, kernel_rivals, networks, rival_pipeline
from benchmarks.explainers import METHODS, NORMALISED
from benchmarks.radiographs import Radiographs, radiographs
from benchmarks.rival_pipeline import Compared
from harness.common.errors import InputError
from kernels.catalogue import METHODS as METHODS_WE_HAVE
from kernels.catalogue import METRICS, of_one_pass
from tests.keras_models import small

pytestmark = pytest.mark.slow  # whole networks in Keras; no other module depends on these rivals
CLASSES = ("one", "two", "three")
SIZE = (32, 32)


@dataclass(frozen=True)
class Outcome:
    pair: networks.Checkpoints
    pictures: Radiographs
    out: Path

    def rival(self, explainer) -> Compared:
        models = [explainer(self.pair.keras(phase), self.pair.layer) for phase in networks.PHASES]
        return rival_pipeline.compare(self.pictures.files, self.pictures.classes, SIZE, *models)

    def ours(self, method: str) -> np.ndarray:
        return evaluations.metrics_of(self.out, method)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> Outcome:
    """A small network, its twin with nudged weights, and 10 noisy pictures, evaluated."""
    folder = tmp_path_factory.mktemp("end-to-end")
    pair = networks.Checkpoints(folder / "small", "small", "joined")
    networks.write(pair, small(SIZE[0], len(CLASSES)), CLASSES)
    rng = np.random.default_rng(0)
    files = [folder / f"{number:02d}.png" for number in range(10)]
    for file in files:
        cv2.imwrite(str(file), cv2.resize(rng.integers(0, 256, (6, 6), np.uint8), (48, 48)))
    pictures = Radiographs(files, rng.integers(0, len(CLASSES), len(files)), [file.stem for file in files])
    manifest = pictures.write_manifest(folder / "manifest.csv", CLASSES)
    evaluations.evaluate(pair, manifest, folder / "out")
    return Outcome(pair, pictures, folder / "out")


def assert_same_metrics(found: np.ndarray, ours: np.ndarray) -> None:
    assert np.isfinite(ours).all()
    assert evaluations.disagreement(found, ours) < 0.02
    np.testing.assert_allclose(found, ours, atol=0.02)  # a pixel or two of a mask


def test_a_compiled_tape_gives_our_maps_and_metrics(outcome: Outcome) -> None:
    found = outcome.rival(explainers.tape)
    for method in METHODS:
        for phase, maps in zip(networks.PHASES, found.maps[method], strict=True):
            ours = evaluations.maps_of(outcome.out, phase, method)
            assert ours.max() > 0
            np.testing.assert_allclose(maps, ours, rtol=1e-3, atol=1e-4 * ours.max(), err_msg=f"{phase} {method}")
        assert_same_metrics(found.metrics[method], outcome.ours(method))
    assert evaluations.disagreement(found.metrics["layercam"], outcome.ours("gradcam++")) > 0.5


def test_tf_keras_vis_gives_our_layercam(outcome: Outcome) -> None:
    found = outcome.rival(explainers.tf_keras_vis)
    ours = evaluations.maps_of(outcome.out, "transfer", "layercam")
    np.testing.assert_allclose(found.maps["layercam"][0], ours, rtol=1e-3, atol=1e-4 * ours.max())
    assert_same_metrics(found.metrics["layercam"], outcome.ours("layercam"))


def test_its_references_are_a_floor_and_a_chance_level(outcome: Outcome) -> None:
    """Unrelated images overlap least; a noisy copy and the nudged checkpoint's map overlap with the image's own."""
    models = [explainers.tape(outcome.pair.keras(phase), outcome.pair.layer) for phase in networks.PHASES]
    found = rival_pipeline.with_references(outcome.pictures.files, outcome.pictures.classes, SIZE, *models)
    soft_iou = evaluations.COLUMNS.index("soft_iou")
    for method in METHODS:
        of = [values[method][:, soft_iou].mean() for values in (found.chance, found.floor, found.compared.metrics)]
        assert of[0] < min(of[1:])
        assert found.floor[method].shape == found.chance[method].shape == found.compared.metrics[method].shape


def test_tf_keras_vis_differs_in_grad_cam_plus_plus_by_what_is_said(outcome: Outcome) -> None:
    """Literally: alphas divided by their sum per channel, times exp(score)."""
    path, classes = outcome.pair.keras("transfer"), outcome.pictures.classes[:4]
    greys = np.stack([rival_pipeline.decoded(file, SIZE) for file in outcome.pictures.files[:4]])
    found = explainers.tf_keras_vis(path, outcome.pair.layer)(greys, classes)
    explained = explainers.ours(outcome.pair.onnx("transfer"))(greys, classes)
    np.testing.assert_allclose(found.logits, explained.logits, atol=1e-4)
    literal = _normalised(path, outcome.pair.layer, greys, classes)
    np.testing.assert_allclose(_scaled(found.maps[NORMALISED]), _scaled(literal), atol=1e-4)
    assert np.abs(_scaled(literal) - _scaled(explained.maps["gradcam++"])).max() > 0.01


def test_every_metric_and_method_of_a_layer_has_a_rival() -> None:
    at_a_layer = {name for name in of_one_pass(METHODS_WE_HAVE.built_in) if METHODS_WE_HAVE[name].applies_to(False)}
    assert at_a_layer == set(kernel_rivals.CAM)
    of_one_threshold = {"iou_top20"}  # stands for the other shares, which are read off the same sort
    others = {name for name in METRICS.built_in if not name.startswith("iou_top")} | of_one_threshold
    assert others == set(kernel_rivals.PAIR | kernel_rivals.CONCENTRATION)


def _normalised(path: Path, layer: str, greys: np.ndarray, classes: np.ndarray) -> np.ndarray:
    from export.sources.keras import frontend

    images = np.repeat(greys[..., None], 3, axis=-1)
    network = frontend.open_network(path, frontend.load_checkpoint(path))
    scores = frontend.settled(network, images, on_purpose=False)
    arrays = frontend.explain(scores, {layer: network.find_layer(layer)}, images, classes)
    maps = []
    for A, G in zip(arrays[f"activations:{layer}"], arrays[f"gradients:{layer}"], strict=True):  # (C, h, w)
        total = np.zeros(A.shape[1:])
        for a, g in zip(A, G, strict=True):
            alpha = np.where(g == 0, 0, 1 / (2 + g * a.sum()))
            total += (alpha / (alpha.sum() or 1) * np.maximum(g, 0)).sum() * a
        maps.append(np.maximum(total, 0))
    return np.array(maps)


def _scaled(maps: np.ndarray) -> np.ndarray:
    return maps / maps.max(axis=(1, 2), keepdims=True)


def test_a_pair_with_an_empty_map_has_no_metrics() -> None:
    maps = np.random.default_rng(0).uniform(0, 1, (2, 4, 4)).astype(np.float32)
    before = maps.copy()
    before[1] = 0
    found = rival_pipeline.scores(before, maps)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    assert found.shape[1] == len(evaluations.COLUMNS)


def test_networks_are_made_again_when_something_changes(monkeypatch) -> None:
    before = networks._key()
    monkeypatch.setattr(networks, "version", lambda _: "0")
    assert networks._key() != before


def test_radiographs_that_are_not_there_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EVIDENCE_DRIFT_SHARED", str(tmp_path))
    with pytest.raises(InputError, match=r"manifest\.csv: no such manifest; set EVIDENCE_DRIFT_SHARED"):
        radiographs(4)


def test_radiographs_are_the_same_each_time(shared: Path, monkeypatch) -> None:
    monkeypatch.setenv("EVIDENCE_DRIFT_SHARED", str(shared))
    found = radiographs(8)
    assert found.files == radiographs(12).first(8).files
    assert len(found.files) == 8 == len(found.classes)
    assert all(
        file.parent.name == networks.CLASSES[number] for file, number in zip(found.files, found.classes, strict=True)
    )
