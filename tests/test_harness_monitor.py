"""The nightly monitor: what it measures, what it keeps, when it raises an alarm, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import harness
from harness import cli
from harness.bundle.pack import PackOptions, pack
from harness.common.errors import CannotEvaluateError, EvaluationWarning, InputError
from harness.images.dataset import read_dataset
from harness.images.loading import channels_first, load_grey
from harness.images.regions import RegionFiles, Regions
from harness.models.session import Model
from harness.monitoring import run as nightly
from harness.monitoring.history import History, history
from harness.monitoring.outputs import json_lines, metrics, table, write_outputs
from harness.monitoring.page import page
from harness.monitoring.pictures import CONCENTRATION, ZONES, Watched, measure
from harness.monitoring.run import Request, monitor
from harness.monitoring.state import Identity, Night, State, read_state, write_state
from kernels.cam import cams
from kernels.resize import upsample
from tests import documents, made_dicom, tiny_graphs


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two graphs, the pictures of 48 patients, masks of their left halves, and their evaluation."""
    folder = tmp_path_factory.mktemp("accepted")
    before = tiny_graphs.write_graph(folder / "before.onnx", balanced=True)
    after = tiny_graphs.write_graph(folder / "after.onnx", balanced=True, nudge=0.1, phase="finetune")
    manifest = tiny_graphs.write_images(folder / "reference", patients=48, each=1, exposure=0.6)
    tiny_graphs.label_as(before, manifest, wrong_each=3)
    half_masks(folder / "reference", folder / "masks")
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(
            folder / "result", "--before", before, "--after", after, "--data", manifest, "--select", "all",
            "--jitter", 0, "--chance", 0, "--map-size", 32, "--masks", f"left={folder / 'masks'}",
        )  # fmt: skip
    return folder


def half_masks(images: Path, masks: Path) -> None:
    masks.mkdir()
    mask = np.zeros((40, 48), np.uint8)
    mask[:, :24] = 255
    for path in images.glob("*.png"):
        cv2.imwrite(str(masks / path.name), mask)


def plain(folder: Path, seed: int, count: int = 24, darker: float = 1.0, name: str = "image") -> Path:
    """A folder of new pictures without labels, drawn like those of the reference."""
    tiny_graphs.write_images(folder, patients=count, each=1, seed=seed, exposure=0.6)
    (folder / "manifest.csv").unlink()
    for path in sorted(folder.glob("*.png")):
        picture = np.round(cv2.imread(str(path), 0) * darker).astype(np.uint8)
        path.unlink()
        cv2.imwrite(str(folder / path.name.replace("image", name)), picture)
    return folder


@pytest.fixture
def asked(accepted: Path, tmp_path: Path) -> Request:
    return Request(
        model=accepted / "after.onnx",
        reference=accepted / "result",
        data=plain(tmp_path / "first", 1),
        state=tmp_path / "monitor" / "state.json",
        night="one",
    )


def state_of(asked: Request) -> State:
    found = read_state(asked.state)
    assert found is not None
    return found


def test_a_quiet_night(asked: Request) -> None:
    found = monitor(asked)
    last = found.nights[-1]
    assert (found.exit_code, found.alarms) == (0, [])
    assert (last.given, last.seen, last.tested, last.repeated, last.unreadable) == (24, 0, 24, 0, 0)
    assert {item.kind for item in last.statistics} == {"concentration", "zone", "region", "map", "prediction"}
    assert last.log10_threshold == pytest.approx(np.log10(20 * len(last.statistics)))
    assert all(item.reference.n == 48 for item in last.statistics if item.kind == "prediction")
    assert "verdict: no alarm" in table(found)


def test_darker_pictures_raise_an_alarm_that_stays(asked: Request, tmp_path: Path) -> None:
    monitor(asked)
    dark = monitor(replace(asked, data=plain(tmp_path / "dark", 2, 30, darker=0.3), night="two"))
    assert dark.exit_code == 1
    assert set(dark.since.values()) == {"two"}
    later = monitor(replace(asked, data=plain(tmp_path / "third", 3), night="three"))
    assert later.exit_code == 1
    assert set(dark.alarms) <= set(later.alarms)
    assert "ALARM since two" in table(later)


