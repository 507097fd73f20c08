"""DICOM files as a PACS keeps them: nested by patient, study and series, without suffix; and a DICOMDIR beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import DataElement, Dataset, config, uid
from pydicom.dataset import FileDataset, FileMetaDataset

X_RAY = uid.DigitalXRayImageStorageForPresentation
ROOT = "1.2.826.0.1.3680043.10.9999"  # of the made UIDs


def made_file(
    pixels: np.ndarray, instance: str = "1", sop_class: str = X_RAY, bits: int | None = None, **tags: object
) -> FileDataset:
    """One frame of grey (H, W) or red, green, blue (H, W, 3) pixels; `tags` are set, or with None deleted, at last."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, f"{ROOT}.{instance}"
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PixelRepresentation = (3 if pixels.ndim == 3 else 1), 0
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    stored = bits or 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * pixels.dtype.itemsize, stored, stored - 1
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    made["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    for name, value in tags.items():
        if value is None:
            if name in made:
                delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def save(made: FileDataset, path: Path) -> Path:
    """Write it, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def archive(
    folder: Path, patients: int, studies: int = 2, images: int = 2, size: int = 32, **tags: object
) -> list[Path]:
    """A PACS export: patient/study/series/image without suffix; returns the files in order.

    Patients are called PAT000, ...; studies have accession numbers A000-0, ...; images alternate between the views PA
    and LATERAL and the sides L and R.
    """
    rng = np.random.default_rng(0)
    paths = []
    for patient in range(patients):
        for study in range(studies):
            for image in range(images):
                number = f"{patient + 1}.{study + 1}.{image + 1}"
                header = {
                    "PatientID": f"PAT{patient:03d}", "PatientName": f"Secret^{patient}",
                    "PatientBirthDate": "19500101", "AccessionNumber": f"A{patient:03d}-{study}",
                    "StudyInstanceUID": f"{ROOT}.7.{patient + 1}.{study + 1}",
                    "SeriesInstanceUID": f"{ROOT}.8.{patient + 1}.{study + 1}",
                    "ViewPosition": ("PA", "LATERAL")[image % 2], "ImageLaterality": ("L", "R")[image % 2],
                }  # fmt: skip
                made = made_file(rng.integers(0, 256, (size, size), dtype=np.uint8), number, **{**header, **tags})
                paths.append(save(made, folder / f"P{patient:03d}" / f"ST{study}" / "SE0" / f"IM{image:04d}"))
    return paths


def write_dicomdir(folder: Path, files: list[tuple[str, ...]], name: str = "DICOMDIR") -> Path:
    """A DICOMDIR whose IMAGE records reference `files`, by the components of their paths."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.MediaStorageDirectoryStorage, f"{ROOT}.99"
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.FileSetID = uid.MediaStorageDirectoryStorage, "SET"
    made.DirectoryRecordSequence = [_record("PATIENT"), *(_record("IMAGE", file) for file in files)]
    return save(made, folder / name)


def _record(kind: str, file: tuple[str, ...] | None = None) -> Dataset:
    record = Dataset()
    record.DirectoryRecordType = kind
    if file is not None:
        record.add(DataElement("ReferencedFileID", "CS", list(file), validation_mode=config.IGNORE))
    return record


def radiographs(folder: Path, size: int = 64) -> dict[str, Path]:
    """Complete images of three kinds, as modalities write them: a plain radiograph without pose, one with two windows,
    a photograph in colour, and a slice that has a position.
    """
    rng = np.random.default_rng(5)
    ramp = np.linspace(0, 3000, size + 16)[None] * np.linspace(0, 1, size)[:, None]
    grey = (ramp + rng.integers(0, 1000, ramp.shape)).astype(np.uint16)
    colour = rng.integers(0, 256, (size, size + 16, 3), dtype=np.uint8)
    study = {
        "PatientID": "P1", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101", "PatientSex": "F",
        "StudyInstanceUID": f"{ROOT}.7", "SeriesInstanceUID": f"{ROOT}.8", "StudyDate": "20260102",
        "StudyTime": "101112", "StudyID": "S1", "AccessionNumber": "A1", "ReferringPhysicianName": "Roe^Richard",
    }  # fmt: skip
    chest = {**study, "BodyPartExamined": "CHEST", "PatientOrientation": ["L", "F"]}
    windows = {"WindowCenter": [2000, 1000], "WindowWidth": [3000, 500]}
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    pose = {
        "FrameOfReferenceUID": f"{ROOT}.9", "ImagePositionPatient": [-10, -20, 30.5], "PixelSpacing": [0.7, 0.7],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SliceThickness": "2.5", "PositionReferenceIndicator": "",
    }  # fmt: skip
    made = {
        "plain": made_file(grey, "11", bits=12, **chest),
        "windows": made_file(grey, "12", bits=12, **chest, **windows, PixelSpacing=[0.14, 0.14], ImageLaterality="L"),
        "colour": made_file(colour, "13", sop_class=uid.VLPhotographicImageStorage, **study, **lossy),
        "slice": made_file(grey, "14", sop_class=uid.CTImageStorage, bits=12, **chest, **pose),
    }
    return {name: save(file, folder / f"{name}.dcm") for name, file in made.items()}
