"""Metrics and CAM methods of a user's own, from registration to table, JSON, report and gate, here and elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from harness import cli as command_lines
from harness.cli import cli
from harness.common.errors import InputError
from harness.evaluation.explain import Batching, Request
from harness.evaluation.jobs import Explaining, Scoring
from harness.evaluation.score import Scorer
from harness.gate.command import judge_files
from harness.gate.judge import judge
from harness.gate.policy import Rule, parse_policy
from harness.report import heatmaps
from harness.report.text_tables import drift_table, markdown
from harness.results.part_files import SCHEMAS, Store
from harness.results.plan import Options, read_scored, read_stored, restore
from harness.results.reader import Reader, labels_of, read_collected
from harness.results.schema import Evaluation, schema
from harness.results.vocabulary import BUILT_IN, Vocabulary, current
from kernels.cam import cam
from kernels.catalogue import METHODS, METRICS, register_method, register_metric
from kernels.resize import upsample
from tests import documents, tiny_graphs
from tests.json_schema import validator

MAPS = ["--select", "all", "--map-size", "32", "--jitter", "1", "--chance", "2"]
NAMES = ("dice", "hot", "abscam")


def dice(before: np.ndarray, after: np.ndarray) -> float:
    x, y = before / before.max(), after / after.max()
    return 2 * np.minimum(x, y).sum() / (x.sum() + y.sum())


def hot(a_map: np.ndarray) -> float:
    return float((a_map > a_map.mean()).mean() * 4)


def abscam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return (np.abs(gradients) * activations).sum(axis=0)


def register(*names: str) -> None:
    """The toy metrics and the toy method, or some of them."""
    if "dice" in names:
        definition = "2 sum min(x, y) / (sum x + sum y), x = a / max a, y = b / max b"
        register_metric("dice", dice, range=(0, 1), stable_is="high", definition=definition, source="Dice 1945")
    if "hot" in names:
        register_metric(
            "hot", hot, kind="concentration", range=(0, 4), stable_is="zero", definition="four shares > mean"
        )
    if "abscam" in names:
        register_method("abscam", abscam, equation="M = relu(sum_k abs(G_k) A_k)", source="our own")


def forget() -> None:
    """Remove whatever is registered."""
    for registry in (METRICS, METHODS):
        for name in [name for name in registry if name not in registry.built_in]:
            registry.unregister(name)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    forget()


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """No contact sheet and no page, which take longer than the rest of a tiny evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heatmaps, "contact_sheet", lambda *_: None)
        asked, brief = command_lines._settings, {"report": False, "resamples": 200}
        patch.setattr(command_lines, "_settings", lambda out, given: replace(asked(out, given), **brief))
        yield


