"""Runs that are killed, interrupted and continued, and numbers computed once more from the maps."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness.api.evaluation import Settings, evaluate_again
from harness.cli import cli
from harness.common.errors import EvaluationWarning, InputError, InterruptedRunError
from harness.common.storage import Location
from harness.evaluation import executors
from harness.evaluation import run as evaluation_run
from harness.results import folder as result_folder
from harness.results import part_files, plan
from harness.results.part_files import Store
from harness.results.schema import Evaluation
from tests import tiny_graphs
from tests.tiny_graphs import evaluate, read_rows

IMAGES = 600
BRIEF = ["--map-size", 16, "--chance", 2, "--jitter", 1, "--method", "layercam", "--method", "gradcam"]
LENGTHY = ["--map-size", 48, "--chance", 8, "--jitter", 2, "--method", "layercam", "--select", "all", "--threads", 1]

pytestmark = pytest.mark.usefixtures("in_brief")


def slow(case: object) -> object:
    """A case for the long suite only."""
    return pytest.param(case, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two graphs and few images; and 600 images, three parts per checkpoint."""
    folder = tmp_path_factory.mktemp("resume")
    before = tiny_graphs.write_graph(folder / "before.onnx", 0, balanced=True)
    tiny_graphs.write_graph(folder / "after.onnx", 0, nudge=0.3, balanced=True, phase="finetune")
    tiny_graphs.write_graph(folder / "other.onnx", 2, balanced=True, phase="finetune")
    few = tiny_graphs.write_images(folder / "few", patients=24, each=1, exposure=0.6)
    tiny_graphs.label_as(before, few)
    return folder


@pytest.fixture(scope="module")
def many(place: Path) -> Path:
    """A manifest of 600 images of 32 px."""
    folder = place / "many"
    folder.mkdir()
    drawn = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        coarse = drawn.uniform(0, 255, (5, 5)).astype(np.float32)
        assert cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(coarse, (32, 32)).astype(np.uint8))
        rows.append({"file": f"{number}.png", "class": tiny_graphs.CLASSES[number % 2], "group": f"{number // 3}"})
    return tiny_graphs.write_manifest(folder / "manifest.csv", rows)


def pair_of(place: Path, data: Path | None = None, after: str = "after") -> list[object]:
    """The arguments that name two graphs and their images."""
    named = ["--before", place / "before.onnx", "--after", place / f"{after}.onnx"]
    return [*named, "--data", data or place / "few" / "manifest.csv"]


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of eight images."""
    monkeypatch.setattr(part_files, "BLOCK", 8)


def content(out: Path) -> dict[str, Any]:
    """`evaluation.json` without what may differ between two runs of one command."""
    found = json.loads((out / "evaluation.json").read_text())
    del found["seconds"]
    del found["environment"]["began"]
    return found


def numbers(out: Path) -> dict[str, Any]:
    """`evaluation.json` without the command line either."""
    return {name: value for name, value in content(out).items() if name != "command"}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_same_rows(one: Path, other: Path) -> None:
    for kind in part_files.SCHEMAS:
        names = [sorted(path.name for path in (out / kind).iterdir()) for out in (one, other)]
        assert names[0] == names[1]
        assert repr(read_rows(one, kind)) == repr(read_rows(other, kind)), kind


# Killed


def parts(out: Path, kind: str) -> int:
    return len(list((out / kind).glob("part-*.parquet")))


def killed_when(folder: Path, arguments: list[object], reached: Callable[[Path], bool], delay: float) -> int:
    """Start an evaluation in `folder`, kill it `delay` seconds after `reached` is true; its return code."""
    line = tiny_graphs.command_line("evaluate", *arguments)
    process = subprocess.Popen(
        line, cwd=folder, env=tiny_graphs.process_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while process.poll() is None and not reached(folder / "drift") and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    return process.wait(timeout=30)


@pytest.fixture(scope="module")
def uninterrupted(place: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `evaluate` ran through, into `drift`."""
    folder = tmp_path_factory.mktemp("whole")
    done = tiny_graphs.run(folder, "evaluate", *pair_of(place, many), *LENGTHY, "--quiet")
    assert done.returncode == 0, done.stderr
    return folder


