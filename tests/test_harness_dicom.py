"""DICOM files become the grey levels that the standard says a viewer shows."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder

from harness.common.errors import InputError
from harness.images import loading
from harness.images.notices import PictureWarning
from tests.made_images import saved

SHARED = ("rsna-pa-monochrome1-jpeg.dcm", "rsna-pa-monochrome2-jpeg.dcm", "rsna-pa-monochrome2-uncompressed.dcm")
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # every value of 12 bits
BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)
SIGNED = RAMP.astype(np.int16) - 2048


def dataset(pixels: np.ndarray, bits: int, syntax: uid.UID = uid.ExplicitVRLittleEndian, **tags: object) -> FileDataset:
    """One grey frame of `pixels` with `bits` stored bits; `tags` are set, or with None deleted, afterwards."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=syntax.is_little_endian)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    made.PhotometricInterpretation, made.SamplesPerPixel = "MONOCHROME2", 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.Rows, made.Columns = pixels.shape[-2:]
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OW"
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def written(folder: Path, made: FileDataset, name: str = "a.dcm") -> Path:
    made.save_as(folder / name, enforce_file_format=True)
    return folder / name


def shown(folder: Path, pixels: np.ndarray, bits: int, **tags: object) -> np.ndarray:
    found = loading.read_picture(written(folder, dataset(pixels, bits, **tags)))
    assert found.dtype == np.float32
    assert found.shape == pixels.shape
    return found


def table(first: int, bits: int, entries: list[int], count: int | None = None) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) if count is None else count, first, bits])
    item.add_new("LUTData", "US", entries)
    return pydicom.Sequence([item])


def literal_linear(x: float, c: float, w: float) -> float:
    """The pseudo-code of PS3.3 C.11.2.1.2.1 with ymin = 0 and ymax = 255."""
    if x <= c - 0.5 - (w - 1) / 2:
        return 0
    if x > c - 0.5 + (w - 1) / 2:
        return 255
    return ((x - (c - 0.5)) / (w - 1) + 0.5) * 255


def literal_linear_exact(x: float, c: float, w: float) -> float:
    """The pseudo-code of PS3.3 C.11.2.1.3.2."""
    if x <= c - w / 2:
        return 0
    if x > c + w / 2:
        return 255
    return ((x - c) / w + 0.5) * 255


def literal_sigmoid(x: float, c: float, w: float) -> float:
    """The equation of PS3.3 C.11.2.1.3.1."""
    return 255 / (1 + math.exp(-4 * (x - c) / w))


def each(function: Callable[[float], float], pixels: np.ndarray) -> np.ndarray:
    return np.array([function(float(x)) for x in pixels.ravel()]).reshape(pixels.shape)


# ---- step 1: modality


@pytest.mark.parametrize(
    ("pixels", "bits", "low", "high"),
    [(BYTES, 8, 0, 255), (RAMP, 12, 0, 4095), (RAMP * 16, 16, 0, 65535), (SIGNED, 12, -2048, 2047)],
)
def test_without_voi_the_stored_bits_are_the_range(
    tmp_path: Path, pixels: np.ndarray, bits: int, low: int, high: int
) -> None:
    wanted = each(lambda x: (x - low) / (high - low) * 255, pixels)
    np.testing.assert_allclose(shown(tmp_path, pixels, bits), wanted, atol=1e-4)


def test_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    np.testing.assert_array_equal(shown(tmp_path, BYTES, 8), BYTES)


def test_rescale_cancels_in_the_full_range(tmp_path: Path) -> None:
    found = shown(tmp_path, RAMP, 12, RescaleSlope=2.5, RescaleIntercept=-1024)
    np.testing.assert_allclose(found, RAMP / 4095 * 255, atol=1e-4)