@dataclass(frozen=True)
class Made:
    """An evaluation with the toys, and what it was made of."""

    out: Path
    arguments: list[object]

    @property
    def result(self) -> Evaluation:
        return Evaluation.read(self.out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("registered")
    before = tiny_graphs.write_graph(folder / "before.onnx", seed=1)
    after = tiny_graphs.write_graph(folder / "after.onnx", seed=1, nudge=0.3, phase="finetune")
    data = tiny_graphs.write_images(folder / "images")
    arguments = ["--before", before, "--after", after, "--data", data, *MAPS, "--method", "abscam"]
    register(*NAMES)
    tiny_graphs.evaluate(folder / "out", *arguments, "--method", "layercam")
    forget()
    return Made(folder / "out", [*arguments, "--method", "layercam"])


def maps(made: Made, checkpoint: int, method: str) -> dict[str, np.ndarray]:
    """Image -> map at the size in which maps are compared."""
    key = made.result.checkpoints[checkpoint].key
    found = tiny_graphs.maps_of(made.out, checkpoint=key, method=method, draw=0)
    return {image: upsample(raw[None], (32, 32))[0] for (image, _), raw in found.items()}


# Numbers


@pytest.mark.parametrize("method", ["abscam", "layercam"])
def test_registered_metrics_have_the_numbers_of_their_functions(made: Made, method: str) -> None:
    before, after = maps(made, 0, method), maps(made, 1, method)
    literal = {
        "dice": [dice(before[name], after[name]) for name in before],
        "hot_before": [hot(before[name]) for name in before],
        "hot_change": [hot(after[name]) - hot(before[name]) for name in before],
        "hot_shift": [abs(hot(after[name]) - hot(before[name])) for name in before],
    }
    for name, values in literal.items():
        found = tiny_graphs.metric(made.result, name, method)
        assert found.n == 48
        assert found.estimate.mean == pytest.approx(np.mean(values), rel=1e-6), name
    dices, shifts = (tiny_graphs.metric(made.result, name, method) for name in ("dice", "hot_shift"))
    assert (dices.stable_is, shifts.stable_is) == ("high", "low")
    for item in (dices, shifts):
        assert item.index is not None
        assert item.index.value is not None
        assert item.index.value == pytest.approx(
            (item.index.observed - item.index.chance) / (item.index.floor - item.index.chance)  # type: ignore[operator]
        )


def test_a_registered_method_has_the_maps_of_its_function(made: Made) -> None:
    one = tiny_graphs.maps_of(made.out, checkpoint=made.result.checkpoints[0].key, method="abscam", draw=0)
    other = tiny_graphs.maps_of(made.out, checkpoint=made.result.checkpoints[0].key, method="layercam", draw=0)
    assert all((raw >= 0).all() for raw in one.values())
    assert any(not np.array_equal(raw, other[place]) for place, raw in one.items())


def test_ours_are_what_they_are_without(made: Made, tmp_path: Path) -> None:
    alone = tiny_graphs.evaluate(tmp_path / "out", *made.arguments[:-4], "--method", "layercam")
    with_toys = [item for item in made.result.pairs[0].metrics if item.method == "layercam"]
    assert alone.pairs[0].metrics == [item for item in with_toys if item.metric in BUILT_IN.columns]
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert not {"registered_metrics", "registered_methods"} & set(content)
    assert "registered" not in read_stored(tmp_path / "out")["options"]


# Where they appear


def test_tables_show_them(made: Made) -> None:
    for text in (drift_table(made.result, wide=True), markdown(made.result)):
        assert re.search(r"abscam\W+dice\W+high\W", text)
        assert re.search(r"layercam\W+hot.{1,8}change\W+near 0\W", text)
    assert "hot_shift" in drift_table(made.result, wide=True)
    narrow = drift_table(made.result)
    assert re.search(r", abscam\n(?:.*\n)*?dice\W", narrow)
    assert re.search(r", layercam\n(?:.*\n)*?hot\S*change\W", narrow)


@pytest.mark.parametrize("registered", [("abscam",), NAMES])
def test_parts_are_known_again(made: Made, registered: tuple[str, ...]) -> None:
    register(*registered)
    stored, _ = restore(read_scored(made.out), made.out)
    labels = labels_of(stored)
    for kind in SCHEMAS:
        Store(made.out, labels).require_own(kind, labels.numbers(kind))


def test_json_carries_their_records(made: Made) -> None:
    content = json.loads((made.out / "evaluation.json").read_text())
    validator(schema()).validate(content)
    assert [item["name"] for item in content["registered_metrics"]] == ["dice", "hot"]
    assert content["registered_metrics"][1] == {
        "name": "hot", "kind": "concentration", "range": [0, 4], "stable_is": "zero", "needs": "mass",
        "definition": "four shares > mean", "source": "",
    }  # fmt: skip
    equation = "M = relu(sum_k abs(G_k) A_k)"
    assert content["registered_methods"] == [{"name": "abscam", "equation": equation, "source": "our own"}]
    assert made.result.vocabulary.range_of("hot_change") == (-4, 4)


def test_a_report_elsewhere_shows_and_explains_them(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.out, tmp_path / "out")
    found = tiny_graphs.run(tmp_path, "report", "out")
    assert found.returncode == 0, found.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in ("<option>dice</option>", "<option>hot_shift</option>", "Four shares &gt; mean.", "Dice 1945"):
        assert text in page, text
    assert re.search(r'id="[^"]*method-abscam"', page)


POLICY = """
format = 1
[requirements]
max_undefined = 0.05
[[rule]]
metric = "{metric}"
method = "abscam"
layer = "early"
statistic = "mean"
{bound}
"""


def test_a_gate_elsewhere_judges_them(made: Made, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY.format(metric="dice", bound="min = 0.01"))
    found = tiny_graphs.run(tmp_path, "gate", made.out, "--policy", "policy.toml")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "dice mean (abscam, early)" in found.stdout


@pytest.mark.parametrize(
    ("metric", "bound", "code"),
    [
        ("dice", "min = 0.01", 0),
        ("dice", "min = 0.999", 1),
        ("hot_shift", "max = 3.9", 0),
        ("hot_change", "min = -3.9\nmax = 3.9", 0),
    ],
)
def test_a_bound_on_a_registered_metric(made: Made, tmp_path: Path, metric: str, bound: str, code: int) -> None:
    (tmp_path / "policy.toml").write_text(POLICY.format(metric=metric, bound=bound))
    assert judge_files(made.out, tmp_path / "policy.toml").exit_code == code


@pytest.mark.parametrize(
    ("metric", "bound", "limits"),
    [
        ("dice", "max = 1.5", "0.0 .. 1.0"),
        ("hot_before", "max = 4.5", "0.0 .. 4.0"),
        ("hot_change", "min = -5", "-4.0 .. 4.0"),
    ],
)
def test_a_bound_outside_of_the_range_is_refused(
    made: Made, tmp_path: Path, metric: str, bound: str, limits: str
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY.format(metric=metric, bound=bound))
    with pytest.raises(InputError, match=f"is impossible: {metric} mean lies in {limits}"):
        judge_files(made.out, tmp_path / "policy.toml")


def test_a_baseline_tells_which_way_is_worse(made: Made) -> None:
    result, better = made.result, made.result
    for item in better.pairs[0].metrics:
        if item.metric == "dice" and item.estimate.mean is not None:
            item.estimate.mean += 0.2
    for bound, outcome in (("max_worsening = 0.1", "fail"), ("max_worsening = 0.3", "pass")):
        policy = parse_policy(POLICY.format(metric="dice", bound=f'mode = "point"\n{bound}'), "x", result.vocabulary)
        assert judge(result, policy, better).outcome == outcome
    better.registered_metrics[0].range = (0, 2)
    assert "metric dice differs from the baseline's" in judge(result, policy, better).cases[0].message


def test_a_policy_is_checked_by_what_the_result_has(made: Made) -> None:
    text = POLICY.format(metric="dice", bound="min = 0.5")
    with pytest.raises(InputError, match="x: rule 1: unknown metric 'dice'; did you mean"):
        parse_policy(text, "x", BUILT_IN)
    rule = parse_policy(text, "x", made.result.vocabulary).rule[0]
    assert (rule.direction, rule.range) == (1, (0, 1))
    with pytest.raises(InputError, match="unknown CAM method 'abscam'; did you mean"):
        parse_policy(text.replace("dice", "pearson"), "x", BUILT_IN)
    with pytest.raises(InputError, match="dice does not count vanished evidence"):
        parse_policy(text.replace("mean", "vanished-rate"), "x", made.result.vocabulary)
    register("dice")
    keys = {"metric": "dice", "method": "layercam", "layer": "early", "statistic": "index", "min": 0.5}
    assert Rule.model_validate(keys).direction == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "pearson"}, "metric 'pearson': its column 'pearson' is one of 'pearson'"),
        ({"range": [1, 0]}, "metric 'dice': range must be two finite numbers"),
        ({"stable_is": "zero"}, "metric 'dice': stable_is of a pair must be 'low' or 'high'"),
        ({"kind": "set"}, "registered_metrics.0.kind"),
    ],
)
def test_a_result_whose_descriptions_cannot_be(made: Made, tmp_path: Path, changed: dict, sentence: str) -> None:
    content = json.loads((made.out / "evaluation.json").read_text())
    content["registered_metrics"][0] |= changed
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        Evaluation.read(tmp_path)


