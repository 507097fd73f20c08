"""What strangers' tables say, read as a person would read it or refused with its line."""

from __future__ import annotations

import gzip
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.common.errors import InputError
from harness.images.columns import parse_columns
from harness.images.dataset import Sample, read_dataset
from harness.images.labels import Labelling
from harness.images.manifest import read_manifest

CLASSES = ("dark", "bright", "left")
WANTED = [("a.png", (2,), "p1"), ("b.png", (0,), "p2")]
PLAIN = "file,class,group\na.png,left,p1\nb.png,dark,p2\n"


def read(folder: Path, content: str | bytes, name: str = "m.csv", **asked: object) -> tuple[list[Sample], list[str]]:
    """The samples of a manifest, and the warnings about it without the folder's name."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    said: list[str] = []
    samples = read_dataset(folder / name, asked.pop("classes", CLASSES), warn=said.append, **asked)  # type: ignore[arg-type]
    return samples, [sentence.removeprefix(f"{folder}/") for sentence in said]


def facts(samples: Sequence[Sample]) -> list[tuple]:
    return [(sample.name, sample.labels, sample.group) for sample in samples]


def refusal(folder: Path, content: str | bytes, **asked: object) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content, **asked)
    return str(caught.value).removeprefix(f"{folder}/")


# Strictness: no row is lost without a word


ROWS = "".join(f'"{n}.png","dark","p{n}"\n' for n in range(9))


def test_an_unclosed_quote_is_named_with_the_line_that_opens_it(tmp_path: Path) -> None:
    text = 'file,class,group\n1.png,dark,p1\n2.png,dark,"p2\n3.png,dark,p3\n4.png,dark,p4\n'
    assert refusal(tmp_path, text) == "m.csv, line 3: a quote is opened and not closed; close it, or remove it"
    vast = text + "5.png,dark,p5\n" * 20_000  # more than Python's reader takes as one cell
    assert refusal(tmp_path, vast).startswith("m.csv, line 3: a quote is opened and not closed")


def test_a_stray_pair_of_quotes_swallows_no_rows(tmp_path: Path) -> None:
    text = 'file,class,group\n1.png,dark,"p1\n2.png,dark,p2\n3.png,dark,p3"\n4.png,dark,p4\n'
    assert refusal(tmp_path, text).startswith(
        "m.csv, line 2: a cell of column 'group' holds 3 lines; a quote is opened"
    )


def test_a_stray_pair_of_quotes_in_a_column_that_is_not_read(tmp_path: Path) -> None:
    text = 'file,group,note\n1.png,p1,"x\n2.png,p2,y\n3.png,p3,z"\n'
    assert refusal(tmp_path, text).startswith("m.csv, line 2: a cell of column 'note' holds 3 lines")


def test_a_report_of_several_lines_is_no_stray_quote_and_is_told(tmp_path: Path) -> None:
    text = 'file,class,group,report\na.png,left,p1,"Heart, large.\nLungs, clear, dry, wide."\nb.png,dark,p2,none\n'
    samples, said = read(tmp_path, text)
    assert facts(samples) == WANTED
    assert said == [
        "m.csv: 1 rows have line breaks in a cell, line 2 for example; "
        "if images are missing, a quote is closed in the wrong row"
    ]


def test_text_behind_a_closing_quote(tmp_path: Path) -> None:
    text = 'file,class,group\n"a.png"x,left,p1\n'
    assert refusal(tmp_path, text).startswith("m.csv, line 2: text stands behind a closing quote")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,class\na.png\n", "m.csv, line 2: the row ends before column 'class'; fill it in"),
        ("file,class\na,b.png,left\n", "m.csv, line 2: more cells than columns; put quotes around names with commas"),
        ("file,group\n,p1\n", "m.csv, line 2: names no file; fill it in, or remove the row"),
        ("file,class,group\na.png,,p1\n", "m.csv, line 2: names no class; fill it in, or remove the row"),
    ],
)
def test_a_row_that_lacks_something_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(tmp_path, text) == sentence


# Dialects


GERMAN = PLAIN.replace(",", ";")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN + "\n\n,,\n",
        PLAIN.replace("\n", ",,\n"),
        GERMAN,
        "\ufeff" + GERMAN.replace("\n", ";0,93\r\n").replace("0,93", "score", 1),
        "sep=;\r\n" + GERMAN,
        PLAIN.replace(",", "\t").encode("utf-16"),
        PLAIN.replace(",", ", ").replace("\n", " \n"),
        'file, class , group\n"a.png" ,left,p1\n'.replace('" ,', '",') + ' "b.png", "dark" , p2\n'.replace('" ,', '",'),
        "Unnamed: 0,file,class,group\n0,a.png,left,p1\n1,b.png,dark,p2\n",
        ",file,class,group\n0,a.png,left,p1\n1,b.png,dark,p2\n",
        gzip.compress(PLAIN.encode(), mtime=0),
        "file,class,\u200bGroup\u00a0\na.png,left,p1\nb.png,dark,p2\u200b\n",
    ],
)
def test_a_table_says_the_same_in_every_dialect(tmp_path: Path, content: str | bytes) -> None:
    assert (facts(read(tmp_path, content)[0]), read(tmp_path, content)[1]) == (WANTED, [])


def test_a_parquet_manifest(tmp_path: Path) -> None:
    table = pa.table({
        "file": ["a.png", "b.png"], "class": pa.array(["left", "dark"]).dictionary_encode(), "group": [1.0, None],
        "__index_level_0__": [0, 1],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "m.parquet")
    samples, said = read(tmp_path, (tmp_path / "m.parquet").read_bytes())
    assert facts(samples) == [("a.png", (2,), "1"), ("b.png", (0,), "b.png")]
    assert len(said) == 1
    assert "1 of 2 rows name no patient ('')" in said[0]
    pq.write_table(table.set_column(1, "class", [["left", "cat"]]), tmp_path / "m.parquet")
    assert refusal(tmp_path, (tmp_path / "m.parquet").read_bytes()).startswith("m.csv, row 2: the models have no class")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,group\nMüller.png,p\n".encode("cp1252"), "m.csv, line 2: not a CSV file in UTF-8 (byte 0xfc); save it"),
        (PLAIN.encode("utf-16-le"), "m.csv, line 1: holds a NUL character"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "m.csv: damaged gzip data"),
        (b"PAR1" + bytes(40), "m.csv: damaged Parquet data"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes, sentence: str) -> None:
    assert refusal(tmp_path, content).startswith(sentence)


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.images.tables.MOST_BYTES", 2**20)
    content = gzip.compress(b"file\n" + b"a.png\n" * 2**20, mtime=0)
    assert "m.csv: holds more than 1 MiB of text" in refusal(tmp_path, content)
    assert "m.csv: has 1 MiB, more than the 1 MiB that are read" in refusal(tmp_path, bytes(2**20 + 1))


def test_a_fifo_as_a_manifest_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(InputError, match=r"m\.csv: is a FIFO, not a plain file"):
        read_dataset(tmp_path / "m.csv", CLASSES)
    with pytest.raises(InputError, match=r"/dev/zero: is a device, not a plain file"):
        read_dataset(Path("/dev/zero"), CLASSES)


# Headers


@pytest.mark.parametrize(("group"), ["Group", "GROUP", "group\u200b", " group "])
def test_headers_are_compared_without_case_and_blanks(tmp_path: Path, group: str) -> None:
    samples, said = read(tmp_path, PLAIN.replace("group", group))
    assert (facts(samples), said) == (WANTED, [])


@pytest.mark.parametrize("group", ["patient_id", "PatientID", "Subject ID", "groups", "grop"])
def test_a_header_that_may_be_meant_is_named(tmp_path: Path, group: str) -> None:
    samples, said = read(tmp_path, PLAIN.replace("group", group))
    assert [sample.group for sample in samples] == ["a.png", "b.png"]
    assert said == [
        "m.csv: no column 'group': every image counts as a patient of its own, and intervals may be too narrow; "
        f"it has: file, class, {group}; if {group!r} is meant, add --columns group={group} (in TOML: columns.group)"
    ]


def test_two_headers_that_may_be_meant_are_not_guessed_between(tmp_path: Path) -> None:
    said = refusal(tmp_path, "file,Group,group\na.png,p1,p2\n")
    assert said == "m.csv: has the columns 'Group' and 'group'; say which one counts with --columns group=NAME"
    samples, _ = read(tmp_path, "file,Group,group\na.png,p1,p2\n", columns={"group": "Group"})
    assert samples[0].group == "p1"


def test_a_missing_file_column_names_what_may_be_meant(tmp_path: Path) -> None:
    said = refusal(tmp_path, "Image Index,class\na.png,left\n")
    assert said == (
        "m.csv: no column 'file'; it has: Image Index, class; "
        "if 'Image Index' is meant, add --columns file=Image Index (in TOML: columns.file)"
    )


def test_a_class_column_under_another_name_is_not_lost_in_silence(tmp_path: Path) -> None:
    samples, said = read(tmp_path, "file,label,group\na.png,left,p1\n")
    assert samples[0].labels is None
    assert said == [
        "m.csv: no column 'class': its images have no classes; it has: file, label, group; "
        "if 'label' is meant, add --columns class=label (in TOML: columns.class)"
    ]


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    text = "Path,Label,Patient ID,fold\na.png,left,p1,test\nb.png,dark,p2,train\n"
    columns = parse_columns("file=Path, class=Label,group=Patient ID,split=fold")
    samples, said = read(tmp_path, text, columns=columns, split="test")
    assert (facts(samples), said) == (WANTED[:1], [])


def test_names_without_suffix_and_folder_are_put_together(tmp_path: Path) -> None:
    text = "id,view,class,group\na,ap,left,p1\nb,pa,dark,p2\n"
    samples, _ = read(tmp_path, text, columns={"file": "images_{view}/{id}.png"})
    assert [(sample.name, sample.path) for sample in samples] == [
        ("images_ap/a.png", tmp_path / "images_ap/a.png"), ("images_pa/b.png", tmp_path / "images_pa/b.png"),
    ]  # fmt: skip
    assert "names no file" in refusal(tmp_path, "id,group\n,p1\n", columns={"file": "{id}.png"})


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"file": "path"}, "m.csv: no column 'path', which --columns names as file; it has: file, class, group"),
        ({"file": "{id}.png"}, "m.csv: '{id}.png' names a column in braces that is not there; it has: file,"),
        ({"file": "{id"}, "m.csv: '{id' names a column in braces that is not there"),
        ({"class": "dark|cat"}, "m.csv: no column 'dark', which --columns names as a class"),
    ],
)
def test_a_named_column_that_is_not_there(tmp_path: Path, columns: dict[str, str], sentence: str) -> None:
    assert refusal(tmp_path, PLAIN, columns=columns).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path", "'path' is not ROLE=COLUMN"),
        ("file=a,file=b", "'file=b' is not ROLE=COLUMN"),
        ("patient=id", "'patient' is not known; a manifest has file, class, group, split"),
    ],
)
def test_columns_that_are_not_understood(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_columns(text)
    assert parse_columns(None) == {}


# Cells


def test_blanks_and_unicode_forms_make_no_second_patient_and_no_other_split(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Müller")
    text = f"file,class,group,split\na.png,left ,Müller,test\nb.png, dark,{decomposed} ,test \nc.png,dark,p3,train\n"
    samples, said = read(tmp_path, text, split="test")
    assert [(sample.name, sample.group) for sample in samples] == [("a.png", "Müller"), ("b.png", "Müller")]
    assert said == []


def test_a_split_in_another_case_is_told(tmp_path: Path) -> None:
    samples, said = read(
        tmp_path, "file,group,split\na,1,test\nb,2,Test\nc,3,TEST\nd,4,TEST\ne,5,train\n", split="test"
    )
    assert [sample.name for sample in samples] == ["a"]
    assert [sentence.partition(",")[0] for sentence in said] == [
        "m.csv: 1 rows have the split 'Test'", "m.csv: 2 rows have the split 'TEST'"
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "null", "None", "<NA>", "", " "])
def test_a_word_for_missing_is_no_patient(tmp_path: Path, word: str) -> None:
    samples, said = read(tmp_path, f"file,class,group\na.png,left,{word}\nb.png,dark,{word}\nc.png,dark,p1\n")
    assert [sample.group for sample in samples] == ["a.png", "b.png", "p1"]
    assert said == [
        f"m.csv: 2 of 3 rows name no patient ({word.strip()!r}): each of these images counts as a patient of its own; "
        "fill the column group in"
    ]


def test_a_word_for_missing_as_a_class(tmp_path: Path) -> None:
    assert "line 3: the models have no class 'nan'" in refusal(
        tmp_path, "file,class,group\na.png,left,1\nb.png,nan,2\n"
    )
    samples, said = read(tmp_path, "file,class,group\na.png,None,1\n", classes=("None", "effusion"))
    assert samples[0].labels == (0,)
    assert said == ["m.csv: 1 rows have the class 'None', which often stands for a missing value"]


@pytest.mark.parametrize("other", ["./a.png", "x/../a.png", "link/a.png", " a.png"])
def test_a_file_under_two_spellings_is_listed_twice(tmp_path: Path, other: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    said = refusal(tmp_path, f"file,group\na.png,1\n{other},2\n")
    assert "'a.png' is listed more than once" in said


def test_a_name_of_one_letter_is_listed_twice(tmp_path: Path) -> None:
    """Python keeps one object for each of them."""
    assert "'a' is listed more than once" in refusal(tmp_path, "file,group\na,1\na,2\n")


def test_two_links_to_one_file_are_two_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).symlink_to(tmp_path / "store")
    assert len(read(tmp_path, "file,group\na.png,1\nb.png,2\n")[0]) == 2


def test_another_case_is_another_file(tmp_path: Path) -> None:
    samples, _ = read(tmp_path, "file,group\na.png,1\nA.PNG,2\nb/a.png,3\n")
    assert len(samples) == 3


# Classes


def test_classes_by_index_are_read_in_the_order_of_the_model_and_told(tmp_path: Path) -> None:
    for text in (PLAIN.replace("left", "2").replace("dark", "0"), PLAIN.replace("left", "2.0").replace("dark", "0.0")):
        samples, said = read(tmp_path, text)
        assert facts(samples) == WANTED
        assert said == ["m.csv: classes are given by index, and read as 0 = dark, 1 = bright, 2 = left"]
    assert "line 2: the models have no class '3'" in refusal(tmp_path, PLAIN.replace("left", "3").replace("dark", "1"))


def test_digits_that_are_names_are_names(tmp_path: Path) -> None:
    samples, said = read(tmp_path, "file,class,group\na,1,p\nb,0,q\n", classes=("1", "0"))
    assert ([sample.labels for sample in samples], said) == ([(0,), (1,)], [])


def test_one_column_per_class(tmp_path: Path) -> None:
    text = "file,group,left,dark,bright\na.png,p1,1,0,0\nb.png,p2,0,1,0\n"
    samples, said = read(tmp_path, text)
    assert (facts(samples), said) == (WANTED, [])
    said_ = refusal(tmp_path, text.replace("1,0,0", "1,1,0"))
    assert said_ == "m.csv, line 2: 2 columns of classes hold 1; one label per image is expected"


def test_one_column_per_class_with_several_labels_and_uncertain_ones(tmp_path: Path) -> None:
    text = 'file,group,left,dark,bright\na,1,1.0,,-1.0\nb,2,0,"1,0",1\nc,3,,,\n'
    samples, said = read(tmp_path, text, multilabel=True)
    assert [sample.labels for sample in samples] == [(2,), (0, 1), ()]
    assert said == ["m.csv: 1 cells of classes are -1 (uncertain); they count as 0"]
    said_ = refusal(tmp_path, text.replace("-1.0", "maybe"), multilabel=True)
    assert said_ == "m.csv, line 2: column 'bright' holds 'maybe'; expected 1, 0, -1 (uncertain) or nothing"


def test_a_column_of_a_class_that_is_missing_is_told(tmp_path: Path) -> None:
    samples, said = read(tmp_path, "file,group,left,dark\na,1,1,0\n")
    assert samples[0].labels is None
    assert said == ["m.csv: has no column 'bright' beside those of other classes, so its images have no classes"]


# For training, which finds its classes in the data and needs a patient in every row


@pytest.mark.parametrize("word", ["", "nan"])
def test_a_patient_can_be_required_in_every_row(tmp_path: Path, word: str) -> None:
    (tmp_path / "m.csv").write_text(f"file,class,group\na,cat,1\nb,dog,{word}\n")
    with pytest.raises(InputError, match=r"m\.csv, line 3: names no patient; fill the column group in, or remove the"):
        read_manifest(tmp_path / "m.csv", needed=("file", "class", "group"))


def test_only_the_wanted_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,class,group,split\na,,nan,test\n")
    found = read_manifest(tmp_path / "m.csv", wanted=("file",))
    assert (found.rows[0].labels, found.rows[0].group) == (None, "")
    assert found.extras_of(found.rows[0]) == {"class": "", "group": "nan", "split": "test"}


def test_without_known_classes_any_name_is_one(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,class,group,view\na,cat|dog,1,ap\nb,,2,pa\n")
    found = read_manifest(tmp_path / "m.csv", Labelling(None, multilabel=True), needed=("file", "class", "group"))
    assert [row.labels for row in found.rows] == [("cat", "dog"), ()]
    assert [found.extras_of(row) for row in found.rows] == [{"view": "ap"}, {"view": "pa"}]
    (tmp_path / "m.csv").write_text("file,cat,dog,group\na,1,1,1\nb,0,,2\n")
    found = read_manifest(tmp_path / "m.csv", Labelling(None, multilabel=True), columns={"class": "cat|dog"})
    assert [row.labels for row in found.rows] == [("cat", "dog"), ()]


def test_a_line_break_in_the_name_of_a_column_does_not_tear_the_sentence(tmp_path: Path) -> None:
    said = refusal(tmp_path, '"fi\nle","class"\na.png,left\n')
    assert "it has: fi le, class" in said
    assert "\n" not in said
