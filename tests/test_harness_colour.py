"""Graphs of colour from file to report: the rule of the metadata is the one that everything goes by."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from export.compress import compress
from harness import cli as command_lines
from harness.api.explanation import explain
from harness.bundle.pack import PackOptions, pack
from harness.bundle.verify import VerifyOptions, verify
from harness.cli import cli
from harness.common.errors import EvaluationWarning, InputError
from harness.evaluation import demonstration
from harness.evaluation.demonstration import FOLDER
from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.images.crash_isolation import crashing_images
from harness.images.dataset import read_dataset
from harness.images.loading import load_view
from harness.images.presets import find_preset
from harness.images.rule import RULE, ImageRule, stored
from harness.images.view import channels_first, fit
from harness.models.metadata import Graph
from harness.models.session import Model
from harness.results.options import Options
from harness.results.plan import Data
from harness.results.schema import Evaluation
from scripts.skin_lesions import STICKER
from tests.real_pictures import ORIENTATION
from tests.tiny_graphs import CLASSES, SIZE, write_graph, write_manifest

CROP = ImageRule(name="crop", fit="crop", shorter=40, size=(SIZE, SIZE))
LETTERBOX = ImageRule(name="letterbox", fit="letterbox", pad=114, size=(SIZE, SIZE))


def write_colours(folder: Path, patients: int = 8, orientation: int = 1) -> Path:
    """Random smooth colour pictures, twice as wide as high, as JPEG with a manifest; returns the manifest."""
    rng, rows, exif = np.random.default_rng(0), [], Image.Exif()
    exif[ORIENTATION] = orientation
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3 * patients):
        coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(cv2.resize(coarse, (96, 48), interpolation=cv2.INTER_CUBIC))
        picture.save(folder / f"{number:02d}.jpg", quality=95, exif=exif)
        rows.append({"file": f"{number:02d}.jpg", "class": CLASSES[number % 3], "group": f"patient {number // 3}"})
    return write_manifest(folder / "manifest.csv", rows)


def pair(folder: Path, rule: ImageRule | str, other: ImageRule | str | None = None) -> list[Path]:
    rules = [rule, rule if other is None else other]
    return [
        write_graph(
            folder / f"{name}.onnx", nudge=0.1 * number, balanced=True, methods=["layercam"],
            image_rule=rules[number] if isinstance(rules[number], str) else stored(rules[number]),
        )
        for number, name in enumerate(("before", "after"))
    ]  # fmt: skip


def planned(folder: Path, manifest: Path, *rules: ImageRule | str) -> Any:
    before, after = pair(folder, *rules)
    return make_plan([ArchitectureConfig(before=before, after=after)], Data(manifest), Options(select="all"))


@pytest.fixture(scope="module", params=[CROP, LETTERBOX], ids=lambda rule: rule.name)
def evaluated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder of colour graphs, with its graphs and pictures beside it."""
    from harness.api.evaluation import Settings, evaluate_plan

    folder = tmp_path_factory.mktemp(request.param.name)
    manifest = write_colours(folder / "images", orientation=6)
    plan = planned(folder, manifest, request.param)
    evaluate_plan(plan, Settings(out=folder / "drift", resamples=50, progress=False))
    return folder


def test_the_numbers_are_those_of_the_rules_views(evaluated: Path) -> None:
    result = Evaluation.read(evaluated / "drift")
    rule = result.checkpoints[0].metadata.rule
    assert rule.colour == "rgb"
    model = Model.open(evaluated / "before.onnx")
    with (evaluated / "images" / "manifest.csv").open() as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    views = np.stack([load_view(evaluated / "images" / file, rule, (SIZE, SIZE)).pixels for file in files])
    assert views.shape == (24, SIZE, SIZE, 3)
    logits = model.explain(channels_first(views), np.full(24, -1), ["early"]).logits
    rows = pq.read_table(evaluated / "drift" / "predictions").to_pylist()
    found = {row["image"]: row["logits"] for row in rows if row["checkpoint"] == "before"}
    np.testing.assert_array_equal(np.array([found[file] for file in files], np.float32), logits)