# Resuming, and computing again


def test_resuming_needs_the_same_functions(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.out, tmp_path / "out")
    (tmp_path / "out" / "evaluation.json").unlink()
    shutil.rmtree(tmp_path / "out" / "scores")
    resumed = [*made.arguments, "--resume"]
    register("hot", "abscam")
    with pytest.raises(InputError, match="was begun with another options: registered: metrics"):
        tiny_graphs.evaluate(tmp_path / "out", *resumed)
    register_metric("dice", lambda a, b: dice(a, b) / 2, range=(0, 1), stable_is="high", definition="half")
    with pytest.raises(InputError, match="was begun with another options: registered: metrics"):
        tiny_graphs.evaluate(tmp_path / "out", *resumed)
    METRICS.unregister("dice")
    register("dice")
    assert tiny_graphs.evaluate(tmp_path / "out", *resumed).pairs == made.result.pairs


def test_a_metric_registered_later_is_computed_from_the_maps(made: Made, tmp_path: Path) -> None:
    register("dice", "hot")
    register_metric("alike", lambda a, b: float((a > 0)[b > 0].mean()), range=(0, 1), stable_is="high", definition="x")
    again = tiny_graphs.evaluate(tmp_path / "out", "--from", made.out)
    assert [item.name for item in again.registered_metrics] == ["alike", "dice", "hot"]
    assert [item.name for item in again.registered_methods] == ["abscam"]  # whose maps are there
    assert tiny_graphs.metric(again, "dice", "abscam") == tiny_graphs.metric(made.result, "dice", "abscam")
    assert tiny_graphs.metric(again, "alike").n == 48