def test_negative_slope_inverts_the_full_range(tmp_path: Path) -> None:
    found = shown(tmp_path, RAMP, 12, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_allclose(found, 255 - RAMP / 4095 * 255, atol=1e-4)


def test_window_sees_rescaled_values(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 0.5, "RescaleIntercept": -1000, "WindowCenter": 40, "WindowWidth": 400}
    wanted = each(lambda x: literal_linear(0.5 * x - 1000, 40, 400), RAMP)
    np.testing.assert_allclose(shown(tmp_path, RAMP, 12, **tags), wanted, atol=1e-4)


def test_slope_alone_has_no_intercept(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 3, "WindowCenter": 3000, "WindowWidth": 2000}
    wanted = each(lambda x: literal_linear(3 * x, 3000, 2000), RAMP)
    np.testing.assert_allclose(shown(tmp_path, RAMP, 12, **tags), wanted, atol=1e-4)


def test_modality_table_comes_before_the_window(tmp_path: Path) -> None:
    squares = [i * i for i in range(256)]
    tags = {"ModalityLUTSequence": table(0, 16, squares), "WindowCenter": 30000, "WindowWidth": 20000}
    wanted = each(lambda x: literal_linear(x * x, 30000, 20000), BYTES)
    np.testing.assert_allclose(shown(tmp_path, BYTES, 8, **tags), wanted, atol=1e-4)


def test_modality_table_without_voi_is_scaled_by_its_bits(tmp_path: Path) -> None:
    squares = [i * i for i in range(256)]
    found = shown(tmp_path, BYTES, 8, ModalityLUTSequence=table(0, 16, squares))
    np.testing.assert_allclose(found, np.float64(BYTES) ** 2 / 65535 * 255, atol=1e-4)


# ---- step 2: windows and tables

WINDOWS = {"LINEAR": literal_linear, "LINEAR_EXACT": literal_linear_exact, "SIGMOID": literal_sigmoid}


@pytest.mark.parametrize(
    ("centre", "width"), [(2048, 4096), (1000, 1), (1000.5, 1), (1000, 2), (300.5, 17.25), (-50, 400)]
)
@pytest.mark.parametrize("function", WINDOWS)
def test_windows_are_those_of_the_standard(tmp_path: Path, function: str, centre: float, width: float) -> None:
    if function == "SIGMOID":
        width = max(width, 25)  # a steeper one overflows in the literal formula
    wanted = each(lambda x: WINDOWS[function](x, centre, width), RAMP)
    found = shown(tmp_path, RAMP, 12, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_steep_sigmoid_does_not_overflow(tmp_path: Path) -> None:
    found = shown(tmp_path, RAMP, 12, WindowCenter=2000.5, WindowWidth=0.01, VOILUTFunction="SIGMOID")
    np.testing.assert_array_equal(found, np.where(RAMP > 2000, 255, 0))


def test_window_of_signed_pixels(tmp_path: Path) -> None:
    found = shown(tmp_path, SIGNED, 12, WindowCenter=-200, WindowWidth=900)
    np.testing.assert_allclose(found, each(lambda x: literal_linear(x, -200, 900), SIGNED), atol=1e-4)


def test_first_of_several_windows_counts(tmp_path: Path) -> None:
    found = shown(tmp_path, RAMP, 12, WindowCenter=[500, 2000], WindowWidth=[300, 100])
    np.testing.assert_allclose(found, each(lambda x: literal_linear(x, 500, 300), RAMP), atol=1e-4)


@pytest.mark.parametrize("tags", [{"WindowCenter": 500}, {"WindowCenter": "", "WindowWidth": ""}, {"WindowWidth": 9}])
def test_half_or_empty_window_is_none(tmp_path: Path, tags: dict[str, object]) -> None:
    np.testing.assert_allclose(shown(tmp_path, RAMP, 12, **tags), RAMP / 4095 * 255, atol=1e-4)


def test_voi_table_is_preferred_to_a_window(tmp_path: Path) -> None:
    entries = [1000 - 3 * i for i in range(300)]
    tags = {"VOILUTSequence": table(500, 10, entries), "WindowCenter": 500, "WindowWidth": 300}
    wanted = each(lambda x: entries[min(max(int(x) - 500, 0), 299)] / 1023 * 255, RAMP)
    np.testing.assert_allclose(shown(tmp_path, RAMP, 12, **tags), wanted, atol=1e-4)


def test_voi_table_of_eight_bits_with_many_entries(tmp_path: Path) -> None:
    entries = [i // 16 for i in range(4096)]
    found = shown(tmp_path, RAMP, 12, VOILUTSequence=table(0, 8, entries))
    np.testing.assert_allclose(found, RAMP // 16, atol=1e-4)


def test_voi_table_after_a_rescale_takes_the_nearest_entry(tmp_path: Path) -> None:
    entries = list(range(0, 2048, 2))
    tags = {"RescaleSlope": 0.3, "RescaleIntercept": -100, "VOILUTSequence": table(-100, 11, entries)}
    wanted = each(lambda x: entries[min(round(0.3 * x), 1023)] / 2047 * 255, RAMP)
    np.testing.assert_allclose(shown(tmp_path, RAMP, 12, **tags), wanted, atol=1e-4)


def test_negative_first_value_written_as_unsigned(tmp_path: Path) -> None:
    entries = list(range(4096))
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTSequence": table(65536 - 1024, 12, entries)}
    np.testing.assert_allclose(shown(tmp_path, RAMP, 12, **tags), RAMP / 4095 * 255, atol=1e-4)


def test_table_of_65536_entries_is_announced_by_zero(tmp_path: Path) -> None:
    entries = list(range(65535, -1, -1))
    sequence = table(0, 16, entries, count=0)
    sequence[0].add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = shown(tmp_path, pixels, 16, VOILUTSequence=sequence)
    np.testing.assert_allclose(found, (65535 - pixels.astype(np.int64)) / 65535 * 255, atol=1e-4)


def test_entries_above_their_bits_are_white(tmp_path: Path) -> None:
    found = shown(tmp_path, BYTES, 8, VOILUTSequence=table(0, 8, [100, 300, 255]))
    np.testing.assert_allclose(found[0, :3], [100, 255, 255], atol=1e-4)


def test_table_of_packed_bytes(tmp_path: Path) -> None:
    sequence = table(0, 8, list(range(256)))
    sequence[0].add_new("LUTData", "OW", bytes(range(255, -1, -1)))
    np.testing.assert_allclose(shown(tmp_path, BYTES, 8, VOILUTSequence=sequence), 255 - BYTES.astype(int), atol=1e-4)


def test_big_endian_pixels_and_tables(tmp_path: Path) -> None:
    sequence = table(0, 12, [0] * 4096)
    sequence[0].add_new("LUTData", "OW", np.arange(4095, -1, -1).astype(">u2").tobytes())
    made = dataset(RAMP.astype(">u2"), 12, uid.ExplicitVRBigEndian, VOILUTSequence=sequence)
    np.testing.assert_allclose(loading.read_picture(written(tmp_path, made)), (4095 - RAMP) / 4095 * 255, atol=1e-4)


# ---- steps 3 and 4: polarity and padding


@pytest.mark.parametrize(
    "tags",
    [{}, {"WindowCenter": 700, "WindowWidth": 1000}, {"VOILUTSequence": table(0, 12, list(range(4096)))}],
    ids=["full range", "window", "table"],
)
def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path, tags: dict[str, object]) -> None:
    positive = shown(tmp_path, RAMP, 12, **tags)
    negative = shown(tmp_path, RAMP, 12, PhotometricInterpretation="MONOCHROME1", **tags)
    np.testing.assert_allclose(negative, 255 - positive, atol=2e-5)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(tmp_path: Path, polarity: str) -> None:
    tags = {"PhotometricInterpretation": polarity}
    plain = shown(tmp_path, RAMP, 12, **tags)
    found = shown(tmp_path, RAMP, 12, PixelPaddingValue=4000, PixelPaddingRangeLimit=3990, **tags)
    padding = (RAMP >= 3990) & (RAMP <= 4000)
    np.testing.assert_array_equal(found, np.where(padding, 0, plain))


def test_negative_padding_written_as_unsigned(tmp_path: Path) -> None:
    made = dataset(SIGNED, 16)
    made.add_new("PixelPaddingValue", "US", 65536 - 2000)
    found = loading.read_picture(written(tmp_path, made))
    assert np.flatnonzero(found == 0).tolist() == [48]  # 48 - 2048 = -2000


# ---- how pixels are stored


def test_unused_bits_are_ignored(tmp_path: Path) -> None:
    overlay = (RAMP | ((RAMP % 16) << 12)).astype(np.uint16)
    np.testing.assert_allclose(shown(tmp_path, overlay, 12), RAMP / 4095 * 255, atol=1e-4)
    without_sign = (SIGNED & 0x0FFF).astype(np.int16)
    np.testing.assert_allclose(shown(tmp_path, without_sign, 12), RAMP / 4095 * 255, atol=1e-4)


@pytest.mark.parametrize("name", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_lossless_encodings_of_one_picture_agree(name: str) -> None:
    if name == "jpeg_ls_lossless":
        pytest.importorskip("gdcm")
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    uncompressed = loading.read_picture(folder / "MR_small.dcm")
    assert uncompressed.std() > 20
    np.testing.assert_array_equal(loading.read_picture(folder / f"MR_small_{name}.dcm"), uncompressed)


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
def test_jpeg_lossless_agrees_with_uncompressed(tmp_path: Path, syntax: uid.UID) -> None:
    source = written(tmp_path, dataset(RAMP, 12))
    target = compress_losslessly(source, tmp_path / "b.dcm", syntax)
    assert pydicom.dcmread(target).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(loading.read_picture(target), loading.read_picture(source))


def compress_losslessly(source: Path, target: Path, syntax: uid.UID) -> Path:
    gdcm = pytest.importorskip("gdcm")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str.__str__(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_baseline_jpeg_equals_the_same_jpeg_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(BYTES))
    made = dataset(BYTES, 8, uid.JPEGBaseline8Bit, PixelData=encapsulate([jpeg(BYTES)]))
    np.testing.assert_array_equal(
        loading.read_picture(written(tmp_path, made)), loading.read_picture(tmp_path / "a.jpg")
    )


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, dataset(BYTES, 8), name="IM0001")
    np.testing.assert_array_equal(loading.read_picture(path), BYTES)
    assert loading.load_grey(path, (8, 4)).shape == (8, 4)
    assert {".dcm", ".dicom"} <= set(loading.SUFFIXES)


# ---- real files


def test_jpeg_and_uncompressed_radiograph_agree(shared: Path) -> None:
    """The uncompressed file was decoded elsewhere: another inverse cosine transform, one level at 3.2 % of pixels."""
    _, compressed, uncompressed = (loading.read_picture(shared / "dicom" / name) for name in SHARED)
    assert uncompressed.shape == (1024, 1024)
    assert uncompressed.std() > 40
    difference = np.abs(compressed - uncompressed)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


def test_radiograph_marked_monochrome1_is_the_negative(shared: Path) -> None:
    """The two files differ in one byte, the photometric interpretation: one is shown as the negative of the other."""
    marked, plain = ((shared / "dicom" / name).read_bytes() for name in SHARED[:2])
    assert sum(a != b for a, b in zip(marked, plain, strict=True)) == 1
    inverted, upright = (loading.read_picture(shared / "dicom" / name) for name in SHARED[:2])
    np.testing.assert_array_equal(inverted, 255 - upright)


# ---- refusals


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"NumberOfFrames": 3}, r"has 3 frames; save one image per file"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"a damaged DICOM file \(No suitable Palette"),
        ({"PhotometricInterpretation": "RGB"}, r"RGB pixels with samples per pixel 1 are not supp"),
        ({"PhotometricInterpretation": None}, r"None pixels with samples per pixel 1 are not supported"),
        ({"PixelData": None}, r"no integer pixel data in this DICOM file \(Digital X-Ray Image Storage .*\); export"),
        ({"PixelData": None, "SOPClassUID": uid.BasicTextSRStorage}, r"no integer pixel data .*Basic Text SR Storage"),
        ({"PixelData": b"12"}, r"a damaged DICOM file \(The number of bytes of pixel data is less than expected"),
        ({"Rows": 0}, r"a damaged DICOM file \(.*'Rows' value of '0' is invalid.*\); export it again"),
        ({"BitsAllocated": 32}, r"32 bits per pixel are not supported; save it with 8 or 16"),
        ({"BitsStored": None}, r"a damaged DICOM file \(.*BitsStored.*\)"),
        ({"HighBit": 15}, r"high bit 15 is not the top of 12 stored bits; correct it"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, r"rescale slope 0 makes every pixel equal; correct it"),
        ({"WindowCenter": 1, "WindowWidth": 0}, r"window width 0 is too small for LINEAR; correct it"),
        ({"WindowCenter": 1, "WindowWidth": 0.5}, r"window width 0\.5 is too small for LINEAR"),
        ({"WindowCenter": 1, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, r"window width 0 is too small for SIG"),
        ({"WindowCenter": 1, "WindowWidth": 5, "VOILUTFunction": "GAMMA"}, r"VOI LUT function GAMMA is not known"),
        ({"VOILUTSequence": table(0, 8, [1, 2, 3], count=9)}, r"VOILUTSequence has 3 entries, its descriptor says 9"),
        ({"VOILUTSequence": table(0, 32, [1, 2, 3])}, r"VOILUTSequence has entries of 32 bits; expected 8 to 16"),
    ],
    ids=str,
)  # fmt: skip
def test_refusals_name_file_and_remedy(tmp_path: Path, tags: dict[str, object], sentence: str) -> None:
    path = written(tmp_path, dataset(RAMP, 12, **tags))
    with pytest.raises(InputError, match=rf"a\.dcm: {sentence}") as caught:
        loading.read_picture(path)
    assert "\n" not in str(caught.value)


