"""The catalogue: what a record says, what may be registered, and what users' functions get and may return."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels import catalogue
from kernels.cam import cam, cams
from kernels.catalogue import METHODS, METRICS, register_method, register_metric
from kernels.fingerprints import fingerprint
from kernels.function_errors import UserFunctionError
from kernels.metrics import BUILT_IN, pair_metrics
from kernels.partners import partner_metrics
from kernels.reasons import Reason
from kernels.record_types import MethodRecord, MetricRecord
from kernels.registry import RegistrationError, Registry
from tests.map_samples import cam_like, related

ROOT = Path(__file__).parent.parent
BEFORE = cam_like(3, (12, 10))
AFTER = related(BEFORE)
A, G = (np.random.default_rng(n).normal(0.2, 1, (2, 5, 3, 4)).astype(np.float32) for n in range(2))


def dice(before: np.ndarray, after: np.ndarray) -> float:
    x, y = before / before.max(), after / after.max()
    return 2 * np.minimum(x, y).sum() / (x.sum() + y.sum())


def spread(a_map: np.ndarray) -> float:
    return float(a_map.std() / a_map.max())


def abscam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return (np.abs(gradients) * activations).sum(axis=0)


DICE = MetricRecord("dice", "pair", (0, 1), "high", "mass", "2 sum min / (sum x + sum y)", "Dice 1945", dice)
SPREAD = MetricRecord("spread", "concentration", (0.0, 0.5), "zero", "mass", "sd / max", "our own", spread)
ABSCAM = MethodRecord("abscam", "M = relu(sum_k abs(G_k) A_k)", "our own", abscam, hides=True)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    for registry in (METRICS, METHODS):
        for name in [name for name in registry if name not in registry.built_in]:
            registry.unregister(name)


def test_the_catalogue_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import kernels.catalogue; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['kernels']"


def _code_of(record: MethodRecord) -> Any:
    return record.attribution if record.takes_passes else record.reduce


@pytest.mark.parametrize("record", METHODS.built_in.values(), ids=lambda one: one.name)
def test_a_method_says_what_it_costs_where_it_costs_something(record: MethodRecord) -> None:
    assert record.takes_passes == bool(record.cost) == (record.asks != "pass")


@pytest.mark.parametrize("record", [*METRICS.built_in.values(), *METHODS.built_in.values()], ids=lambda one: one.name)
def test_every_record_names_code_that_is_there(record: MetricRecord | MethodRecord) -> None:
    module, _, function = str(record.implementation).partition(":")
    code = record.compute if isinstance(record, MetricRecord) else _code_of(record)
    assert code is getattr(sys.modules[module], function)


# What follows from a record


def test_columns_of_a_pair_metric_and_of_a_concentration() -> None:
    assert (DICE.columns, DICE.stability, DICE.change, DICE.absolute_change) == (("dice",), "dice", None, None)
    assert SPREAD.columns == ("spread_before", "spread_after", "spread_change")
    assert (SPREAD.stability, SPREAD.change) == ("spread_shift", "spread_change")


def test_ranges_and_stable_sides_of_columns() -> None:
    ranges = {name: SPREAD.range_of(name) for name in (*SPREAD.columns, SPREAD.stability)}
    assert ranges == {
        "spread_before": (0, 0.5), "spread_after": (0, 0.5), "spread_change": (-0.5, 0.5), "spread_shift": (0, 0.5),
    }  # fmt: skip
    assert [SPREAD.stable_at(name) for name in ranges] == ["zero", "zero", "zero", "low"]
    assert (DICE.range_of("dice"), DICE.stable_at("dice"), DICE.direction) == ((0, 1), "high", 1)


def test_a_description_holds_no_function_but_notices_another_one() -> None:
    described = DICE.described()
    assert pickle.loads(pickle.dumps(described)) == described
    assert described.fingerprint == fingerprint(dice) != fingerprint(spread)
    assert described != replace(DICE, implementation=spread).described()
    assert BUILT_IN[0].described() is BUILT_IN[0]
    with pytest.raises(UserFunctionError, match="metric 'dice': only its description is known here; register it"):
        _ = described.compute


def test_fingerprint_is_of_what_a_function_does() -> None:
    def made(source: str):
        return eval(compile(source, "anywhere", "eval"))

    one = fingerprint(made("lambda a, b: max({1, 2}) + (lambda x: x * 2)(3)"))
    assert one == fingerprint(made("\n\nlambda a, b: max({1, 2}) + (lambda x: x * 2)(3)"))
    assert one != fingerprint(made("lambda a, b: max({1, 2}) + (lambda x: x * 4)(3)"))
    assert fingerprint(made("lambda a, b, c=1: c")) != fingerprint(made("lambda a, b, c=2: c"))
    # A set has no order: as that of texts in another process, that of 0 and 8 depends on which came first.
    assert fingerprint(made("lambda a: a in {0, 8}")) == fingerprint(made("lambda a: a in {8, 0}"))
    assert fingerprint(made("lambda a: a in {0, 8}")) != fingerprint(made("lambda a: a in {0, 7}"))


# What may be registered


def test_registered_records_follow_ours_by_name() -> None:
    register_metric("zeta", dice, range=(0, 1), stable_is="high", definition="as dice")
    register_metric("dice", dice, range=(0, 1), stable_is="high", definition="2 sum min / (sum x + sum y)")
    assert list(METRICS)[-3:] == ["area50", "dice", "zeta"]
    assert METRICS["dice"].definition == "2 sum min / (sum x + sum y)"
    assert catalogue.metric("dice") is METRICS["dice"]
    assert len(METRICS) == len(METRICS.built_in) + 2
    METRICS.unregister("zeta")
    assert "zeta" not in METRICS


GOOD = {"function": dice, "range": (0, 1), "stable_is": "high", "definition": "a formula"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "pearson"}, "metric 'pearson' is registered already; choose another name"),
        ({"name": "Dice"}, "a name is lower-case letters, digits and _"),
        ({"name": "dice score"}, "a name is lower-case letters, digits and _"),
        ({"name": "d" * 41}, "has at most 40 of them"),
        ({"name": 3}, "a name is lower-case letters"),
        ({"name": "accuracy"}, "metric 'accuracy': the name means something else already; choose another one"),
        ({"name": "gini_change"}, "its column 'gini_change' is one of 'gini'; choose another name"),
        ({"name": "gini_shift"}, "its column 'gini_shift' is one of 'gini'; choose another name"),
        ({"name": "peak", "kind": "concentration", "stable_is": "zero"}, "its column 'peak_shift' is one of"),
        ({"kind": "set"}, "kind must be 'pair' or 'concentration', not 'set'"),
        ({"stable_is": "zero"}, "stable_is of a pair must be 'low' or 'high', not 'zero'"),
        ({"kind": "concentration"}, "stable_is of a concentration must be 'zero', not 'high'"),
        ({"kind": "concentration", "stable_is": "zero", "needs": "variation"}, 'a concentration has needs="mass"'),
        ({"needs": "luck"}, "needs must be 'overlap' or 'mass' or 'variation', not 'luck'"),
        ({"needs": "overlap", "stable_is": "low"}, 'needs="overlap" scores vanished evidence 0'),
        ({"needs": "overlap", "range": (-1, 1)}, 'needs="overlap" scores vanished evidence 0'),
        ({"range": (1, 0)}, r"range must be two finite numbers, the smaller one first, not \(1, 0\)"),
        ({"range": (0, float("inf"))}, "range must be two finite numbers"),
        ({"range": (float("nan"), 1)}, "range must be two finite numbers"),
        ({"range": (False, True)}, "range must be two finite numbers"),
        ({"range": 1}, "range must be two finite numbers"),
        ({"range": ("0", "1")}, "range must be two finite numbers"),
        ({"definition": " "}, "give its definition as a sentence or a formula: reports show it"),
        ({"source": None}, "source must be a text, not None"),
        ({"function": 0.5}, "its implementation must be a function, not 0.5"),
    ],
)
def test_refused_metrics(changed: dict, sentence: str) -> None:
    with pytest.raises(RegistrationError, match=sentence):
        register_metric(**{"name": "dice", **GOOD, **changed})
    assert list(METRICS) == list(METRICS.built_in)


def test_a_range_may_be_a_list() -> None:
    record = register_metric("dice", **{**GOOD, "range": [0, 1]})
    assert record.range == (0, 1)


def test_range_and_direction_are_required() -> None:
    with pytest.raises(TypeError, match="'range' and 'stable_is'"):
        register_metric("dice", dice, definition="a formula")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("layercam", {}, "CAM method 'layercam' is registered already"),
        ("abs-cam", {}, "a name is lower-case letters, digits and _"),
        ("gradcampp", {}, "the name means something else already"),
        ("abscam", {"equation": ""}, "give its equation as a sentence or a formula"),
        ("abscam", {"function": "kernels.cam:_layercam"}, "its implementation must be a function"),
    ],
)
def test_refused_methods(name: str, changed: dict, sentence: str) -> None:
    with pytest.raises(RegistrationError, match=sentence):
        register_method(name, **{"function": abscam, "equation": "M = ...", **changed})


def test_a_second_registration_is_an_error_and_ours_stay() -> None:
    METRICS.register(DICE)
    with pytest.raises(RegistrationError, match="metric 'dice' is registered already"):
        METRICS.register(replace(DICE))
    with pytest.raises(RegistrationError, match="metric 'ssim' is built in and cannot be removed"):
        METRICS.unregister("ssim")
    with pytest.raises(RegistrationError, match="metric 'spread' is not registered"):
        METRICS.unregister("spread")


# Entry points


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, *entries: str) -> Registry[MetricRecord]:
    """A registry that sees a package of one module and these entry points; the module's name is that of the folder."""
    (folder / f"{folder.name}.py").write_text(module, encoding="utf-8")
    info = folder / f"{folder.name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[toy.metrics]\n" + "\n".join(entries) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return Registry("metric", "toy.metrics", METRICS.built_in.values(), METRICS._check)