def test_computing_again_without_the_metric_is_refused(made: Made, tmp_path: Path) -> None:
    register("hot")
    with pytest.raises(
        InputError, match="metric 'dice' is not registered in the process that needs it; register it there, or install"
    ):
        tiny_graphs.evaluate(tmp_path / "out", "--from", made.out)


# Functions that fail


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (1.5, r"metric 'broken', image 'image-\d{3}.png': returned 1.5, outside of its range 0 .. 1"),
        ("no", r"metric 'broken', image 'image-\d{3}.png': returned 'no'; expected one real number"),
    ],
)
def test_a_metric_that_breaks_its_record_is_named_with_the_image(
    made: Made, tmp_path: Path, value: object, sentence: str
) -> None:
    register("abscam")
    register_metric("broken", lambda *_: value, range=(0, 1), stable_is="high", definition="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=sentence):
        tiny_graphs.evaluate(tmp_path / "out", *made.arguments)


def test_a_metric_that_is_not_a_number_is_counted(made: Made, tmp_path: Path) -> None:
    register("abscam")
    before = maps(made, 0, "layercam")
    middle = float(np.median([a_map.mean() for a_map in before.values()]))
    register_metric(
        "odd", lambda a, _: 0.5 if a.mean() > middle else np.nan, range=(0, 1), stable_is="low", definition="x"
    )
    result = tiny_graphs.evaluate(tmp_path / "out", *made.arguments)
    item = tiny_graphs.metric(result, "odd")
    assert (item.n, item.undefined) == (24, {"non_finite": 24})


def test_a_method_that_fails_is_named_with_the_image(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register_method("abscam", lambda a, _: a, equation="M = A")
    with pytest.raises(InputError, match=r"CAM method 'abscam', image 'image-000.png': returned float32 of shape"):
        tiny_graphs.evaluate(tmp_path / "out", *made.arguments)
    monkeypatch.setattr(
        "sys.argv", ["harness", "evaluate", *map(str, made.arguments), "--out", str(tmp_path / "again")]
    )
    from harness.cli import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "CAM method 'abscam', image 'image-000.png': returned" in capsys.readouterr().err


def test_a_single_image_is_explained_by_it_too(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Path(str(made.arguments[5])).parent / "image-000.png"
    command = ["explain", str(made.arguments[1]), str(image), "--out", str(tmp_path / "x.png"), "--layer", "early"]
    register("abscam")
    cli.main(command, standalone_mode=False)
    assert "abscam" in capsys.readouterr().out
    METHODS.unregister("abscam")
    register_method("abscam", lambda a, _: a[0] / 0, equation="M = A")
    with pytest.raises(InputError, match=r"CAM method 'abscam', .*image-000.png: raised RuntimeWarning"):
        cli.main(command, standalone_mode=False)


def test_the_ten_lines_of_the_page_register_both(made: Made) -> None:
    code = next(block for block in documents.blocks("docs/metrics.md") if block.language == "python")
    exec(compile(code.text, "docs/metrics.md", "exec"), {})
    before, after = maps(made, 0, "layercam"), maps(made, 1, "layercam")
    values, _ = METRICS["dice"](np.stack([*before.values()]), np.stack([*after.values()]))
    assert values == pytest.approx([dice(before[name], after[name]) for name in before])
    activations = np.ones((1, 2, 3, 3), np.float32)
    assert cam("abscam", activations, -activations)[0].tolist() == np.full((1, 3, 3), 2.0).tolist()


# Other processes


def test_a_worker_without_them_refuses(made: Made) -> None:
    """What a Ray worker does first with what it is sent, which holds no function."""
    register(*NAMES)
    stored, samples = restore(read_stored(made.out), made.out)
    collected = read_collected(Store(made.out), stored.plan, samples, 2)
    scorer = Scorer(Reader(stored.plan, collected, stored.select, Store(made.out)), 1)
    scoring = Scoring(scorer)
    wanted = Request(stored.plan.layers, stored.plan.options, "all", stored.plan.vocabulary)
    explaining = Explaining(stored.plan.checkpoints[0], Store(made.out), wanted, "cpu", Batching())
    scoring.prepare()
    explaining.prepare()
    METRICS.unregister("dice")
    METHODS.unregister("abscam")
    with pytest.raises(
        InputError, match="metric 'dice' is not registered in the process that needs it; register it there, or install"
    ):
        scoring.prepare()
    with pytest.raises(InputError, match="metric 'dice' is not registered"):
        explaining.prepare()  # already here, hours before the scores
    register("dice")
    with pytest.raises(InputError, match="CAM method 'abscam' is not registered in the process that needs it"):
        explaining.prepare()
    METRICS.unregister("dice")
    register_metric("dice", lambda *_: 0.5, range=(0, 1), stable_is="high", definition="another one")
    with pytest.raises(InputError, match="metric 'dice' is registered as another one in the process that needs it"):
        scoring.prepare()


@pytest.mark.parametrize("module", ["harness.results.vocabulary", "harness.gate.policy"])
def test_vocabulary_and_policy_load_nothing_that_computes(module: str) -> None:
    heavy = ("numba", "cv2", "pyarrow", "onnxruntime", "kernels.scoring")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny_graphs.ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_the_current_vocabulary_holds_no_function() -> None:
    register(*NAMES)
    found = current()
    registered = (*found.registered_metrics, *found.registered_methods)
    assert [record.name for record in registered] == ["dice", "hot", "abscam"]
    assert all(record.implementation is None and record.fingerprint for record in registered)
    assert Vocabulary.restored(json.loads(json.dumps(found.describe(["abscam"])))) == found
    assert Vocabulary.restored({}) == BUILT_IN
    assert found.describe(["layercam"])["registered"]["methods"] == []


PACKAGE = """
print("toy is imported")
from kernels.catalogue import register_method, register_metric
same = register_metric("same", lambda a, b: float((a == b).mean()), range=(0, 1), stable_is="high", definition="share")
plain = register_method("plain", lambda a, g: a.sum(axis=0), equation="M = relu(sum_k A_k)")
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages that offers a metric and a method as entry points."""
    folder = tmp_path / "site"
    info = folder / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "toy.py").write_text(PACKAGE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n", encoding="utf-8")
    groups = "[evidence_drift.metrics]\nsame = toy:same\n[evidence_drift.methods]\nplain = toy:plain\n"
    (info / "entry_points.txt").write_text(groups, encoding="utf-8")
    return folder


def with_site(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(tiny_graphs.ROOT), str(folder)])}


@pytest.mark.slow
def test_entry_points_of_installed_packages_take_part(made: Made, tmp_path: Path, site: Path) -> None:
    arguments = [*made.arguments[:-4], "--method", "plain", "--out", "out", "--quiet"]
    found = tiny_graphs.run(tmp_path, "evaluate", *arguments, **with_site(site))
    assert found.returncode == 0, found.stderr
    result = Evaluation.read(tmp_path / "out")
    assert ([item.name for item in result.registered_metrics], result.methods) == (["same"], ["plain"])
    assert tiny_graphs.metric(result, "same", "plain").n == 48
    refused = tiny_graphs.run(tmp_path, "evaluate", *arguments)
    assert refused.returncode == 2
    known = ", ".join(map(repr, METHODS.built_in))
    assert f"'plain' is not one of {known}." in refused.stderr


def test_help_and_our_own_names_import_no_installed_package(made: Made, tmp_path: Path, site: Path) -> None:
    for arguments in (["evaluate", "--help"], ["gate", made.out, "--policy", "no.toml"]):
        assert "toy is imported" not in tiny_graphs.run(tmp_path, *arguments, **with_site(site)).stdout


@pytest.mark.slow
def test_an_installed_package_that_cannot_be_loaded_is_a_sentence(made: Made, tmp_path: Path, site: Path) -> None:
    (site / "toy.py").write_text("import nothing_of_this_name", encoding="utf-8")
    image = Path(str(made.arguments[5])).parent / "image-000.png"
    for command in (
        ["evaluate", *made.arguments[:-4], "--out", "out"],
        ["explain", made.arguments[1], image, "--out", "x.png"],
    ):
        found = tiny_graphs.run(tmp_path, *command, **with_site(site))
        assert found.returncode == 2
        assert re.fullmatch(
            r"error: entry point '\w+' of evidence_drift\.(metrics|methods) \(toy:\w+\) cannot be loaded "
            r"\(ModuleNotFoundError: No module named 'nothing_of_this_name'\)\n",
            found.stderr,
        )


def test_options_name_a_registered_method_in_a_study(made: Made, tmp_path: Path) -> None:
    from harness.evaluation.study_file import read_study

    graphs = "\n".join(
        f'{name} = "{path}"' for name, path in zip(("before", "after"), made.arguments[1:4:2], strict=True)
    )
    study = f'data = "{made.arguments[5]}"\nmethods = ["abscam"]\n[[architecture]]\n{graphs}\n'
    (tmp_path / "study.toml").write_text(study)
    with pytest.raises(InputError, match="methods: unknown CAM method 'abscam'; did you mean"):
        read_study(tmp_path / "study.toml")
    register("abscam")
    plan = read_study(tmp_path / "study.toml")
    assert plan.options == Options(methods=("abscam",))
    assert [record.name for record in plan.vocabulary.registered_methods] == ["abscam"]
