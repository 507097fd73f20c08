"""Folders of a PACS: nested DICOM files without suffix, a DICOMDIR, patients from headers, classes from a table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydicom import uid

from harness.api.evaluation import Settings, evaluate, evaluate_again
from harness.common.errors import InputError
from harness.evaluation.study_file import read_study
from harness.images import dicom_headers
from harness.images.dataset import Sample, data_digest, images_below, read_dataset
from harness.images.dicom_headers import listed_files, read_header
from tests import made_dicom, tiny_graphs
from tests.made_dicom import ROOT, archive, made_file, save, write_dicomdir

CLASSES = tiny_graphs.CLASSES  # dark, bright, left
GREY = np.zeros((8, 8), np.uint8)


def read(data: Path, said: list[str] | None = None, **asked: object) -> list[Sample]:
    told: list[str] = []
    samples = read_dataset(data, CLASSES, warn=told.append, **asked)  # type: ignore[arg-type]
    assert said is not None or told == []
    (said if said is not None else []).extend(told)
    return samples


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---- Nested files without suffix


def test_nested_files_without_suffix_are_images_of_their_patients(tmp_path: Path) -> None:
    paths = archive(tmp_path, patients=3)
    samples = read(tmp_path)
    assert [sample.path for sample in samples] == paths
    assert [sample.name for sample in samples][:2] == ["P000/ST0/SE0/IM0000", "P000/ST0/SE0/IM0001"]
    assert all(sample.labels is None for sample in samples)
    groups = [sample.group for sample in samples]
    assert [groups.index(group) for group in groups] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8]
    headers = [sample.header for sample in samples if sample.header is not None]
    assert len(headers) == 12
    assert [(header.view, header.laterality) for header in headers[:2]] == [("PA", "L"), ("LATERAL", "R")]
    assert [header.study == headers[0].study for header in headers[:4]] == [True, True, False, False]


def test_what_is_kept_of_patients_are_hashes_of_this_data_set(tmp_path: Path) -> None:
    archive(tmp_path / "a", patients=2)
    samples = read(tmp_path / "a")
    text = repr([(sample.group, sample.header) for sample in samples])
    assert not any(secret in text for secret in ("PAT0", "Secret", ROOT, "A000"))
    assert all(len(sample.group) == 16 for sample in samples)
    again = read(tmp_path / "a")
    assert data_digest(again) == data_digest(samples)
    shutil.copytree(tmp_path / "a" / "P000", tmp_path / "b" / "P000")
    assert read(tmp_path / "b")[0].group != samples[0].group


def test_patients_of_two_issuers_are_two(tmp_path: Path) -> None:
    for number, issuer in enumerate(("NORTH", "SOUTH")):
        save(made_file(GREY, f"{number + 1}", PatientID="1", IssuerOfPatientID=issuer), tmp_path / "p" / str(number))
    assert len({sample.group for sample in read(tmp_path)}) == 2


def test_without_a_patient_the_study_is_one(tmp_path: Path) -> None:
    archive(tmp_path, patients=2, PatientID="")
    said: list[str] = []
    groups = [sample.group for sample in read(tmp_path, said)]
    assert len(set(groups)) == 4
    assert "8 of 8 DICOM files name no patient: the images of each of their studies count as those of one" in said[0]
    save(made_file(GREY, "500"), tmp_path / "x" / "IM1")
    assert read(tmp_path, said)[-1].group == "x/IM1"


def test_what_makes_numbers_less_sure_is_told(tmp_path: Path) -> None:
    archive(tmp_path, patients=1, PresentationIntentType="FOR PROCESSING")
    save(made_file(GREY, "500", PatientID="PAT000", PatientBirthDate="20010101"), tmp_path / "P009" / "IM")
    said: list[str] = []
    read(tmp_path, said)
    assert "1 patient IDs stand for more than one date of birth" in said[0]
    assert "4 of 5 DICOM files are FOR PROCESSING" in said[1]
    assert not any("PAT000" in sentence for sentence in said)


def test_what_is_no_image_and_what_stands_there_twice_is_counted(tmp_path: Path) -> None:
    paths = archive(tmp_path, patients=1)
    shutil.copy(paths[0], paths[0].with_name("IM9999"))
    save(made_file(GREY, "600", sop_class="1.2.840.10008.5.1.4.1.1.88.11", Rows=None), tmp_path / "P000" / "SR")
    save(made_file(GREY, "601", sop_class="1.2.840.10008.5.1.4.1.1.30"), tmp_path / "P000" / "PM")
    save(made_file(GREY, "602", Manufacturer="evidence-drift"), tmp_path / "P000" / "SC")
    (tmp_path / "P000" / "ST0" / "notes.txt").write_text("text", encoding="utf-8")
    (tmp_path / "P000" / "ST0" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "P000" / "ST0" / "deep" / "scan.png").write_bytes(b"")
    said: list[str] = []
    assert [sample.path for sample in read(tmp_path, said)] == paths
    again, others, unused = said
    assert "1 DICOM files repeat the SOP Instance UID of another, P000/ST0/SE0/IM9999 for example" in again
    assert "3 DICOM files are no images to evaluate (1 Basic Text SR Storage, 1 Digital X-Ray" in others
    assert "2 entries are not used" in unused  # the text, and the folder `deep`


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    paths = archive(tmp_path, patients=1, studies=1)
    (tmp_path / "P000" / "ST0" / "up").symlink_to(tmp_path)
    assert [sample.path for sample in read(tmp_path, [])] == paths


def test_damaged_headers_are_images_that_will_be_counted_as_unreadable(tmp_path: Path) -> None:
    paths = archive(tmp_path, patients=1, studies=1)
    damaged = tmp_path / "P000" / "ST0" / "SE0" / "cut.dcm"
    damaged.write_bytes(paths[0].read_bytes()[:200])
    named = {sample.path: sample for sample in read(tmp_path, [])}
    assert damaged in named
    assert named[damaged].group == "P000/ST0/SE0/cut.dcm"


def test_a_deflated_file_that_grows_beyond_measure_is_not_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_file(np.zeros((1000, 1000), np.uint8), PatientID="P")
    made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    path = save(made, tmp_path / "IM")
    found = read_header(path)
    assert found is not None
    assert found.patient == "P"
    monkeypatch.setattr(dicom_headers, "MAX_PIXELS", 1e5)
    assert read_header(path) is None


# ---- Class folders


def test_class_folders_keep_their_meaning_and_a_patient_of_two_is_one(tmp_path: Path) -> None:
    archive(tmp_path / "left", patients=2)
    save(made_file(GREY, "700", PatientID="PAT000"), tmp_path / "dark" / "IM0001")
    samples = read(tmp_path)
    assert [sample.labels for sample in samples] == [(0,)] + [(2,)] * 8
    assert len({sample.group for sample in samples}) == 2


def test_a_folder_that_is_no_class_beside_one_is_refused(tmp_path: Path) -> None:
    archive(tmp_path, patients=1)
    save(made_file(GREY, "700", PatientID="P"), tmp_path / "left" / "IM0001")
    with pytest.raises(InputError, match=r"the models have no class 'P000'; they have: dark, bright, left"):
        read(tmp_path)


def test_pictures_in_folders_still_need_their_classes(tmp_path: Path) -> None:
    tiny_graphs.write_images(tmp_path / "lefft", patients=1)
    with pytest.raises(InputError, match="the models have no class 'lefft'"):
        read(tmp_path, [])


# ---- DICOMDIR


@pytest.mark.parametrize("give", [lambda folder: folder, lambda folder: folder / "DICOMDIR"])
def test_a_dicomdir_says_which_files_belong_to_it(tmp_path: Path, give: Callable[[Path], Path]) -> None:
    paths = archive(tmp_path, patients=2, studies=1)
    parts = [path.relative_to(tmp_path).parts for path in paths]
    write_dicomdir(tmp_path, parts[:3])
    said: list[str] = []
    assert [sample.path for sample in read(give(tmp_path), said)] == paths[:3]
    assert len(said) == 1
    assert "DICOMDIR: does not list 1 images of its folder, P001/ST0/SE0/IM0001 for example" in said[0]


def test_a_dicomdir_is_compared_without_case_and_keeps_what_is_missing(tmp_path: Path) -> None:
    (path,) = archive(tmp_path / "disc", patients=1, studies=1, images=1)
    path.rename(path.with_name("im0000."))
    write_dicomdir(tmp_path / "disc", [("P000", "ST0", "SE0", "IM0000"), ("P000", "ST0", "SE0", "IM0001")])
    found = read(tmp_path / "disc")
    assert [sample.name for sample in found] == ["P000/ST0/SE0/IM0001", "P000/ST0/SE0/im0000."]
    assert not found[0].path.exists()


def test_a_dicomdir_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    write_dicomdir(tmp_path, [("..", "secret")])
    with pytest.raises(InputError, match=r"references '\.\./secret', which is no file below its folder"):
        read(tmp_path)


def test_a_dicom_file_is_no_manifest(tmp_path: Path) -> None:
    (path, *_) = archive(tmp_path, patients=1)
    with pytest.raises(InputError, match="is a DICOM file, not a manifest; give its folder, or a DICOMDIR"):
        read(path)


# ---- Labels


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("PatientID", lambda n: f"PAT00{n // 4}"),
        ("accession_number", lambda n: f"A00{n // 4}-{n // 2 % 2}"),
        ("Study Instance UID", lambda n: f"{ROOT}.7.{n // 4 + 1}.{n // 2 % 2 + 1}"),
        ("SeriesInstanceUID", lambda n: f"{ROOT}.8.{n // 4 + 1}.{n // 2 % 2 + 1}"),
        ("SOPInstanceUID", lambda n: f"{ROOT}.{n // 4 + 1}.{n // 2 % 2 + 1}.{n % 2 + 1}"),
        ("file", lambda n: f"P00{n // 4}/ST{n // 2 % 2}/SE0/IM000{n % 2}"),
    ],
)
def test_a_table_names_classes_by_any_key(tmp_path: Path, header: str, cell: Callable[[int], str]) -> None:
    archive(tmp_path / "pacs", patients=2)
    classes = ["left" if n // 4 else "dark" for n in range(8)]
    rows = dict.fromkeys(f"{cell(n)},{name}" for n, name in enumerate(classes))
    labels = table(tmp_path / "labels.csv", f"{header},class", *rows)
    assert [sample.labels for sample in read(tmp_path / "pacs", labels=labels)] == [(0,)] * 4 + [(2,)] * 4


def test_what_a_table_does_not_name_is_left_out_and_counted(tmp_path: Path) -> None:
    archive(tmp_path / "pacs", patients=3, studies=1)
    labels = table(tmp_path / "labels.csv", "PatientID,class", "PAT001,left", "PAT777,dark")
    said: list[str] = []
    found = read(tmp_path / "pacs", said, labels=labels)
    assert [sample.name[:4] for sample in found] == ["P001", "P001"]
    assert "does not name 4 of 6 images; they are left out" in said[0]
    assert "1 of its 2 rows name nothing that is there by PatientID" in said[1]


def test_other_words_for_columns_and_several_classes(tmp_path: Path) -> None:
    archive(tmp_path / "pacs", patients=1, studies=1)
    labels = table(tmp_path / "labels.csv", "path;finding", "P000/ST0/SE0/IM0000;left|dark", "P000/ST0/SE0/IM0001;")
    asked = {"labels": labels, "columns": {"file": "path", "class": "finding"}, "multilabel": True}
    assert [sample.labels for sample in read(tmp_path / "pacs", **asked)] == [(0, 2), ()]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["name,class", "a,left"], "no column tells which image a row is about; it needs one of SOPInstanceUID, file"),
        (["PatientID,finding", "PAT000,left"], "no column 'class'"),
        (["PatientID,class", "PAT000,cat"], "line 2: the models have no class 'cat'"),
        (["PatientID,class", ",left"], "line 2: its PatientID is empty"),
        (
            ["PatientID,class", "PAT000,left", "PAT000,dark"],
            "line 3: names other classes for a PatientID of an earlier",
        ),
        (["PatientID,class", "PAT009,left"], "names none of the 4 images by its column PatientID"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, lines: list[str], sentence: str) -> None:
    archive(tmp_path / "pacs", patients=1)
    with pytest.raises(InputError, match=r"labels\.csv") as caught:
        read(tmp_path / "pacs", [], labels=table(tmp_path / "labels.csv", *lines))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("key", ["PatientID", "AccessionNumber"])
def test_a_number_that_two_hospitals_gave_names_no_class(tmp_path: Path, key: str) -> None:
    for number, issuer in enumerate(("NORTH", "SOUTH")):
        made = made_file(GREY, f"{number + 1}", PatientID="1", IssuerOfPatientID=issuer, AccessionNumber="1")
        save(made, tmp_path / "pacs" / str(number))
    with pytest.raises(InputError, match=f"1 of its rows name images of several patients by one {key}"):
        read(tmp_path / "pacs", labels=table(tmp_path / "labels.csv", f"{key},class", "1,left"))


def test_a_study_names_its_labels_beside_itself(tmp_path: Path) -> None:
    graphs = [tiny_graphs.write_graph(tmp_path / f"{name}.onnx", seed).name for seed, name in enumerate("ab")]
    lines = ['data = "pacs"', 'labels = "read.csv"', "[[architecture]]"]
    study = table(tmp_path / "study.toml", *lines, f'before = "{graphs[0]}"', f'after = "{graphs[1]}"')
    assert read_study(study).data.labels == tmp_path / "read.csv"


def test_labels_beside_a_manifest_are_refused(tmp_path: Path) -> None:
    manifest = table(tmp_path / "manifest.csv", "file,class,group", "a.png,left,p")
    with pytest.raises(InputError, match="labels belong to a folder"):
        read(manifest, labels=manifest)


# ---- Evaluated


def test_images_to_calibrate_on_are_found_by_content(tmp_path: Path) -> None:
    paths = archive(tmp_path, patients=1)
    (tmp_path / "P000" / "notes").write_text("text", encoding="utf-8")
    write_dicomdir(tmp_path, [("P000", "ST0", "SE0", "IM0000")])
    save(made_file(GREY, "600", sop_class="1.2.840.10008.5.1.4.1.1.88.11", Rows=None), tmp_path / "P000" / "SR")
    assert images_below(tmp_path) == paths


def secrets_in(folder: Path) -> list[Path]:
    """Files that hold a patient's ID, name, accession number or a UID of the made archive."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if re.search(rb"PAT0\d\d|Secret|A0\d\d-|" + ROOT.encode(), path.read_bytes())]