def require_same_end(folder: Path, uninterrupted: Path, arguments: list[object]) -> None:
    done = tiny_graphs.run(folder, "evaluate", *arguments, "--quiet", "--resume")
    assert done.returncode == 0, done.stderr
    assert content(folder / "drift") == content(uninterrupted / "drift")
    require_same_rows(folder / "drift", uninterrupted / "drift")
    assert not list((folder / "drift").rglob("*.partial"))


@pytest.mark.slow
def test_a_run_killed_while_it_collects_and_while_it_compares_ends_in_the_same_numbers(
    place: Path, many: Path, tmp_path: Path
) -> None:
    arguments = pair_of(place, many) + LENGTHY
    first = killed_when(tmp_path, [*arguments, "--quiet"], lambda out: parts(out, "predictions") >= 2, 0.01)
    collected = parts(tmp_path / "drift", "predictions")
    second = killed_when(tmp_path, [*arguments, "--quiet", "--resume"], lambda out: parts(out, "scores") >= 4, 0.0)
    assert (first, second) == (-signal.SIGKILL, -signal.SIGKILL)
    assert 2 <= collected < 6
    assert not (tmp_path / "drift" / "evaluation.json").exists()
    evaluate(tmp_path / "drift", *arguments, "--resume")
    evaluate(tmp_path / "whole", *arguments)
    assert numbers(tmp_path / "drift") == numbers(tmp_path / "whole")
    require_same_rows(tmp_path / "drift", tmp_path / "whole")