def test_an_alarm_stays_where_the_evidence_falls_again() -> None:
    """One strange night, then forty like the reference."""
    state = State(identity=made_identity(), pictures=[], nights=[])
    rng, width = np.random.default_rng(0), len(state.identity.watched.statistics)
    for night, (count, low) in enumerate([(100, 0.0), (20, 0.9), *[(20, 0.0)] * 40], -1):
        digests = [f"{night} {n}" for n in range(count)]
        state.add(digests, [None] * count, low + 0.1 * rng.uniform(size=(count, width)), night)
        if night >= 0:
            given = {"given": count, "seen": 0, "unreadable": 0, "runtime": "1"}
            state.nights.append(Night(night=str(night), time="2026-11-29T00:00:00Z", **given))
    found = history(state)
    last = found.nights[-1]
    assert any(item.log10_e < last.log10_threshold < item.log10_e_highest for item in last.statistics)
    assert all(item.alarm for item in last.statistics)
    assert set(found.since.values()) == {"0"}


def made_identity() -> Identity:
    fields = {"model": "m", "image_rule": "r", "provider": "cpu", "execution": ["cpu"], "reference": "e", "alpha": 0.05}
    place = {"layer": "early", "method": "layercam", "map_size": (32, 32), "regions": [], "patients": "p"}
    return Identity(**fields, **place, classes=["no", "yes"])  # type: ignore[arg-type]


def test_values_are_those_of_the_predicted_class(accepted: Path) -> None:
    """Written out for every picture of the reference, a third of which the labels call wrong."""
    model = Model.open(accepted / "after.onnx")
    samples = read_dataset(accepted / "reference" / "manifest.csv", tiny_graphs.CLASSES)
    watched = Watched("early", "layercam", (32, 32), ("left",), tuple(tiny_graphs.CLASSES))
    regions = Regions(RegionFiles({"left": accepted / "masks"}), samples)
    found = measure(model, samples, watched, regions, threads=2)
    names = [item.name for item in watched.statistics]
    for n, sample in enumerate(samples):
        picture = channels_first(load_grey(sample.path, model.metadata.input_size)[None])
        logits = model.explain(picture, np.array([-1]), ["early"]).logits[0]
        explained = model.explain(picture, np.array([logits.argmax()]), ["early"])
        raw = cams(["layercam"], *explained.layers["early"], 1)["layercam"][0]
        large = upsample(raw, (32, 32))[0].astype(np.float64)
        values = dict(zip(names, found.values[n], strict=True))
        odds = np.exp(logits.astype(np.float64) - logits.max())
        assert [values[f"probability {name}"] for name in tiny_graphs.CLASSES] == pytest.approx(odds / odds.sum())
        assert values["confidence"] == pytest.approx(odds.max() / odds.sum())
        assert values["map defined"] == (large.sum() > 0)
        if not large.sum():
            continue
        shares = large / large.sum()
        zones = [part.sum() for third in np.split(shares, [11, 22]) for part in np.split(third, 2, axis=1)]
        assert [values[f"zone {name}"] for name in ZONES] == pytest.approx(zones, abs=1e-5)
        assert values["inside left"] == pytest.approx(shares[:, :16].sum(), abs=1e-5)
        assert values["area50"] == pytest.approx(
            (np.searchsorted(np.cumsum(np.sort(shares.ravel())[::-1]), 0.5 - 1e-9) + 1) / 1024, abs=2e-3
        )
    assert np.isfinite(found.values[:, 0]).sum() > 10


def test_an_empty_map_has_no_shares_and_says_so(accepted: Path, tmp_path: Path) -> None:
    model = Model.open(tiny_graphs.write_graph(tmp_path / "empty.onnx", head=-1.0, bias=0.0))
    samples = read_dataset(accepted / "reference" / "manifest.csv", tiny_graphs.CLASSES)[:2]
    watched = Watched("late", "layercam", (32, 32), (), tuple(tiny_graphs.CLASSES))
    found = measure(model, samples, watched, Regions(RegionFiles(), samples))
    count = len(CONCENTRATION) + len(ZONES)
    assert np.isnan(found.values[:, :count]).all()
    assert (found.values[:, count] == 0).all()
    assert np.isfinite(found.values[:, count + 1 :]).all()


