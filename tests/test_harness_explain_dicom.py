"""`explain` of many images, and its maps as DICOM objects: what they say, whose they are, and what validators find."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from harness import cli
from harness.api.explanation import explain
from harness.api.explanations import list_images
from harness.common.errors import CannotEvaluateError, InputError
from harness.evaluation.demonstration import FOLDER
from harness.images.dataset import read_dataset
from harness.images.rule import ImageRule
from harness.models.session import Model
from harness.report.dicom_map import KINDS
from kernels.resize import upsample
from tests import tiny_graphs
from tests.made_dicom import archive, made_file, radiographs, save

LAYER = "block4_out"  # of the demonstration's graph
CLASS_ACTIVATION = ("130402", "DCM", "Class activation")
# What dciodvfy (dicom3tools) finds in a map without a pose. PS3.3 A.75.5 asks for position and orientation in the
# patient only where the frame of reference is the patient's, and for a position on a slide only where it is a slide's;
# the validator asks for all of them. A radiograph has none, and none is invented.
WITHOUT_POSE = {
    "Error - Missing attribute Type 1 Required Element=<PlanePositionSequence> Module=<PlanePositionMacro>",
    "Error - Missing attribute Type 1 Required Element=<PlaneOrientationSequence> Module=<PlaneOrientationMacro>",
    "Error - Missing attribute Type 1 Required Element=<PlanePositionSlideSequence> Module=<PlanePositionSlideMacro>",
}
EXPECTED = {"plain": WITHOUT_POSE, "windows": WITHOUT_POSE, "colour": WITHOUT_POSE, "slice": set()}


@pytest.fixture(scope="module")
def graph() -> Path:
    """The demonstration's, whose maps are not zero."""
    return FOLDER / "finetune.onnx"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return radiographs(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def written(graph: Path, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written")
    for kind in KINDS:
        run(graph, *sources.values(), "--out", out / kind, "--dicom", kind)
    return out


def run(graph: Path, *arguments: object, layer: str = LAYER) -> None:
    words = ["explain", str(graph), *map(str, arguments), "--method", "layercam", "--layer", layer]
    cli.cli.main(words, standalone_mode=False)


def read(written: Path, kind: str, name: str) -> pydicom.Dataset:
    return pydicom.dcmread(written / kind / f"{name}.dcm.{LAYER}.layercam.dcm")


def coded(item: pydicom.Dataset) -> tuple[str, str, str]:
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


def test_choices_of_the_command_line_are_the_kinds() -> None:
    assert tuple(KINDS) == cli.EXPLAINED_AS


# ---- What the objects say


@pytest.mark.filterwarnings("ignore::harness.images.notices.PictureWarning")  # the tiny graph sees grey
@pytest.mark.parametrize("name", EXPECTED)
def test_a_parametric_map_is_the_map_as_float32(
    written: Path, graph: Path, sources: dict[str, Path], name: str
) -> None:
    found = explain(graph, sources[name], None, [LAYER], ["layercam"])
    map_, source = read(written, "parametric-map", name), pydicom.dcmread(sources[name])
    assert (map_.Rows, map_.Columns) == (source.Rows, source.Columns) == (64, 80)
    pixels = np.frombuffer(map_.FloatPixelData, "<f4").reshape(map_.Rows, map_.Columns)
    assert found.maps[0].raw.std() > 0
    expected = upsample(found.maps[0].raw[None], (64, 80))[0]
    np.testing.assert_allclose(pixels, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(map_.pixel_array, pixels)
    assert "FloatPixelPaddingValue" not in map_
    values = map_.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (values.RealWorldValueSlope, values.RealWorldValueIntercept) == (1, 0)
    assert values.DoubleFloatRealWorldValueLastValueMapped == pixels.max()
    assert coded(values.QuantityDefinitionSequence[0].ConceptCodeSequence[0]) == CLASS_ACTIVATION


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXPECTED)
def test_objects_belong_to_patient_and_study_and_reference_their_source(
    written: Path, graph: Path, sources: dict[str, Path], name: str, kind: str
) -> None:
    made, source = read(written, kind, name), pydicom.dcmread(sources[name])
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert made[keyword].value == source[keyword].value
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    shared = made.get("SharedFunctionalGroupsSequence")
    derived = shared[0].DerivationImageSequence[0] if shared else made
    (image,) = derived.SourceImageSequence
    assert (image.ReferencedSOPInstanceUID, image.SpatialLocationsPreserved) == (source.SOPInstanceUID, "YES")
    assert coded(derived.DerivationCodeSequence[0]) == CLASS_ACTIVATION
    digest = Model.open(graph).graph.digest
    for word in ("layercam", LAYER, "PhantomNet, finetune", digest, "Research"):
        assert word in derived.DerivationDescription
    assert f"layercam, {LAYER}" in made.SeriesDescription


def test_a_plain_radiograph_gets_no_pose_and_a_slice_keeps_its_own(written: Path, sources: dict[str, Path]) -> None:
    invented = ("PlanePositionSequence", "PlaneOrientationSequence", "ImagePositionPatient", "ImageOrientationPatient")
    for name in ("plain", "windows", "colour"):
        elements = {element.keyword for element in read(written, "parametric-map", name).iterall()}
        assert elements.isdisjoint(invented)
        assert ("PixelSpacing" in elements) == (name == "windows")
    groups = read(written, "parametric-map", "slice").SharedFunctionalGroupsSequence[0]
    source = pydicom.dcmread(sources["slice"])
    assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
    assert groups.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
    assert groups.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
    assert read(written, "parametric-map", "slice").FrameOfReferenceUID == source.FrameOfReferenceUID


def test_uids_are_derived(written: Path, graph: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    run(graph, sources["plain"], "--out", tmp_path / "again", "--dicom", "parametric-map")
    first = read(written, "parametric-map", "plain")
    again = pydicom.dcmread(tmp_path / "again" / f"plain.dcm.{LAYER}.layercam.dcm")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert again[keyword].value == first[keyword].value
        assert first[keyword].value.startswith("2.25.")
        assert first[keyword].value.is_valid
    everything = [read(written, kind, name) for kind in KINDS for name in EXPECTED]
    assert len({made.SOPInstanceUID for made in everything}) == 8
    assert len({made.SeriesInstanceUID for made in everything}) == 2  # one study, one model, one path, two kinds
    run(FOLDER / "transfer.onnx", sources["plain"], "--out", tmp_path / "other", "--dicom", "parametric-map")
    assert (
        pydicom.dcmread(tmp_path / "other" / f"plain.dcm.{LAYER}.layercam.dcm").SOPInstanceUID != first.SOPInstanceUID
    )


def test_a_secondary_capture_is_the_picture_with_the_map_over_it(written: Path) -> None:
    made = read(written, "secondary-capture", "colour")
    pixels = made.pixel_array
    assert (pixels.shape, pixels.dtype) == ((64, 80, 3), np.uint8)
    assert made.LossyImageCompression == "01"  # of its source
    assert made.LossyImageCompressionMethod == "ISO_10918_1"
    grey = read(written, "secondary-capture", "plain").pixel_array.astype(int)
    map_ = read(written, "parametric-map", "plain").pixel_array
    coloured = np.abs(grey[..., 0] - grey[..., 2])
    assert coloured[map_ == 0].max(initial=0) <= 1  # where there is no evidence, the radiograph stays grey
    assert np.corrcoef(coloured.ravel(), map_.ravel())[0, 1] > 0.5
    assert read(written, "secondary-capture", "plain").LossyImageCompression == "00"


def test_what_the_network_did_not_see_is_padding(tmp_path: Path, sources: dict[str, Path]) -> None:
    rule = ImageRule(name="middle", fit="crop", resampler="opencv", interpolation="bilinear")
    graph = tiny_graphs.write_graph(tmp_path / "cropped.onnx", image_rule=rule.model_dump(mode="json"))
    run(graph, sources["plain"], "--out", tmp_path / "out", "--dicom", "parametric-map", layer="late")
    map_ = pydicom.dcmread(tmp_path / "out" / "plain.dcm.late.layercam.dcm")
    padding = map_.FloatPixelPaddingValue
    outside = map_.pixel_array == padding
    assert padding < 0
    assert outside[:, :8].all()
    assert outside[:, -8:].all()
    assert not outside[:, 8:-8].any()
    assert (
        map_.SharedFunctionalGroupsSequence[0]
        .RealWorldValueMappingSequence[0]["DoubleFloatRealWorldValueFirstValueMapped"]
        .value
        >= 0
    )


def test_explanations_are_not_read_as_images(written: Path) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="no images"):
        read_dataset(written, tiny_graphs.CLASSES, warn=said.append)
    assert "8 DICOM files are no images to evaluate" in said[0]


# ---- Many images


def test_files_folders_and_a_pacs_export(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive(tmp_path / "pacs", patients=2, studies=1)
    tiny_graphs.write_images(tmp_path / "images", patients=1)
    single = tmp_path / "images" / "image-001.png"
    shutil.copy(single, tmp_path / "other.png")
    (tmp_path / "images" / "manifest.csv").unlink()
    run(graph, tmp_path / "pacs", tmp_path / "images", tmp_path / "other.png", "--out", tmp_path / "out")
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    nested = [f"P{patient:03d}/ST0/SE0/IM{image:04d}.png" for patient in range(2) for image in range(2)]
    assert names == [*nested, "image-000.png.png", "image-001.png.png", "other.png.png"]
    lines = capsys.readouterr().out.splitlines()
    assert sum("layercam" in line for line in lines) == 7
    assert any(line.startswith("P001/ST0/SE0/IM0001") for line in lines)


def test_what_cannot_be_read_is_told_and_the_rest_explained(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = archive(tmp_path / "pacs", patients=1, studies=1)
    paths[0].write_bytes(paths[0].read_bytes()[:-500])
    save(made_file(np.zeros((8, 8), np.uint8), "77", StudyInstanceUID=None), tmp_path / "pacs" / "orphan")
    run(graph, tmp_path / "pacs", "--out", tmp_path / "out", "--dicom", "secondary-capture")
    said = capsys.readouterr().err
    assert re.search(r"warning: \S+/IM0000: .*; it is not explained", said)
    assert "orphan: has no StudyInstanceUID, so nothing can be filed beside it" in said
    assert [path.name for path in (tmp_path / "out").rglob("*.dcm")] == [f"IM0001.{LAYER}.layercam.dcm"]
    paths[1].write_bytes(paths[1].read_bytes()[:-500])
    with pytest.raises(CannotEvaluateError, match="none of the 3 images could be read"):
        run(graph, tmp_path / "pacs", "--out", tmp_path / "none", "--dicom", "secondary-capture")


def test_a_header_that_cannot_be_taken_over_is_told(
    graph: Path, sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = pydicom.dcmread(sources["plain"])
    made.InstanceNumber = 77
    path = tmp_path / "odd.dcm"
    made.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0077", b"IS\x02\x00?!"))
    with pytest.raises(CannotEvaluateError, match="none of the 1 images"):
        run(graph, path, "--out", tmp_path / "out", "--dicom", "parametric-map")
    assert "odd.dcm: its header cannot be taken over" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_what_makes_no_sense_is_refused(graph: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    tiny_graphs.write_images(tmp_path / "images", patients=1)
    picture = tmp_path / "images" / "image-000.png"
    with pytest.raises(InputError, match="is no DICOM file, so there is no study to add a map to; leave out --dicom"):
        run(graph, picture, "--out", tmp_path / "out", "--dicom", "parametric-map")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is a file; for several images, or with --dicom, --out names a folder"):
        run(graph, sources["plain"], "--out", tmp_path / "file", "--dicom", "parametric-map")
    with pytest.raises(InputError, match="no class 'cat'"):
        run(graph, *sources.values(), "--out", tmp_path / "out", "--class", "cat")
    shutil.copytree(tmp_path / "images", tmp_path / "more")
    with pytest.raises(InputError, match="which would be written to the same file; give the folder above both"):
        list_images([picture, tmp_path / "more" / picture.name], lambda _: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image to explain"):
        list_images([tmp_path / "empty"], lambda _: None)


def test_the_picture_of_one_image_is_still_a_file(graph: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    run(graph, sources["plain"], "--out", tmp_path / "one.png")
    assert cv2.imread(str(tmp_path / "one.png")) is not None


# ---- What validators say


def tool(name: str) -> str:
    """A program of dicom3tools or dcmtk; in CI its absence is a failure."""
    found = shutil.which(name)
    required = os.environ.get("CI") == "true" or os.environ.get("EVIDENCE_DRIFT_REQUIRE_DICOM_VALIDATORS") == "1"
    if found is None and not required:
        pytest.skip(f"{name} is not installed (Debian: apt-get install dicom3tools dcmtk)")
    assert found, f"{name} is not installed: apt-get install dicom3tools dcmtk"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXPECTED)
def test_dciodvfy_finds_no_error_beyond_those_listed(written: Path, name: str, kind: str) -> None:
    path = written / kind / f"{name}.dcm.{LAYER}.layercam.dcm"
    done = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert {"parametric-map": "ParametricMap", "secondary-capture": "SCImage"}[kind] in lines  # it was recognised
    errors = {line for line in lines if line.startswith("Error")}
    assert errors == (EXPECTED[name] if kind == "parametric-map" else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_dcmdump_and_a_rewrite_by_dcmtk_keep_every_float(written: Path, name: str, tmp_path: Path) -> None:
    path = written / "parametric-map" / f"{name}.dcm.{LAYER}.layercam.dcm"
    dumped = subprocess.run([tool("dcmdump"), str(path)], capture_output=True, text=True, check=True).stdout
    assert "=ParametricMapStorage" in dumped
    assert re.search(r"\(0008,0100\) SH \[130402\]", dumped)
    assert re.search(r"\(7fe0,0008\) OF", dumped)
    rewritten = tmp_path / "rewritten.dcm"
    subprocess.run([tool("dcmconv"), "+ti", str(path), str(rewritten)], check=True)  # implicit VR
    assert np.array_equal(pydicom.dcmread(rewritten).pixel_array, pydicom.dcmread(path).pixel_array)


@pytest.mark.slow
def test_a_real_radiograph_goes_through(shared: Path, graph: Path, tmp_path: Path) -> None:
    source = shared / "dicom" / "rsna-pa-monochrome2-jpeg.dcm"
    for kind in KINDS:
        run(graph, source, "--out", tmp_path, "--dicom", kind)
        path = tmp_path / f"{source.name}.{LAYER}.layercam.dcm"
        done = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        errors = {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}
        assert errors == (WITHOUT_POSE if kind == "parametric-map" else set())
        path.unlink()
