"""Manifests and class folders: labels, groups, digest, refusals."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from harness.common.errors import EvaluationWarning, InputError
from harness.images import dataset
from training.samples import (
    Sample,
    at_most,
    class_names,
    content_digests,
    data_digest,
    one_hot,
    read_folders,
    read_manifest,
)


def manifest(folder: Path, text: str) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(name.encode())
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_samples_with_their_extra_columns(tmp_path: Path) -> None:
    first, second = read_manifest(manifest(tmp_path, "file,class,group,source\na.png,x,1,nih\nb.png,y,2,\n"))
    assert (first.file, first.labels, first.group, first.extras) == ("a.png", ("x",), "1", {"source": "nih"})
    assert second.path == tmp_path / "b.png"


def test_several_labels_and_none(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,class,group\na.png,x|y,1\nb.png,,2\nc.png,x,3\n")
    samples = read_manifest(path, multi=True)
    assert [sample.labels for sample in samples] == [("x", "y"), (), ("x",)]
    assert one_hot(samples, class_names(samples, None)).tolist() == [[1, 1], [0, 0], [1, 0]]
    with pytest.raises(InputError, match=r"line 3: names no class; fill it in"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.csv: no column 'file'; it has: none"),
        ("file,class\na.png,x\n", "m.csv: no column 'group'; it has: file, class"),
        ("file,class,Patient\na.png,x,1\n", "if 'Patient' is meant, add --columns group=Patient"),
        ("file,class,group,class\na.png,x,1,y\n", "has the column 'class' more than once; keep one"),
        (
            "file,class,group\na.png,x,\n",
            "m.csv, line 2: names no patient; fill the column group in, or remove the row",
        ),
        ("file,class,group\n,x,1\n", "m.csv, line 2: names no file; fill it in, or remove the row"),
        ("file,class,group\n", "no images found"),
        ("file,class,group\na.png,x,1\na.png,y,1\n", "'a.png' is listed more than once; keep one row per image"),
        ("file,class,group\na.png,x,1\n./a.png,y,1\n", "'a.png' is listed more than once (as './a.png', too)"),
        ("file,class,group\na.png,x,1\nb.png,y\n", "m.csv, line 3: the row ends before column 'group'; fill it in"),
        ("file,class,group\na.png,x,1\nb.png,y, left,1\n", "m.csv, line 3: more cells than columns"),
        ('file,class,group\na.png,x,1\nb.png,y,"2\nc.png,x,3\n', "m.csv, line 3: a quote is opened and not closed"),
        ('file,class,group\na.png,x,1\nb.png,"y"z,2\n', "m.csv, line 3: text stands behind a closing quote"),
    ],
)
@pytest.mark.parametrize("multi", [False, True])
def test_bad_manifests_are_refused(tmp_path: Path, text: str, message: str, multi: bool) -> None:
    path = manifest(tmp_path, text).rename(tmp_path / "m.csv")
    with pytest.raises(InputError, match=re.escape(message)):
        read_manifest(path, multi=multi)


@pytest.mark.parametrize(
    "text",
    [
        "File;Class;Group;split\na.png;x;1;train\n b.png ;y ;2;test\n",
        "path,label,patient,split\na.png,x,1,train\nb.png,y,2,test\n",
    ],
)
def test_spreadsheets_and_other_headers_are_read(tmp_path: Path, text: str) -> None:
    """A semicolon, blanks and capitals as spreadsheets write them; headers of others as `data.columns` names them."""
    columns = {"file": "path", "class": "label", "group": "patient"} if text.startswith("path") else None
    samples = read_manifest(manifest(tmp_path, text), columns=columns)
    found = [(sample.file, sample.path, sample.labels, sample.group, sample.extras) for sample in samples]
    assert found == [
        ("a.png", tmp_path / "a.png", ("x",), "1", {"split": "train"}),
        ("b.png", tmp_path / "b.png", ("y",), "2", {"split": "test"}),
    ]


def test_one_column_per_class(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,group,x,y\na.png,1,1,1\nb.png,2,0,\n")
    samples = read_manifest(path, multi=True, columns={"class": "x|y"})
    assert [sample.labels for sample in samples] == [("x", "y"), ()]
    with pytest.raises(InputError, match="line 2: 2 columns of classes hold 1; one label per image is expected"):
        read_manifest(path, columns={"class": "x|y"})


def test_missing_or_binary_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such manifest or folder"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_bytes(b"file,class,group\n\xff\xfe\n")
    with pytest.raises(InputError, match="not a CSV file in UTF-8"):
        read_manifest(tmp_path / "m.csv")


def folders(root: Path) -> Path:
    for name in ("well/p1_a.png", "well/p1_b.png", "sick/p2_a.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_class_folders_with_a_group_pattern(tmp_path: Path) -> None:
    samples = read_folders(folders(tmp_path), r"(p\d+)_")
    assert [(sample.labels[0], sample.group) for sample in samples] == [("sick", "p2"), ("well", "p1"), ("well", "p1")]
    alone = read_folders(tmp_path, None)
    assert len({sample.group for sample in alone}) == 3
    with pytest.raises(InputError, match="does not match the file name"):
        read_folders(tmp_path, r"x(\d)")
    with pytest.raises(InputError, match="no such folder"):
        read_folders(tmp_path / "none", None)


def digest(samples: list[Sample]) -> str:
    return data_digest(samples, content_digests(samples))


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    for name in (".ipynb_checkpoints/p1_a.png", "__MACOSX/p1_a.png", "well/._p1_a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(EvaluationWarning, match=r": 1 hidden files are left out, .*well/\._p1_a\.png for example"):
        samples = read_folders(folders(tmp_path), None)
    assert [sample.file for sample in samples] == ["sick/p2_a.jpg", "well/p1_a.png", "well/p1_b.png"]


def test_files_that_are_not_used_are_told(tmp_path: Path) -> None:
    (folders(tmp_path) / "well" / "p3").mkdir()
    (tmp_path / "well" / "p3" / "a.png").write_bytes(b"")
    (tmp_path / "sick" / "notes.txt").write_bytes(b"")
    (tmp_path / "a.png").write_bytes(b"")
    expected = f"{tmp_path}: 3 entries are not used, {tmp_path}/a.png for example: neither an image by its suffix"
    with pytest.warns(EvaluationWarning, match=re.escape(expected)):
        assert len(read_folders(tmp_path, None)) == 3


def test_folders_are_listed_as_the_harness_lists_them(tmp_path: Path) -> None:
    """The same names in the same order: a training and its evaluation have the same images."""
    for name in ("b/2.PNG", "b/10.tif", "b/scan.dcm", "B/1.jpeg", "a b/1.png", "a/x.dicom"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    samples = read_folders(tmp_path, None)
    listed = dataset.read_dataset(tmp_path, class_names(samples, None))
    assert [(sample.file, sample.path) for sample in samples] == [(sample.name, sample.path) for sample in listed]
    assert len(samples) == 6


def test_folders_without_images_or_patients_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="no images found; expected a folder per class with images"):
        read_folders(tmp_path, None)
    (tmp_path / "a.png").unlink()
    folders(tmp_path)
    with pytest.raises(InputError, match=r"data\.group_pattern 'q\*' finds an empty patient in the file name"):
        read_folders(tmp_path, "q*")


def sample(file: str, *labels: str, group: str = "g") -> Sample:
    return Sample(file, Path(file), labels, group)


def test_class_order_is_sorted_or_wanted() -> None:
    samples = [sample("1", "b"), sample("2", "a")]
    assert class_names(samples, None) == ("a", "b")
    assert class_names(samples, ["b", "a", "z"]) == ("b", "a", "z")
    with pytest.raises(InputError, match=r"data\.classes lacks a, which the data has"):
        class_names(samples, ["b"])
    with pytest.raises(InputError, match="at least two classes; the data has b"):
        class_names(samples[:1], None)


def test_limit_per_class_is_a_seeded_subset() -> None:
    samples = [sample(str(k), "ab"[k % 2]) for k in range(20)]
    kept = at_most(samples, 3, seed=0)
    assert [s.labels[0] for s in kept].count("a") == [s.labels[0] for s in kept].count("b") == 3
    assert kept == at_most(samples, 3, seed=0)
    assert kept != at_most(samples, 3, seed=1)
    assert at_most(samples, None, seed=0) == samples


def test_digest_sees_content_label_and_group_but_not_order(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,class,group\na.png,x,1\nb.png,y,2\n")
    before = digest(read_manifest(path))
    assert before == digest(read_manifest(path)[::-1])
    for old, new in (("a.png,x", "a.png,z"), ("y,2", "y,3")):
        path.write_text(path.read_text().replace(old, new), encoding="utf-8")
        assert digest(read_manifest(path)) != before
        path.write_text(path.read_text().replace(new, old), encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"changed")
    assert digest(read_manifest(path)) != before


def test_stated_sha256_must_hold(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,class,group,sha256\na.png,x,1,00\n")
    with pytest.raises(InputError, match=r"a\.png: its sha256 is not the manifest's"):
        digest(read_manifest(path))


def test_files_that_are_missing_or_no_plain_files_are_named_at_once(tmp_path: Path) -> None:
    """A pipe would otherwise be waited for without end."""
    path = manifest(tmp_path, "file,class,group\na.png,x,1\nb.png,y,2\nc.png,y,3\n")
    for name in ("b.png", "c.png"):
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png: no such file, or not a plain one \(2 of 3 images\)"):
        content_digests(read_manifest(path))