def test_number_that_is_none_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, dataset(RAMP, 12, WindowCenter=123.5, WindowWidth=10))
    path.write_bytes(path.read_bytes().replace(b"123.5", b"nan  "))
    with pytest.raises(InputError, match=r"a\.dcm: WindowCenter is nan, not a number; correct it in the file"):
        loading.read_picture(path)


def test_more_frames_than_declared_are_refused(tmp_path: Path) -> None:
    made = dataset(BYTES, 8, uid.JPEGBaseline8Bit, PixelData=encapsulate([jpeg(BYTES)] * 2))
    with pytest.raises(InputError, match=r"a\.dcm: has 2 frames; save one image per file"):
        loading.read_picture(written(tmp_path, made))


def test_damaged_jpeg_is_refused(tmp_path: Path) -> None:
    made = dataset(BYTES, 8, uid.JPEGBaseline8Bit, PixelData=encapsulate([jpeg(BYTES)[:-100]]))
    with pytest.raises(
        InputError, match=r"a\.dcm: damaged JPEG Baseline \(Process 1\) pixels, which pillow cannot decode"
    ):
        loading.read_picture(written(tmp_path, made))


@pytest.mark.parametrize("left", [132, 200, 2000, 60000, 127000])
def test_truncated_radiograph_is_refused(shared: Path, tmp_path: Path, left: int) -> None:
    (tmp_path / "a.dcm").write_bytes((shared / "dicom" / SHARED[1]).read_bytes()[:left])
    with pytest.raises(InputError, match=r"a\.dcm: .*; export"):
        loading.read_picture(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("syntax", "name", "package"),
    [
        (uid.JPEGBaseline8Bit, "JPEG Baseline", "pillow"),
        (uid.JPEGExtended12Bit, "JPEG Extended", r'"pylibjpeg\[libjpeg\]"'),
        (uid.JPEGLosslessSV1, "JPEG Lossless, Non-Hierarchical, First-Order", "python-gdcm"),
        (uid.JPEGLSNearLossless, "JPEG-LS Lossy", "python-gdcm"),
        (uid.JPEG2000Lossless, "JPEG 2000 Image Compression", "pillow"),
        (uid.HTJ2K, "High-Throughput JPEG 2000", r'"pylibjpeg\[openjpeg\]"'),
    ],
)
def test_missing_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: uid.UID, name: str, package: str
) -> None:
    monkeypatch.setattr(Decoder, "available_plugins", property(lambda _: ()))
    path = written(tmp_path, dataset(RAMP, 12, syntax, PixelData=encapsulate([b"12"])))
    with pytest.raises(
        InputError, match=rf"a\.dcm: {name}.* need a decoder that is not installed; pip install {package}$"
    ):
        loading.read_picture(path)


