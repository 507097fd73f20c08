"""A bundle: a model with golden cases, for the deployment side. Its format, and reading it without trusting it.

    BUNDLE/manifest.json     what is in it, with sha256 and size of every file; written last
           model.onnx        the exported graph
           expected.json     logits and raw maps of every case
           images/           the radiographs, as files, so that decoding and resizing are tested too

Nothing is opened before its path, kind, size and digest have been found to be those of the manifest.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.common.errors import InputError
from harness.common.provenance import bytes_digest
from harness.common.validation import first_problem
from harness.images.loading import is_dicom
from harness.images.rule import ImageRule
from kernels.catalogue import METHODS
from kernels.reasons import Reason

FORMAT: Literal[1] = 1
MANIFEST, MODEL, EXPECTED, IMAGES = "manifest.json", "model.onnx", "expected.json", "images"
LARGEST_MANIFEST = 4 * 2**20  # bytes
LARGEST_EXPECTED = 64 * 2**20
LARGEST_FILE = 2 * 2**30  # what an ONNX file can hold
LARGEST_PICTURE = 2**27  # pixels
MOST_CASES = 1000
LARGEST_MAP = 4096  # pixels along a side

Precision = Literal["float32", "tf32", "float16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "float16")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Deviation(_Record):
    """How far a run is from the expected values: the worst over cases, layers and methods.

    logits: max |difference|; map_l2: |difference| / |expected| of raw maps; iou_top20, pearson: of resized maps
    """

    logits: float = Field(ge=0)
    map_l2: float = Field(ge=0)
    iou_top20: float = Field(ge=0, le=1)
    pearson: float = Field(ge=-1, le=1)


class Spread(_Record):
    """What one variant of running the model was measured to do."""

    variant: str
    precision: Precision
    deviation: Deviation


Side = Annotated[int, Field(ge=1, le=LARGEST_MAP)]


class BundleFile(_Record):
    """A file of the bundle; `path` is relative, with forward slashes."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=LARGEST_FILE)


class GoldenCase(_Record):
    """A radiograph, the class that is explained (an index) and the class that is predicted."""

    name: str
    image: str
    target: int = Field(ge=0)
    top: int = Field(ge=0)


class Manifest(_Record):
    """`manifest.json`. `tolerances`: per precision, the deviation that still passes."""

    format: Literal[1]
    classes: list[str]
    layers: list[str] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)
    map_size: tuple[Side, Side]
    image_rule: str | ImageRule
    cases: list[GoldenCase] = Field(min_length=1, max_length=MOST_CASES)
    tolerances: dict[Precision, Deviation]
    spreads: list[Spread]
    versions: dict[str, str]
    files: list[BundleFile]

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ValueError(f"unknown CAM method {unknown[0]!r}")
        lists = {
            "files": [item.path for item in self.files],
            "cases": [case.name for case in self.cases],
            "layers": self.layers,
            "methods": self.methods,
        }
        for name, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names one twice")
        return self


Float32 = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]


class ExpectedMap(_Record):
    """A raw map (h, w), row by row; empty, with the reason, where it is undefined."""

    layer: str
    method: str
    shape: tuple[Side, Side]
    values: list[Float32]
    reason: str

    @model_validator(mode="after")
    def _check(self) -> ExpectedMap:
        wanted = self.shape[0] * self.shape[1] if self.reason == Reason.DEFINED.label else 0
        if len(self.values) != wanted:
            raise ValueError(f"a map of reason {self.reason!r} and shape {self.shape} holds {wanted} values")
        return self


class Expected(_Record):
    """What a case gives."""

    logits: list[Float32]
    maps: list[ExpectedMap]


class ExpectedFile(_Record):
    """`expected.json`: case name -> what it gives."""

    cases: dict[str, Expected]


class TamperedError(Exception):
    """A file is not what the manifest says. The message names it."""