MOMENTS: list[tuple[str, int]] = [
    ("plan", 0),
    ("maps", 1),
    ("predictions", 2),
    ("maps", 4),
    ("predictions", 6),
    ("scores", 1),
    ("scores", 5),
    ("scores", 8),
    ("scores", 9),
    ("summary", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(len(MOMENTS)))
def test_kill_at_any_moment_and_resume(
    place: Path, many: Path, uninterrupted: Path, tmp_path: Path, moment: int
) -> None:
    kind, count = MOMENTS[moment]
    delay = random.Random(moment).uniform(0, 0.15) if kind != "summary" else 0.4

    def reached(out: Path) -> bool:
        if kind in ("plan", "summary"):
            return (out / "plan.json").exists() if kind == "plan" else parts(out, "scores") >= 9
        return parts(out, kind) >= count

    arguments = pair_of(place, many) + LENGTHY
    code = killed_when(tmp_path, [*arguments, "--quiet"], reached, delay)
    assert code == -signal.SIGKILL
    print(
        f"killed {delay:.2f} s after {kind} {count}: {[parts(tmp_path / 'drift', k) for k in part_files.SCHEMAS]} parts"
    )
    require_same_end(tmp_path, uninterrupted, arguments)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(place: Path, many: Path, tmp_path: Path) -> None:
    arguments = pair_of(place, many) + LENGTHY
    process = subprocess.Popen(
        tiny_graphs.command_line("evaluate", *arguments), cwd=tmp_path, env=tiny_graphs.process_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while process.poll() is None and parts(tmp_path / "drift", "predictions") < 1:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.endswith(
        "interrupted; what is finished is kept in drift: run the same command with --resume to go on"
    ), last
    assert out == ""
    assert parts(tmp_path / "drift", "predictions") >= 1
    assert not (tmp_path / "drift" / "evaluation.json").exists()


ONCE = """
import numpy as np
from kernels.pairwise import consistency
maps = np.random.default_rng(0).gamma(1, size=(20, 40, 40)).astype(np.float32)
print(repr(consistency(maps, np.ones(20), 1000).value))
"""


@pytest.mark.slow
def test_numbers_do_not_depend_on_whether_the_kernels_were_compiled_before(tmp_path: Path) -> None:
    """Else a run that is killed on a fresh machine and resumed ends in other digits than one that is not."""
    environment = tiny_graphs.process_environment(NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    line = [sys.executable, "-c", ONCE]
    first, second = (subprocess.check_output(line, env=environment, cwd=tmp_path, text=True) for _ in range(2))
    assert first == second


# Interrupted, in this process


def interrupt_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """Ctrl-C before the block of that number is written."""
    write, written = Store.write, list[int]()

    def counted(store: Store, kind: str, number: int, tables: Any) -> None:
        if len(written) == blocks:
            raise KeyboardInterrupt
        write(store, kind, number, tables)
        if kind == "predictions":
            written.append(number)

    monkeypatch.setattr(Store, "write", counted)


def begun(out: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, *arguments: object) -> Path:
    """A folder whose evaluation was interrupted after some blocks."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, blocks)
        with pytest.raises(InterruptedRunError, match="--resume to go on"):
            evaluate(out, *arguments)
    assert not (out / "evaluation.json").exists()
    return out


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("blocks", [slow(0), slow(2), 3, slow(5)])
def test_an_interrupted_run_goes_on_with_other_batches_and_threads(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    asked = pair_of(place) + BRIEF
    evaluate(tmp_path / "whole", *asked)
    out = begun(tmp_path / "cut", monkeypatch, blocks, *asked)
    kept = bytes_of(out / "predictions")
    assert len(kept) == blocks
    evaluate(out, *asked, "--resume", "--batch", 3, "--threads", 2)
    assert numbers(out) == numbers(tmp_path / "whole")
    require_same_rows(out, tmp_path / "whole")
    assert all(bytes_of(out / "predictions")[name] == data for name, data in kept.items())


@pytest.mark.usefixtures("_small_parts")
def test_when_it_began_stays(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is younger than the first maps is younger than the result, however that came about."""
    asked = pair_of(place) + BRIEF
    out = begun(tmp_path / "cut", monkeypatch, 3, *asked)
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps(plan | {"began": "2020-01-01T00:00:00Z"}))
    assert evaluate(out, *asked, "--resume").environment["began"] == "2020-01-01T00:00:00Z"
    again = evaluate(tmp_path / "again", "--from", out, "--map-size", 16)
    assert again.environment["began"] == "2020-01-01T00:00:00Z"


@pytest.mark.usefixtures("_small_parts")
def test_strict_stops_at_an_unreadable_image_and_keeps_the_parts_before(place: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(place / "few", images)
    asked = [*pair_of(place, images / "manifest.csv"), *BRIEF, "--select", "all", "--batch", 3]
    broken = sorted(images.glob("*.png"))[12]  # in the second part
    whole, cut = broken.read_bytes(), tmp_path / "cut"
    broken.write_bytes(whole[:40])
    with pytest.raises(InputError, match=broken.name):
        evaluate(cut, *asked, "--strict")
    assert [path.name for path in sorted((cut / "predictions").iterdir())] == ["part-00000.parquet"]
    assert list(evaluate(tmp_path / "rest", *asked).unreadable) == [broken.name]


@pytest.mark.usefixtures("_small_parts")
def test_a_part_is_begun_while_the_last_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the markers of both are removed, however it ends."""
    write, seen = Store.write, list[list[str]]()

    def watched(store: Store, kind: str, number: int, tables: Any) -> None:
        if kind == "predictions":
            seen.append(sorted(path.name for path in (store.folder / kind).glob("*.begun")))
            if number == 4:
                raise KeyboardInterrupt
        write(store, kind, number, tables)

    monkeypatch.setattr(Store, "write", watched)
    with pytest.raises(InterruptedRunError):
        evaluate(tmp_path / "out", *pair_of(place), *BRIEF, "--batch", 2, "--threads", 1)
    first, second = (["part-00000.begun", "part-00001.begun"], ["part-00001.begun", "part-00002.begun"])
    assert seen[:3] == [first, second, ["part-00002.begun"]]
    assert seen[3:] == [["part-00003.begun", "part-00004.begun"], ["part-00004.begun", "part-00005.begun"]]
    assert not list((tmp_path / "out").rglob("*.begun"))


@pytest.mark.usefixtures("_small_parts")
def test_a_run_without_labels_that_is_cut_between_two_checkpoints_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both checkpoints explain what the first predicts, also where the first is already done."""
    rows = [{"file": path.name} for path in sorted((place / "few").glob("*.png"))]
    manifest = tiny_graphs.write_manifest(place / "few" / "unlabelled.csv", rows)
    asked = [*pair_of(place, manifest, after="other"), *BRIEF, "--select", "all"]
    evaluate(tmp_path / "whole", *asked)
    evaluate(begun(tmp_path / "cut", monkeypatch, 3, *asked), *asked, "--resume")
    require_same_rows(tmp_path / "cut", tmp_path / "whole")
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--seed", 1], r"another options: seed \(0, now 1\)"),
        (["--map-size", 17], r"another options: map size \(\[16, 16\], now \[17, 17\]\)"),
        (["--chance", 3], r"another options: chance \(2, now 3\)"),
        (["--margin", 0.07], r"another options: margin \(0\.02, now 0\.07\)"),
        (["--jitter", 2], r"another options: jitter \(1, now 2\)"),
        (["--method", "xgradcam"], r"another options: methods .*now .*xgradcam"),
        (["--layer", "late"], r"another layers .*early.*now .*late"),
        (["--select", "all"], r'another selection \("true-positive", now "all"\)'),
    ],
)
def test_resume_with_another_option_names_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: list, sentence: str
) -> None:
    asked = pair_of(place) + BRIEF
    out = begun(tmp_path / "out", monkeypatch, 1, *asked)
    held = bytes_of(out)
    with pytest.raises(InputError, match=sentence) as refused:
        evaluate(out, *asked, *changed, "--resume")
    assert "resume with the same, or evaluate into another folder" in str(refused.value)
    assert bytes_of(out) == held