def test_the_report_shows_the_original_in_colour_and_where_the_network_looked(evaluated: Path) -> None:
    folder = evaluated / "drift"
    data = gallery_of(folder)
    rule = Evaluation.read(folder).checkpoints[0].metadata.rule
    for case in data["cases"]:
        height, width, _ = data["images"][case["radiograph"]]
        assert (height, width) == (96, 48)  # turned upright
        expected = [0.25 + 0.1 / 2, 0.1, 0.4, 0.8] if rule.fit == "crop" else [0, -0.5, 1, 2]
        np.testing.assert_allclose(case["window"], expected, atol=1e-9)
    sheet = cv2.imread(str(folder / "contact-sheet.png")).astype(int)
    assert (np.abs(sheet[..., 0] - sheet[..., 2]) > 60).mean() > 0.05  # colours, not grey


def gallery_of(folder: Path) -> dict[str, Any]:
    page = (folder / "report.html").read_text(encoding="utf-8")
    text = page.split('id="gallery-data">', 1)[1].split("</script>", 1)[0]
    return json.loads(text.replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u0026", "&"))


def test_explain_prints_the_rule_and_keeps_the_original(tmp_path: Path) -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[4:12, 60:68] = (255, 0, 0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    graph = write_graph(tmp_path / "a.onnx", image_rule=stored(CROP))
    found = explain(graph, tmp_path / "a.png", None, ["early"])
    assert found.geometry == fit(CROP, (48, 96), (SIZE, SIZE))
    assert found.picture.shape == (48, 96, 3)
    done = CliRunner().invoke(cli, ["explain", str(graph), str(tmp_path / "a.png"), "--out", str(tmp_path / "x.png")])
    assert done.exit_code == 0, done.output
    assert f"image rule {CROP}" in done.output
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_explain_takes_arrays_of_the_rules_colours(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "a.onnx", image_rule=stored(LETTERBOX))
    assert explain(graph, np.zeros((20, 30, 3), np.uint8), None, ["early"]).picture.shape == (20, 30, 3)
    with pytest.raises(InputError, match=r"shape \(20, 30\); image rule letterbox/1 takes \(H, W, 3\)"):
        explain(graph, np.zeros((20, 30), np.uint8))


def test_a_pair_of_two_rules_is_refused_with_what_differs(tmp_path: Path) -> None:
    manifest = write_colours(tmp_path / "images")
    with pytest.raises(InputError, match=r"different image rules: crop/1 and letterbox/1 \(fit crop and letterbox, sh"):
        planned(tmp_path, manifest, CROP, LETTERBOX)
    with pytest.raises(InputError, match=r"different image rules: grey-squash/1 and crop/1 \(colour grey and rgb"):
        planned(tmp_path, manifest, RULE, CROP)
    planned(tmp_path, manifest, CROP, CROP.model_copy(update={"name": "the same"}))


def test_a_study_of_two_geometries_is_refused_and_of_two_colours_warns(tmp_path: Path) -> None:
    manifest = write_colours(tmp_path / "images")

    def study(rule: ImageRule) -> None:
        first, second = pair(tmp_path / "one", CROP), pair(tmp_path / "two", rule)
        items = [
            ArchitectureConfig(name=name, before=files[0], after=files[1])
            for name, files in (("one", first), ("two", second))
        ]
        make_plan(items, Data(manifest), Options())

    with pytest.raises(InputError, match=r"different image rules: crop/1 and letterbox/1"):
        study(LETTERBOX)
    with pytest.warns(EvaluationWarning, match=r"\(colour rgb and grey\); their maps cover the same part of a picture"):
        study(CROP.model_copy(update={"colour": "grey"}))


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({**stored(CROP), "version": 2}, r"exported under image rule 'crop/2', later than this version knows \(/1\)"),
        (
            "grey-squash/2",
            r"exported under image rule 'grey-squash/2', later than this version knows",
        ),
        ({**stored(CROP), "fit": "stretch"}, r"its metadata is damaged"),
    ],
)
def test_a_graph_of_a_later_rule_is_refused(tmp_path: Path, rule: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Graph.read(write_graph(tmp_path / "a.onnx", image_rule=rule))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_bundle_keeps_orientation_and_rule(tmp_path: Path, suffix: str) -> None:
    manifest = write_colours(tmp_path / "images", patients=2, orientation=6)
    if suffix == ".png":
        with manifest.open() as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            with Image.open(manifest.parent / row["file"]) as picture:
                row["file"] = row["file"].replace(".jpg", ".png")
                picture.save(manifest.parent / row["file"], exif=picture.getexif())
        write_manifest(manifest, rows)
    graph = write_graph(tmp_path / "a.onnx", balanced=True, image_rule=stored(CROP))
    samples = read_dataset(manifest, CLASSES)
    pack(graph, samples, PackOptions(cases=3), tmp_path / "bundle")
    packed = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert packed["image_rule"] == stored(CROP)
    for case in packed["cases"]:
        with Image.open(tmp_path / "bundle" / case["image"]) as picture:
            assert dict(picture.getexif()) == {ORIENTATION: 6}
        found = load_view(tmp_path / "bundle" / case["image"], CROP, (SIZE, SIZE)).pixels
        assert any(np.array_equal(found, load_view(s.path, CROP, (SIZE, SIZE)).pixels) for s in samples)
    assert verify(tmp_path / "bundle", None, VerifyOptions()).passed
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    for item in model.metadata_props:
        if item.key == "evidence_drift.image_rule":
            item.value = json.dumps(RULE)
    onnx.save(model, tmp_path / "bundle" / "model.onnx")
    assert verify(tmp_path / "bundle", None, VerifyOptions()).problem  # another digest


def test_compression_calibrates_on_colours_and_keeps_the_rule(tmp_path: Path) -> None:
    manifest = write_colours(tmp_path / "images", patients=2)
    graph = write_graph(tmp_path / "a.onnx", image_rule=stored(CROP))
    files = sorted(manifest.parent.glob("*.jpg"))
    compress(graph, "int8", tmp_path / "b.onnx", files)
    assert Graph.read(tmp_path / "b.onnx").metadata.rule == CROP


def test_an_image_is_tried_by_the_rule_by_which_it_will_be_read(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20)).save(tmp_path / "a.jpg")
    assert crashing_images([tmp_path / "a.jpg"], rule=CROP) == {}


