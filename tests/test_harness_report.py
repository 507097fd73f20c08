"""The report: what it says, which cases it shows, what it keeps to itself; names, plots, tracking. No browser here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.api.evaluation import Settings, evaluate_again, evaluate_plan
from harness.api.write import render_again
from harness.cli import cli
from harness.common import formatting
from harness.common.errors import InputError
from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.images.loading import read_picture
from harness.report import cases, contact_sheet, findings, gallery, glossary, html_tables, levels, plots, summaries
from harness.report import html as report_html
from harness.report import mlflow as mlflow_log
from harness.report.gallery import Gallery
from harness.report.summaries import Summaries
from harness.results.options import Options
from harness.results.plan import Data
from harness.results.pseudonyms import Names, names_of
from harness.results.reader import NOT_COMPARED, Reader
from harness.results.schema import Estimate, Evaluation, IndexResult
from harness.results.vocabulary import BUILT_IN
from kernels.reasons import Reason
from tests import made_results, made_studies, tiny_graphs

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def _brief() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.report.heatmaps.contact_sheet", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_studies.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_studies.hostile(tmp_path_factory.mktemp("hostile"))


def index(value: float | None, low: float | None = None, high: float | None = None, reason: str = "") -> IndexResult:
    """An index whose interval is the value itself where none is given."""
    ends = {"low": value if low is None else low, "high": value if high is None else high}
    return IndexResult(
        value=value, **ends, reason=reason or None, n=10, n_patients=10, observed=0.5, chance=0.2, floor=0.8
    )


def data_of(page: str) -> Any:
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]


# Numbers


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (formatting.number(-0.1234), "-0.123"),
        (formatting.number(-0.0001), "0.000"),
        (formatting.number(None), formatting.DASH),
        (formatting.signed(0.5, 1), "+0.5"),
        (formatting.signed(-0.04, 1), "+0.0"),
        (formatting.span(-0.2, 0.1, 2), "-0.20 to 0.10"),
        (formatting.span(None, 0.1), ""),
        (summaries.with_span(Estimate(mean=0.5, low=None, high=None)), "0.500"),
        (formatting.percent(0.001), "< 1 %"),
        (formatting.percent(0.999), "> 99 %"),
        (formatting.percent(0.9996, 1), "> 99.9 %"),
        (formatting.percent(0.0), "0 %"),
        (formatting.percent(1.0), "100 %"),
        (formatting.percent(0.425), "42 %"),
        (formatting.points(-0.054), "5.4 points"),
        (formatting.count(1, "class", "classes"), "1 class"),
        (formatting.count(1200, "image"), "1,200 images"),
    ],
)
def test_numbers_are_written_for_people(shown: str, text: str) -> None:
    assert shown == text.replace("-", formatting.MINUS)


# The verdict in words


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (index(0.95), "none"),
        (index(0.90), "none"),
        (index(0.89), "slight"),
        (index(0.6), "moderate"),
        (index(0.25), "strong"),
        (index(-0.3), "severe"),
        (index(0.6, 0.3, 0.8), "slight"),  # at least slight drift is shown
        (index(0.6, 0.3, 0.95), "uncertain"),
        (index(0.90, 0.51, 1.30), "uncertain"),
        (index(0.2, 0.1, 0.8), "slight"),
        (index(None), "unknown"),
        (None, "unknown"),
    ],
)
def test_the_word_follows_index_and_interval(found: IndexResult | None, level: str) -> None:
    assert levels.level_of(found, "jitter").key == level


def verdict(metrics: list[Any] | None = None, **changed: Any) -> findings.Finding:
    result = made_results.evaluation(metrics, **changed)
    return findings.findings(result, Summaries(result))[0]


def fact(found: findings.Finding, label: str) -> str:
    return next(item.text for item in found.facts if item.label == label)


def test_the_verdict_says_what_by_how_much_and_against_what() -> None:
    found = verdict([made_results.summary(mean=0.56)])
    assert found.level.key == "moderate"
    assert found.sentence == (
        "On 100 images of 80 patients the most important fifth of the picture overlaps with where it was by an IoU of "
        "0.560 (0.540 to 0.580); noise alone leaves 0.800, unrelated images of the same class give 0.200. Between "
        "chance (0) and floor (1) the overlap stands at 0.60 (0.55 to 0.65). Noise is the mildest floor: trainings "
        "that differ by their seed alone move maps, too, and by how much only replicates tell."
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (made_results.estimate(0.054, 0.02), "Rose by 5.4 points (3.4 to 7.4), to 0.810."),
        (made_results.estimate(-0.054, 0.02), "Fell by 5.4 points (-7.4 to -3.4), to 0.810."),
        (made_results.estimate(0.01, 0.02), "No demonstrable change: +1.0 points (-1.0 to 3.0), to 0.810."),
        (made_results.estimate(0.01, None), "+1.0 points, without an interval (fewer than 20 patients"),
        (None, "The images have no labels, so accuracy is not known."),
    ],
)
def test_the_change_of_accuracy_is_claimed_only_where_its_interval_says_so(change: Any, sentence: str) -> None:
    result = made_results.evaluation()
    result.pairs[0].change = {"accuracy": change} if change else {}
    found = findings.findings(result, Summaries(result))[0]
    assert fact(found, "Accuracy").replace(formatting.MINUS, "-").startswith(sentence)


def test_the_worst_class_is_worse_only_where_intervals_lie_apart() -> None:
    calm, storm = made_results.CLASSES
    close = [made_results.summary(scope=calm, mean=0.5), made_results.summary(scope=storm, mean=0.49)]
    far = [made_results.summary(scope=calm, mean=0.5), made_results.summary(scope=storm, mean=0.3)]
    unknown = [made_results.summary(scope=calm), made_results.summary(scope=storm, mean=None)]
    overall = made_results.summary()
    assert "Lowest for storm" in fact(verdict([overall, *close]), "For whom")
    assert "not demonstrably worse than calm" in fact(verdict([overall, *close]), "For whom")
    assert "less stable than calm" in fact(verdict([overall, *far]), "For whom")
    assert fact(verdict([overall, *unknown]), "For whom").startswith("Not known by class")


def test_methods_disagree_only_where_intervals_lie_apart() -> None:
    def by(mean: float) -> str:
        metrics = [made_results.summary(mean=0.56), made_results.summary(method="gradcam", mean=mean)]
        return fact(verdict(metrics, methods=["layercam", "gradcam"]), "Methods")

    assert by(0.55).startswith(
        "The methods do not demonstrably disagree. All say moderate drift beyond noise: the index"
    )
    assert by(0.25).startswith("The methods disagree: intervals lie apart for gradcam and layercam.")
    assert by(0.25).endswith(
        "gradcam: severe drift beyond noise, index 0.08 (0.03 to 0.13); "
        "layercam: moderate drift beyond noise, index 0.60 (0.55 to 0.65)."
    )


def test_vanished_and_undefined_are_said_with_their_counts() -> None:
    found = verdict([made_results.summary(vanished=36, undefined={"empty_union": 2, "singular_alpha": 3})])
    assert "36 % of those compared under layercam (36 of 100)" in fact(found, "Vanished")
    assert fact(found, "Undefined") == "No value for 5 of 100 under layercam; they are in no mean."
    assert not [item for item in verdict().facts if item.label == "Undefined"]


@pytest.mark.parametrize("reason", ["few_patients", "floor_not_separated", "no_images"])
def test_without_an_index_there_is_no_verdict_but_a_reason(reason: str) -> None:
    none = IndexResult(
        value=None, low=None, high=None, reason=reason, n=0, n_patients=0, observed=None, chance=None, floor=None
    )
    found = verdict([made_results.summary(index=none)])
    assert found.level.words == "Not judged"
    assert glossary.STATISTIC_REASONS[reason] in found.sentence


def test_several_labels_of_an_image_are_not_called_images() -> None:
    result = made_results.evaluation()
    result.checkpoints[0].metadata.score_kind = "multilabel"
    assert findings.findings(result, Summaries(result))[0].sentence.startswith(
        "On 100 pairs of image and label of 80 pat"
    )


def test_an_empty_selection_is_no_verdict() -> None:
    result = made_results.evaluation([])
    result.pairs[0].selected = 0
    found = findings.findings(result, Summaries(result))
    assert found[0].sentence.startswith("No image was compared")
    assert findings.overall(found) == "Not judged between two checkpoints."


def test_images_without_maps_are_no_empty_selection() -> None:
    result = made_results.evaluation([made_results.summary(n=0, mean=None, undefined={"empty_map": 100})])
    (found,) = findings.findings(result, Summaries(result))
    assert found.sentence == "None of the 100 compared images has two maps to compare; see what is undefined."
    assert "Not known: no image has a map before and after." in [fact.text for fact in found.facts]


def test_evidence_that_vanished_at_any_layer_is_told() -> None:
    last = made_results.summary(layer="last", vanished=40)
    result = made_results.evaluation([made_results.summary(), last], layers=["penultimate", "last"])
    (found,) = findings.findings(result, Summaries(result))
    (text,) = [fact.text for fact in found.facts if fact.label == "Vanished"]
    assert text == "Evidence is there on one side only in 40 % of those compared under layercam at last (40 of 100)."


def test_the_word_goes_with_the_number_that_is_shown() -> None:
    def level(value: float) -> str:
        index = IndexResult(value=value, low=value - 0.01, high=value + 0.01, reason=None, n=100, n_patients=80,
                            observed=0.5, chance=0.2, floor=0.8)  # fmt: skip
        return levels.level_of(index, "jitter").key

    assert [level(value) for value in (0.884, 0.886, 0.7349, 0.7351)] == ["slight", "uncertain", "moderate", "slight"]


def test_several_pairs_are_counted_by_word_and_the_lowest_is_named() -> None:
    result = made_results.evaluation()
    result.pairs[0].metrics = [made_results.summary(mean=0.56)]
    second = result.pairs[0].model_copy(update={"name": "a -> c", "metrics": [made_results.summary(mean=0.25)]})
    result.pairs.append(second)
    found = findings.findings(result, Summaries(result))
    assert findings.overall(found) == (
        "2 pairs of checkpoints: 1 with severe drift beyond noise, 1 with moderate drift beyond noise."
    )
    assert findings.lowest(found) == "The lowest stability index is 0.08: a -> c."


# Tables as data


def test_a_cell_is_tinted_by_its_index() -> None:
    assert html_tables.cell(made_results.summary(mean=0.8)).tint == 0
    assert html_tables.cell(made_results.summary(mean=0.5)).tint == 50
    assert html_tables.cell(made_results.summary(mean=0.1)).tint == 100
    missing = made_results.summary(index=index(None, reason="floor_not_separated"))
    assert html_tables.cell(missing).tint is None
    assert "drift cannot be told from that" in html_tables.cell(missing).note
    assert html_tables.cell(None).note == "nothing to compare"


def test_boxes_stand_at_their_share_of_the_range() -> None:
    item = made_results.summary("pearson", mean=0.5, q05=-1.0, q95=1.0)
    result = made_results.evaluation([item])
    (box,) = html_tables.boxes(result, Summaries(result), result.pairs[0], "pearson")
    assert box.quantiles == (0.0, 70.0, 75.0, 80.0, 100.0)  # of -1, 0.4, 0.5, 0.6, 1 in -1..1
    assert (box.mean, box.chance, box.floor) == (75.0, 60.0, 90.0)
    assert box.band == (74.0, 2.0)


@pytest.mark.parametrize(
    ("metric", "ends", "side"),
    [("iou_top20", ("0", "1"), "right"), ("pearson", ("-1", "1"), "right"), ("gini_shift", ("0", "1"), "left")],
)
def test_an_axis_is_the_whole_range(metric: str, ends: tuple[str, str], side: str) -> None:
    axis = html_tables.axis(metric)
    assert [place for place, _ in axis.ticks] == [0, 25, 50, 75, 100]
    assert (axis.ticks[0][1].replace(formatting.MINUS, "-"), axis.ticks[-1][1]) == ends
    assert axis.stable_at == side


def test_an_index_off_the_line_stands_on_its_end() -> None:
    scale = html_tables.scale(index(3.0, -2.0, 4.0))
    assert scale is not None
    assert (scale.start, scale.dot, scale.start + scale.width) == (0.0, 100.0, 100.0)
    assert html_tables.scale(index(None)) is None


def test_undefined_counts_are_gathered_by_reason_and_explained() -> None:
    metrics = [
        made_results.summary(name, undefined={"empty_map": 7}, vanished=0) for name in ("pearson", "centroid_shift")
    ]
    result = made_results.evaluation([*metrics, made_results.summary(vanished=3)])
    rows = html_tables.missing(result)
    assert [(row.reason, row.images, row.share, row.metrics) for row in rows] == [
        ("empty_map", 7, "7.0 %", ["pearson", "centroid_shift"]),
        ("vanished", 3, "3.0 %", ["iou_top20"]),
    ]
    assert "the evidence vanished" in html_tables.reason_sentences(result, rows)["vanished"]


def test_a_whole_family_of_metrics_is_named_once() -> None:
    overlap = list(BUILT_IN.overlaps)
    metrics = [made_results.summary(name, undefined={"empty_union": 2}) for name in (*overlap, "pearson")]
    rows = html_tables.missing(made_results.evaluation(metrics))
    assert [row.metrics for row in rows] == [["all overlap metrics", "pearson"]]


def test_orders_and_reversals_come_with_their_probabilities() -> None:
    shared = {"n": 9, "n_patients": 9, "reason": None}
    ranking = {
        "method": "layercam", "architectures": ["A", "B"], "means": [0.4, 0.3], "most_stable": {"A": 0.7}, **shared,
        "orders": [{"architectures": list(names), "probability": share} for names, share in (("AB", 0.7), ("BA", 0.3))],
    }  # fmt: skip
    reversal = {"architectures": ("A", "B"), "methods": ("layercam", "gradcam"), "probability": 0.99, **shared}
    compared = html_tables.ComparisonResult.model_validate({
        "layer": "last", "scope": "all", "metric": "iou_top20", "differences": [], "interaction": None,
        "rankings": [ranking],
        "reversals": [
            {**reversal, "first": 0.1, "second": -0.1, "called": False},
            {**reversal, "first": 0.1, "second": -0.2, "called": True},
            {**reversal, "first": 0.4, "second": -0.3, "called": True},
        ],
    })  # fmt: skip
    (order,) = html_tables.orders([compared])
    assert (order.order, order.means, order.probability, order.others) == (
        "A > B",
        "0.400, 0.300",
        "0.70",
        "B > A (0.30)",
    )
    lines = html_tables.reversals([compared])
    assert [line.marked for line in lines] == [True, True, False]
    assert lines[0].texts[3:] == (f"+0.400 to {formatting.MINUS}0.300", "0.99", "0.50")


# Definitions


def test_every_word_that_a_template_explains_has_a_definition() -> None:
    known = glossary.definitions(["layercam", "gradcam++"])
    text = "".join(path.read_text(encoding="utf-8") for path in report_html.TEMPLATES.glob("*.html"))
    words = set(re.findall(r'term\("([^"]+)"', text))
    assert words
    assert words <= set(known)
    assert set(html_tables.switched(BUILT_IN)) <= set(known)
    assert set(BUILT_IN.concentration) <= set(known)
    assert "method-gradcampp" in known
    fact_terms = {item.term for item in verdict([made_results.summary(undefined={"empty_map": 9})]).facts}
    assert fact_terms <= set(known)


def test_the_thresholds_in_the_definition_are_those_of_the_words() -> None:
    text = glossary.definitions([])["words"].text
    assert re.findall(r"0\.\d\d", text) == [f"{level.least:.2f}" for level in levels.STEPS[:-1]]


def test_sources_become_links_and_stay_inert() -> None:
    text = str(report_html.cited("<b>A</b> 2001, doi:10.1/ab.c; B, arXiv 2604.08513"))
    assert '<a href="https://doi.org/10.1/ab.c" rel="noreferrer">doi:10.1/ab.c</a>;' in text
    assert '<a href="https://arxiv.org/abs/2604.08513" rel="noreferrer">arXiv 2604.08513</a>' in text
    assert "<b>" not in text


# Plots


def test_crowded_names_move_apart_about_their_centre() -> None:
    assert plots.apart([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert plots.apart([1.0, 1.2, 5.0], 1.0) == pytest.approx([0.6, 1.6, 5.0])
    moved = plots.apart([1.0, 1.1, 1.9, 2.0], 1.0)
    assert np.diff(moved) == pytest.approx([1.0, 1.0, 1.0])
    assert np.mean(moved) == pytest.approx(1.5)
    assert plots.apart([], 1.0) == []


def test_plots_take_their_colours_from_the_page_and_hold_no_markup_but_their_own() -> None:
    shared = {"orders": [], "most_stable": {}, "n": 9, "n_patients": 9, "reason": None}
    names = ["<script>alert(1)</script>", "$\\frac{1}{0}$", "_hidden"]
    rankings = [
        html_tables.Ranking(method=method, architectures=names, means=[0.1, None, 0.3], **shared)
        for method in ("a", "b")
    ]
    picture = plots.slopes(rankings, upwards=True)
    assert "<script" not in picture
    assert "&lt;script&gt;" in picture
    assert "$\\frac{1}{0}$" not in picture  # its last value is unknown, so it has no name at the end
    assert not re.findall(r"#[0-9a-f]{6}", picture)
    assert "var(--series-1)" in picture
    assert "<style" not in picture
    other = plots.along(["one", "two"], {"index": [plots.Series("since", [(1, 0.5, 0.4, 0.6), (2, None, None, None)])]})
    ids = re.findall(r' id="([^"]+)"', picture + other)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"url\(#([^)]+)\)", picture + other)) <= set(ids)


# Names


def test_names_become_keyed_hashes_that_only_the_key_can_repeat(tmp_path: Path) -> None:
    names = names_of(tmp_path, show=False)
    key = (tmp_path / "names.key").read_bytes()
    assert stat.S_IMODE((tmp_path / "names.key").stat().st_mode) == 0o600
    assert names.image("a.png") == hmac.new(key, b"image\0a.png", hashlib.sha256).hexdigest()[:10]
    assert names.patient("a.png") != names.image("a.png")
    assert names_of(tmp_path, show=False).image("a.png") == names.image("a.png")
    other = names_of(tmp_path / "..", show=True)
    assert other.image("a.png") == "a.png"
    assert not (tmp_path.parent / "names.key").exists()


def test_two_results_share_no_hash(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    assert len({names_of(folder, show=False).image("a.png") for folder in folders}) == 2


def test_a_broken_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.key").write_bytes(b"short")
    with pytest.raises(InputError, match=r"names\.key: not a key of 32 bytes; remove it"):
        names_of(tmp_path, show=False)


def test_no_name_stands_in_the_report_unless_asked_for(study: Path) -> None:
    page = render_again(study).read_text(encoding="utf-8")
    key = (study / "names.key").read_bytes()
    names = {row["image"] for row in tiny_graphs.read_rows(study, "predictions")}
    patients = {row["group"] for row in tiny_graphs.read_rows(study, "predictions")}
    assert not [name for name in names | {f">{patient}<" for patient in patients} if name in page]
    assert not [patient for patient in patients if re.search(rf"{patient}\b", page)]
    assert key.hex() not in page
    assert base64.b64encode(key).decode() not in page
    shown = report_html.render(Evaluation.read(study), study, Names(None))
    cases = data_of(shown)["cases"]
    assert {case["image"] for case in cases} <= names
    assert {case["patient"] for case in cases} <= patients


def test_the_gallery_follows_scores_that_were_computed_again_for_less(tmp_path: Path) -> None:
    """After `--from` in place the scores hold one of two methods, and their parts have other numbers."""
    graphs = [tiny_graphs.write_graph(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate(("a", "b"))]
    manifest = tiny_graphs.write_images(tmp_path / "images")
    pair = ArchitectureConfig(before=graphs[0], after=graphs[1])
    plan = make_plan([pair], Data(manifest), Options(select="all", map_size=(32, 32), chance=1, jitter=1))
    settings = Settings(tmp_path / "out", progress=False, report=False, resamples=50)
    evaluate_plan(plan, settings)
    before = Gallery(tmp_path / "out", Names(None)).data()
    evaluate_again(tmp_path / "out", settings, methods=("gradcam++",))
    after = Gallery(tmp_path / "out", Names(None)).data()
    assert (before["methods"], after["methods"]) == (["layercam", "gradcam++"], ["gradcam++"])
    ours = {case["image"]: case["values"] for case in after["cases"]}
    theirs = {case["image"]: case["values"] for case in before["cases"]}
    common = set(ours) & set(theirs)
    assert common
    assert all(ours[image] == theirs[image][1:] for image in common)


def test_an_unreadable_image_is_told_without_its_name(hostile: Path) -> None:
    result = Evaluation.read(hostile)
    assert list(result.unreadable) == ["broken <i>.png"]
    ((name, what),) = report_html.unreadable(result, names_of(hostile, show=False))
    assert re.fullmatch(r"[0-9a-f]{10}", name)
    assert "broken" not in what
    assert "images" not in what
    assert what.startswith("not a readable image")
    assert report_html.unreadable(result, Names(None))[0][0] == "broken <i>.png"


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("1", "/data/2021/doe/1: not a readable image", "not a readable image"),
        ("./a/x.png", "/data: doe/a/x.png: no such file", "no such file"),
        ("/data/doe.png", "/data/doe.png: doe.png: /data/doe.png is gone", "doe.png: the file is gone"),
        ("doe.png", "something else about /data/doe.png", "cannot be read"),
    ],
)
def test_what_is_told_of_an_unreadable_image_holds_no_place(name: str, error: str, told: str) -> None:
    assert report_html._what(error, name, Names(b"key")) == told


# The page


class Tags(HTMLParser):
    """Collects what a browser would see of a page: tags with attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_asks_for_nothing(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "srcset", "data", "poster"):
            assert not (attributes.get(name) or "data:").startswith(("http", "//", "/", "."))
        assert not [name for name in attributes if name.startswith("on")]
        href = attributes.get("href")
        assert href is None or href.startswith(("#", "https://doi.org/", "https://arxiv.org/"))
    assert not re.findall(r"url\((?!#)|@import", page)


