"""Nulls: graphs that know nothing, beside the maps of a checkpoint that does."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.randomise import randomise
from harness.common.errors import InputError
from harness.report.text_tables import drift_table
from harness.results.cautions import cautions
from harness.results.schema import Evaluation
from tests import tiny_graphs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nulls")
    for name, nudge in (("before", 0.0), ("after", 0.6)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 11, nudge=nudge, balanced=True)
    tiny_graphs.label_as(folder / "before.onnx", tiny_graphs.write_images(folder / "images", exposure=0.6))
    randomise(folder / "after.onnx", folder / "head.onnx", top=1)
    return folder


@pytest.fixture(scope="module")
def asked(folder: Path) -> list[object]:
    data = ["--data", folder / "images" / "manifest.csv", "--map-size", 32, "--select", "all", "--jitter", 0]
    methods = ["--method", "eigencam", "--method", "layercam"]
    return ["--before", folder / "before.onnx", "--after", folder / "after.onnx", *data, *methods]


@pytest.fixture(scope="module")
def evaluated(folder: Path, asked: list[object]) -> Path:
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(folder / "out", *asked, "--null", folder / "head.onnx", "--null", folder / "after.onnx")
    return folder / "out"


def test_a_method_that_never_asks_the_head_is_blind_to_it(evaluated: Path) -> None:
    result = Evaluation.read(evaluated)
    found = {(item.phase, item.method): item for item in result.nulls}
    eigencam = found["transfer.randomised", "eigencam"]
    assert eigencam.similarity.mean == pytest.approx(1)
    assert eigencam.rank.mean == pytest.approx(1)
    assert eigencam.entropy == pytest.approx(0, abs=1e-9)
    assert eigencam.blind is True
    said = [text for text in cautions(result) if "eigencam at early is blind to what head.onnx lacks" in text]
    assert len(said) == 1
    assert said[0] in " ".join(drift_table(result).split())


def test_maps_are_compared_with_those_of_the_null(evaluated: Path, folder: Path, asked: list[object]) -> None:
    """The same numbers as an evaluation of the two graphs."""
    with tiny_graphs.in_brief():
        words = ["--before", folder / "after.onnx", "--after", folder / "head.onnx", *asked[4:]]
        direct = tiny_graphs.evaluate(folder / "direct", *words, "--chance", 0)
    (item,) = [one for one in Evaluation.read(evaluated).nulls if (one.digest, one.method) == (
        direct.checkpoints[1].digest, "layercam")]  # fmt: skip
    assert item.similarity.mean == pytest.approx(tiny_graphs.metric(direct, "iou_top20").estimate.mean)
    assert item.margin.mean == pytest.approx(item.others.mean - item.similarity.mean)
    maps = tiny_graphs.maps_of(evaluated, checkpoint="after", method="layercam", layer="early", draw=0)
    assert len(maps) == item.n == 48


def test_a_null_of_another_network_is_refused_before_the_work(asked: list[object], tmp_path: Path) -> None:
    other = tiny_graphs.write_graph(tmp_path / "other.onnx", architecture="Other")
    with pytest.raises(InputError, match="is of the architecture 'Other', and none that is compared is"):
        tiny_graphs.evaluate(tmp_path / "out", *asked, "--null", other)
    assert not (tmp_path / "out").exists()


def test_from_maps_there_are_no_nulls(evaluated: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="--null cannot be given beside --from"):
        tiny_graphs.evaluate(evaluated, "--from", evaluated, "--null", folder / "head.onnx")
