"""Inputs that are changed at random, and what reads them: for the slow suite and for `scripts/fuzz.py`.

Files are changed byte by byte; JSON, and the JSON in a graph's metadata, also value by value, so that what is wrong
lies behind the parser; TOML also number by number.
"""

from __future__ import annotations

import copy
import io
import json
import random
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image
from pydicom import dcmwrite, uid
from pydicom.encaps import encapsulate

from export.sources.onnx import Preprocessing, list_layers
from harness.api.explanation import explain
from harness.bundle.format import MANIFEST, TamperedError, read_files, read_manifest
from harness.cli import cli
from harness.common.errors import EvidenceDriftError, InputError
from harness.evaluation.study_file import read_study
from harness.gate import reporters
from harness.gate.derive_policy import propose
from harness.gate.judge import judge
from harness.gate.policy import read_policy
from harness.images.dataset import read_dataset
from harness.images.deidentify import pixels_only
from harness.images.loading import decode_picture, is_dicom
from harness.images.notices import ignore
from harness.images.rule import ImageRule
from harness.models.metadata import Graph
from harness.models.session import Model
from harness.results.part_files import Store
from harness.results.plan import read_stored, restore
from harness.results.reader import labels_of, read_collected
from harness.results.schema import Evaluation
from tests import tiny_graphs
from tests.made_images import png, saved, tiff
from tests.made_results import evaluation
from tests.test_export_files import Network
from tests.test_harness_dicom import BYTES, RAMP, SHARED_GROUPS, SIGNED, dataset, enhanced, table
from tests.test_harness_dicom_colour import PICTURE, colours, palette

GREY = np.add.outer(np.arange(64), 3 * np.arange(48)).astype(np.uint8)
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])
IN_COLOUR = ImageRule(name="in colour", fit="squash")
NUMBERS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 7, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "../x", "\0",
    "\ud800", "x" * 5000, [], {}, [[]], [None], {"": 0}, [1, 2, 3], [10**6, 10**6], ["a", "a"],
)  # fmt: skip
TOML_VALUES = ("0", "-1", "nan", "-inf", "1e400", "10" * 50, '""', '"\\u0000"', "[]", "{}", "true", "2001-01-01")
POLICY = """format = 1
[requirements]
min_images = 10
same_data = false
[[rule]]
metric = "iou_top20"
method = "layercam"
layer = "penultimate"
statistic = "mean"
scope = "each-class"
min = 0.1
max_relative_worsening = 0.1
[[rule]]
metric = "accuracy"
statistic = "value"
min = 0.5
"""
STUDY = """data = "data/manifest.csv"
methods = ["layercam"]
map_size = 16
jitter = 1
chance = 2
seed = 3
margin = 0.02
[columns]
file = "file"
[[architecture]]
name = "tiny"
before = "before.onnx"
after = ["after.onnx"]
"""
TABLES = {
    "csv": b"file,class,group,split\na.png,left,p1,test\nb.png,dark,p2,train\n",
    "excel": "file;left;dark;bright\na.png;1;0;0\n".encode("utf-16"),
    "quoted": b'"file","class"\n"a,b.png","left"\n',
}

PICTURES = (
    "png", "jpeg", "cmyk", "palette-dicom", "rgb-dicom", "tiff", "big-tiff", "lzw", "gif", "webp", "bmp", "dicom",
    "enhanced", "lut", "deflated", "jpeg-dicom", "j2k-dicom",
)  # fmt: skip
DOCUMENTS = (
    "study", "policy", "onnx metadata", "onnx", "onnx, cut", "onnx source, cut", "predictions", "maps", "plan.json",
    "evaluation.json", "bundle",
)  # fmt: skip
NAMES = (*PICTURES, *TABLES, *DOCUMENTS)

Change = Callable[[bytes, random.Random], bytes]
Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Kind:
    """A sort of input: a sound one, how it is changed, and what reads it."""

    content: bytes
    change: Change
    read: Read


@dataclass(frozen=True)
class Outcome:
    """How the reading of one input ended: `accepted`, `sentence`, or the name of an error that is a fault."""

    how: str
    seconds: float
    error: Exception | None = None


def tried(kind: Kind, seed: int) -> Outcome:
    """The outcome for the input of a seed."""
    return outcome(lambda: kind.read(kind.change(kind.content, random.Random(seed))))


def outcome(work: Callable[[], object]) -> Outcome:
    """How some work ends. A sentence is an error for users, of one line."""
    started = time.perf_counter()
    how, found = "accepted", None
    try:
        work()
    except (EvidenceDriftError, TamperedError) as error:
        how, found = ("sentence", error) if "\n" not in str(error) else ("lines", error)
    except Exception as error:  # a fault of this program, whatever it is
        how, found = type(error).__name__, error
    return Outcome(how, time.perf_counter() - started, found)


def largest_memory() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Changes


