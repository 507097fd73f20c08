"""What is explained for every kind of label, and the references beside the numbers, against literal computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.common.errors import CannotEvaluateError, InputError
from harness.images.jitter import jittered
from harness.images.loading import channels_first, load_grey
from harness.models.session import Model
from harness.results.schema import Evaluation
from harness.results.vocabulary import CONCENTRATION, PAIR_METRICS, STABILITY
from harness.statistics.chance import derangements
from kernels.cam import cam
from kernels.metrics import pair_metrics
from tests import tiny_graphs
from tests.tiny_graphs import CLASSES, evaluate, maps_of, metric, read_rows

SIZE = (20, 20)  # of the compared maps; the graphs' layers have 8 x 8 positions, their images 32 x 32
BRIEF = ["--map-size", 20, "--chance", 2, "--jitter", 1, "--method", "layercam"]
DRAWN = ["--map-size", 20, "--chance", 3, "--jitter", 4, "--method", "layercam", "--layer", "late"]

pytestmark = pytest.mark.usefixtures("in_brief")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two graphs of each score kind, and images in whose classes the first single-label graph excels."""
    folder = tmp_path_factory.mktemp("inputs")
    for kind in ("softmax", "multilabel", "binary"):
        thresholds: dict[str, Any] = {"thresholds": [0.45, 0.5, 0.6]} if kind == "multilabel" else {}
        for name, nudge in (("before", 0.0), ("after", 0.3)):
            tiny_graphs.write_graph(
                folder / f"{kind}-{name}.onnx", 0, nudge=nudge, balanced=True, score_kind=kind, **thresholds
            )
    manifest = tiny_graphs.write_images(folder / "images", patients=24, each=1, exposure=0.6)
    tiny_graphs.label_as(folder / "softmax-before.onnx", manifest)
    return folder


def pair_of(place: Path, kind: str, manifest: Path | None = None) -> list[object]:
    """The arguments that name two graphs and their images."""
    data = manifest or place / "images" / "manifest.csv"
    named = ["--before", place / f"{kind}-before.onnx", "--after", place / f"{kind}-after.onnx"]
    return [*named, "--data", data, "--root", place / "images"]


def labelled(folder: Path, labels: list[str] | None) -> Path:
    """A manifest of the images of `place` with other classes, or without a class."""
    rows = [{"file": f"image-{n:03d}.png", "group": f"patient {n}"} for n in range(24)]
    found = [{**row, "class": label} for row, label in zip(rows, labels, strict=True)] if labels else rows
    return tiny_graphs.write_manifest(folder / "manifest.csv", found)


def logits(out: Path, checkpoint: str) -> np.ndarray:
    """(images, K)."""
    return np.array([row["logits"] for row in read_rows(out, "predictions", checkpoint=checkpoint)])


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(float)))


# Labels


@pytest.mark.parametrize("select", ["true-positive", "agree", "all"])
def test_single_label_selection_counts_what_the_logits_say(place: Path, tmp_path: Path, select: str) -> None:
    result = evaluate(tmp_path, *pair_of(place, "softmax"), *BRIEF, "--select", select)
    rows = read_rows(tmp_path, "predictions", checkpoint="softmax-before")
    truth = np.array([CLASSES.index(row["labels"][0]) for row in rows])
    said = [logits(tmp_path, f"softmax-{name}").argmax(axis=1) for name in ("before", "after")]
    wanted = {
        "true-positive": (said[0] == truth) & (said[1] == truth),
        "agree": said[0] == said[1],
        "all": np.ones(24, bool),
    }[select]
    assert result.pairs[0].selected == wanted.sum() > 0
    scored = {row["image"] for row in read_rows(tmp_path, "scores", reference="observed")}
    assert scored == {row["image"] for row, chosen in zip(rows, wanted, strict=True) if chosen}
    assert result.checkpoints[1].quality["accuracy"].mean == pytest.approx((said[1] == truth).mean())


