"""Files that were changed at random: a picture, a table, or one sentence; never another error, and in little time."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmwrite, uid
from pydicom.encaps import encapsulate

from harness.common.errors import InputError
from harness.images.dataset import read_dataset
from harness.images.deidentify import pixels_only
from harness.images.loading import decode_grey, is_dicom
from harness.images.notices import ignore
from tests.made_images import png, saved, tiff
from tests.test_harness_dicom import BYTES, RAMP, SHARED_GROUPS, SIGNED, dataset, enhanced, table

pytestmark = pytest.mark.slow

GREY = np.add.outer(np.arange(64), 3 * np.arange(48)).astype(np.uint8)
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])
NUMBERS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
ROUNDS = 1500  # changed files of each kind
LONGEST = 2.0  # seconds for a file of some kilobytes


def as_bytes(made) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(COLOUR, 8, 2),
    "jpeg": lambda: saved(COLOUR, "JPEG", progressive=True),
    "tiff": lambda: tiff(np.dstack([COLOUR, GREY]), 2, more=[(338, 3, [2])]),
    "big-tiff": lambda: tiff(COLOUR, 2, planes=2, big=True, order=">"),
    "lzw": lambda: saved(GREY, "TIFF", compression="tiff_lzw"),
    "gif": lambda: saved(COLOUR, "GIF"),
    "webp": lambda: saved(COLOUR, "WEBP"),
    "bmp": lambda: saved(COLOUR, "BMP"),
    "dicom": lambda: as_bytes(dataset(SIGNED, 16, WindowCenter=1, WindowWidth=5)),
    "enhanced": lambda: as_bytes(enhanced(SHARED_GROUPS)),
    "lut": lambda: as_bytes(dataset(RAMP, 12, VOILUTSequence=table(0, 8, list(range(256))))),
    "deflated": lambda: as_bytes(dataset(BYTES, 8, uid.DeflatedExplicitVRLittleEndian)),
    "jpeg-dicom": lambda: as_bytes(
        dataset(BYTES, 8, uid.JPEGBaseline8Bit, PixelData=encapsulate([saved(BYTES, "JPEG")]))
    ),
    "j2k-dicom": lambda: as_bytes(
        dataset(BYTES, 8, uid.JPEG2000, PixelData=encapsulate([saved(BYTES, "JPEG2000", no_jp2=True)]))
    ),
}
TABLES = {
    "csv": b"file,class,group,split\na.png,left,p1,test\nb.png,dark,p2,train\n",
    "excel": "file;left;dark;bright\na.png;1;0;0\n".encode("utf-16"),
    "quoted": b'"file","class"\n"a,b.png","left"\n',
}


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


def refused(work: Callable[[], object]) -> bool:
    """Whether it ends in a sentence of one line; any other error, and a long time, fail the test."""
    started = time.perf_counter()
    try:
        work()
    except InputError:
        return True
    finally:
        assert time.perf_counter() - started < LONGEST
    return False


@pytest.mark.parametrize("kind", PICTURES)
def test_changed_pictures(kind: str) -> None:
    rng, content, count = random.Random(0), PICTURES[kind](), 0
    assert not refused(lambda: decode_grey(Path("a"), content, notice=ignore))
    for _ in range(ROUNDS):
        one = changed(content, rng)
        bad = refused(lambda one=one: decode_grey(Path("a"), one, notice=ignore))
        count += bad
        if not bad and is_dicom(one):
            refused(lambda one=one: require_same_pixels(one))
    assert 0 < count < ROUNDS


def require_same_pixels(content: bytes) -> None:
    reduced = pixels_only(content)
    before, after = (decode_grey(Path("a"), one, notice=ignore) for one in (content, reduced))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", TABLES)
def test_changed_tables(kind: str, tmp_path: Path) -> None:
    rng, path, count = random.Random(0), tmp_path / "m.csv", 0
    for _ in range(ROUNDS):
        path.write_bytes(changed(TABLES[kind], rng))
        count += refused(lambda: read_dataset(path, ("dark", "bright", "left"), warn=lambda _: None))
    assert 0 < count < ROUNDS