def read_manifest(bundle: Path) -> tuple[Manifest, str]:
    """The manifest and its sha256.

    :raises InputError: there is none, or it is none of format 1.
    """
    path = bundle / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size > LARGEST_MANIFEST:
            raise InputError(f"{path}: not a plain file of at most {LARGEST_MANIFEST} bytes; get the bundle again")
        content = path.read_bytes()
        return Manifest.model_validate_json(content), bytes_digest(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a folder that `pack` wrote") from None
    except ValidationError as error:
        raise InputError(f"{path}: not a bundle manifest of format {FORMAT} ({first_problem(error)})") from error


def read_files(bundle: Path, manifest: Manifest) -> dict[str, bytes]:
    """The content of every file, held against the manifest; what is used later are these bytes.

    :raises InputError: a path that leaves the bundle.
    :raises TamperedError: a file that is missing, is no plain file, or has another size or content; or one too many.
    """
    listed = {item.path: item for item in manifest.files}
    images = {case.image for case in manifest.cases}
    named = {MODEL, EXPECTED, *images}
    unlisted = sorted(named - set(listed))
    for item in manifest.files:
        _require_inside(bundle, item.path)
    if unlisted:
        raise TamperedError(f"{unlisted[0]}: used by the manifest, but without a digest")
    unused = sorted(set(listed) - named)
    if unused:
        raise TamperedError(f"{unused[0]}: is in the manifest, but no case uses it")
    contents = {path: _content(bundle, item, path in images) for path, item in listed.items()}
    for path in _files(bundle):
        if path not in listed and path != MANIFEST:
            raise TamperedError(f"{path}: is not in the manifest")
    return contents


def read_expected(bundle: Path, content: bytes, manifest: Manifest) -> Mapping[str, Expected]:
    """Expected values by case, from the content of `expected.json`.

    :raises InputError: it is malformed or does not fit the manifest.
    """
    path = bundle / EXPECTED
    try:
        found = ExpectedFile.model_validate_json(content).cases
    except ValidationError as error:
        raise InputError(f"{path}: malformed ({first_problem(error)}); get the bundle again") from error
    wanted = {(layer, method) for layer in manifest.layers for method in manifest.methods}
    for case in manifest.cases:
        maps = found[case.name].maps if case.name in found else []
        if {(item.layer, item.method) for item in maps} != wanted:
            raise InputError(f"{path}: case {case.name!r} lacks maps that the manifest names; get the bundle again")
    return found


def _require_inside(bundle: Path, name: str) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or {"\\", ":"} & {*name} or not relative.parts:
        raise InputError(f"{bundle / MANIFEST}: {name!r} leaves the bundle; do not use it")


def _content(bundle: Path, item: BundleFile, is_image: bool) -> bytes:
    path = bundle
    for part in PurePosixPath(item.path).parts:
        path = path / part
        if path.is_symlink():
            raise TamperedError(f"{item.path}: is a symbolic link or lies behind one")
    if not path.is_file():
        raise TamperedError(f"{item.path}: is missing")
    largest = LARGEST_EXPECTED if item.path == EXPECTED else item.size
    if path.stat().st_size != item.size or item.size > largest:
        raise TamperedError(f"{item.path}: has {path.stat().st_size} bytes, the manifest says {item.size}")
    content = path.read_bytes()
    if bytes_digest(content) != item.sha256:
        raise TamperedError(f"{item.path}: has another content than when it was packed")
    if is_image:
        _require_small(item.path, content)
    return content


def _require_small(name: str, content: bytes) -> None:
    """Refuse a small file that would unpack to a huge picture, by what its header says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content))
            width, height = picture.size[0], picture.size[1] * getattr(picture, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        width, height = _dicom_size(name, content) if is_dicom(content) else (LARGEST_PICTURE, 2)
    if width * height > LARGEST_PICTURE:
        raise TamperedError(f"{name}: no picture of at most {LARGEST_PICTURE} pixels")


def _dicom_size(name: str, content: bytes) -> tuple[int, int]:
    """(width, height) by the header, for which a deflated file would have to be inflated whole: it is refused."""
    from pydicom import dcmread, uid
    from pydicom.errors import InvalidDicomError

    if str(uid.DeflatedExplicitVRLittleEndian).encode() in content[:2048]:
        raise TamperedError(f"{name}: is a deflated DICOM file; pack it uncompressed")
    try:
        header = dcmread(io.BytesIO(content), stop_before_pixels=True)
        return int(header.Columns), int(header.Rows)
    except (InvalidDicomError, AttributeError, TypeError, ValueError, EOFError):
        return 0, 0  # no picture; decoding says so


def _files(bundle: Path) -> Iterator[str]:
    for path in sorted(bundle.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(bundle).as_posix()