@pytest.mark.parametrize("select", ["agree", "all"])
def test_without_labels_the_prediction_of_before_is_explained_in_both(place: Path, tmp_path: Path, select: str) -> None:
    manifest = labelled(tmp_path, None)
    result = evaluate(tmp_path / "out", *pair_of(place, "softmax", manifest), *BRIEF, "--select", select)
    said = [logits(tmp_path / "out", f"softmax-{name}").argmax(axis=1) for name in ("before", "after")]
    assert (said[0] != said[1]).any()
    wanted = {(f"image-{n:03d}.png", CLASSES[k]) for n, k in enumerate(said[0])}
    for name in ("before", "after"):
        assert set(maps_of(tmp_path / "out", checkpoint=f"softmax-{name}", draw=0)) == wanted
    assert result.pairs[0].selected == ((said[0] == said[1]).sum() if select == "agree" else 24)
    assert result.checkpoints[0].quality == {}
    assert result.pairs[0].agreement.mean == pytest.approx((said[0] == said[1]).mean())


def test_without_labels_nothing_is_a_true_positive(place: Path, tmp_path: Path) -> None:
    manifest = labelled(tmp_path, None)
    for asked in ([], ["--select", "true-positive"]):
        with pytest.raises(InputError, match=r"so nothing is a true positive; .* --select agree or --select all"):
            evaluate(tmp_path / "out", *pair_of(place, "softmax", manifest), *asked)


def test_maps_without_labels_have_no_true_positives_later_either(place: Path, tmp_path: Path) -> None:
    data = pair_of(place, "softmax", labelled(tmp_path, None))
    evaluate(tmp_path / "agree", *data, *BRIEF, "--select", "agree", "--jitter", 0)
    with pytest.raises(InputError, match=r"so nothing is a true positive"):
        evaluate(tmp_path / "out", "--from", tmp_path / "agree", "--select", "true-positive")


def test_nan_is_no_margin(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="margin: Input should be less than 1"):
        evaluate(tmp_path / "out", *pair_of(place, "softmax"), *BRIEF, "--margin", "nan")
    assert not (tmp_path / "out").exists()


def test_a_multi_label_model_without_labels_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no classes; several architectures or a multi-label model need"):
        evaluate(tmp_path / "out", *pair_of(place, "multilabel", labelled(tmp_path, None)), "--select", "all")


MANY = ["dark|bright", "", "left", "bright|left|dark", "dark", "bright"] * 4