def test_a_nested_folder_evaluates_with_the_patients_of_its_headers(tmp_path: Path) -> None:
    archive(tmp_path / "pacs", patients=6, studies=1)
    before, after = (tiny_graphs.write_graph(tmp_path / f"{seed}.onnx", seed) for seed in (1, 2))
    labels = table(tmp_path / "l.csv", "PatientID,class", *(f"PAT{n:03d},{CLASSES[n % 3]}" for n in range(6)))
    out, again = tmp_path / "out", tmp_path / "again"
    options = {"select": "all", "methods": ("layercam",), "jitter": 0, "chance": 0, "map_size": (16, 16)}
    settings = Settings(out, resamples=50, report=False, progress=False)
    result = evaluate(before, after, tmp_path / "pacs", labels=labels, settings=settings, **options).evaluation
    assert (result.images, result.patients, result.unreadable) == (12, 6, {})
    kept = pq.read_table(out / "images.parquet").to_pylist()
    assert [row["image"] for row in kept] == [f"P{n // 2:03d}/ST0/SE0/IM{n % 2:04d}" for n in range(12)]
    assert {(row["view"], row["laterality"]) for row in kept} == {("PA", "L"), ("LATERAL", "R")}
    assert len({row["study"] for row in kept}) == 6
    predicted = tiny_graphs.read_rows(out, "predictions")
    assert {row["group"] for row in predicted} == {row["group"] for row in kept}
    assert {tuple(row["labels"]) for row in predicted} == {(name,) for name in CLASSES}
    assert secrets_in(tmp_path / "pacs")
    assert secrets_in(out) == []
    evaluate_again(out, Settings(again, resamples=50, report=False, progress=False), select="all")
    assert (again / "images.parquet").read_bytes() == (out / "images.parquet").read_bytes()