def test_syntax_without_any_decoder_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, dataset(RAMP, 12, uid.MPEG2MPML, PixelData=encapsulate([b"12"])))
    with pytest.raises(
        InputError, match=r"a\.dcm: MPEG2 Main Profile .* pixels cannot be decoded; save it uncompressed"
    ):
        loading.read_picture(path)


def test_random_damage_never_leaves_as_another_error(tmp_path: Path) -> None:
    content = written(tmp_path, dataset(BYTES, 8, WindowCenter=100, WindowWidth=50)).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content[: random.integers(132, len(content) + 1)])
        for position in random.integers(132, len(damaged) + 1, 2):
            damaged[position : position + 1] = random.bytes(1)
        (tmp_path / "b.dcm").write_bytes(damaged)
        try:
            assert loading.read_picture(tmp_path / "b.dcm").max() <= 255
        except InputError:  # any other error fails the test
            refused += 1
    assert refused > 100


# ---- warnings and threads


def test_nothing_is_printed_and_nothing_warned(tmp_path: Path) -> None:
    """In a process of its own with every warning an error: pydicom's remark on excess pixel data stays inside."""
    path = written(tmp_path, dataset(BYTES, 8, PixelData=BYTES.tobytes() + b"\1" * 10))
    program = f"from harness.images.loading import read_picture; read_picture({str(path)!r})"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with pytest.warns(UserWarning, match="excess padding"):
        assert pydicom.dcmread(path).pixel_array.shape == (16, 16)


