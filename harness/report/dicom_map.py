"""An attribution map as a DICOM object, beside the image that it explains: Parametric Map or Secondary Capture.

The Parametric Map (PS3.3 A.75) holds the map at the rows and columns of its source image as float32, by the same
interpolation as the metrics (half-pixel centres), neither rescaled nor rounded; what the network did not see has the
Float Pixel Padding Value. The Secondary Capture (PS3.3 A.8) holds the picture with the map over it, in 8-bit RGB, as
`explain` draws it.

Both belong to the patient and study of the source, whose modules are copied, to a series of their own, and reference
the source as such. Position and orientation are copied from a source that has them and otherwise absent: a plain
radiograph has none, and the reference to a source of the same rows and columns (Spatial Locations Preserved) says where
the map lies. The frame of reference, which the standard demands, is then a UID of the source image's own. UIDs are
derived from the source, the model, the path of the map and its pixels (2.25, PS3.5 annex B.2): the same explanation has
the same UID wherever it is made.

pydicom alone: highdicom 0.28 refuses a plain radiograph without frame of reference (`ParametricMap` ends in a
RuntimeError over its dimension indices).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256

import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.tag import Tag

from harness.common.errors import InputError
from harness.common.storage import Location
from harness.images.dicom import silence_pydicom
from harness.images.dicom_headers import MANUFACTURER
from harness.models.attribution import ExplainedImage, Map
from harness.report import heatmaps

SIDE = 1024  # pixels: longest side of a Secondary Capture
SERIES_NUMBER = 9001  # behind those of modalities
_PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved",
            "DeidentificationMethod")  # fmt: skip
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
          "StudyDescription")  # fmt: skip
_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
# Body Part Examined -> SNOMED CT code and meaning of parts that have no side (PS3.16 annex L).
UNPAIRED = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "CHEST": ("816094009", "Chest"),
    "HEAD": ("69536005", "Head"),
    "SPINE": ("421060004", "Spine"),
}
_POSE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient")


@dataclass(frozen=True)
class Explainer:
    """What explained: the network and phase, sha256 of the graph's file, and the version of this program."""

    name: str
    digest: str
    version: str


@dataclass(frozen=True)
class Explanation:
    """A map of an image, with all that its DICOM object tells.

    source: the header of the DICOM file that was explained; digest: of the pixels that are written
    """

    source: Dataset
    found: ExplainedImage
    map: Map
    explainer: Explainer

    @property
    def sentence(self) -> str:
        """Method, layer, class and model, for people (at most 1024 characters, the value representation ST)."""
        kind, by = self.found.classes[self.found.target], self.explainer
        text = (
            f"{self.map.method} at layer {self.map.layer} for class {kind} (probability "
            f"{self.found.probabilities[self.found.target]:.3f}) by {by.name}, sha256 {by.digest}; {MANUFACTURER} "
            f"{by.version}. Research: where the score is sensitive, no finding."
        )
        return text[:1024]

    def derived_uid(self, *parts: object) -> str:
        """A UID that follows from the source, the model, the path of the map and what else is given."""
        of_map = (self.source.SOPInstanceUID, self.explainer.digest, self.map.layer, self.map.method, self.found.target)
        return _uid(*of_map, *parts)

    def series_uid(self, kind: str) -> str:
        """One series per study, model, layer, method and kind of object."""
        return _uid(self.source.StudyInstanceUID, self.explainer.digest, self.map.layer, self.map.method, kind)


def read_source(path: Location) -> Dataset:
    """The header of a DICOM image, to which a map can be added.

    :raises InputError: it names no study, series or image that could be referenced.
    """
    silence_pydicom()
    with path.open("rb") as stream:
        source = dcmread(stream, stop_before_pixels=True)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        if not source.get(keyword):
            raise InputError(f"{path}: has no {keyword}, so nothing can be filed beside it; export it again, complete")
    return source


def parametric_map(about: Explanation) -> FileDataset:
    """The map as a Parametric Map Storage object of float32 pixels."""
    pixels, padding = float_pixels(about)
    made = _begun(about, uid.ParametricMapStorage, pixels)
    shape = about.found.picture.shape[:2]
    made.ImageType = ["DERIVED", "PRIMARY", "PROJECTION", "QUANTITY"]
    made.Rows, made.Columns = shape
    made.NumberOfFrames, made.SamplesPerPixel, made.PhotometricInterpretation = 1, 1, "MONOCHROME2"
    made.BitsAllocated = 32
    if (pixels == padding).any():  # a range of one value
        made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = float(padding)
    made.FloatPixelData = pixels.astype("<f4").tobytes()
    made.PresentationLUTShape, made.ContentQualification = "IDENTITY", "RESEARCH"
    made.BurnedInAnnotation, made.RecognizableVisualFeatures = "NO", "NO"
    made.ContentLabel, made.ContentDescription = "CLASS_ACTIVATION", _content(about)
    made.ContentCreatorName = ""
    made.AcquisitionContextSequence = []
    _add_lossy(made, about.source)
    _add_frame_of_reference(made, about.source)
    made.SharedFunctionalGroupsSequence = [_shared_groups(about, made, pixels[pixels != padding])]
    made.PerFrameFunctionalGroupsSequence = [_item(FrameContentSequence=[_item(DimensionIndexValues=[1])])]
    _add_dimensions(made, about)
    return made


