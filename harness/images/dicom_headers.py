"""What the header of a DICOM file says about its picture: whose it is, of which study, side and view; and a DICOMDIR.

Pixels are not read, and pydicom is loaded only where a file is DICOM. Headers are free text of strangers: of side and
view only the standard's codes are kept, and patient and study leave this module as keyed hashes (`Pseudonyms`).
"""

from __future__ import annotations

import hmac
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from harness.common.errors import InputError, first_line
from harness.common.storage import Location, read_at_most, require_plain_file, with_retries
from harness.images.containers import MAX_PIXELS
from harness.images.loading import MARK_END, MOST_BYTES, is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "evidence-drift"  # of the DICOM objects that `explain --dicom` writes
FOR_PROCESSING = "FOR PROCESSING"
_DIRECTORY, _PARAMETRIC_MAP = "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.30"  # SOP classes, PS3.6 table A-1
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax
_META = 2**16  # bytes, within which the file meta information names the transfer syntax
_DIGITS = 16  # hexadecimal digits of a pseudonym: of a million patients two share one with a probability of 3e-8
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")  # the value representation CS, PS3.5 section 6.2
_SIDES = ("R", "L", "U", "B")  # right, left, unpaired, both: PS3.3 C.7.3.1.1.2 and C.8.11.1
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID",
    "IssuerOfPatientID", "PatientBirthDate", "ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence",
    "SharedFunctionalGroupsSequence", "Manufacturer", "PresentationIntentType", "Rows",
]  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The header of a DICOM file, "" where it is silent.

    patient: Patient ID, with its issuer where there is one; laterality: R, L, U or B; view: View Position, or the
    code of the view; intent: FOR PRESENTATION or FOR PROCESSING; has_pixels: whether it describes a picture
    """

    sop_class: str
    instance: str
    series: str
    study: str
    accession: str
    patient: str
    birth_date: str
    laterality: str
    view: str
    intent: str
    manufacturer: str
    has_pixels: bool

    @property
    def is_directory(self) -> bool:
        """True for a DICOMDIR."""
        return self.sop_class == _DIRECTORY

    @property
    def is_no_image(self) -> bool:
        """True for an object without pixels, a parametric map, and a picture that `explain --dicom` wrote.

        A header that ends before it names its class is that of a damaged file, which is reported as such.
        """
        explains = self.sop_class == _PARAMETRIC_MAP or self.manufacturer == MANUFACTURER
        return explains or bool(self.sop_class and not self.has_pixels)

    @property
    def kind(self) -> str:
        """The name of the SOP class, for messages."""
        from pydicom.uid import UID

        return UID(self.sop_class).name if UID(self.sop_class).is_valid else "of no SOP class"


@dataclass(frozen=True)
class HeaderColumns:
    """What results keep of a header: the study as a hash, side and view as codes."""

    study: str
    laterality: str
    view: str


def read_header(path: Location) -> Header | None:
    """The header of a DICOM file; None where the file is none, is damaged, or cannot be opened.

    :raises CannotEvaluateError: the storage fails.
    """
    try:
        require_plain_file(path, MOST_BYTES)
        return with_retries(path, lambda: _header(path))
    except (InputError, OSError):
        return None


def _header(path: Location) -> Header | None:
    with path.open("rb") as stream:
        start = stream.read(MARK_END)
        if not is_dicom(start):
            return None
        start += stream.read(_META)
        if _DEFLATED in start:
            stream = io.BytesIO(start + stream.read())
        found = _dataset(stream)
    return None if found is None else _described(found)


def _dataset(stream: Any) -> Dataset | None:
    from pydicom import dcmread

    from harness.images.dicom import require_small_when_inflated, silence_pydicom

    silence_pydicom()
    try:
        if isinstance(stream, io.BytesIO):
            require_small_when_inflated(stream.getvalue(), MAX_PIXELS)
        stream.seek(0)
        return dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
    except OSError:
        raise
    except Exception:  # a parser of foreign bytes fails in many ways; decoding the picture says in which
        return None


def _described(dataset: Dataset) -> Header | None:
    try:
        return Header(
            sop_class=_text(dataset, "SOPClassUID"),
            instance=_text(dataset, "SOPInstanceUID"),
            series=_text(dataset, "SeriesInstanceUID"),
            study=_text(dataset, "StudyInstanceUID"),
            accession=_text(dataset, "AccessionNumber"),
            patient=_patient(dataset),
            birth_date=_text(dataset, "PatientBirthDate"),
            laterality=_laterality(dataset),
            view=_view(dataset),
            intent=_text(dataset, "PresentationIntentType").upper(),
            manufacturer=_text(dataset, "Manufacturer"),
            has_pixels="Rows" in dataset,
        )
    except Exception:  # pydicom reads an element when it is asked for, and fails in many ways
        return None


def _first(dataset: Dataset | None, keyword: str) -> Dataset | None:
    """The first item of a sequence, None where there is none."""
    return next(iter((dataset and dataset.get(keyword)) or ()), None)


def _text(dataset: Dataset | None, keyword: str) -> str:
    if dataset is None:
        return ""
    return str(dataset.get(keyword) or "").strip().strip("\0").strip()


def _patient(dataset: Dataset) -> str:
    """Patient ID and its issuer: two hospitals number their patients alike."""
    number, issuer = _text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID")
    return f"{number}\\{issuer}" if number and issuer else number


def _laterality(dataset: Dataset) -> str:
    """Image Laterality, else Laterality of the series, else Frame Laterality of an enhanced file."""
    anatomy = _first(_first(dataset, "SharedFunctionalGroupsSequence"), "FrameAnatomySequence")
    said = (_text(dataset, "ImageLaterality"), _text(dataset, "Laterality"), _text(anatomy, "FrameLaterality"))
    return next((side for side in map(str.upper, said) if side in _SIDES), "")


def _view(dataset: Dataset) -> str:
    """View Position, else the first code of View Code Sequence as VALUE^SCHEME; what is no code is left out."""
    position = _text(dataset, "ViewPosition").upper()
    if _CODE.fullmatch(position):
        return position
    item = _first(dataset, "ViewCodeSequence")
    code = f"{_text(item, 'CodeValue')}^{_text(item, 'CodingSchemeDesignator')}"
    return code if re.fullmatch(r"[\w.-]{1,16}\^[\w-]{1,16}", code) else ""


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed hashes of the patients and studies of one data set.

    HMAC-SHA256(key, kind, identifier), of which the first 16 hexadecimal digits are kept. The key is SHA-256 over all
    identifiers of the data set: the same files give the same hashes, so that an evaluation can be resumed and its data
    digest compared, the hashes of another data set have nothing in common with them, and nobody can confirm a guess
    of one patient who does not know all the others.
    """

    key: bytes

    @classmethod
    def of(cls, headers: Iterable[Header]) -> Pseudonyms:
        """The hashes of a data set."""
        identifiers = sorted("\0".join((h.patient, h.birth_date, h.study, h.series, h.instance)) for h in headers)
        return cls(sha256("\1".join(identifiers).encode("utf-8", "surrogateescape")).digest())

    def group(self, header: Header) -> str:
        """The patient; where no ID stands in the header the study, of one patient at least; "" where neither does."""
        kind, name = ("patient", header.patient) if header.patient else ("study", header.study)
        return self._hashed(kind, name)

    def columns(self, header: Header) -> HeaderColumns:
        """What results keep of a header."""
        return HeaderColumns(self._hashed("study", header.study), header.laterality, header.view)

    def _hashed(self, kind: str, name: str) -> str:
        text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, text, "sha256").hexdigest()[:_DIGITS] if name else ""