def test_of_two_classes_one_probability_is_watched() -> None:
    two = Watched("early", "layercam", (32, 32), (), ("no", "yes"))
    assert [item.name for item in two.statistics][-2:] == ["confidence", "probability yes"]
    many = Watched("early", "layercam", (32, 32), (), tuple(map(str, range(21))))
    assert [item.name for item in many.statistics][-1] == "confidence"


# What is kept


def without_times(state: State) -> dict:
    content = state.model_dump()
    for night in content["nights"]:
        del night["time"]
    del content["identity"]["patients"]  # the key differs from folder to folder
    for picture in content["pictures"]:
        picture["patient"] = picture["patient"] is not None
    return content


def test_the_same_night_again_changes_nothing(asked: Request) -> None:
    first = monitor(asked)
    content = asked.state.read_bytes()
    again = monitor(replace(asked, night="another"))
    assert asked.state.read_bytes() == content
    assert json_lines(again) == json_lines(first)


@pytest.mark.parametrize("dies_at", [0, 1])
def test_a_night_that_was_killed_goes_on_with_the_same_numbers(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Killed before the state is written with the reference (0), and before it is with the night (1)."""
    other = replace(asked, state=tmp_path / "other" / "state.json")
    calls = iter(range(10))

    def write(path: Path, state: State, before: State | None) -> None:
        if next(calls) == dies_at:
            raise KeyboardInterrupt
        write_state(path, state, before)

    with monkeypatch.context() as patched:
        patched.setattr(nightly, "write_state", write)
        with pytest.raises(KeyboardInterrupt):
            monitor(other)
    monitor(other)
    monitor(asked)
    second = plain(tmp_path / "second", 5)
    for request in (asked, other):
        monitor(replace(request, data=second, night="two"))
    assert without_times(state_of(other)) == without_times(state_of(asked))


def test_numbers_do_not_depend_on_the_names_of_the_files(asked: Request, tmp_path: Path) -> None:
    monitor(asked)
    other = replace(asked, state=tmp_path / "other" / "state.json", data=plain(tmp_path / "renamed", 1, name="z"))
    monitor(other)
    assert without_times(state_of(other)) == without_times(state_of(asked))


@pytest.mark.filterwarnings("ignore::harness.common.errors.EvaluationWarning")
def test_a_picture_that_ends_the_process_ends_one_night_only(asked: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process that ended without a word leaves behind; the next one decodes in others first."""
    looked_at: list[int] = []

    def found(paths: list[Path], *_: object) -> dict[int, str]:
        looked_at.append(len(paths))
        return {3: f"{paths[3]}: its decoding ended the process"}

    monkeypatch.setattr(nightly, "crashing_images", found)
    marker = asked.state.with_name("state.json.begun")
    asked.state.parent.mkdir()
    marker.write_bytes(b"")
    night = monitor(asked).nights[-1]
    assert (looked_at, night.tested, night.unreadable) == ([24], 23, 1)
    assert not marker.exists()
    later = monitor(replace(asked, night="two")).nights[-1]  # a quiet end before it: decoded like any other
    assert (looked_at, later.tested) == ([24], 1)


def test_pictures_of_the_reference_are_not_new(asked: Request, accepted: Path) -> None:
    found = monitor(replace(asked, data=accepted / "reference" / "manifest.csv"))
    assert found.nights == []
    assert found.exit_code == 0
    assert "no night yet" in table(found)


def test_of_a_patient_one_picture_is_tested_ever(asked: Request, tmp_path: Path) -> None:
    rows = [{"file": f"image-{n:03d}.png", "group": f"new {n // 2}"} for n in range(24)]
    night = monitor(replace(asked, data=tiny_graphs.write_manifest(asked.data / "manifest.csv", rows))).nights[-1]
    assert (night.tested, night.repeated) == (12, 12)
    plain(tmp_path / "second", 4, 3)
    rows = [{"file": f"image-{n:03d}.png", "group": group} for n, group in enumerate(["new 3", "patient 7", "unheard"])]
    manifest = tiny_graphs.write_manifest(tmp_path / "second" / "manifest.csv", rows)
    night = monitor(replace(asked, data=manifest, night="two")).nights[-1]
    assert (night.tested, night.repeated) == (1, 2)  # one of the first night, one of the reference
    text = asked.state.read_text()
    assert "new 3" not in text
    assert "unheard" not in text


def test_a_patient_of_dicom_files_is_known_again_the_next_night(asked: Request, tmp_path: Path) -> None:
    """Though the hashes of the patients of a folder hold for that folder only."""
    made_dicom.archive(tmp_path / "first-pacs", patients=4, studies=1, images=2)
    night = monitor(replace(asked, data=tmp_path / "first-pacs")).nights[-1]
    assert (night.tested, night.repeated) == (4, 4)
    rng = np.random.default_rng(5)
    for number, patient in enumerate(["PAT001", "NEW", "NEWER"]):
        made = made_dicom.made_file(rng.integers(0, 255, (32, 32), np.uint8), f"9.{number}", PatientID=patient)
        made_dicom.save(made, tmp_path / "second-pacs" / str(number) / "image")
    night = monitor(replace(asked, data=tmp_path / "second-pacs", night="two")).nights[-1]
    assert (night.tested, night.repeated) == (2, 1)
    assert "PAT001" not in asked.state.read_text()


def test_files_of_one_name_are_pictures_of_their_own(asked: Request, tmp_path: Path) -> None:
    monitor(asked)
    assert monitor(replace(asked, data=plain(tmp_path / "second", 8), night="two")).nights[-1].tested == 24


def test_one_file_twice_is_one_picture(asked: Request) -> None:
    shutil.copy(asked.data / "image-000.png", asked.data / "copy.png")
    assert monitor(asked).nights[-1].tested == 24


def test_an_unreadable_picture_is_tried_again(asked: Request) -> None:
    whole = (asked.data / "image-005.png").read_bytes()
    (asked.data / "image-005.png").write_bytes(whole[:100])
    with pytest.warns(EvaluationWarning, match=r"1 of 24 new pictures cannot be read|truncated|image-005"):
        assert monitor(asked).nights[-1].unreadable == 1
    (asked.data / "image-005.png").write_bytes(whole)
    night = monitor(replace(asked, night="two")).nights[-1]
    assert (night.tested, night.seen, night.unreadable) == (1, 23, 0)


@pytest.mark.filterwarnings("ignore::harness.common.errors.EvaluationWarning")
def test_nothing_readable_is_not_judged(asked: Request, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"none")
    with pytest.raises(CannotEvaluateError, match="none of its 1 new pictures can be read"):
        monitor(replace(asked, data=tmp_path / "broken"))


def test_regions_of_new_pictures(asked: Request, tmp_path: Path) -> None:
    half_masks(asked.data, tmp_path / "left")
    masked = replace(asked, regions=RegionFiles({"left": tmp_path / "left"}))
    found = {item.name: item for item in monitor(masked).nights[-1].statistics}
    assert found["inside left"].tonight.n == found["gini"].tonight.n > 10  # of pictures with a map
    assert found["inside left"].reference.n == found["gini"].reference.n > 20
    other = replace(
        asked,
        data=plain(tmp_path / "second", 6),
        regions=RegionFiles({"right": tmp_path / "left"}),
    )
    with pytest.raises(InputError, match=r"was evaluated without a region 'right' \(it has: left\)"):
        monitor(other)


# What is refused


def changed_identity(**fields: object) -> Callable[[Request], None]:
    def change(asked: Request) -> None:
        content = json.loads(asked.state.read_text())
        content["identity"] |= fields
        asked.state.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed_identity(model="f" * 64), "was begun with another model (ffff"),
        (changed_identity(image_rule="rgb"), "was begun with another image rule (rgb, now "),
        (changed_identity(execution=["CUDAExecutionProvider"]), "another execution (CUDAExecutionProvider, now CPU"),
        (changed_identity(reference="0" * 64), "another reference"),
        (changed_identity(alpha=0.2), "another alpha (0.2, now 0.05)"),
        (lambda asked: (asked.state.parent / "names.key").write_bytes(bytes(32)), "another patients"),
        (
            lambda asked: asked.state.write_text("{}"),
            "not the state of a monitor of format 1 (identity: Field required)",
        ),
        (lambda asked: asked.state.write_text("no json"), "not the state of a monitor of format 1"),
    ],
)
def test_a_state_of_something_else_is_refused(asked: Request, change: Callable[[Request], None], sentence: str) -> None:
    monitor(asked)
    change(asked)
    with pytest.raises(InputError, match=re.escape(sentence)):
        monitor(asked)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"provider": "cuda"}, "was evaluated with the provider cpu, not cuda"),
        ({"layer": "late"}, "has no layer 'late'; it has: early"),
        ({"method": "xgradcam"}, "has no method 'xgradcam'; it has: layercam, gradcam++"),
    ],
)
def test_what_the_reference_does_not_have_is_refused(asked: Request, fields: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        monitor(replace(asked, **fields))
    assert not asked.state.exists()


def test_another_model_is_refused(asked: Request, tmp_path: Path) -> None:
    other = tiny_graphs.write_graph(tmp_path / "other.onnx", 9)
    with pytest.raises(InputError, match="is none of the checkpoints of"):
        monitor(replace(asked, model=other))


@pytest.fixture
def copied(accepted: Path, tmp_path: Path, asked: Request) -> Request:
    """The same with files that can be changed."""
    shutil.copytree(accepted, tmp_path / "copy")
    return replace(asked, reference=tmp_path / "copy" / "result", model=tmp_path / "copy" / "after.onnx")


def test_a_reference_without_its_pictures_is_refused(copied: Request) -> None:
    pictures = Path(str(copied.reference)).parent / "reference"
    shutil.copy(pictures / "image-000.png", pictures / "image-001.png")
    with pytest.raises(InputError, match="its pictures are not those that were evaluated"):
        monitor(copied)
    for path in pictures.glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="cannot be read; the first night measures the pictures of"):
        monitor(copied)