def test_threads_agree(tmp_path: Path) -> None:
    paths = [written(tmp_path, dataset(np.roll(BYTES, i), 8), f"{i}.dcm") for i in range(32)]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(loading.read_picture, paths)):
            np.testing.assert_array_equal(found, np.roll(BYTES, i))


# ---- enhanced files, padding, overlays, sizes


def enhanced(*sequences: str) -> FileDataset:
    """12 bits whose rescale and window stand in functional groups; each further sequence has a window of its own."""
    made = dataset(RAMP, 12, NumberOfFrames=1, WindowCenter=1, WindowWidth=2)  # the root's is not that of the frame
    for number, sequence in enumerate(sequences):
        values, window, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        values.RescaleIntercept, values.RescaleSlope, values.RescaleType = -1024, 1.5, "HU"
        window.WindowCenter, window.WindowWidth = 40 + 100 * number, 400
        group.PixelValueTransformationSequence = pydicom.Sequence([values])
        group.FrameVOILUTSequence = pydicom.Sequence([window])
        setattr(made, sequence, pydicom.Sequence([group]))
    return made


SHARED_GROUPS, OWN_GROUPS = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


@pytest.mark.parametrize(
    ("sequences", "centre"), [([SHARED_GROUPS], 40), ([OWN_GROUPS], 40), ([SHARED_GROUPS, OWN_GROUPS], 140)]
)
def test_rescale_and_window_of_functional_groups(tmp_path: Path, sequences: list[str], centre: int) -> None:
    found = loading.read_picture(written(tmp_path, enhanced(*sequences)))
    wanted = each(lambda x: literal_linear(1.5 * x - 1024, centre, 400), RAMP)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_empty_functional_groups_change_nothing(tmp_path: Path) -> None:
    made = dataset(RAMP, 12, NumberOfFrames=1)
    made.SharedFunctionalGroupsSequence = pydicom.Sequence([])
    made.PerFrameFunctionalGroupsSequence = pydicom.Sequence([pydicom.Dataset()])
    np.testing.assert_allclose(loading.read_picture(written(tmp_path, made)), RAMP / 4095 * 255, atol=1e-4)