def secondary_capture(about: Explanation) -> FileDataset:
    """The map over its picture as a Secondary Capture Image Storage object, RGB."""
    pixels = rgb_pixels(about)
    made = _begun(about, uid.SecondaryCaptureImageStorage, pixels)
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "SYN"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    made["PixelData"].VR = "OB"
    made.PatientOrientation = about.source.get("PatientOrientation") or None
    made.DerivationDescription, made.DerivationCodeSequence = about.sentence, [_concept()]
    made.SourceImageSequence = [_source_item(about.source, preserved=pixels.shape[:2] == about.found.picture.shape[:2])]
    if about.source.get("BurnedInAnnotation"):  # whether text is in the picture is known to the source only
        made.BurnedInAnnotation = about.source.BurnedInAnnotation
    _add_lossy(made, about.source)
    return made


KINDS: dict[str, Callable[[Explanation], FileDataset]] = {
    "parametric-map": parametric_map,
    "secondary-capture": secondary_capture,
}


def float_pixels(about: Explanation) -> tuple[np.ndarray, np.float32]:
    """The map at the source's rows and columns (float32), and the value of the pixels that the network did not see."""
    shape = about.found.picture.shape[0], about.found.picture.shape[1]
    large, seen = about.found.geometry.on_picture(about.map.raw, shape)
    padding = np.float32(min(-1.0, 2 * float(large.min())))  # below every value: maps are rectified, as a rule
    return np.where(seen, large.astype(np.float32, copy=False), padding), padding


def rgb_pixels(about: Explanation) -> np.ndarray:
    """The picture with the map over it: uint8 (H, W, 3), no side longer than SIDE."""
    picture = heatmaps.shown(about.found.picture, SIDE)
    share, seen = heatmaps.relative(about.map.raw, about.found.geometry, (picture.shape[0], picture.shape[1]))
    return np.rint(255 * np.clip(heatmaps.overlay(picture, share, seen), 0, 1)).astype(np.uint8)