def test_the_reference_is_needed_in_the_first_night_only(copied: Request, tmp_path: Path) -> None:
    monitor(copied)
    shutil.rmtree(Path(str(copied.reference)).parent / "reference")
    assert monitor(replace(copied, data=plain(tmp_path / "second", 8), night="two")).nights[-1].tested == 24


def test_a_machine_that_computes_otherwise_is_refused(asked: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = nightly.read_collected

    def shifted(*arguments: object) -> object:
        found = kept(*arguments)  # type: ignore[arg-type]
        return replace(found, logits=[values + 0.02 for values in found.logits])

    monkeypatch.setattr(nightly, "read_collected", shifted)
    with pytest.raises(InputError, match=r"its logits for 'image-\d+.png' are 0.02 away from those in"):
        monitor(asked)


def test_a_tiny_reference_is_not_judged_by(asked: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "LEAST_REFERENCE", 49)
    with pytest.raises(CannotEvaluateError, match="of 48 patients, and 49 are the least"):
        monitor(asked)


def test_two_monitors_at_a_time_lose_no_night(asked: Request) -> None:
    monitor(asked)
    state = state_of(asked)
    with pytest.raises(InputError, match="was changed while this night ran"):
        write_state(asked.state, state, None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda pictures: pictures.append(pictures[0] | {"night": 0}), "listed twice"),
        (lambda pictures: pictures[0].update(night=7), "not listed, or out of order"),
        (lambda pictures: pictures[0].update(values=[0.5]), "another number of values"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(
    asked: Request, change: Callable[[list], None], sentence: str
) -> None:
    monitor(asked)
    content = json.loads(asked.state.read_text())
    change(content["pictures"])
    asked.state.write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        monitor(asked)


# Golden cases


def bundle_of(model: Path, data: Path, out: Path) -> Path:
    samples = read_dataset(data, tiny_graphs.CLASSES)
    pack(model, samples, PackOptions(cases=2, map_size=(32, 32)), out)
    return out


def test_golden_cases_are_verified(asked: Request, accepted: Path, tmp_path: Path) -> None:
    bundle = bundle_of(accepted / "after.onnx", accepted / "reference" / "manifest.csv", tmp_path / "bundle")
    found = monitor(replace(asked, bundle=bundle))
    assert found.exit_code == 0
    assert found.golden is not None
    assert found.golden.passed
    assert "golden cases pass, unauthenticated" in table(found)
    assert "evidence_drift_monitor_golden_passed 1\n" in metrics(found)
    picture = next((bundle / "images").iterdir())
    picture.write_bytes(picture.read_bytes() + b" ")
    failed = monitor(replace(asked, bundle=bundle))
    assert failed.exit_code == 1
    assert "golden cases FAIL" in table(failed)
    assert "FAILED" in page(failed)


def test_a_bundle_of_another_model_is_refused(asked: Request, accepted: Path, tmp_path: Path) -> None:
    bundle = bundle_of(accepted / "before.onnx", accepted / "reference" / "manifest.csv", tmp_path / "bundle")
    with pytest.raises(InputError, match="holds another model"):
        monitor(replace(asked, bundle=bundle))


# What is written


@pytest.fixture
def found(asked: Request) -> History:
    return monitor(asked)


def test_files(found: History, asked: Request, tmp_path: Path) -> None:
    write_outputs(found, asked.state.parent, tmp_path / "collector" / "drift.prom")
    assert (tmp_path / "collector" / "drift.prom").read_text() == metrics(found)
    assert not (asked.state.parent / "metrics.prom").exists()
    lines = (asked.state.parent / "nights.jsonl").read_text().splitlines()
    assert [json.loads(line)["night"] for line in lines] == ["one"]
    assert "<script" not in (asked.state.parent / "trend.html").read_text()


def test_metrics_are_in_the_format_of_prometheus(found: History) -> None:
    """https://prometheus.io/docs/instrumenting/exposition_formats/: comment lines, and name{label="value"} number."""
    text = metrics(found)
    assert text.endswith("\n")
    sample = re.compile(
        r'evidence_drift_monitor_\w+(\{\w+="(?:[^"\\\n]|\\["\\n])*"(,\w+="(?:[^"\\\n]|\\["\\n])*")*\})? -?[\d.e+-]+'
    )
    for line in text.splitlines():
        assert sample.fullmatch(line) or re.match(r"# (HELP|TYPE) evidence_drift_monitor_\w+ \w", line), line
    assert 'evidence_drift_monitor_pictures{kind="tested",model="' in text


def test_metrics_of_the_page_are_written(asked: Request, accepted: Path, tmp_path: Path) -> None:
    """docs/deploy.md alerts on them, and its panel shows them."""
    bundle = bundle_of(accepted / "after.onnx", accepted / "reference" / "manifest.csv", tmp_path / "bundle")
    text = metrics(monitor(replace(asked, bundle=bundle)))
    named = set(re.findall(r"evidence_drift_monitor_\w+", documents.read("docs/deploy.md")))
    assert len(named) >= 5
    assert named <= set(re.findall(r"^evidence_drift_monitor_\w+", text, re.MULTILINE))


def test_hostile_class_names_stay_names(found: History) -> None:
    night = found.nights[-1]
    item = night.statistics[-1].model_copy(update={"name": 'probability <i>"\\\n'})
    hostile = replace(found, nights=[night.model_copy(update={"statistics": [item]})])
    assert "<i>" not in page(hostile)
    assert 'statistic="probability <i>\\"\\\\ ",' in metrics(hostile)
    assert len(table(hostile).splitlines()) == 7


def test_history_is_a_function_of_the_state(asked: Request, found: History) -> None:
    assert json_lines(history(state_of(asked))) == json_lines(found)


def test_in_python(asked: Request) -> None:
    found = harness.monitor(asked.model, str(asked.reference), asked.data, asked.state, night="one", progress=False)
    assert found.exit_code == 0
    assert (asked.state.parent / "trend.html").read_text() == page(found)


def test_command_line(asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["monitor", asked.model, "--reference", asked.reference, "--state", asked.state, "--quiet", "--data"]
    assert cli.cli.main([*map(str, words), str(asked.data)], standalone_mode=False) == 0
    dark = plain(tmp_path / "dark", 2, 30, darker=0.3)
    assert cli.cli.main([*map(str, words), str(dark)], standalone_mode=False) == 1
    printed = capsys.readouterr().out
    assert "verdict: no alarm" in printed
    assert "verdict: ALARM since" in printed
    assert sorted(path.name for path in asked.state.parent.iterdir()) == [
        "metrics.prom", "names.key", "nights.jsonl", "state.json", "trend.html",
    ]  # fmt: skip