def listed_files(dicomdir: Location) -> list[tuple[str, ...]]:
    """The files that the IMAGE records of a DICOMDIR reference, as parts of paths relative to its folder.

    :raises InputError: no DICOMDIR, a damaged one, or a reference that leaves its folder.
    """
    from pydicom import dcmread

    from harness.images.dicom import require_small_when_inflated, silence_pydicom

    silence_pydicom()
    try:
        content = read_at_most(dicomdir, MOST_BYTES)
        require_small_when_inflated(content, MAX_PIXELS)
        records = dcmread(io.BytesIO(content)).DirectoryRecordSequence
        images = [record for record in records if _text(record, "DirectoryRecordType") == "IMAGE"]
        files = [_components(record.get("ReferencedFileID")) for record in images]
    except InputError as error:
        raise InputError(f"{dicomdir}: {error}") from error
    except Exception as error:  # a parser of foreign bytes fails in many ways, and all of them mean a damaged file
        raise InputError(f"{dicomdir}: a damaged DICOMDIR ({first_line(error)}); copy or export it again") from error
    wrong = next((parts for parts in files if not _stays_inside(parts)), None)
    if wrong is not None:
        raise InputError(f"{dicomdir}: references {'/'.join(wrong)!r}, which is no file below its folder; correct it")
    return [parts for parts in files if parts]


def _components(value: Any) -> tuple[str, ...]:
    """Referenced File ID (PS3.10 section 8.5): the components of a path, one or several."""
    return () if not value else (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def _stays_inside(parts: tuple[str, ...]) -> bool:
    return not any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts)
