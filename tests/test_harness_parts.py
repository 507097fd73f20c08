"""Parts of a result folder: each says what it belongs to, and is refused by name where it does not or is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.common.errors import InputError
from harness.report.gallery import Gallery
from harness.results.part_files import SCHEMAS, Store
from harness.results.part_labels import METADATA_KEY, Label, PartLabels
from harness.results.plan import read_scored, restore
from harness.results.pseudonyms import Names
from harness.results.reader import labels_of
from tests import made_studies, tiny_graphs
from tests.tiny_graphs import evaluate

FIRST = Label("maps", "first", "", ("a" * 64,), "p" * 64, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair, two methods: parts 0 of the predictions and maps are of `before`, parts 1 of `after`."""
    folder = tmp_path_factory.mktemp("parts")
    with tiny_graphs.in_brief():
        return made_studies.pair(folder)


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; parts of versions without labels where `unlabelled` did so."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def part(out: Path, kind: str, number: int) -> Path:
    return out / kind / f"part-{number:05d}.parquet"


def unlabel(path: Path) -> None:
    """As an earlier version wrote it."""
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path, compression="zstd")
    assert METADATA_KEY not in (pq.read_schema(path).metadata or {})


def again(out: Path, to: Path) -> None:
    with tiny_graphs.in_brief():
        evaluate(to, "--from", out)


def test_every_part_says_what_it_belongs_to(made: Path) -> None:
    stored, _ = restore(read_scored(made), made)
    labels = labels_of(stored)
    for kind in SCHEMAS:
        assert len(list((made / kind).glob("part-*.parquet"))) == len(labels.numbers(kind))
        for number in labels.numbers(kind):
            expected = labels.of(kind, number)
            assert expected is not None
            assert pq.read_schema(part(made, kind, number)).metadata[METADATA_KEY] == expected.metadata()[METADATA_KEY]
    before = labels.of("maps", 0)
    assert before is not None
    assert (before.owner, before.digests) == ("transfer", (stored.plan.by_key["transfer"].graph.digest,))


@pytest.mark.parametrize("kind", ["predictions", "maps"])
@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "of an earlier version"])
def test_a_part_of_the_other_checkpoint_is_refused(out: Path, tmp_path: Path, kind: str, labelled: bool) -> None:
    if not labelled:
        unlabel(part(out, kind, 0))
    shutil.copy(part(out, kind, 0), part(out, kind, 1))
    sentence = rf"out/{kind}/part-00001.parquet: holds {kind} of transfer, expected finetune; remove it"
    with pytest.raises(InputError, match=sentence) as refused:
        again(out, tmp_path / "again")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "again").exists()


def test_a_folder_of_an_earlier_version_is_read(out: Path, tmp_path: Path) -> None:
    for path in out.rglob("part-*.parquet"):
        unlabel(path)
    again(out, tmp_path / "again")
    assert Gallery(out, Names(None)).data()["cases"]


def test_a_part_of_the_scores_under_another_method_is_refused(out: Path) -> None:
    numbers = range(len(list((out / "scores").glob("part-*.parquet"))))  # the last two are of chance
    shutil.copy(part(out, "scores", numbers[-3]), part(out, "scores", numbers[-4]))
    sentence = (
        r"holds scores of transfer -> finetune, early, gradcam\+\+, expected transfer -> finetune, early, layercam"
    )
    with pytest.raises(InputError, match=sentence):
        Gallery(out, Names(None)).data()


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (Label("maps", "second", "", ("a" * 64,), "p" * 64, 0), "holds maps of second, expected first"),
        (Label("predictions", "first", "", ("a" * 64,), "p" * 64, 0),
         "holds predictions of first, expected maps of first"),
        (Label("maps", "first", "", ("b" * 64,), "p" * 64, 0),
         "holds maps of first computed with another model file (bbbbbbbbbbbb, expected aaaaaaaaaaaa)"),
        (Label("maps", "first", "", ("a" * 64,), "q" * 64, 0),
         "holds maps of first computed for other data or with other options"),
        (Label("maps", "first", "", ("a" * 64,), "p" * 64, 3), "holds block 3 of the maps of first, expected block 0"),
        (Label("maps", "x\n\u202ey", "", ("a" * 64,), "p" * 64, 0), "holds maps of x  y, expected first"),
        (FIRST, None),
    ],
)  # fmt: skip
def test_a_label_says_how_it_differs(there: Label, sentence: str | None) -> None:
    assert FIRST.complaint(there.metadata()) == sentence


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"kind": "maps"}', b"\xff"])
def test_a_label_that_cannot_be_read_is_refused(content: bytes) -> None:
    assert FIRST.complaint({METADATA_KEY: content}) == "its label cannot be read"