def test_resume_names_the_model_that_differs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tmp_path / "the-last-epoch.onnx"
    shutil.copy(place / "after.onnx", last)
    files = [place / "before.onnx", place / "other.onnx", place / "after.onnx", last]
    asked = ["--checkpoints", *files, "--data", place / "few" / "manifest.csv", *BRIEF]
    out = begun(tmp_path / "out", monkeypatch, 1, *asked)
    tiny_graphs.write_graph(last, 0, nudge=0.1, balanced=True)
    with pytest.raises(InputError, match=r"another models: the-last-epoch \(.*now "):
        evaluate(out, *asked, "--resume")


def test_resume_with_another_model_or_other_data_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pair_of(place) + BRIEF
    out = begun(tmp_path / "out", monkeypatch, 1, *asked)
    with pytest.raises(InputError, match=r"was begun with another models: after \(.*, now null\)"):
        evaluate(out, *pair_of(place, after="other"), *BRIEF, "--resume")
    copied = tmp_path / "few"
    shutil.copytree(place / "few", copied)
    image = copied / "image-003.png"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"was begun with another data digest"):
        evaluate(out, *pair_of(place, copied / "manifest.csv"), *BRIEF, "--resume")


def test_the_same_data_in_another_place_can_be_resumed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = begun(tmp_path / "out", monkeypatch, 1, *pair_of(place), *BRIEF)
    shutil.copytree(place / "few", tmp_path / "moved")
    result = evaluate(out, *pair_of(place, tmp_path / "moved" / "manifest.csv"), *BRIEF, "--resume")
    assert result.pairs[0].selected > 0


