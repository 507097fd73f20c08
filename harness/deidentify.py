"""A DICOM file reduced to its picture, for files that leave the house."""

from __future__ import annotations

import io

from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

# What decides the grey levels (harness/dicom.py), and nothing else. Keywords of PS3.6.
KEPT = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelAspectRatio", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "LossyImageCompression", "PixelData",
)  # fmt: skip
_EXPLANATIONS = ("LUTExplanation",)  # free text inside the tables


def pixels_only(content: bytes) -> bytes:
    """The bytes of a DICOM file with pixel module only and new UIDs. What is burned into the picture stays.

    No name, date, identifier, private element or free text is taken over.
    """
    source = dcmread(io.BytesIO(content))
    kept = Dataset()
    for keyword in KEPT:
        if keyword in source:
            kept.add(source[keyword])
    for table in [*kept.get("ModalityLUTSequence", []), *kept.get("VOILUTSequence", [])]:
        for keyword in _EXPLANATIONS:
            if keyword in table:
                del table[keyword]
    kept.SOPClassUID = uid.SecondaryCaptureImageStorage
    kept.SOPInstanceUID, kept.StudyInstanceUID, kept.SeriesInstanceUID = (uid.generate_uid() for _ in range(3))
    kept.file_meta = FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    kept.file_meta.MediaStorageSOPClassUID = kept.SOPClassUID
    kept.file_meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    written = io.BytesIO()
    dcmwrite(written, kept, enforce_file_format=True)
    return written.getvalue()