def test_a_part_that_the_plan_does_not_have_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, PartLabels({"maps": [("first", "", ("a",))]}, {"maps": "p"}, 2))
    store.make(["maps"])
    for number in (1, 2):
        Store(tmp_path).write("maps", number, [SCHEMAS["maps"].empty_table()])
    assert store.read("maps", [1]).num_rows == 0
    with pytest.raises(InputError, match=r"part-00002.parquet: belongs to nothing in the plan"):
        store.read("maps", [2])


def read_by_pyarrow(path: Path, kind: str, columns: list[str], equal: dict[str, object]) -> pa.Table:
    where = [(name, "==", value) for name, value in equal.items()] or None
    return pq.read_table(path, columns=columns, filters=where, schema=SCHEMAS[kind])


@pytest.mark.parametrize(
    ("kind", "equal"),
    [
        ("maps", {"method": "layercam", "draw": 0}),
        ("maps", {"draw": 1}),
        ("maps", {"draw": np.int64(1)}),
        ("maps", {"method": "none"}),
        ("maps", {"draw": 99}),
        ("maps", {"height": 7, "class": "none"}),
        ("maps", {}),
        ("scores", {"reference": "observed", "metric": "iou_top20"}),
        ("scores", {"metric": "ssim"}),
        ("scores", {"record": 3}),
        ("scores", {"value": 1.0}),
    ],
)
def test_rows_are_those_that_pyarrow_finds(made: Path, kind: str, equal: dict[str, object]) -> None:
    for columns in (["record", "reason"], ["reason", *equal], []):
        expected = read_by_pyarrow(part(made, kind, 0), kind, columns, equal)
        found = next(Store(made).scan(kind, [0], columns, **equal))
        assert found.to_pydict() == expected.to_pydict()
        assert found.schema.equals(expected.schema, check_metadata=True)


def written_again(table: pa.Table, texts: pa.DataType) -> pa.Table:
    """The same without a column, and with texts of another type."""
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(number, field.name, table[field.name].cast(pa.string()).cast(texts))
    return table.drop_columns(["residual", "checkpoint"])


@pytest.mark.parametrize("texts", [pa.string(), pa.binary(), pa.large_string()], ids=str)
@pytest.mark.parametrize("equal", [{"method": "layercam"}, {"method": "none"}, {"draw": 0}, {}], ids=str)
def test_a_part_that_others_wrote_again_is_read(out: Path, texts: pa.DataType, equal: dict[str, object]) -> None:
    path, columns = part(out, "maps", 0), ["record", "method", "residual"]
    whole = Store(out).read("maps", [0], columns[:2], **equal).to_pydict()
    pq.write_table(written_again(pq.read_table(path), texts), path)
    found = Store(out).read("maps", [0], columns, **equal)
    assert found.schema.field("method").type == SCHEMAS["maps"].field("method").type
    assert found.select(columns[:2]).to_pydict() == whole
    assert found["residual"].null_count == len(found)


def test_a_damaged_part_is_closed_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while somebody holds the error: an open file cannot be removed everywhere."""
    path, opened, really = part(out, "maps", 0), list[pa.NativeFile](), pa.OSFile
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setattr(pa, "OSFile", lambda name: opened.append(really(name)) or opened[-1])
    with pytest.raises(InputError, match="damaged") as held:
        Store(out).read("maps", [0])
    assert held.traceback
    assert [file.closed for file in opened] == [True]


def test_a_flipped_bit_is_noticed_and_its_file_named(out: Path) -> None:
    """Data pages are under a checksum; what a flip of an unread byte of a header or footer leaves alone is allowed."""
    stored, _ = restore(read_scored(out), out)
    store, path = Store(out, labels_of(stored)), part(out, "maps", 1)
    content, said = path.read_bytes(), list[str]()
    places = np.random.default_rng(0).choice(len(content), 150, replace=False)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            store.read("maps", [1])
        except InputError as error:
            said.append(str(error))
    assert all(sentence.startswith(f"{path}: ") for sentence in said)
    assert len(said) > 0.7 * len(places)


def test_a_flipped_bit_of_a_value_is_noticed(out: Path) -> None:
    stored, _ = restore(read_scored(out), out)
    store, path = Store(out, labels_of(stored)), part(out, "maps", 1)
    column = pq.read_metadata(path).row_group(0).column(SCHEMAS["maps"].names.index("map"))
    assert column.path_in_schema.startswith("map.")
    content, end = path.read_bytes(), column.data_page_offset + column.total_compressed_size
    for place in range(end - 200, end - 100):  # well inside the last page of the maps' values
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"part-00001.parquet: damaged \("):
            store.read("maps", [1])


def test_a_cut_or_missing_part_is_named(out: Path) -> None:
    stored, _ = restore(read_scored(out), out)
    store, path = Store(out, labels_of(stored)), part(out, "maps", 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"maps/part-00001.parquet: damaged \("):
        store.read("maps", [1])
    path.unlink()
    with pytest.raises(InputError, match=r"maps/part-00001.parquet: is not there; run"):
        store.read("maps", [1])
