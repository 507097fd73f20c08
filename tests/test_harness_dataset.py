"""Manifests and class folders, and what is refused about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.common.errors import InputError
from harness.images.dataset import data_digest, read_dataset
from harness.images.labels import DataWarning
from harness.images.loading import read_picture
from tests import tiny_graphs

CLASSES = tiny_graphs.CLASSES


def manifest(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_manifest_gives_files_classes_and_patients(tmp_path: Path) -> None:
    samples = read_dataset(manifest(tmp_path, "file,class,group\na/b.png,left,p1\nc.png,dark,p2\n"), CLASSES)
    assert [(s.name, s.path, s.labels, s.group) for s in samples] == [
        ("a/b.png", tmp_path / "a/b.png", (2,), "p1"),
        ("c.png", tmp_path / "c.png", (0,), "p2"),
    ]


def test_split_and_root(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,class,group,split\na.png,left,p1,train\nb.png,dark,p2,test\n")
    samples = read_dataset(path, CLASSES, root=Path("/elsewhere"), split="test")
    assert [str(s.path) for s in samples] == ["/elsewhere/b.png"]


def test_without_patients_every_image_is_its_own(tmp_path: Path) -> None:
    said: list[str] = []
    samples = read_dataset(manifest(tmp_path, "file,class\na.png,left\nb.png,dark\n"), CLASSES, warn=said.append)
    assert [s.group for s in samples] == ["a.png", "b.png"]
    assert len(said) == 1
    assert "no column 'group': every image counts as a patient of its own" in said[0]
    with pytest.warns(DataWarning, match="no column 'group'"):
        read_dataset(manifest(tmp_path, "file,class\na.png,left\nb.png,dark\n"), CLASSES)


def test_class_folders(tmp_path: Path) -> None:
    tiny_graphs.write_images(tmp_path / "left", patients=1)
    (tmp_path / "left" / "manifest.csv").unlink()
    samples = read_dataset(tmp_path, CLASSES)
    assert [(s.name, s.labels) for s in samples] == [("left/image-000.png", (2,)), ("left/image-001.png", (2,))]


def test_names_with_commas_and_quotes(tmp_path: Path) -> None:
    samples = read_dataset(manifest(tmp_path, 'file,class,group\n"=a, ""b"" c.png",left,p\n'), CLASSES)
    assert samples[0].name == '=a, "b" c.png'


def test_digest_follows_contents_not_order(tmp_path: Path) -> None:
    samples = read_dataset(tiny_graphs.write_images(tmp_path / "a"), CLASSES)
    digest = data_digest(samples)
    assert digest == data_digest(samples[::-1])
    assert digest != data_digest(samples[1:])
    samples[0].path.write_bytes(b"changed")
    assert digest != data_digest(samples)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,class\na.png,left\n", "no column 'file'; it has: image, class"),
        ("", "no column 'file'; it has: none"),
        ("file,class\na.png,cat\n", "line 2: the models have no class 'cat'; they have: dark, bright, left"),
        ("file,class\n", "no image to evaluate"),
        ("file,class\na.png,left\na.png,left\n", "'a.png' is listed more than once"),
        ("file,class\na.png,left\n./a.png,left\n", "'a.png' is listed more than once"),
        ("file,class,class\na.png,left,dark\n", "has the column 'class' more than once"),
        ("file,class\na\0.png,left\n", "line 2: holds a NUL character"),
    ],
)
def test_unusable_manifest_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read_dataset(manifest(tmp_path, text), CLASSES, warn=lambda _: None)
    assert sentence in str(caught.value)
    assert "manifest.csv" in str(caught.value)


def test_missing_manifest_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv: no such manifest or folder"):
        read_dataset(tmp_path / "gone.csv", CLASSES)
    with pytest.raises(InputError, match="expected sub-folders named dark, bright, left"):
        read_dataset(tmp_path, CLASSES)


def test_an_empty_split_is_a_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'split'; it has: file, class, group"):
        read_dataset(manifest(tmp_path, "file,class,group\na.png,left,p\n"), CLASSES, split="")
    with pytest.raises(InputError, match="no image to evaluate in split ''"):
        read_dataset(manifest(tmp_path, "file,class,group,split\na.png,left,p,test\n"), CLASSES, split="")


@pytest.mark.parametrize("asked", [{"split": "test"}, {"root": Path("/elsewhere")}, {"columns": {"file": "a"}}])
def test_a_folder_has_neither_split_nor_root(tmp_path: Path, asked: dict) -> None:
    tiny_graphs.write_images(tmp_path / "left", patients=1)
    with pytest.raises(InputError, match="is a folder, and split, root and columns belong to a manifest"):
        read_dataset(tmp_path, CLASSES, **asked)


def test_what_a_folder_holds_beside_its_images_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    tiny_graphs.write_images(tmp_path / "left", patients=1)
    (tmp_path / "left" / "manifest.csv").unlink()
    (tmp_path / "left" / ".hidden").write_bytes(b"")
    read_dataset(tmp_path, CLASSES, warn=said.append)
    assert said == []
    (tmp_path / "left" / "IM-0001").write_bytes(b"DICOM, perhaps")
    (tmp_path / "left" / "inner").mkdir()
    (tmp_path / "loose.png").write_bytes(b"")
    assert len(read_dataset(tmp_path, CLASSES, warn=said.append)) == 2
    assert f"3 entries are not used, {tmp_path}/left/IM-0001 for example" in said[0]


def test_hidden_images_are_left_out_of_folders_and_counted(tmp_path: Path) -> None:
    tiny_graphs.write_images(tmp_path / "left", patients=1)
    (tmp_path / "left" / "manifest.csv").unlink()
    (tmp_path / "left" / "._image-000.png").write_bytes(b"\0\5\x16\7")  # AppleDouble
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "image-000-checkpoint.png").write_bytes(b"")
    said: list[str] = []
    assert len(read_dataset(tmp_path, CLASSES, warn=said.append)) == 2
    assert said == [f"{tmp_path}: 1 hidden files are left out, {tmp_path}/left/._image-000.png for example"]


@pytest.mark.parametrize("name", ["n" * 300 + ".png", "loop.png"])
def test_a_name_that_no_file_can_have_ends_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    samples = read_dataset(manifest(tmp_path, f"file,class,group\n{name},left,p\n"), CLASSES)
    assert len(data_digest(samples)) == 64
    with pytest.raises(InputError, match=r"cannot be read \((File name too long|Too many levels of symbolic links)\)"):
        read_picture(samples[0].path)


def test_binary_file_as_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(b"file\n\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="line 2: not a CSV file in UTF-8"):
        read_dataset(path, CLASSES)