def test_a_header_changed_at_random_never_raises_but_in_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pose = made_dicom.radiographs(tmp_path / "source")["slice"]
    for source, reader in ((pose, read_header), (write_dicomdir(tmp_path, [("A", "B")] * 3), listed_files)):
        content = source.read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            for position in rng.integers(132, min(len(content), 2000), 4):
                changed[position] = rng.integers(256)
            (tmp_path / "changed").write_bytes(changed[: rng.integers(200, len(changed))])
            with suppress(InputError):
                reader(tmp_path / "changed")


@pytest.mark.slow
def test_500_nested_files_evaluate_with_right_patients(tmp_path: Path) -> None:
    archive(tmp_path / "pacs", patients=125)
    made_dicom.save(made_file(GREY, "9", Rows=None), tmp_path / "pacs" / "P000" / "SR")
    before, after = (tiny_graphs.write_graph(tmp_path / f"{seed}.onnx", seed) for seed in (1, 2))
    result = tiny_graphs.evaluate(
        tmp_path / "out", "--before", before, "--after", after, "--data", tmp_path / "pacs", "--select", "all"
    )
    assert (result.images, result.patients, result.unreadable) == (500, 125, {})
    groups: dict[str, set[str]] = {}
    for row in tiny_graphs.read_rows(tmp_path / "out", "predictions"):
        groups.setdefault(row["image"].split("/")[0], set()).add(row["group"])
    assert [len(found) for found in groups.values()] == [1] * 125
    assert len({frozenset(found) for found in groups.values()}) == 125
    assert secrets_in(tmp_path / "out") == []