def _begun(about: Explanation, sop_class: uid.UID, pixels: np.ndarray) -> FileDataset:
    """Patient, study, series, equipment and identity of a new object."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid.UID(about.derived_uid(sop_class, sha256(pixels.tobytes()).hexdigest()))
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    for keyword in (*_PATIENT, *_STUDY):
        _copy(about.source, made, keyword)
    made.Modality, made.SeriesNumber = "OT", SERIES_NUMBER
    made.InstanceNumber = str(about.source.get("InstanceNumber") or 1)
    made.SeriesInstanceUID = about.series_uid(sop_class)
    _copy(about.source, made, "BodyPartExamined")
    if _unpaired(about.source) is None:
        made.Laterality = _side(about.source)
    made.SeriesDescription = f"{about.map.method}, {about.map.layer}: class activation".replace("\\", "/")[:64]
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, about.explainer.name[:64]
    made.DeviceSerialNumber, made.SoftwareVersions = about.explainer.digest[:64], about.explainer.version
    now = datetime.now().astimezone()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.ReferencedSeriesSequence = [_series_reference(about.source)]
    return made


def _uid(*parts: object) -> str:
    """A UID that follows from its parts."""
    digest = sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _side(source: Dataset) -> str:
    """R or L; empty where the source names no side, or both."""
    found = [str(source.get(keyword) or "") for keyword in ("Laterality", "ImageLaterality")]
    return next((side for side in found if side in ("R", "L")), "")


def _content(about: Explanation) -> str:
    """Method, layer and class within the 64 characters of the value representation LO."""
    kind = about.found.classes[about.found.target]
    return f"{about.map.method}, {about.map.layer}: {kind}".replace("\\", "/")[:64]


def _copy(source: Dataset, made: Dataset, keyword: str) -> None:
    """An element as text in the new character set; one of type 2 that is absent is written empty."""
    value = source.get(keyword)
    if value in (None, "") and keyword not in _TYPE_2:
        return
    setattr(made, keyword, "" if value is None else str(value))


def _add_lossy(made: Dataset, source: Dataset) -> None:
    """A picture that has once lost something stays lossy (PS3.3 C.7.6.1.1.5)."""
    for keyword in _LOSSY if source.get("LossyImageCompression") == "01" else ():
        if source.get(keyword):
            made[keyword] = source[keyword]
    if "LossyImageCompression" not in made:
        made.LossyImageCompression = "00"


def _has_pose(source: Dataset) -> bool:
    return all(source.get(keyword) for keyword in _POSE)


def _add_frame_of_reference(made: Dataset, source: Dataset) -> None:
    """That of the source, else one that only the maps of this image share, and in which nothing has a position."""
    own = _uid("frame of reference", source.SOPInstanceUID)
    made.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or own
    made.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or None


def _shared_groups(about: Explanation, made: Dataset, values: np.ndarray) -> Dataset:
    """Functional groups (PS3.3 A.75.4) of the only frame; `values` are those that the network saw."""
    groups = Dataset()
    groups.PixelValueTransformationSequence = [_item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    width = high - low if high > low else 1.0
    voi = _item(WindowCenter=_decimal(low + width / 2), WindowWidth=_decimal(width), VOILUTFunction="LINEAR_EXACT")
    groups.FrameVOILUTSequence = [voi]
    groups.RealWorldValueMappingSequence = [_real_world(low, high)]
    groups.ParametricMapFrameTypeSequence = [_item(FrameType=made.ImageType)]
    derivation = _item(DerivationDescription=about.sentence, DerivationCodeSequence=[_concept()])
    derivation.SourceImageSequence = [_source_item(about.source, preserved=True)]
    groups.DerivationImageSequence = [derivation]
    _add_geometry(groups, about.source)
    region, side = _region(about.source), _side(about.source)
    if region is not None:  # the macro is mandatory, but a region that nobody named would be invented
        groups.FrameAnatomySequence = [_item(FrameLaterality=side or "U", AnatomicRegionSequence=[region])]
    return groups


def _region(source: Dataset) -> Dataset | None:
    """The anatomic region that a source names: by a code beside a side, or as an unpaired part of the body."""
    named = source.get("AnatomicRegionSequence")
    if named and _side(source):
        return named[0]
    return _unpaired(source)


def _unpaired(source: Dataset) -> Dataset | None:
    """The code of the examined part of the body, where it is one of UNPAIRED."""
    part = UNPAIRED.get(str(source.get("BodyPartExamined") or "").strip().upper())
    return None if part is None else _code(part[0], "SCT", part[1])


def _add_geometry(groups: Dataset, source: Dataset) -> None:
    """Pixel spacing, position and orientation, of a source that tells them."""
    told = {keyword: source[keyword].value for keyword in ("PixelSpacing", "SliceThickness") if source.get(keyword)}
    groups.PixelMeasuresSequence = [_item(**told)]
    if _has_pose(source):
        groups.PlanePositionSequence = [_item(ImagePositionPatient=source.ImagePositionPatient)]
        groups.PlaneOrientationSequence = [_item(ImageOrientationPatient=source.ImageOrientationPatient)]


def _real_world(low: float, high: float) -> Dataset:
    """Pixels are the map itself: slope 1, no units, quantity (130402, DCM, "Class activation")."""
    quantity = _item(ValueType="CODE", ConceptNameCodeSequence=[_code("246205007", "SCT", "Quantity")])
    quantity.ConceptCodeSequence = [_concept()]
    return _item(
        RealWorldValueIntercept=0.0, RealWorldValueSlope=1.0, LUTLabel="CLASS_ACTIVATION",
        LUTExplanation="Attribution map, in units of the score; not rescaled",
        DoubleFloatRealWorldValueFirstValueMapped=low, DoubleFloatRealWorldValueLastValueMapped=high,
        MeasurementUnitsCodeSequence=[_code("1", "UCUM", "no units")], QuantityDefinitionSequence=[quantity],
    )  # fmt: skip


def _add_dimensions(made: Dataset, about: Explanation) -> None:
    """One dimension of one frame: the quantity."""
    organization = about.derived_uid("dimension")
    made.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    made.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=Tag("LUTLabel"),
            FunctionalGroupPointer=Tag("RealWorldValueMappingSequence"),
            DimensionDescriptionLabel="Quantity",
        )
    ]


def _source_item(source: Dataset, preserved: bool) -> Dataset:
    """The source; `preserved` where what is made has its rows and columns."""
    purpose = _code("121322", "DCM", "Source image for image processing operation")
    return _item(
        ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID,
        SpatialLocationsPreserved="YES" if preserved else "NO", PurposeOfReferenceCodeSequence=[purpose],
    )  # fmt: skip


def _series_reference(source: Dataset) -> Dataset:
    image = _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)
    return _item(SeriesInstanceUID=source.SeriesInstanceUID, ReferencedInstanceSequence=[image])


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


_concept = partial(_code, "130402", "DCM", "Class activation")


def _decimal(number: float) -> str:
    """The value representation DS: at most 16 characters."""
    return f"{number:.9g}"


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