def test_an_unfinished_evaluation_is_not_overwritten(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pair_of(place) + BRIEF
    out = begun(tmp_path / "out", monkeypatch, 1, *asked)
    held = bytes_of(out)
    with pytest.raises(
        InputError, match=r"holds an unfinished evaluation; continue it with --resume .*or remove the folder"
    ):
        evaluate(out, *asked)
    assert bytes_of(out) == held


def test_nothing_to_resume(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no evaluation to resume; run without --resume"):
        evaluate(tmp_path / "out", *pair_of(place), *BRIEF, "--resume")


def test_a_finished_evaluation_that_is_resumed_stays_as_it_is(place: Path, tmp_path: Path) -> None:
    asked = pair_of(place) + BRIEF
    evaluate(tmp_path, *asked)
    before = content(tmp_path)
    evaluate(tmp_path, *asked, "--resume")
    assert numbers(tmp_path) == {name: value for name, value in before.items() if name != "command"}


# From the maps


@pytest.fixture(scope="module")
def finished(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of all images, whose models and images are gone."""
    out = tmp_path_factory.mktemp("finished")
    copied = out / "inputs"
    shutil.copytree(place / "few", copied / "few")
    for name in ("before", "after"):
        shutil.copy(place / f"{name}.onnx", copied)
    evaluate(out / "drift", *pair_of(copied), *BRIEF, "--select", "all")
    shutil.rmtree(copied)
    return out / "drift"


def copy_of(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def again(source: Path, *arguments: object) -> Evaluation:
    """`evaluate --from` into the folder itself."""
    cli.main(["evaluate", "--from", str(source), *map(str, arguments), "--quiet"], standalone_mode=False)
    return Evaluation.read(source)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_from_maps_gives_the_numbers_of_the_evaluation(finished: Path, tmp_path: Path, elsewhere: bool) -> None:
    source = copy_of(finished, tmp_path)
    held = bytes_of(source)
    if elsewhere:
        evaluate(tmp_path / "out", "--from", source)
        assert bytes_of(source) == held
    else:
        again(source)
    out = tmp_path / "out" if elsewhere else source
    assert numbers(out) == numbers(finished)
    require_same_rows(out, finished)


@pytest.mark.parametrize(
    "options",
    [
        ["--select", "agree"],
        slow(["--select", "true-positive"]),
        ["--map-size", 23],
        slow(["--chance", 4]),
        slow(["--jitter", 0]),
        slow(["--margin", 0.3]),
    ],
)
def test_from_maps_with_another_option_gives_what_an_evaluation_with_it_gives(
    place: Path, finished: Path, tmp_path: Path, options: list[object]
) -> None:
    evaluate(tmp_path / "out", "--from", finished, *options)
    evaluate(tmp_path / "fresh", *pair_of(place), *BRIEF, "--select", "all", *options)
    given = {name: value for name, value in numbers(tmp_path / "out").items() if name != "data"}
    fresh = {name: value for name, value in numbers(tmp_path / "fresh").items() if name != "data"}
    for found in (given, fresh):
        for checkpoint in found["checkpoints"]:
            del checkpoint["file"]
    assert given == fresh


def test_from_maps_with_another_seed_draws_anew_but_means_the_same(finished: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, "--from", finished, "--seed", 9)
    before = Evaluation.read(finished)
    pairs = list(zip(result.pairs[0].metrics, before.pairs[0].metrics, strict=True))
    assert all(one.estimate.mean == other.estimate.mean for one, other in pairs)
    qualities = [found.checkpoints[0].quality["ece"] for found in (result, before)]
    assert qualities[0].mean == qualities[1].mean
    assert qualities[0].low != qualities[1].low
    assert any(one.chance != other.chance for one, other in pairs)
    assert all(one.floor is None or other.floor is None or one.floor.mean == other.floor.mean for one, other in pairs)


def test_from_maps_asks_whether_every_worker_sees_the_result(finished: Path, tmp_path: Path) -> None:
    """Before anything is computed."""

    class Blind(executors.LocalExecutor):
        def require_visible(self, where: Sequence[Location]) -> None:
            assert (tmp_path / "out" / "plan.json").is_file()
            raise InputError(f"{where[0]}: not seen")

    with pytest.raises(InputError, match=r"out/plan\.json: not seen"):
        evaluation_run.evaluate_again(finished, {}, evaluation_run.Execution(tmp_path / "out", executor=Blind()))


def test_a_chance_level_of_another_sample_is_not_resumed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are scores kept that were computed with another limit."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    kept = json.loads((out / "scores.json").read_text())
    monkeypatch.setattr(plan, "SAMPLE", 7)
    stored = plan.restore(plan.read_stored(out), out)[0]
    assert json.loads(json.dumps(stored.statistics())) == {**kept, "chance_sample": 7}
    with pytest.raises(InputError, match=r"was begun with another chance sample \(4096, now 7\)"):
        result_folder.begin(out, plan.identity_of(stored), stored.details(out), resume=True)


def test_from_maps_with_one_of_its_methods(finished: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, "--from", finished, "--method", "gradcam")
    before = Evaluation.read(finished)
    assert result.pairs[0].metrics == [item for item in before.pairs[0].metrics if item.method == "gradcam"]
    assert result.methods == ["gradcam"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--method", "xgradcam"], r"the maps hold no method 'xgradcam'; they hold: layercam, gradcam"),
        (["--layer", "late"], r"the maps hold no layer 'late'; they hold: early"),
        (["--jitter", 2], r"the maps hold 1 draws? of jitter; evaluate anew for more"),
        (["--resume"], r"--resume cannot be given beside --from"),
        (["--before", "x.onnx"], r"--before cannot be given beside --from"),
        (["--data", "x.csv"], r"--data cannot be given beside --from"),
        (["--chance", 0, "--split", "test"], r"--split cannot be given beside --from"),
    ],
)
def test_from_maps_refuses_what_they_do_not_hold(finished: Path, tmp_path: Path, asked: list, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate(tmp_path / "out", "--from", finished, *asked)
    assert not (tmp_path / "out").exists()


def test_from_maps_of_true_positives_has_no_jitter_for_others(place: Path, tmp_path: Path) -> None:
    evaluate(tmp_path / "tp", *pair_of(place), *BRIEF)
    for select in ("agree", "all"):
        with pytest.raises(InputError, match=r"jitter for true positives only; give --jitter 0, or evaluate anew"):
            evaluate(tmp_path / "out", "--from", tmp_path / "tp", "--select", select)
    result = evaluate(tmp_path / "out", "--from", tmp_path / "tp", "--select", "all", "--jitter", 0)
    assert result.pairs[0].selected == 24
    assert result.pairs[0].floor is None


def test_from_maps_finds_a_layer_by_its_name_as_well_as_by_its_role(place: Path, tmp_path: Path) -> None:
    graph = tiny_graphs.write_graph(tmp_path / "a.onnx", 0, roles={"late": "last"})
    data = ["--data", place / "few" / "manifest.csv"]
    for layer in ("late", "last"):
        evaluate(
            tmp_path / layer, "--before", graph, "--after", graph, *data, *BRIEF, "--layer", layer, "--select", "all"
        )
        again = ["--from", tmp_path / layer, "--layer", "late", "--layer", "last"]
        assert evaluate(tmp_path / f"{layer}-again", *again).layers == ["last"]


@pytest.mark.parametrize("what", ["nothing", "a file", "a foreign plan"])
def test_from_a_folder_without_an_evaluation(tmp_path: Path, what: str) -> None:
    source = tmp_path / "source"
    if what == "a file":
        source.write_text("x")
    elif what == "a foreign plan":
        source.mkdir()
        (source / "plan.json").write_text('{"format": 7}')
    sentence = "format 7 is not known here" if what == "a foreign plan" else "holds no evaluation; give the folder"
    with pytest.raises(InputError, match=sentence):
        evaluate(tmp_path / "out", "--from", source)


def test_from_a_folder_whose_plan_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="holds no evaluation"):
        evaluate(tmp_path / "out", "--from", tmp_path)


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("blocks", [slow(0), slow(1), 2, slow(3), 4, 5])
def test_from_an_unfinished_collection_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    out = begun(tmp_path / "cut", monkeypatch, blocks, *pair_of(place), *BRIEF, "--select", "all")
    with pytest.raises(InputError, match="its predictions are not complete; finish the evaluation with --resume first"):
        evaluate(tmp_path / "out", "--from", out)


def test_from_a_folder_that_lost_maps_is_refused(finished: Path, tmp_path: Path) -> None:
    source = copy_of(finished, tmp_path)
    (source / "maps" / "part-00001.parquet").unlink()
    with pytest.raises(InputError, match="maps"):
        evaluate(tmp_path / "out", "--from", source)


def test_a_damaged_part_is_named(finished: Path, tmp_path: Path) -> None:
    source = copy_of(finished, tmp_path)
    (source / "maps" / "part-00001.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match=r"maps/part-00001\.parquet: damaged \(.*\); remove it, then run .* --resume"):
        evaluate(tmp_path / "out", "--from", source)


@pytest.mark.parametrize("changed", [["--seed", 9], slow(["--map-size", 9]), slow(["--select", "agree"])])
def test_resuming_where_other_statistics_were_computed_gives_the_plan_its_own(
    place: Path, tmp_path: Path, changed: list[object]
) -> None:
    asked = [*pair_of(place), *BRIEF, "--select", "all"]
    evaluate(tmp_path / "out", *asked)
    before = numbers(tmp_path / "out")
    again(tmp_path / "out", *changed)
    evaluate(tmp_path / "out", *asked, "--resume")
    assert numbers(tmp_path / "out") == before


def test_from_maps_without_images_there_is_no_contact_sheet_and_a_sentence(finished: Path, tmp_path: Path) -> None:
    with pytest.warns(EvaluationWarning, match="no contact sheet: "):
        evaluate_again(finished, Settings(tmp_path / "out", progress=False, resamples=300))
    assert not (tmp_path / "out" / "contact-sheet.png").exists()


def test_the_last_line_lists_what_was_written(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tmp_path / "out", "--from", finished)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("written to")
    assert "contact-sheet.png" not in last


# Cutting up the work


@pytest.mark.usefixtures("_small_parts")
def test_batches_threads_and_several_labels_change_nothing(place: Path, tmp_path: Path) -> None:
    files = []
    for name, nudge in (("before", 0.0), ("after", 0.3)):
        files += [f"--{name}", tiny_graphs.write_graph(
            tmp_path / f"{name}.onnx", 0, nudge=nudge, balanced=True, score_kind="multilabel"
        )]  # fmt: skip
    labels = ["dark|bright", "", "left", "bright|left|dark", "dark", "bright"] * 4
    rows = [{"file": f"image-{n:03d}.png", "class": text} for n, text in enumerate(labels)]
    manifest = tiny_graphs.write_manifest(tmp_path / "manifest.csv", rows)
    shutil.copytree(place / "few", tmp_path / "few")
    (tmp_path / "few" / "image-009.png").write_bytes(b"nothing")
    asked = [*files, "--data", manifest, "--root", tmp_path / "few", *BRIEF, "--select", "all"]
    for batch, threads in ((1, 1), (5, 2)):
        evaluate(tmp_path / str(batch), *asked, "--batch", batch, "--threads", threads)
        assert numbers(tmp_path / str(batch)) == numbers(tmp_path / "1")
        require_same_rows(tmp_path / str(batch), tmp_path / "1")
