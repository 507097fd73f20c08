"""A DICOM file reduced to its picture, for files that are passed on."""

from __future__ import annotations

import io
import struct

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames

from harness.common.errors import InputError, first_line
from harness.images.codestreams import without_comments
from harness.images.dicom import apply_functional_groups, has_overlays, silence_pydicom, without_overlays

# What decides the levels (dicom.py), and nothing else: numbers and coded strings. Keywords of PS3.6.
KEPT = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelAspectRatio", "PixelSpacing",
    "PlanarConfiguration",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "LossyImageCompression",
)  # fmt: skip
PALETTE = tuple(
    f"{form}{colour}PaletteColorLookupTable{what}"
    for colour in ("Red", "Green", "Blue")
    for form, what in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
HALVED = ("YBR_FULL_422", "YBR_PARTIAL_422")  # stored with two samples per pixel
TABLES = ("ModalityLUTSequence", "VOILUTSequence")
OF_TABLE = ("LUTDescriptor", "LUTData")
UNSPECIFIED = "US"  # the defined term for a table or rescale of no stated unit


def pixels_only(content: bytes) -> bytes:
    """The bytes of a DICOM file with pixel module only and new UIDs.

    No name, date, identifier, private element or free text is taken over, of uncompressed pixels no byte more than
    the picture has, and of compressed ones no comment (`harness.images.codestreams`). Rescale and window of functional
    groups move to where a classic file has them. What is burned into the picture stays.

    :raises InputError: compressed pixels in which comments cannot be told from pixels, a damaged element.
    """
    silence_pydicom()
    source = dcmread(io.BytesIO(content))
    apply_functional_groups(source)
    if source.file_meta.TransferSyntaxUID == uid.RLELossless:  # behind its runs anything may stand
        source.decompress(decoding_plugin="pydicom", generate_instance_uid=False)
    kept = _copied(source, KEPT + (PALETTE if source.PhotometricInterpretation == "PALETTE COLOR" else ()))
    for keyword in TABLES:
        if source.get(keyword):
            setattr(kept, keyword, [_table(item, keyword) for item in source[keyword].value[:1]])
    if "RescaleSlope" in kept:
        kept.RescaleType = UNSPECIFIED
    _copy_pixels(source, kept)
    kept.SOPClassUID = uid.SecondaryCaptureImageStorage
    kept.SOPInstanceUID, kept.StudyInstanceUID, kept.SeriesInstanceUID = (uid.generate_uid() for _ in range(3))
    kept.file_meta = FileMetaDataset()
    syntax = source.file_meta.TransferSyntaxUID
    plain = syntax.is_deflated  # nobody has to inflate it to know its size
    kept.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if plain else syntax
    kept.file_meta.MediaStorageSOPClassUID = kept.SOPClassUID
    kept.file_meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    written = io.BytesIO()
    dcmwrite(written, kept, enforce_file_format=True)
    return written.getvalue()


def _copied(source: Dataset, keywords: tuple[str, ...]) -> Dataset:
    copy = Dataset()
    for keyword in keywords:
        try:
            if keyword in source:
                copy.add(source[keyword])
        except Exception as error:  # pydicom reads an element when it is asked for, and fails in many ways
            raise InputError(f"its {keyword} is damaged ({first_line(error)}); export it again") from error
    return copy


def _table(item: Dataset, keyword: str) -> Dataset:
    table = _copied(item, OF_TABLE)
    if keyword == "ModalityLUTSequence":
        table.ModalityLUTType = UNSPECIFIED
    return table


def _copy_pixels(source: Dataset, kept: Dataset) -> None:
    kept.add(source["PixelData"])
    syntax = source.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        kept["PixelData"].value = encapsulate([_frame(source, syntax)])
    else:
        samples = 2 if source.PhotometricInterpretation in HALVED else source.get("SamplesPerPixel", 1)
        size = -(-source.Rows * source.Columns * samples * source.BitsAllocated // 8)
        kept["PixelData"].value = _plain(source, bytes(source.PixelData[:size])) + b"\0" * (size % 2)


def _plain(source: Dataset, pixels: bytes) -> bytes:
    """Uncompressed pixels without overlays, which are often text."""
    if not has_overlays(source):
        return pixels
    order = "<" if source.file_meta.TransferSyntaxUID.is_little_endian else ">"
    stored = np.frombuffer(pixels, f"{order}{'i' if source.PixelRepresentation else 'u'}{source.BitsAllocated // 8}")
    return without_overlays(source, stored).astype(stored.dtype).tobytes()


def _frame(source: Dataset, syntax: uid.UID) -> bytes:
    """The compressed picture without comments."""
    if has_overlays(source):
        raise InputError("its compressed pixels hold overlays; save it uncompressed, or give --keep-identifiers")
    try:
        return without_comments(next(generate_frames(source.PixelData, number_of_frames=1)))
    except (ValueError, struct.error) as error:
        raise InputError(
            f"comments cannot be taken out of its {syntax.name} pixels ({first_line(error)}); save it uncompressed, "
            "leave it out, or give --keep-identifiers"
        ) from error