MODULE = """
from kernels.record_types import MetricRecord
def close(a, b):
    return float(abs(a - b).max() < 1)
close_record = MetricRecord("close", "pair", (0, 1), "high", "mass", "max abs(a - b) < 1", "", close)
bad_range = MetricRecord("bad_range", "pair", (1, 0), "high", "mass", "nothing", "", close)
"""


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with a name of its own, since modules stay loaded."""
    folder = tmp_path / f"toy_{abs(hash(request.node.name))}"
    folder.mkdir()
    return folder


def test_entry_points_are_loaded_when_a_name_is_none_of_ours(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = installed(package, monkeypatch, MODULE, f"close = {package.name}:close_record")
    assert registry["ssim"].name == "ssim"
    assert package.name not in sys.modules
    assert registry["close"] is sys.modules[package.name].close_record
    assert list(registry) == [*METRICS.built_in, "close"]


def test_a_module_may_register_what_its_entry_point_names(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "from kernels.catalogue import register_metric\n"
        "near = register_metric('near', lambda a, b: 1.0, range=(0, 1), stable_is='high', definition='1')\n"
    )
    registry = installed(package, monkeypatch, module, f"near = {package.name}:near")
    monkeypatch.setattr(METRICS, "group", "toy.metrics")
    monkeypatch.setattr(METRICS, "_has_looked", False)
    assert METRICS["near"] is sys.modules[package.name].near
    assert "near" in METRICS
    assert registry["near"] is METRICS["near"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("near = {0}:close_record", r"entry point 'near' of toy.metrics \({0}:close_record\) must be a record of the"),
        ("close = {0}:close", "must be a record of the name 'close', as `kernels.catalogue` makes it, not <function"),
        ("close = {0}:gone", "cannot be loaded (AttributeError: module"),
        ("close = {0}_gone:close", "cannot be loaded (ModuleNotFoundError: No module named"),
        ("bad_range = {0}:bad_range", "metric 'bad_range': range must be two finite numbers"),
    ],
)
def test_refused_entry_points(package: Path, monkeypatch: pytest.MonkeyPatch, entry: str, sentence: str) -> None:
    registry = installed(package, monkeypatch, MODULE, entry.format(package.name))
    with pytest.raises(RegistrationError) as caught:
        list(registry)
    assert sentence.replace("\\", "").format(package.name) in str(caught.value)


def test_a_name_that_is_registered_cannot_be_installed_too(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = installed(package, monkeypatch, MODULE, f"close = {package.name}:close_record")
    registry.register(replace(DICE, name="close"))
    with pytest.raises(RegistrationError, match="metric 'close' is registered already"):
        list(registry)


# Metrics of a user's own


def scores(metric: MetricRecord, before: np.ndarray = BEFORE, after: np.ndarray = AFTER, threads: int = 1):
    return pair_metrics(before, after, threads, metrics=[BUILT_IN[0], metric, BUILT_IN[-1]])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pair_metric_scores_beside_ours(threads: int) -> None:
    found, alone = scores(DICE, threads=threads), pair_metrics(BEFORE, AFTER)
    assert found.column("dice")[0] == pytest.approx([dice(a, b) for a, b in zip(BEFORE, AFTER, strict=True)])
    assert (found.column("dice")[1] == Reason.DEFINED).all()
    for name in ("centroid_shift", "area50_change"):
        assert np.array_equal(found.column(name)[0], alone.column(name)[0])
    values, reasons = DICE(BEFORE, AFTER)
    assert np.array_equal(values, found.column("dice")[0])
    assert not reasons.any()


def test_a_concentration_has_before_after_and_change() -> None:
    found = scores(SPREAD)
    before, after = ([spread(one) for one in maps] for maps in (BEFORE, AFTER))
    assert found.column("spread_before")[0] == pytest.approx(before)
    assert found.column("spread_after")[0] == pytest.approx(after)
    assert found.column("spread_change")[0] == pytest.approx(np.subtract(after, before))
    assert SPREAD(BEFORE)[0] == pytest.approx(before)


def test_chance_and_floor_use_it_too() -> None:
    found = partner_metrics(BEFORE, AFTER, np.array([[1, 2, -1]]), metrics=[DICE])
    assert found.values[0, :2, 0] == pytest.approx([dice(BEFORE[0], AFTER[1]), dice(BEFORE[1], AFTER[2])])
    assert found.reasons[0].tolist() == [[0], [0], [Reason.NO_PARTNER]]


def test_maps_that_the_record_rules_out_never_reach_the_function() -> None:
    def never(*_: np.ndarray) -> float:
        raise AssertionError

    empty, constant, broken = np.zeros((1, 4, 4)), np.ones((1, 4, 4)), np.full((1, 4, 4), np.nan)
    reasons = {
        ("mass", "empty"): Reason.EMPTY_MAP, ("variation", "constant"): Reason.CONSTANT_MAP,
        ("overlap", "empty"): Reason.VANISHED, ("mass", "broken"): Reason.NON_FINITE,
    }  # fmt: skip
    for (needs, which), reason in reasons.items():
        maps = {"empty": empty, "constant": constant, "broken": broken}[which]
        values, codes = replace(DICE, needs=needs, implementation=never)(maps, constant)  # type: ignore[arg-type]
        assert codes.tolist() == [reason]
        assert values == pytest.approx([0.0 if reason is Reason.VANISHED else np.nan], nan_ok=True)


def test_not_a_number_is_undefined_with_a_reason() -> None:
    for value in (np.nan, np.inf, -np.inf):
        record = replace(DICE, implementation=lambda _, __, value=value: value)
        values, reasons = record(BEFORE, AFTER)
        assert np.isnan(values).all()
        assert (reasons == Reason.NON_FINITE).all()
    record = replace(SPREAD, implementation=lambda a_map: np.nan if a_map[0, 0] == BEFORE[1, 0, 0] else 0.25)
    found = scores(record)
    assert (found.column("spread_change")[1] == [0, Reason.NON_FINITE, 0]).all()
    assert np.isnan(found.column("spread_before")[0]).tolist() == [False, True, False]


def test_rounding_beyond_the_range_is_cut_off() -> None:
    for value, shown in ((1 + 5e-7, 1.0), (-5e-7, 0.0), (np.float32(0.5), 0.5), (True, 1.0), (np.array([0.25]), 0.25)):
        values, _ = replace(DICE, implementation=lambda _, __, value=value: value)(BEFORE, AFTER)
        assert values.tolist() == [shown] * 3


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda _, __: 1.1, r"returned 1.1, outside of its range 0 .. 1"),
        (lambda _, __: -0.01, r"returned -0.01, outside of its range 0 .. 1"),
        (lambda _, __: None, "returned None; expected one real number"),
        (lambda _, __: "0.5", "returned '0.5'; expected one real number"),
        (lambda _, __: 0.5 + 0j, r"returned \(0.5\+0j\); expected one real number"),
        (lambda a, _: a, r"returned an array of shape \(12, 10\); expected one real number"),
        (lambda _: 0.5, "raised TypeError: "),
        (lambda _, __: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda a, _: a.__setitem__(0, 0.0), "raised ValueError: assignment destination is read-only"),
    ],
)
def test_a_function_that_fails_is_named_with_its_pair(function, problem: str) -> None:
    def second(before: np.ndarray, after: np.ndarray) -> float:
        return function(before, after) if np.array_equal(before, BEFORE[1]) else 0.5

    record = replace(DICE, implementation=second)
    for work in (
        lambda: scores(record),
        lambda: partner_metrics(BEFORE, AFTER, np.array([[1, 2, 0]]), metrics=[record]),
    ):
        with pytest.raises(UserFunctionError, match=f"metric 'dice', number 1 of the batch: {problem}") as caught:
            work()
        assert (caught.value.what, caught.value.place) == ("metric 'dice'", 1)


# CAM methods of a user's own


@pytest.mark.parametrize("threads", [1, 2])
def test_a_method_is_rectified_and_leaves_ours_alone(threads: int) -> None:
    METHODS.register(ABSCAM)
    found = cams(["layercam", "abscam", "gradcam"], A, G, threads)
    assert found["abscam"][0] == pytest.approx(np.maximum((np.abs(G) * A).sum(axis=1), 0), rel=1e-5)
    assert found["abscam"][0].dtype == np.float32
    for name in ("layercam", "gradcam"):
        assert np.array_equal(found[name][0], cam(name, A, G)[0])


def test_a_map_that_is_not_finite_is_undefined() -> None:
    METHODS.register(replace(ABSCAM, implementation=lambda a, _: np.full(a.shape[1:], np.nan)))
    maps, reasons = cam("abscam", A, G)
    assert np.isnan(maps).all()
    assert (reasons == Reason.NON_FINITE).all()
    gradients = G.copy()
    gradients[1, 0, 0, 0] = np.inf
    METHODS.unregister("abscam")
    METHODS.register(replace(ABSCAM, implementation=lambda a, _: a[0]))  # would hide it
    assert cam("abscam", A, gradients)[1].tolist() == [Reason.DEFINED, Reason.NON_FINITE]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda a, _: a, r"returned float32 of shape \(5, 3, 4\); expected real numbers of shape \(3, 4\)"),
        (lambda _, __: None, r"returned object of shape \(\); expected real numbers of shape \(3, 4\)"),
        (lambda a, _: a[0] * 1j, r"returned complex64 of shape \(3, 4\)"),
        (lambda a: a[0], "raised TypeError: "),
        (lambda a, _: np.multiply(a, 2, out=a)[0], "raised ValueError: output array is read-only"),
    ],
)
def test_a_method_that_fails_is_named_with_its_image(function, problem: str) -> None:
    METHODS.register(replace(ABSCAM, implementation=function))
    with pytest.raises(UserFunctionError, match=f"CAM method 'abscam', number 0 of the batch: {problem}"):
        cams(["abscam"], A, G)


def test_reserved_names_are_those_of_the_glossary() -> None:
    from harness.gate.policy import QUALITIES
    from harness.report.glossary import _WORDS

    assert {definition.key for definition in _WORDS} | {"all"} | set(QUALITIES) == catalogue.RESERVED_METRICS