def padded(pixels: np.ndarray, bits: int, vr: str, value: object, limit: object = None) -> FileDataset:
    made = dataset(pixels, bits)
    made.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        made.add_new("PixelPaddingRangeLimit", vr, limit)
    return made


@pytest.mark.parametrize("value", [65535, 63536, 4095, 2000, 256])
def test_padding_that_no_pixel_can_have_hides_nothing(tmp_path: Path, value: int) -> None:
    np.testing.assert_array_equal(loading.read_picture(written(tmp_path, padded(BYTES, 8, "US", value))), BYTES)


def test_a_range_of_padding_that_is_partly_outside(tmp_path: Path) -> None:
    found = loading.read_picture(written(tmp_path, padded(BYTES, 8, "US", 250, 2000)))
    np.testing.assert_array_equal(found, np.where(BYTES >= 250, 0, BYTES))


def test_padding_that_was_written_with_the_other_sign(tmp_path: Path) -> None:
    """PixelPaddingValue is US or SS, as the pixels are; both are 16 bits."""
    signed = loading.read_picture(written(tmp_path, padded(SIGNED, 16, "US", 65536 - 2000)))
    assert np.flatnonzero(signed == 0).tolist() == [48]  # -2000 = -2048 + 48
    unsigned = (RAMP * 16).astype(np.uint16)
    found = loading.read_picture(written(tmp_path, padded(unsigned, 16, "SS", -16)))
    assert np.flatnonzero(found == 0).tolist() == [0, 4095]