def changed(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one to sixteen changes: other values, cuts, insertions; half of them near the beginning."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(min(len(found), rng.choice([200, len(found)])) or 1)
        kind = rng.randrange(10)
        if kind < 5:
            found[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 5:
            del found[place : place + rng.randrange(1, 50)]
        elif kind == 6:
            found[place:place] = rng.randbytes(rng.randrange(1, 20))
        elif kind == 7:
            found[place : place + 4] = rng.choice(NUMBERS)
        elif kind == 8:
            del found[place:]
        else:
            found[place:place] = found[: rng.randrange(1, 300)]
    return bytes(found)


def truncated(content: bytes, rng: random.Random) -> bytes:
    """The first bytes."""
    return content[: rng.randrange(len(content))]


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """JSON with one to three other values, or one in four times with other bytes; one in fifty is nested deeply."""
    if rng.random() < 0.02:
        return b'{"format":' + 100_000 * b"["
    if rng.random() < 0.25:
        return changed(content, rng)
    value = json.loads(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        value = _with_another_value(value, rng)
    return json.dumps(value).encode()


def _with_another_value(value: Any, rng: random.Random) -> Any:
    """The tree with one entry replaced, removed or repeated; which one is drawn on the way down."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return copy.deepcopy(rng.choice(VALUES))
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    how = rng.random()
    if how < 0.1:
        del value[key]
    elif how < 0.15 and isinstance(value, list):
        value.append(copy.deepcopy(value[key]))
    elif how < 0.15:
        value[rng.choice(["", "x", "format", 200 * "k"])] = copy.deepcopy(value[key])
    else:
        value[key] = _with_another_value(value[key], rng)
    return value


def changed_toml(content: bytes, rng: random.Random) -> bytes:
    """TOML in which one value is another, or with other bytes."""
    if rng.random() < 0.02:
        return content + b"\nx = " + 100_000 * b"["
    if rng.random() < 0.4:
        return changed(content, rng)
    lines = content.decode().splitlines()
    number = rng.choice([n for n, line in enumerate(lines) if "=" in line])
    value = rng.choice(TOML_VALUES)
    lines[number] = lines[number].partition("=")[0] + "= " + value
    return "\n".join(lines).encode()


def changed_metadata(content: bytes, rng: random.Random) -> bytes:
    """A graph of which one entry of its metadata is another."""
    model = onnx.ModelProto.FromString(content)
    item = rng.choice(model.metadata_props)
    try:
        item.value = changed_json(item.value.encode(), rng).decode("utf-8", "replace")
    except ValueError:  # no JSON, the format for example
        item.value = rng.choice(["", "0", "-1", "[", "x" * 5000])
    return model.SerializeToString()


# Sorts of inputs


def pictures() -> dict[str, Kind]:
    """Pictures of every kind that is read, DICOM among them."""
    made: dict[str, bytes] = {
        "png": png(COLOUR, 8, 2),
        "jpeg": saved(COLOUR, "JPEG", progressive=True),
        "cmyk": saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
        "palette-dicom": as_bytes(palette(8)),
        "rgb-dicom": as_bytes(colours(PICTURE, "RGB")),
        "tiff": tiff(np.dstack([COLOUR, GREY]), 2, more=[(338, 3, [2])]),
        "big-tiff": tiff(COLOUR, 2, planes=2, big=True, order=">"),
        "lzw": saved(GREY, "TIFF", compression="tiff_lzw"),
        "gif": saved(COLOUR, "GIF"),
        "webp": saved(COLOUR, "WEBP"),
        "bmp": saved(COLOUR, "BMP"),
        "dicom": as_bytes(dataset(SIGNED, 16, WindowCenter=1, WindowWidth=5)),
        "enhanced": as_bytes(enhanced(SHARED_GROUPS)),
        "lut": as_bytes(dataset(RAMP, 12, VOILUTSequence=table(0, 8, list(range(256))))),
        "deflated": as_bytes(dataset(BYTES, 8, uid.DeflatedExplicitVRLittleEndian)),
        "jpeg-dicom": as_bytes(dataset(BYTES, 8, uid.JPEGBaseline8Bit, PixelData=encapsulate([saved(BYTES, "JPEG")]))),
        "j2k-dicom": as_bytes(
            dataset(BYTES, 8, uid.JPEG2000, PixelData=encapsulate([saved(BYTES, "JPEG2000", no_jp2=True)]))
        ),
    }
    readers = {"cmyk": _read_in_colour}  # which the grey rule refuses
    return {name: Kind(content, changed, readers.get(name, _read_picture)) for name, content in made.items()}


def as_bytes(made: Any) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def _read_in_colour(content: bytes) -> None:
    decode_picture(Path("a"), content, IN_COLOUR, notice=ignore)


def _read_picture(content: bytes) -> None:
    with suppress(InputError):  # as the default rule is asked next, which answers
        _read_in_colour(content)
    decode_picture(Path("a"), content, notice=ignore)
    if is_dicom(content):
        try:
            reduced = pixels_only(content)
        except InputError:
            return
        before, after = (decode_picture(Path("a"), one, notice=ignore) for one in (content, reduced))
        np.testing.assert_array_equal(before, after)


def tables(folder: Path) -> dict[str, Kind]:
    """Manifests."""
    read = _by_file(folder / "m.csv", lambda path: read_dataset(path, ("dark", "bright", "left"), warn=lambda _: None))
    return {name: Kind(content, changed, read) for name, content in TABLES.items()}


def documents(folder: Path) -> dict[str, Kind]:
    """TOML, graphs, and the files of results and bundles, in a folder that holds a result and a bundle."""
    out, bundle = prepared(folder)
    (folder / "sound.toml").write_text(POLICY)
    graph = (folder / "before.onnx").read_bytes()
    part = out / "predictions" / "part-00000.parquet"
    maps = out / "maps" / "part-00000.parquet"
    return {
        "study": Kind(STUDY.encode(), changed_toml, _by_file(folder / "study.toml", read_study)),
        "policy": Kind(POLICY.encode(), changed_toml, _by_file(folder / "policy.toml", _judge)),
        "onnx metadata": Kind(graph, changed_metadata, _by_file(folder / "changed.onnx", _explain)),
        "onnx": Kind(graph, changed, _by_file(folder / "changed.onnx", Graph.read)),
        "onnx, cut": Kind(graph, truncated, _by_file(folder / "changed.onnx", Model.open)),
        "onnx source, cut": Kind(_network(folder), truncated, _by_file(folder / "source.onnx", _layers)),
        "predictions": Kind(part.read_bytes(), changed, _by_file(part, lambda _: _collected(out))),
        "maps": Kind(maps.read_bytes(), changed, _by_file(maps, lambda _: _maps(out))),
        "plan.json": _json(out / "plan.json", lambda _: _collected(out)),
        "evaluation.json": _json(folder / "evaluation.json", _report, evaluation().model_dump_json()),
        "bundle": _json(bundle / MANIFEST, lambda _: read_files(bundle, read_manifest(bundle)[0])),
    }


def prepared(folder: Path) -> tuple[Path, Path]:
    """A result folder and a bundle, with the graphs and pictures that they were made of beside them."""
    for name, nudge in (("before", 0.0), ("after", 0.3)):
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, nudge=nudge)
    manifest = tiny_graphs.write_images(folder / "data", patients=6, each=1)
    graphs = ["--before", folder / "before.onnx", "--after", folder / "after.onnx", "--data", manifest]
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(folder / "out", *graphs, "--select", "all", "--jitter", 1, "--chance", 1, "--map-size", 16)
    words = ["pack", folder / "before.onnx", "--data", manifest, "--out", folder / "bundle", "--cases", 1, "--quiet"]
    cli.main([str(word) for word in words], standalone_mode=False)
    return folder / "out", folder / "bundle"


def _network(folder: Path) -> bytes:
    """A classifier that was not exported yet."""
    network = Network()
    network.head(network.features())
    return network.save(folder / "source.onnx").read_bytes()


def _by_file(path: Path, read: Callable[[Path], object]) -> Read:
    """Read from a file, which holds what it held before afterwards."""

    def read_file(content: bytes) -> None:
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        try:
            read(path)
        finally:
            if before is not None:
                path.write_bytes(before)

    return read_file


def _json(path: Path, read: Callable[[Path], object], content: str | None = None) -> Kind:
    return Kind((content or path.read_text()).encode(), changed_json, _by_file(path, read))


def _judge(path: Path) -> None:
    assert reporters.terminal(judge(evaluation(), read_policy(path), evaluation()))


def _report(path: Path) -> None:
    """What the gate makes of a result; a rule cannot be derived from every one."""
    result = Evaluation.read(path)
    assert reporters.terminal(judge(result, read_policy(path.with_name("sound.toml")), result))
    propose(result, "digest", "name")


def _explain(path: Path) -> None:
    explain(path, GREY.astype(np.float32))


def _layers(path: Path) -> None:
    list_layers(path, Preprocessing())


def _collected(out: Path) -> None:
    stored, samples = restore(read_stored(out), out)
    read_collected(Store(out, labels_of(stored)), stored.plan, samples, len(stored.plan.checkpoints))


def _maps(out: Path) -> None:
    stored, _ = restore(read_stored(out), out)
    Store(out, labels_of(stored)).read("maps", [0]).to_pylist()


def kind_of(name: str, folder: Path) -> Kind:
    """The sort of that name of NAMES; what it takes is made in the folder."""
    if name in PICTURES:
        return pictures()[name]
    return tables(folder)[name] if name in TABLES else documents(folder)[name]