@pytest.fixture(scope="module")
def multi(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("multi")
    manifest = labelled(folder, MANY)
    return evaluate(folder / "out", *pair_of(place, "multilabel", manifest), *BRIEF), folder / "out"


def test_multi_label_has_a_record_per_positive_label(multi: tuple[Evaluation, Path]) -> None:
    _, out = multi
    wanted = {(f"image-{n:03d}.png", name) for n, text in enumerate(MANY) for name in text.split("|") if name}
    for name in ("before", "after"):
        rows = read_rows(out, "maps", checkpoint=f"multilabel-{name}", draw=0)
        assert len(rows) == len(wanted)
        assert {(row["image"], row["class"]) for row in rows} == wanted


def test_multi_label_selection_uses_the_thresholds_of_the_model(multi: tuple[Evaluation, Path]) -> None:
    result, out = multi
    said = [sigmoid(logits(out, f"multilabel-{name}")) >= [0.45, 0.5, 0.6] for name in ("before", "after")]
    plain = [sigmoid(logits(out, f"multilabel-{name}")) >= 0.5 for name in ("before", "after")]
    assert any((one != other).any() for one, other in zip(said, plain, strict=True))
    wanted = {
        (f"image-{n:03d}.png", name)
        for n, text in enumerate(MANY)
        for name in text.split("|")
        if name and said[0][n, CLASSES.index(name)] and said[1][n, CLASSES.index(name)]
    }
    assert result.pairs[0].selected == len(wanted) > 0
    assert {(row["image"], row["class"]) for row in read_rows(out, "scores", reference="observed")} == wanted


def test_images_without_a_positive_label_count_for_the_predictions(multi: tuple[Evaluation, Path]) -> None:
    result, out = multi
    assert len(logits(out, "multilabel-before")) == result.images == 24
    probability = sigmoid(logits(out, "multilabel-before"))
    truth = np.array([[name in text.split("|") for name in CLASSES] for text in MANY])
    right = (probability >= [0.45, 0.5, 0.6]) == truth
    assert result.checkpoints[0].quality["accuracy"].mean == pytest.approx(right.mean())
    curves = [
        np.mean([(a > b) + (a == b) / 2 for a in column[positive] for b in column[~positive]])
        for column, positive in zip(probability.T, truth.T, strict=True)
    ]
    assert result.checkpoints[0].quality["auc"].mean == pytest.approx(np.mean(curves), abs=1e-6)


def test_images_without_any_positive_label_at_all_cannot_be_explained(place: Path, tmp_path: Path) -> None:
    manifest = labelled(tmp_path, [""] * 24)
    with pytest.raises(CannotEvaluateError, match=r"none of the 24 images has a positive class, so nothing"):
        evaluate(tmp_path / "out", *pair_of(place, "multilabel", manifest), *BRIEF)
    mended = labelled(tmp_path, ["dark", "bright"] * 12)  # into the same folder: nothing in it is unfinished
    assert evaluate(tmp_path / "out", *pair_of(place, "multilabel", mended), *BRIEF, "--select", "all").images == 24


def test_a_binary_model_explains_class_0_by_the_negative_logit(place: Path, tmp_path: Path) -> None:
    manifest = labelled(tmp_path, ["dark", "bright"] * 12)
    result = evaluate(tmp_path / "out", *pair_of(place, "binary", manifest), *BRIEF, "--select", "all")
    assert logits(tmp_path / "out", "binary-before").shape == (24, 1)
    found = maps_of(tmp_path / "out", checkpoint="binary-before", draw=0)
    model = Model.open(place / "binary-before.onnx")
    for number, sign in ((0, -1), (1, 1)):
        image = load_grey(place / "images" / f"image-{number:03d}.png", (32, 32))[None]
        activations, gradients = model.explain(channels_first(image), np.array([1]), ["early"]).layers["early"]
        literal = np.maximum((np.maximum(sign * gradients[0], 0) * activations[0]).sum(axis=0), 0)
        np.testing.assert_allclose(found[f"image-{number:03d}.png", CLASSES[number]], literal, rtol=1e-5, atol=1e-7)
    truth = np.array([0, 1] * 12)
    right = (logits(tmp_path / "out", "binary-before")[:, 0] > 0) == truth
    assert result.checkpoints[0].quality["accuracy"].mean == pytest.approx(right.mean())
    assert {item.scope for item in result.pairs[0].metrics} == {"all", "dark", "bright"}


def test_a_manifest_whose_rows_end_early_is_refused(place: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,class,group\nimage-000.png,dark,a\nimage-001.png\n")
    with pytest.raises(InputError, match=r"line 3|image-001\.png"):
        evaluate(tmp_path / "out", *pair_of(place, "softmax", manifest), *BRIEF, "--select", "all")


# References


@pytest.fixture(scope="module")
def drawn(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("drawn")
    return evaluate(out, *pair_of(place, "softmax"), *DRAWN, "--select", "all", "--seed", 4), out


def records_of(out: Path) -> list[tuple[str, str, str]]:
    """(image, class, patient) of every record that is compared, in the order of the manifest."""
    rows = read_rows(out, "scores", reference="observed", metric="iou_top20")
    return [(row["image"], row["class"], row["group"]) for row in rows]


def scores_of(out: Path, name: str, reference: str, **equal: object) -> np.ndarray:
    """(records,) values of a metric."""
    return np.array([row["value"] for row in read_rows(out, "scores", metric=name, reference=reference, **equal)])


def concentration(map_: np.ndarray, name: str) -> float:
    scores = pair_metrics(map_[None], map_[None], size=SIZE)
    return float(scores.column(f"{name}_before")[0][0])


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """(draws, records) to (records,)."""
    return np.array(
        [column[np.isfinite(column)].mean() if np.isfinite(column).any() else np.nan for column in values.T]
    )


def test_chance_is_the_mean_over_derangements_of_the_stored_maps(drawn: tuple[Evaluation, Path]) -> None:
    _, out = drawn
    records = records_of(out)
    names, classes, groups = zip(*records, strict=True)
    partners = derangements(names, [CLASSES.index(name) for name in classes], groups, draws=3, seed=4)
    before, after = (
        [maps_of(out, checkpoint=f"softmax-{name}", draw=0)[image, label] for image, label, _ in records]
        for name in ("before", "after")
    )
    for draw in partners:
        for i, j in enumerate(draw):
            assert j == -1 or (classes[i] == classes[j] and groups[i] != groups[j])
    for name in PAIR_METRICS:
        literal = np.full(partners.shape, np.nan)
        for (draw, i), j in np.ndenumerate(partners):
            if j >= 0:
                literal[draw, i] = pair_metrics(before[i][None], after[j][None], size=SIZE).column(name)[0][0]
        np.testing.assert_allclose(scores_of(out, name, "chance"), mean_of_defined(literal), rtol=1e-6, atol=1e-9)
    for name in CONCENTRATION:
        of = [[concentration(one, name) for one in side] for side in (before, after)]
        literal = np.where(partners >= 0, np.abs(np.take(of[1], partners) - np.array(of[0])), np.nan)
        np.testing.assert_allclose(
            scores_of(out, f"{name}_shift", "chance"), mean_of_defined(literal), rtol=1e-5, atol=1e-6
        )


def sampled(raw: np.ndarray, down: int, right: int) -> np.ndarray:
    """A raw map (h, w) at SIZE by bilinear interpolation between centres, moved back by pixels of the image."""
    height, width = raw.shape
    found = np.zeros(SIZE)
    for r, c in np.ndindex(SIZE):
        y = min(max((r + 0.5 + down * SIZE[0] / 32) * height / SIZE[0] - 0.5, 0), height - 1)
        x = min(max((c + 0.5 + right * SIZE[1] / 32) * width / SIZE[1] - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        bottom, beside = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = raw[top, left] * (1 - x + left) + raw[top, beside] * (x - left)
        lower = raw[bottom, left] * (1 - x + left) + raw[bottom, beside] * (x - left)
        found[r, c] = upper * (1 - y + top) + lower * (y - top)
    return found.astype(np.float32)


@pytest.mark.parametrize("checkpoint", ["softmax-before", "softmax-after"])
def test_jitter_is_the_model_on_noisy_images_with_its_maps_moved_back(
    place: Path, drawn: tuple[Evaluation, Path], checkpoint: str
) -> None:
    _, out = drawn
    model = Model.open(place / f"{checkpoint}.onnx")
    chosen = records_of(out)[:5]
    moves = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    literal = np.full((4, len(chosen), len(PAIR_METRICS)), np.nan)
    for n, (image, label, _) in enumerate(chosen):
        grey = load_grey(place / "images" / image, (32, 32))
        target = np.array([CLASSES.index(label)])

        def explained(picture: np.ndarray, target: np.ndarray = target) -> np.ndarray:
            layer = model.explain(channels_first(picture[None]), target, ["late"]).layers["late"]
            return cam("layercam", *layer)[0][0]

        clean = sampled(explained(grey), 0, 0)
        for draw, move in enumerate(moves):
            noisy = sampled(explained(jittered(grey, image, draw + 1, 4)), *move)
            scores = pair_metrics(clean[None], noisy[None])
            literal[draw, n] = [scores.column(name)[0][0] for name in PAIR_METRICS]
    for place_, name in enumerate(PAIR_METRICS):
        found = scores_of(out, name, "jitter", pair=checkpoint)[: len(chosen)]
        np.testing.assert_allclose(found, mean_of_defined(literal[:, :, place_]), rtol=2e-3, atol=2e-3, err_msg=name)


def test_jittered_pictures_have_noise_of_one_grey_level_and_are_moved_by_a_pixel() -> None:
    grey = np.full((200, 200), 100, np.float32)
    grey[:, 100:] = 150
    grey[100:] += 50
    for draw, (down, right) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)], 1):
        difference = jittered(grey, "a.png", draw, 0) - np.roll(grey, (down, right), (0, 1))
        inside = difference[2:-2, 2:-2]
        assert inside.std() == pytest.approx(1, abs=0.02)
        assert abs(inside.mean()) < 0.02
    assert jittered(np.full((9, 9), 255, np.float32), "a.png", 1, 0).max() == 255
    assert not np.array_equal(jittered(grey, "a.png", 1, 0), jittered(grey, "b.png", 1, 0))


def test_floor_and_index_follow_from_the_stored_scores(drawn: tuple[Evaluation, Path]) -> None:
    result, out = drawn
    assert result.pairs[0].floor == "jitter"
    for name in STABILITY:
        observed, chance = scores_of(out, name, "observed"), scores_of(out, name, "chance")
        sides = [scores_of(out, name, "jitter", pair=f"softmax-{side}") for side in ("before", "after")]
        floor = mean_of_defined(np.array(sides))
        found = metric(result, name)
        assert found.floor is not None
        assert found.chance is not None
        assert found.index is not None
        assert found.floor.mean == pytest.approx(np.nanmean(floor))
        assert found.chance.mean == pytest.approx(np.nanmean(chance))
        common = np.isfinite(observed) & np.isfinite(chance) & np.isfinite(floor)
        assert found.index.n == common.sum()
        means = [values[common].mean() for values in (observed, chance, floor)]
        assert [found.index.observed, found.index.chance, found.index.floor] == pytest.approx(means)
        if found.index.value is not None:
            assert found.index.value == pytest.approx((means[0] - means[1]) / (means[2] - means[1]))
            assert found.index.reason is None


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty patients, so that there are intervals, and a graph whose maps of both classes are not empty."""
    folder = tmp_path_factory.mktemp("larger")
    tiny_graphs.write_graph(folder / "a.onnx", 0, balanced=True)
    tiny_graphs.write_graph(folder / "hair.onnx", 0, nudge=1e-5, balanced=True, phase="finetune")
    manifest = tiny_graphs.write_images(folder / "images", patients=50, each=1, exposure=0.3)
    tiny_graphs.label_as(folder / "a.onnx", manifest, wrong_each=1000)
    return folder


ALL_METHODS = [
    word for name in ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam") for word in ("--method", name)
]
BOTH_LAYERS = ["--layer", "early", "--layer", "late", "--map-size", 20, "--chance", 2, "--jitter", 2]


@pytest.mark.slow
def test_a_checkpoint_against_itself_has_zero_drift_by_every_method_at_every_layer(
    larger: Path, tmp_path: Path
) -> None:
    graph = larger / "a.onnx"
    data = ["--data", larger / "images" / "manifest.csv"]
    result = evaluate(tmp_path, "--before", graph, "--after", graph, *data, *ALL_METHODS, *BOTH_LAYERS)
    still = {"low": 0.0, "high": 1.0, "zero": 0.0}
    counted = 0
    for item in result.pairs[0].metrics:
        if item.index is None and item.stable_is != "zero":
            continue
        if item.n and not item.metric.endswith(("_before", "_after")):
            assert item.estimate.mean == pytest.approx(still[item.stable_is], abs=1e-9), item
        if item.index is not None and item.index.value is not None:
            assert item.index.value >= 1, item
            counted += 1
    assert counted > 100


def test_a_hair_of_training_is_no_more_than_the_floor(larger: Path, tmp_path: Path) -> None:
    files = ["--before", larger / "a.onnx", "--after", larger / "hair.onnx"]
    data = ["--data", larger / "images" / "manifest.csv"]
    result = evaluate(tmp_path, *files, *data, "--method", "layercam", "--method", "gradcam", *BOTH_LAYERS)
    found = [item.index for item in result.pairs[0].metrics if item.index is not None and item.index.value is not None]
    assert len(found) > 40
    for index in found:
        assert index.value is not None
        assert index.high is not None
        assert index.value >= 1 or index.high >= 1, index


def test_maps_that_do_not_depend_on_the_images_have_an_index_near_0(larger: Path, tmp_path: Path) -> None:
    files = ["--before", larger / "a.onnx", "--after", larger / "hair.onnx"]
    data = ["--data", larger / "images" / "manifest.csv"]
    evaluate(tmp_path, *files, *data, "--method", "layercam", "--map-size", 20, "--jitter", 1)
    for part in (tmp_path / "maps").iterdir():
        replace_maps(part)
    result = evaluate(tmp_path / "again", "--from", tmp_path)
    inside = []
    for name in STABILITY:
        index = metric(result, name).index
        if index is not None and index.value is not None and index.low is not None and index.high is not None:
            assert abs(index.value) < 0.2, name
            inside.append(index.low <= 0 <= index.high)
    assert len(inside) >= 12
    assert np.mean(inside) >= 0.8


def replace_maps(part: Path) -> None:
    """Put random maps in place of those of a checkpoint: its own on every image, with a hundredth of noise in draws."""
    table = pq.ParquetFile(part).read()
    maps = []
    for row in table.select(["checkpoint", "record", "draw"]).to_pylist():
        random = np.random.default_rng([3, len(row["checkpoint"]), row["record"]])
        own = random.gamma(0.5, size=64).astype(np.float32)
        maps.append(own if row["draw"] == 0 else own * random.normal(1, 0.01, 64).astype(np.float32))
    column = table.schema.get_field_index("map")
    table = table.set_column(column, table.schema.field(column), pa.array(list(maps), pa.list_(pa.float32())))
    reasons = pa.array(["defined"] * len(maps)).dictionary_encode()
    place = table.schema.get_field_index("reason")
    pq.write_table(table.set_column(place, table.schema.field(place), reasons), part)