@pytest.mark.parametrize("keyword", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
def test_two_padding_values_are_refused(tmp_path: Path, keyword: str) -> None:
    made = padded(RAMP, 12, "US", 0, 0)
    made.add_new(keyword, "US", [0, 4095])
    with pytest.raises(InputError, match=rf"a\.dcm: {keyword} has 2 values; keep one"):
        loading.read_picture(written(tmp_path, made))


@pytest.mark.parametrize("pixels", [RAMP, SIGNED])
def test_overlays_in_the_upper_bits_are_cut_off(tmp_path: Path, pixels: np.ndarray) -> None:
    plane = (np.arange(4096).reshape(64, 64) % 3 == 0).astype(np.uint16) << 14
    made = dataset(((pixels.view(np.uint16) & 0x0FFF) | plane).view(pixels.dtype), 12)
    made.add_new(0x60000100, "US", 16)  # Overlay Bits Allocated
    made.add_new(0x60000102, "US", 14)  # Overlay Bit Position
    np.testing.assert_allclose(loading.read_picture(written(tmp_path, made)), RAMP / 4095 * 255, atol=1e-4)


def test_one_bit_per_pixel(tmp_path: Path) -> None:
    white = RAMP % 3 == 0
    made = dataset(BYTES, 8, Rows=64, Columns=64, BitsAllocated=1, BitsStored=1, HighBit=0)
    made.PixelData = np.packbits(white, bitorder="little").tobytes()
    np.testing.assert_array_equal(loading.read_picture(written(tmp_path, made)), 255 * white)


def test_the_first_of_several_windows_counts(tmp_path: Path) -> None:
    wanted = each(lambda x: literal_linear(x, 1000, 500), RAMP)
    found = shown(tmp_path, RAMP, 12, WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_presentation_shape_that_contradicts_is_told(tmp_path: Path) -> None:
    made = dataset(BYTES, 8, PresentationLUTShape="INVERSE")
    with pytest.warns(PictureWarning, match="is MONOCHROME2 with Presentation LUT Shape INVERSE; it is read as MONO"):
        found = loading.read_picture(written(tmp_path, made))
    np.testing.assert_array_equal(found, BYTES)
    made.PhotometricInterpretation = "MONOCHROME1"  # what the standard asks for beside INVERSE
    np.testing.assert_array_equal(loading.read_picture(written(tmp_path, made)), 255 - BYTES)


def test_twelve_bits_that_are_declared_as_sixteen_are_told(tmp_path: Path) -> None:
    with pytest.warns(PictureWarning, match="uses 12 of its 16 bits and is shown nearly black; set Bits Stored to 12"):
        shown(tmp_path, RAMP, 16)
    shown(tmp_path, RAMP, 16, WindowCenter=2048, WindowWidth=4096)  # a window says what is black and white


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, dataset(BYTES, 8, Rows=30000, Columns=30000))
    with pytest.raises(InputError, match=r"a\.dcm: has 30000 x 30000 pixels, more than 100 million"):
        loading.read_picture(path)
    path = written(tmp_path, dataset(BYTES, 8))
    with pytest.raises(InputError, match=r"a\.dcm: has 16 x 16 pixels, more than 0\.000255 million"):
        loading.read_picture(path, max_pixels=255)


@pytest.mark.parametrize(
    ("syntax", "stream", "size"),
    [
        (uid.JPEGBaseline8Bit, "JPEG", b"\x08\x00\x10\x00\x10"),
        (uid.JPEG2000Lossless, "JPEG2000", bytes([0, 0, 0, 16, 0, 0, 0, 16])),
    ],
)
def test_a_codestream_that_is_larger_than_the_header_says(
    tmp_path: Path, syntax: uid.UID, stream: str, size: bytes
) -> None:
    how = {"no_jp2": True} if stream == "JPEG2000" else {}
    content = saved(BYTES, stream, **how)
    vast = content.replace(size, size.replace(b"\x00\x10", b"\x75\x30"), 1)
    assert vast != content
    made = dataset(BYTES, 8, syntax, PixelData=encapsulate([vast]))
    with pytest.raises(InputError, match=r"a\.dcm: has 30000 x 30000 pixels, more than 100 million"):
        loading.read_picture(written(tmp_path, made))
    assert loading.read_picture(written(tmp_path, dataset(BYTES, 8, syntax, PixelData=encapsulate([content])))).size


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path) -> None:
    made = dataset(BYTES, 8, uid.DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(loading.read_picture(written(tmp_path, made)), BYTES)
    made.add_new(0x7FE10010, "OB", bytes(10_000_000))  # a private element
    path = written(tmp_path, made)
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"a\.dcm: inflates to more than 1 million pixels; save it uncompressed"):
        loading.read_picture(path, max_pixels=1e6)