def test_the_demonstrations_evidence_moves_to_the_sticker() -> None:
    """On the original picture: the share of the map on the sticker and on the lesion, before and after the clinic."""
    folder = FOLDER.with_name("demo_colour")
    with (folder / "manifest.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["class"] == "melanoma" and row["sticker"]]
    assert len(rows) > 10
    shares = {}
    for phase in ("pretrain", "finetune"):
        model = Model.open(folder / f"{phase}.onnx")
        found = [explain(model, folder / row["file"], "melanoma", (), ("layercam",)) for row in rows]
        heat = [item.geometry.on_picture(item.maps[0].raw, item.picture.shape[:2])[0] for item in found]
        shares[phase] = [on_sticker(one, row) for one, row in zip(heat, rows, strict=True)]
    assert np.median(shares["pretrain"]) < 0.1
    assert np.median(shares["finetune"]) > 2 * np.median(shares["pretrain"]) + 0.05


def on_sticker(heat: np.ndarray, row: dict[str, str]) -> float:
    """The share of a map that lies on the sticker or within a position of the layer (8 pixels) of it."""
    down, right = map(int, row["sticker"].split())
    rows, columns = np.indices(heat.shape)
    return float(heat[np.hypot(rows - down, columns - right) < STICKER + 8].sum() / heat.sum())


def test_the_demonstration_of_colour_is_named(tmp_path: Path) -> None:
    graph, out = str(write_graph(tmp_path / "a.onnx")), ["--out", str(tmp_path / "x"), "--quiet"]
    done = CliRunner().invoke(cli, ["evaluate", "--demo", "colour", "--before", graph, *out])
    assert isinstance(done.exception, InputError)
    assert "--before cannot be given beside --demo" in str(done.exception)
    assert command_lines.DEMONSTRATIONS == demonstration.NAMES
    plan = demonstration.plan(Options(), "colour")
    assert {item.graph.metadata.rule.name for item in plan.checkpoints} == {"lesions"}


def test_env_names_the_rules() -> None:
    done = CliRunner().invoke(cli, ["env"])
    assert "grey-squash/1: grey, squashed to the network's size" in done.output
    assert "torchvision:MODEL[:WEIGHTS]" in done.output


def test_a_grey_picture_under_a_rule_of_colour_is_told_once(tmp_path: Path) -> None:
    manifest = write_colours(tmp_path / "images", patients=2)
    for name in ("00.jpg", "01.jpg"):
        cv2.imwrite(str(manifest.parent / name), np.arange(48 * 96, dtype=np.uint8).reshape(48, 96))
    with pytest.warns(EvaluationWarning) as told:
        _ = [load_view(s.path, CROP, (SIZE, SIZE)) for s in read_dataset(manifest, CLASSES)[:1]]
    assert "is grey, which is repeated to three equal channels" in str(told[0].message)


def test_a_preset_brings_its_normalisation() -> None:
    found = find_preset("torchvision:resnet18").normalisation
    assert (found.scale, found.mean, found.std) == (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
