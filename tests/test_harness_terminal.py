"""The terminal's tables: by default within 80 columns, whatever was compared; with --wide every metric and column."""

from __future__ import annotations

import pytest

from harness.report.text_tables import SHORT, WIDTH, drift_table
from harness.results.schema import Evaluation
from tests import made_results, made_studies


def one_pair(**changed: object) -> Evaluation:
    metrics = [
        made_results.summary(metric, method=method, **changed)
        for method in ("layercam", "gradcam++")
        for metric in SHORT
    ]
    return made_results.evaluation(metrics, methods=["layercam", "gradcam++"])


def width(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_one_pair_has_a_table_per_layer_and_method() -> None:
    text = drift_table(one_pair())
    assert width(text) <= WIDTH
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[2:4]] == ["penultimate, layercam", "penultimate, gradcam++"]
    assert blocks[2].splitlines()[3:5] == [
        "centroid_shift  0.500  0.480 .. 0.520  0.200   0.800  0.50 (0.45 .. 0.55)",
        "iou_top20       0.500  0.480 .. 0.520  0.200   0.800  0.50 (0.45 .. 0.55)",
    ]


def test_what_is_undefined_is_told_below() -> None:
    text = drift_table(one_pair(undefined={"empty_union": 2, "singular_alpha": 13}, vanished=7))
    assert width(text) <= WIDTH
    assert "undefined, iou_top20: 2 empty_union, 13 singular_alpha, (7 vanished)" in text
    assert "undefined" not in drift_table(one_pair())


def test_wide_shows_every_column_of_every_metric() -> None:
    result = made_results.evaluation([made_results.summary("iou_top20"), made_results.summary("iou_top5")])
    assert "iou_top5" not in drift_table(result)
    wide = drift_table(result, wide=True)
    assert "iou_top5" in wide
    assert "stable is" in wide
    assert width(wide) > WIDTH


@pytest.fixture(scope="module", params=[1, 3, pytest.param(12, marks=pytest.mark.slow)])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The JSON of a study of so many architectures, two layers and five methods."""
    folder = tmp_path_factory.mktemp("study")
    plan = made_studies.made_plan(folder, request.param, ["x", "y"], jitter=1)
    made_studies.made_evaluation(plan, 200).write(folder)
    return Evaluation.read(folder).model_dump_json()


@pytest.mark.parametrize("name", ["short", "a rather long name of an architecture, as some have"])
def test_no_line_of_a_study_is_wider_than_a_terminal(study: str, name: str) -> None:
    """Long names of pairs and checkpoints are broken into lines."""
    result = Evaluation.model_validate_json(study.replace("Architecture0", f"{name}-0"))
    text = drift_table(result)
    assert width(text) <= WIDTH
    for metric in SHORT:
        assert metric in text
    assert all(method in text for method in made_studies.METHODS)


def test_a_long_name_of_a_pair_fits() -> None:
    result = one_pair()
    result.pairs[0].name = "x" * 100
    assert width(drift_table(result)) <= WIDTH