def test_the_policy_of_the_page_allows_its_own_script_only(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html.unescape(page))[1]  # type: ignore[index]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_ids_are_unique_and_whatever_points_to_one_finds_it(study: Path) -> None:
    tags = Tags((study / "report.html").read_text(encoding="utf-8")).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("popovertarget", "aria-labelledby", "for"):
            assert attributes.get(name) is None or attributes[name] in ids
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids


def test_hostile_names_stay_text(hostile: Path) -> None:
    """The same names with and without hashes; an independent parser finds no tag and no handler of theirs."""
    for names in (names_of(hostile, show=False), Names(None)):
        page = report_html.render(Evaluation.read(hostile), hostile, names)
        tags = Tags(page).tags
        assert [tag for tag, _ in tags].count("script") == 2
        assert not [attributes for _, attributes in tags if "onerror" in attributes or "onload" in attributes]
        assert not [1 for tag, attributes in tags if tag == "img" and attributes.get("src") == "x"]
        assert not [1 for tag, _ in tags if tag == "i"]
        assert "49" not in {case["image"] for case in data_of(page)["cases"]}
        assert {case["class"] for case in data_of(page)["cases"]} <= set(
            map(formatting.one_line, made_studies.HOSTILE_CLASSES)
        )
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_sections_follow_what_there_is(study: Path, tmp_path: Path) -> None:
    whole = (study / "report.html").read_text(encoding="utf-8")
    for section in ("verdict", "matrix", "distributions", "classes", "comparisons", "gallery", "predictions",
                    "undefined", "definitions", "stamp"):  # fmt: skip
        assert f'<section id="{section}"' in whole
    assert '<section id="training"' not in whole
    small = report_html.render(made_results.evaluation(), tmp_path, Names(None))
    assert '<section id="comparisons"' not in small
    assert "There is no gallery" in small
    along = report_html.render(Evaluation.read(made_studies.training(tmp_path)), tmp_path / "out", Names(None))
    assert '<section id="training"' in along
    assert along.count("<figure>") == 1


