"""Pack and verify: what passes, what is measured, and every kind of tampering."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from pydicom import Dataset, dcmread, dcmwrite, uid

from harness import cli
from harness.bundle.format import Deviation, Spread, read_manifest
from harness.bundle.golden import deviation, exceeded
from harness.bundle.pack import FLOOR, SAFETY, PackOptions, pack, tolerances
from harness.bundle.rounding import rounded
from harness.bundle.verify import Verification, VerifyOptions, as_json, report, verify
from harness.common.errors import CannotEvaluateError, EvaluationWarning, InputError
from harness.images.dataset import read_dataset
from harness.images.deidentify import KEPT, pixels_only
from harness.images.loading import load_grey
from harness.models.providers import LEVELS
from tests import tiny_graphs

WANTED = PackOptions(cases=5, map_size=(32, 32))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("packed")
    model = tiny_graphs.write_graph(folder / "model.onnx")
    samples = read_dataset(tiny_graphs.write_images(folder / "images"), tiny_graphs.CLASSES)
    return folder / "bundle", pack(model, samples, WANTED, folder / "bundle")


@pytest.fixture
def bundle(packed: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(packed[0], tmp_path / "bundle"))


def manifest_of(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


def rewrite(bundle: Path, change: Callable[[dict], None]) -> None:
    content = manifest_of(bundle)
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
def test_passes_at_every_level_and_thread_count(packed: tuple[Path, str], level: str, threads: int) -> None:
    found = verify(packed[0], packed[1], VerifyOptions(threads=threads, level=level))
    assert found.passed
    assert found.authenticated
    assert len(found.cases) == 5
    assert found.throughput > 0
    assert "verdict: PASS" in report(found)
    assert json.loads(as_json(found))["passed"]


def test_without_a_digest_the_bundle_vouches_for_itself(packed: tuple[Path, str]) -> None:
    found = verify(packed[0], None, VerifyOptions())
    assert found.passed
    assert "unauthenticated" in report(found)


def test_digest_may_be_written_in_capitals_and_with_its_name(packed: tuple[Path, str]) -> None:
    assert verify(packed[0], f"sha256:{packed[1]}".upper().replace("SHA256", "sha256"), VerifyOptions()).passed


def test_cases_are_spread_over_classes_and_say_nothing_by_name(packed: tuple[Path, str]) -> None:
    content = manifest_of(packed[0])
    samples = read_dataset(packed[0].parent / "images" / "manifest.csv", tiny_graphs.CLASSES)
    labels = {sample.path.read_bytes(): sample.labels for sample in samples}
    assert len({labels[(packed[0] / case["image"]).read_bytes()] for case in content["cases"]}) == 3
    assert all(case["image"].startswith("images/case-0") for case in content["cases"])
    assert "image-0" not in (packed[0] / "manifest.json").read_text()
    assert {item["path"] for item in content["files"]} >= {"model.onnx", "expected.json", "images/case-000.png"}


def test_spread_covers_levels_threads_and_precisions(packed: tuple[Path, str]) -> None:
    variants = [spread["variant"] for spread in manifest_of(packed[0])["spreads"]]
    assert variants[:8] == [f"cpu, {level}, {n}" for level in LEVELS for n in ("1 thread", "2 threads")]
    assert variants[-2:] == ["cpu, weights as tf32", "cpu, weights as float16"]


def test_tolerances_widen_with_the_spread_and_with_the_precision() -> None:
    near = Deviation(logits=0.01, map_l2=0.02, iou_top20=0.99, pearson=0.999)
    far = Deviation(logits=0.5, map_l2=0.0, iou_top20=0.5, pearson=0.0)
    found = tolerances(
        [Spread(variant="a", precision="float32", deviation=near), Spread(variant="b", precision="tf32", deviation=far)]
    )
    assert found["float32"].logits == pytest.approx(SAFETY * 0.01)
    assert found["float32"].iou_top20 == pytest.approx(1 - SAFETY * 0.01)
    assert (found["tf32"].map_l2, found["tf32"].iou_top20) == (found["float32"].map_l2, 0.0)
    assert found["float16"] == found["tf32"]
    assert tolerances([])["float32"] == FLOOR


# ---- twelve ways to tamper, and what is named


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_picture(bundle: Path) -> None:
    path = bundle / "images" / "case-001.png"
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def link_out(bundle: Path) -> None:
    outside = bundle.parent / "outside.png"
    shutil.move(bundle / "images" / "case-000.png", outside)
    (bundle / "images" / "case-000.png").symlink_to(outside)


def link_folder(bundle: Path) -> None:
    shutil.move(bundle / "images", bundle.parent / "elsewhere")
    (bundle / "images").symlink_to(bundle.parent / "elsewhere", target_is_directory=True)


def renamed(path: str) -> Callable[[Path], None]:
    def change(content: dict) -> None:
        next(item for item in content["files"] if item["path"] == "images/case-000.png")["path"] = path
        content["cases"][0]["image"] = path

    return lambda bundle: rewrite(bundle, change)


def drop_digest(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.update(files=[f for f in content["files"] if f["path"] != "model.onnx"]))


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the model": (lambda bundle: flip_byte(bundle / "model.onnx"), "model.onnx: has another content"),
    "another picture": (other_picture, "images/case-001.png: has"),
    "an expected value": (lambda bundle: flip_byte(bundle / "expected.json"), "expected.json: has another content"),
    "a file too many": (lambda bundle: (bundle / "run.sh").write_text("echo"), "run.sh: is not in the manifest"),
    "a file too few": (lambda bundle: (bundle / "expected.json").unlink(), "expected.json: is missing"),
    "an oversized file": (
        lambda bundle: os.truncate(bundle / "images" / "case-000.png", 2**33),
        "images/case-000.png: has 8589934592 bytes, the manifest says",
    ),
    "a symbolic link": (link_out, "images/case-000.png: is a symbolic link"),
    "a linked folder": (link_folder, "images/case-000.png: is a symbolic link or lies behind one"),
    "a listed file that nothing uses": (
        lambda bundle: (
            (bundle / "more.bin").write_bytes(b""),
            rewrite(bundle, lambda c: c["files"].append({**c["files"][0], "path": "more.bin", "size": 0})),
        ),
        "more.bin: is in the manifest, but no case uses it",
    ),
    "a file without digest": (drop_digest, "model.onnx: used by the manifest, but without a digest"),
}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a path that climbs out": (renamed("../outside.png"), "'../outside.png' leaves the bundle"),
    "an absolute path": (renamed("/etc/passwd"), "'/etc/passwd' leaves the bundle"),
    "a path with backslashes": (renamed("..\\outside.png"), "leaves the bundle"),
    "another format": (
        lambda bundle: rewrite(bundle, lambda c: c.update(format=2)),
        "not a bundle manifest of format 1",
    ),
    "a strange key": (lambda bundle: rewrite(bundle, lambda c: c.update(run="x")), "not a bundle manifest"),
    "no JSON": (lambda bundle: (bundle / "manifest.json").write_bytes(b"\xff{"), "not a bundle manifest"),
    "an endless manifest": (lambda bundle: os.truncate(bundle / "manifest.json", 2**30), "not a plain file of at most"),
    "an infinite tolerance": (
        lambda bundle: rewrite(bundle, lambda c: c["tolerances"]["float32"].update(logits=float("inf"))),
        "not a bundle manifest",
    ),
    "another image rule": (lambda bundle: rewrite(bundle, lambda c: c.update(image_rule="x/0")), "image rule 'x/0'"),
    "a class that is not": (
        lambda bundle: rewrite(bundle, lambda c: c["cases"][0].update(target=99)),
        "explains a class that the manifest does not name",
    ),
    "a case without values": (
        lambda bundle: rewrite(bundle, lambda c: c["cases"][0].update(name="other")),
        "case 'other' lacks maps",
    ),
}


REFUSED |= {
    name: (lambda bundle, change=change: rewrite(bundle, change), "not a bundle manifest of format 1")
    for name, change in {
        "an unknown method": lambda c: c.update(methods=["cam"]),
        "a file listed twice": lambda c: c["files"].append(c["files"][0]),
        "a negative map size": lambda c: c.update(map_size=[-1, 5]),
        "a huge map size": lambda c: c.update(map_size=[100_000, 100_000]),
        "two cases of one name": lambda c: c["cases"].append(c["cases"][0]),
        "a million cases": lambda c: c.update(cases=[{**c["cases"][0], "name": str(n)} for n in range(1001)]),
    }.items()
}


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_named_and_fails(bundle: Path, name: str) -> None:
    change, sentence = TAMPERED[name]
    change(bundle)
    before = tree(bundle.parent)
    found = verify(bundle, None, VerifyOptions())
    assert not found.passed
    assert found.problem is not None
    assert sentence in found.problem
    assert "verdict: FAIL" in report(found)
    assert not json.loads(as_json(found))["passed"]
    assert tree(bundle.parent) == before


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_bundles_are_refused(bundle: Path, name: str) -> None:
    change, sentence = REFUSED[name]
    change(bundle)
    before = tree(bundle.parent)
    with pytest.raises(InputError) as caught:
        verify(bundle, None, VerifyOptions())
    assert sentence in str(caught.value)
    assert tree(bundle.parent) == before


def test_a_changed_manifest_is_caught_by_its_digest_alone(bundle: Path, packed: tuple[Path, str]) -> None:
    """Wider tolerances leave a bundle that agrees with itself."""
    rewrite(bundle, lambda content: content["tolerances"]["float32"].update(logits=1e9))
    assert verify(bundle, None, VerifyOptions()).passed
    found = verify(bundle, packed[1], VerifyOptions())
    assert not found.passed
    assert "manifest.json: its digest is" in (found.problem or "")


def reseal(bundle: Path, name: str) -> None:
    """Let the manifest agree with a changed file, as someone would who can change both."""
    import hashlib

    def change(content: dict) -> None:
        (item,) = (item for item in content["files"] if item["path"] == name)
        item["sha256"] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        item["size"] = (bundle / name).stat().st_size

    rewrite(bundle, change)


def test_another_model_with_a_fitting_digest_fails_its_cases(bundle: Path) -> None:
    tiny_graphs.write_graph(bundle / "model.onnx", seed=3)
    reseal(bundle, "model.onnx")
    found = verify(bundle, None, VerifyOptions())
    assert found.problem is None
    assert not found.passed
    assert "FAIL (" in report(found)


def test_other_classes_than_the_models_are_refused(bundle: Path) -> None:
    rewrite(bundle, lambda manifest: manifest.update(classes=["a", "b", "c"]))
    with pytest.raises(InputError, match="tells other classes apart than the manifest says"):
        verify(bundle, None, VerifyOptions())


def test_a_map_that_is_expected_elsewhere_fails(bundle: Path) -> None:
    content = json.loads((bundle / "expected.json").read_text())
    first = content["cases"]["case-000"]["maps"][0]
    first["values"] = first["values"][::-1]
    (bundle / "expected.json").write_text(json.dumps(content))
    reseal(bundle, "expected.json")
    found = verify(bundle, None, VerifyOptions())
    assert [case.case for case in found.cases if not case.passed] == ["case-000"]


def test_malformed_expected_values_are_refused(bundle: Path) -> None:
    (bundle / "expected.json").write_text('{"cases": {"case-000": 1}}')
    reseal(bundle, "expected.json")
    with pytest.raises(InputError, match=r"malformed \(cases\.case-000: "):
        verify(bundle, None, VerifyOptions())


@pytest.mark.parametrize(
    "change",
    [{"values": []}, {"shape": [0, 0]}, {"reason": "empty_map"}, {"values": [1e39]}, {"shape": [5000, 1]}],
)
def test_expected_maps_that_cannot_be_are_refused(bundle: Path, change: dict) -> None:
    content = json.loads((bundle / "expected.json").read_text())
    content["cases"]["case-000"]["maps"][0].update(change)
    (bundle / "expected.json").write_text(json.dumps(content))
    reseal(bundle, "expected.json")
    with pytest.raises(InputError, match="malformed"):
        verify(bundle, None, VerifyOptions())


@pytest.mark.parametrize("value", [1e30, 1e-30])
def test_expected_maps_of_odd_size_fail_and_do_not_crash(bundle: Path, value: float) -> None:
    content = json.loads((bundle / "expected.json").read_text())
    first = content["cases"]["case-000"]["maps"][0]
    first["values"] = [value * n for n in range(len(first["values"]))]
    (bundle / "expected.json").write_text(json.dumps(content))
    reseal(bundle, "expected.json")
    assert [case.case for case in verify(bundle, None, VerifyOptions()).cases if not case.passed] == ["case-000"]


def test_a_small_file_of_a_huge_picture_is_not_unpacked(bundle: Path) -> None:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (20_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (bundle / "images" / "case-000.png").write_bytes(picture)
    reseal(bundle, "images/case-000.png")
    assert "no picture of at most" in (verify(bundle, None, VerifyOptions()).problem or "")


@pytest.mark.parametrize(("deflated", "sentence"), [(False, "no picture of at most"), (True, "a deflated DICOM file")])
def test_a_small_dicom_file_of_a_huge_picture_is_not_unpacked(
    bundle: Path, shared: Path, deflated: bool, sentence: str
) -> None:
    source = dcmread(shared / "dicom" / "rsna-pa-monochrome2-uncompressed.dcm")
    source.Rows = source.Columns = 20_000
    if deflated:
        source.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    written = io.BytesIO()
    dcmwrite(written, source, enforce_file_format=True)
    (bundle / "images" / "case-000.png").write_bytes(written.getvalue())
    reseal(bundle, "images/case-000.png")
    assert sentence in (verify(bundle, None, VerifyOptions()).problem or "")


def test_a_deflated_dicom_file_is_packed_plain(shared: Path) -> None:
    source = dcmread(shared / "dicom" / "rsna-pa-monochrome2-uncompressed.dcm")
    source.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    written = io.BytesIO()
    dcmwrite(written, source, enforce_file_format=True)
    reduced = dcmread(io.BytesIO(pixels_only(written.getvalue())))
    assert reduced.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert reduced.PixelData == source.PixelData


def test_a_model_that_is_no_model_is_refused(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"import os")
    reseal(bundle, "model.onnx")
    with pytest.raises(InputError, match="not an ONNX file"):
        verify(bundle, None, VerifyOptions())


def test_weights_outside_of_the_model_are_not_loaded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    shutil.copy(tmp_path / "model.onnx", bundle / "model.onnx")
    reseal(bundle, "model.onnx")
    monkeypatch.chdir(tmp_path)  # where the weights lie
    with pytest.raises(InputError, match="not an ONNX file that ONNX Runtime can run"):
        verify(bundle, None, VerifyOptions())


def test_absent_provider_exits_with_three(packed: tuple[Path, str]) -> None:
    with pytest.raises(CannotEvaluateError):
        verify(packed[0], packed[1], VerifyOptions(provider="cuda"))


# ---- deviations


def test_undefined_on_one_side_only_is_as_far_as_can_be(packed: tuple[Path, str]) -> None:
    from harness.bundle.format import read_expected
    from harness.bundle.golden import Explained
    from kernels.reasons import Reason

    manifest, _ = read_manifest(packed[0])
    expected = read_expected(packed[0], (packed[0] / "expected.json").read_bytes(), manifest)["case-000"]
    maps = {
        (item.layer, item.method): (np.array(item.values, np.float32).reshape(item.shape), Reason.DEFINED)
        for item in expected.maps
    }
    logits = np.array(expected.logits, np.float32)
    assert not exceeded(deviation(Explained(logits, maps), expected, (32, 32)), FLOOR)
    place = next(iter(maps))
    of_maps = ["map_l2", "iou_top20", "pearson"]
    broken = {**maps, place: (np.full_like(maps[place][0], np.nan), Reason.NON_FINITE)}
    assert exceeded(deviation(Explained(logits, broken), expected, (32, 32)), FLOOR) == of_maps
    assert exceeded(deviation(Explained(logits * np.nan, maps), expected, (32, 32)), FLOOR) == ["logits"]
    empty = {**maps, place: (np.zeros_like(maps[place][0]), Reason.DEFINED)}
    assert exceeded(deviation(Explained(logits, empty), expected, (32, 32)), FLOOR) == of_maps


def test_rounding_of_weights() -> None:
    tensor = np.array([[1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-12, -(1 + 2**-9)]], np.float32)
    graph = onnx.helper.make_graph(
        [], "g", [], [], [onnx.numpy_helper.from_array(tensor, "w"), onnx.numpy_helper.from_array(tensor[0], "b")]
    )
    content = onnx.helper.make_model(graph).SerializeToString()
    found = {
        item.name: onnx.numpy_helper.to_array(item)
        for item in onnx.load_from_string(rounded(content, "tf32")).graph.initializer
    }
    # ten bits of fraction, nearest, ties to even; a bias stays
    assert found["w"].tolist() == [[1 + 2**-10, 1.0, 1 + 2**-10, -(1 + 2**-9)]]
    assert found["b"].tolist() == tensor[0].tolist()
    half = onnx.numpy_helper.to_array(onnx.load_from_string(rounded(content, "float16")).graph.initializer[0])
    assert half.tolist() == tensor.astype(np.float16).astype(np.float32).tolist()


# ---- packing


def test_dicom_is_reduced_to_its_picture(shared: Path, tmp_path: Path) -> None:
    source = shared / "dicom" / "rsna-pa-monochrome1-jpeg.dcm"
    reduced = dcmread(io.BytesIO(pixels_only(source.read_bytes())))
    strange = {element.keyword for element in reduced} - set(KEPT)
    uids = {"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"}
    assert strange - {"RescaleType"} == {*uids, "PixelData"}
    original = dcmread(source)
    assert reduced.SOPInstanceUID != original.SOPInstanceUID
    assert not [element for element in reduced.iterall() if element.VR in ("PN", "DA", "TM", "LT", "ST", "UT")]
    (tmp_path / "reduced.dcm").write_bytes(pixels_only(source.read_bytes()))
    assert np.array_equal(load_grey(tmp_path / "reduced.dcm", (64, 64)), load_grey(source, (64, 64)))


def test_no_trace_of_a_name_survives(shared: Path) -> None:
    """A name in tables, in free text, in a private block and behind the pixels."""
    source = dcmread(shared / "dicom" / "rsna-pa-monochrome2-uncompressed.dcm")
    name = "SMITH^JOHN"
    table = Dataset()
    table.LUTExplanation = table.PatientName = name
    table.add_new((0x0028, 0x3002), "US", [4, 0, 16])
    table.add_new((0x0028, 0x3006), "OW", b"\0" * 8)
    table.private_block(0x0011, name, create=True).add_new(1, "LO", name)
    source.VOILUTSequence = [table]
    source.PatientName = source.RescaleType = source.StudyDescription = name
    source.PixelData = source.PixelData + name.encode() * 5
    written = io.BytesIO()
    dcmwrite(written, source, enforce_file_format=True)
    assert written.getvalue().count(name.encode()) > 5
    assert name.encode() not in pixels_only(written.getvalue())


@pytest.mark.parametrize("keep", [False, True])
def test_packing_dicom(shared: Path, tmp_path: Path, keep: bool) -> None:
    model = tiny_graphs.write_graph(tmp_path / "model.onnx")
    folder = tmp_path / "data"
    folder.mkdir()
    source = shared / "dicom" / "rsna-pa-monochrome2-uncompressed.dcm"
    shutil.copy(source, folder / "smith-john.dcm")
    samples = read_dataset(folder, tiny_graphs.CLASSES)
    wanted = PackOptions(cases=1, map_size=(32, 32), keep_identifiers=keep)
    digest = pack(model, samples, wanted, tmp_path / "bundle")
    assert ((tmp_path / "bundle/images/case-000.dcm").read_bytes() == source.read_bytes()) == keep
    assert verify(tmp_path / "bundle", digest, VerifyOptions()).passed


def test_packing_refuses_a_full_folder_and_an_unknown_layer(packed: tuple[Path, str], tmp_path: Path) -> None:
    model = packed[0].parent / "model.onnx"
    samples = read_dataset(packed[0].parent / "images" / "manifest.csv", tiny_graphs.CLASSES)
    with pytest.raises(InputError, match="not an empty folder"):
        pack(model, samples, WANTED, packed[0])
    with pytest.raises(InputError, match="no CAM layer 'middle'; it has: early, late"):
        pack(model, samples, PackOptions(layers=("middle",)), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_named_twice_is_packed_once(packed: tuple[Path, str], tmp_path: Path) -> None:
    samples = read_dataset(packed[0].parent / "images" / "manifest.csv", tiny_graphs.CLASSES)
    wanted = replace(WANTED, cases=1, methods=("layercam", "layercam"), layers=("late", "late"))
    digest = pack(packed[0].parent / "model.onnx", samples, wanted, tmp_path / "b")
    assert verify(tmp_path / "b", digest, VerifyOptions()).passed


def test_a_bundle_that_fails_on_the_way_is_not_left_behind(
    packed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    samples = read_dataset(packed[0].parent / "images" / "manifest.csv", tiny_graphs.CLASSES)
    monkeypatch.setattr("harness.bundle.pack._measure", full)
    with pytest.raises(OSError, match="No space"):
        pack(packed[0].parent / "model.onnx", samples, WANTED, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["CXR0.Doe-John-19500101", "1.2.840.113619.2.5"])
def test_the_name_of_a_dicom_file_is_no_suffix(shared: Path, tmp_path: Path, name: str) -> None:
    model = tiny_graphs.write_graph(tmp_path / "model.onnx")
    shutil.copy(shared / "dicom" / "rsna-pa-monochrome2-uncompressed.dcm", tmp_path / name)
    rows = [{"file": name, "class": tiny_graphs.CLASSES[0], "group": "p"}]
    samples = read_dataset(tiny_graphs.write_manifest(tmp_path / "manifest.csv", rows), tiny_graphs.CLASSES)
    pack(model, samples, PackOptions(cases=1, map_size=(32, 32)), tmp_path / "bundle")
    assert [path.name for path in (tmp_path / "bundle" / "images").iterdir()] == ["case-000.dcm"]


def test_nothing_to_pack(packed: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    samples = read_dataset(tmp_path, tiny_graphs.CLASSES)
    with (
        pytest.warns(EvaluationWarning, match="left out: "),
        pytest.raises(CannotEvaluateError, match="nothing to pack"),
    ):
        pack(packed[0].parent / "model.onnx", samples, WANTED, tmp_path / "b")


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_graphs.write_graph(tmp_path / "model.onnx")
    data = tiny_graphs.write_images(tmp_path / "images")

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    bundle = tmp_path / "bundle"
    assert run("pack", model, "--data", data, "--out", bundle, "--cases", 3, "--quiet") == 0
    printed = capsys.readouterr()
    digest = printed.out.split()[-1]
    assert "burned into them was not removed" in printed.err
    assert run("verify", bundle, "--digest", digest, "--json", tmp_path / "v.json") == 0
    assert json.loads((tmp_path / "v.json").read_text())["authenticated"]
    assert run("verify", bundle, "--digest", "0" * 64) == 1
    assert run("verify", tmp_path) == 2
    flip_byte(bundle / "model.onnx")
    assert run("verify", bundle) == 1


def test_verification_without_cases_does_not_pass() -> None:
    assert not Verification("digest", authenticated=True).passed