def test_the_stamp_says_where_the_numbers_come_from(study: Path) -> None:
    result = Evaluation.read(study)
    lines = {label: text for group in report_html.stamp(result) for label, text in group.lines}
    assert {"command", "data digest", "seed", "provider", "cpu", "wall time", "file digest", "weights digest"} <= set(
        lines
    )
    assert lines["data digest"] == result.data_digest
    page = (study / "report.html").read_text(encoding="utf-8")
    assert all(item.digest in page for item in result.checkpoints)


def test_report_renders_again(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = study.with_name("copy")  # beside it: a plan names its images from the result folder
    shutil.copytree(study, copy)
    (copy / "report.html").unlink()
    cli.main(["report", str(copy)], standalone_mode=False)
    assert f"written to {copy / 'report.html'}" in capsys.readouterr().out
    without_ids = [
        re.sub(r"plot\d+-", "", (folder / "report.html").read_text(encoding="utf-8")) for folder in (study, copy)
    ]
    assert without_ids[0] == without_ids[1]
    cli.main(["report", str(copy), "--show-names"], standalone_mode=False)
    assert "image-0" in (copy / "report.html").read_text(encoding="utf-8")


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.json: cannot be read .* run `python -m harness evaluate`"):
        cli.main(["report", str(tmp_path)], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_the_key_outlives_a_second_evaluation(tmp_path: Path) -> None:
    graph = tiny_graphs.write_graph(tmp_path / "graph.onnx")
    manifest = tiny_graphs.write_images(tmp_path / "images", patients=4)
    arguments = ["--before", graph, "--after", graph, "--data", manifest, "--select", "all", "--map-size", 16]
    keys = []
    for _ in range(2):
        tiny_graphs.evaluate(tmp_path / "out", *arguments, "--jitter", 0, "--chance", 0)
        keys.append((tmp_path / "out" / "names.key").read_bytes())
    assert keys[0] == keys[1]


# The gallery


def test_vanished_evidence_is_the_most_drifted() -> None:
    nan = float("nan")
    values = np.array([0.4, 0.0, 0.0, nan, 0.1, nan, 0.4])
    codes = np.array([0, Reason.VANISHED, 0, Reason.EMPTY_UNION, 0, NOT_COMPARED, 0], np.uint8)
    ranking = cases.Ranking(values, codes)
    assert ranking.most_drifted == [1, 2, 4, 0, 6]
    assert ranking.least_drifted == [0, 6, 4, 2]
    assert ranking.vanished == [1]
    assert [ranking.text(record) for record in (0, 1, 3)] == ["0.40", "0.00, vanished", "undefined: empty_union"]


def test_sheet_and_gallery_show_the_same_most_drifted_cases(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, drawn = Gallery(study, Names(None)), list[str]()
    stored, samples = found.stored, found.samples
    reader = Reader(stored.plan, found.collected, stored.select, found.store)
    monkeypatch.setattr(
        "harness.report.heatmaps.contact_sheet", lambda cases, *_: drawn.extend(case.caption for case in cases)
    )
    contact_sheet.draw_sheet(reader, study / "unused.png", Names(None))
    ranking = found.rankings[stored.plan.drifts[0].name, found.paths[0]]
    records = next(group.records for group in found.groups if group.kind == "most")
    expected = [
        f"{samples[found.collected.records.images[record]].name}   IoU {ranking.text(record)}" for record in records
    ]
    assert drawn[: len(expected)] == expected


def test_cases_are_the_lowest_and_the_highest_of_the_headline_metric(study: Path) -> None:
    found = Gallery(study, Names(None))
    pair = found.plan.drifts[0]
    rows = tiny_graphs.read_rows(
        study, "scores", pair=pair.name, layer=found.paths[0][0], method=found.paths[0][1], reference="observed",
        metric="iou_top20",
    )  # fmt: skip
    rows = [row for row in rows if row["reason"] in ("defined", "vanished")]
    literal = sorted(rows, key=lambda row: (row["reason"] != "vanished", row["value"], row["record"]))
    groups = {group.kind: group for group in found.groups if group.pair == pair}
    values = found.rankings[pair.name, found.paths[0]].values
    limit = gallery.CASES["most"] // 2
    assert groups["most"].records == [row["record"] for row in literal[:limit]]
    least = [values[record] for record in groups["least"].records]
    assert least == [row["value"] for row in literal[::-1][: gallery.CASES["least"] // 2]]
    assert not set(groups["most"].records) & set(groups["least"].records)


def test_vanished_cases_come_from_the_first_path_that_has_any(study: Path) -> None:
    found = Gallery(study, Names(None))
    for pair in found.plan.drifts:
        gone = {place: found.rankings[pair.name, place].vanished for place in found.paths}
        first = next((place for place in found.paths if gone[place]), None)
        groups = [group for group in found.groups if group.pair == pair and group.kind == "vanished"]
        assert [group.path for group in groups] == ([first] if first else [])
        for group in groups:
            assert group.records == gone[group.path][: gallery.CASES["vanished"] // 2]
            reasons = {row["record"]: row["reason"] for row in tiny_graphs.read_rows(
                study, "scores", pair=pair.name, layer=group.path[0], method=group.path[1], reference="observed",
                metric="iou_top20",
            )}  # fmt: skip
            assert {reasons[record] for record in group.records} == {"vanished"}


def test_maps_of_the_page_are_the_stored_maps_to_8_bits(study: Path) -> None:
    data = Gallery(study, Names(None)).data()
    result = Evaluation.read(study)
    pairs = {pair.name: pair for pair in result.pairs}
    compared = 0
    for group in data["groups"]:
        for case in (data["cases"][number] for number in group["cases"]):
            for place, maps in enumerate(case["maps"]):
                layer, method = (
                    data["layers"][place // len(data["methods"])],
                    data["methods"][place % len(data["methods"])],
                )
                for key, item in zip((pairs[group["pair"]].before, pairs[group["pair"]].after), maps, strict=True):
                    if len(item) == 1:
                        continue
                    stored = tiny_graphs.maps_of(
                        study, checkpoint=key, layer=layer, method=method, draw=0, image=case["image"]
                    )  # fmt: skip
                    (raw,) = stored.values()
                    shown = np.frombuffer(base64.b64decode(item[2]), np.uint8).reshape(item[:2])
                    assert np.abs(shown / 255 - raw / raw.max()).max() <= 1 / 510 + 1e-6
                    compared += 1
            break
    assert compared > 5


def test_a_radiograph_keeps_its_shape_and_its_greys(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 800), (400, 1)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    height, width, uri = gallery.webp(read_picture(tmp_path / "ramp.png"))
    assert (height, width) == (160, 320)
    kind, _, content = uri.partition(";base64,")
    assert kind == "data:image/webp"
    (tmp_path / "ramp.webp").write_bytes(base64.b64decode(content))
    decoded = np.asarray(Image.open(tmp_path / "ramp.webp").convert("L"), float)
    assert decoded.shape == (160, 320)
    assert np.abs(decoded - np.linspace(0, 255, 320)).mean() < 3
    assert gallery.webp(np.zeros((20, 30)))[:2] == [20, 30]


def test_an_image_that_is_gone_leaves_its_maps(tmp_path: Path) -> None:
    graph = tiny_graphs.write_graph(tmp_path / "graph.onnx", balanced=True)
    other = tiny_graphs.write_graph(tmp_path / "other.onnx", nudge=0.3, balanced=True)
    manifest = tiny_graphs.write_images(tmp_path / "images", patients=4)
    arguments = ["--before", graph, "--after", other, "--data", manifest, "--select", "all", "--map-size", 16]
    tiny_graphs.evaluate(tmp_path / "out", *arguments, "--jitter", 0, "--chance", 0)
    first = data_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert all(first["images"].values())
    shown = {case["image"]: case["radiograph"] for case in Gallery(tmp_path / "out", Names(None)).data()["cases"]}
    gone, broken = list(shown)[:2]
    (tmp_path / "images" / gone).unlink()
    (tmp_path / "images" / broken).write_bytes(b"no picture")
    data = data_of(render_again(tmp_path / "out", show_names=True).read_text(encoding="utf-8"))
    assert {name for name, picture in data["images"].items() if picture is None} == {shown[gone], shown[broken]}
    case = next(case for case in data["cases"] if case["image"] == gone)
    assert len(case["maps"][0][0]) == 3
    assert "shown alone" in data["gone"]


def test_a_map_without_evidence_or_value_says_so() -> None:
    row = {"height": 2, "width": 2, "map": [0.0] * 4, "reason": "defined"}
    assert gallery.StoredMap.of(row).data() == ["no evidence: the map is zero everywhere"]
    assert gallery.StoredMap.of({**row, "reason": "singular_alpha"}).data() == ["undefined: singular_alpha"]


# Tracking


@pytest.mark.parametrize(
    ("asked", "uri"),
    [("mlflow", "sqlite:///mlflow.db"), ("mlflow:http://host:5000/x", "http://host:5000/x")],
)
def test_where_to_log(asked: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_log, "_require_answer", lambda _: None)
    assert mlflow_log.destination(asked) == uri


def test_another_tracker_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--log-to wandb: not known; give mlflow, or mlflow:URI"):
        tiny_graphs.evaluate(tmp_path / "out", "--log-to", "wandb")
    assert not (tmp_path / "out").exists()


def test_without_mlflow_the_extra_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'evidence-drift\[mlflow\]'") as refused:
        tiny_graphs.evaluate(tmp_path / "out", "--log-to", "mlflow")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")  # MLflow and what it brings warn about themselves
@pytest.mark.slow
def test_a_result_is_logged_with_its_report(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    result = Evaluation.read(study)
    run = mlflow_log.log(result, study, "sqlite:///mlflow.db")
    client = mlflow.MlflowClient(tracking_uri="sqlite:///mlflow.db")
    logged = client.get_run(run)
    first = result.pairs[0]
    item = next(item for item in first.metrics if (item.scope, item.metric) == ("all", "iou_top20"))
    where = f"{first.before} to {first.after}/{item.layer}/{item.method}"
    assert logged.data.metrics[f"iou_top20/{where}"] == pytest.approx(item.estimate.mean)
    assert logged.data.metrics[f"accuracy/{first.before}"] == result.by_key[first.before].quality["accuracy"].mean
    assert logged.data.params["data_digest"] == result.data_digest
    assert {entry.path for entry in client.list_artifacts(run)} == {"report.html", "report.md", "evaluation.json"}
    assert logged.info.status == "FINISHED"
    assert not [tag for tag in logged.data.tags if "user" in tag or "source" in tag]
    assert not set(
        re.findall(r"[^\w\-. /]", "".join(mlflow_log.metrics(result)) + "".join(mlflow_log.parameters(result)))
    )


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_cannot_be_reached_is_one_sentence(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database")
    with pytest.raises(InputError, match=r"--log-to mlflow:sqlite.*; the result itself is in ") as refused:
        mlflow_log.log(Evaluation.read(study), study, f"sqlite:///{tmp_path / 'file'}")
    assert "\n" not in str(refused.value)


# Size and speed


@pytest.mark.slow
@pytest.mark.alone
def test_twelve_pairs_of_a_thousand_images_take_seconds_and_half_a_gigabyte(tmp_path: Path) -> None:
    """Two layers, five methods, four jitter draws; on two busy CPUs 6 s and 0.53 GB were measured."""
    folder = made_studies.large(tmp_path / "large")
    code = (
        "import sys, time; started = time.perf_counter()\n"
        "from pathlib import Path; from harness.api.write import render_again\n"
        "page = render_again(Path(sys.argv[1]))\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(time.perf_counter() - started, peak, page.stat().st_size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    seconds, kilobytes, size = map(float, done.stdout.split())
    assert seconds < 20
    assert 1e5 < kilobytes < 1e6  # VmHWM of the child alone: ru_maxrss starts at the peak of the process that forked it
    assert size < 6e6
