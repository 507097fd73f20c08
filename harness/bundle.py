"""A bundle: a model with golden cases, for the deployment side. Its format, and reading it without trusting it.

    BUNDLE/manifest.json     what is in it, with sha256 and size of every file; written last
           model.onnx        the exported graph
           expected.json     logits and raw maps of every case
           images/           the radiographs, as files, so that decoding and resizing are tested too

Nothing is opened before its path, kind, size and digest have been found to be those of the manifest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.digests import file_digest
from harness.errors import InputError, first_line

FORMAT: Literal[1] = 1
MANIFEST, MODEL, EXPECTED, IMAGES = "manifest.json", "model.onnx", "expected.json", "images"
LARGEST_MANIFEST = 4 * 2**20  # bytes
LARGEST_FILE = 4 * 2**30

Class = Literal["float32", "tf32", "float16"]
CLASSES: tuple[Class, ...] = ("float32", "tf32", "float16")


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
    precision: Class
    deviation: Deviation


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
    map_size: tuple[int, int]
    image_rule: str
    cases: list[GoldenCase] = Field(min_length=1)
    tolerances: dict[Class, Deviation]
    spreads: list[Spread]
    versions: dict[str, str]
    files: list[BundleFile]


class ExpectedMap(_Record):
    """A raw map (h, w), row by row; empty, with the reason, where it is undefined."""

    layer: str
    method: str
    shape: tuple[int, int]
    values: list[float]
    reason: str


class Expected(_Record):
    """What a case gives."""

    logits: list[float]
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
        size = path.lstat().st_size
        if not stat.S_ISREG(path.lstat().st_mode) or size > LARGEST_MANIFEST:
            raise InputError(f"{path}: not a plain file of at most {LARGEST_MANIFEST} bytes; get the bundle again")
        return Manifest.model_validate_json(path.read_bytes()), file_digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a folder that `pack` wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: not a bundle manifest of format {FORMAT} ({where}: {first['msg']})") from error


def check_files(bundle: Path, manifest: Manifest) -> None:
    """Hold every file against the manifest.

    :raises InputError: a path that leaves the bundle.
    :raises TamperedError: a file that is missing, is no plain file, or has another size or content; or one too many.
    """
    listed = {item.path: item for item in manifest.files}
    for item in manifest.files:
        _check_file(bundle, item)
    named = [MODEL, EXPECTED, *(case.image for case in manifest.cases)]
    unlisted = [path for path in named if path not in listed]
    if unlisted:
        raise TamperedError(f"{unlisted[0]}: used by the manifest, but without a digest")
    for path in _files(bundle):
        if path not in listed and path != MANIFEST:
            raise TamperedError(f"{path}: is not in the manifest")


def read_expected(bundle: Path, manifest: Manifest) -> Mapping[str, Expected]:
    """Expected values by case.

    :raises InputError: the file is malformed or does not fit the manifest.
    """
    path = bundle / EXPECTED
    try:
        found = ExpectedFile.model_validate_json(path.read_bytes()).cases
    except ValidationError as error:
        raise InputError(f"{path}: malformed ({first_line(error)}); get the bundle again") from error
    wanted = {(layer, method) for layer in manifest.layers for method in manifest.methods}
    for case in manifest.cases:
        maps = found[case.name].maps if case.name in found else []
        if {(item.layer, item.method) for item in maps} != wanted:
            raise InputError(f"{path}: case {case.name!r} lacks maps that the manifest names; get the bundle again")
        for item in maps:
            if len(item.values) not in (0, item.shape[0] * item.shape[1]):
                raise InputError(f"{path}: case {case.name!r} has a map whose values do not fill its shape")
    return found


def _check_file(bundle: Path, item: BundleFile) -> None:
    relative = PurePosixPath(item.path)
    if relative.is_absolute() or ".." in relative.parts or "\\" in item.path or not relative.parts:
        raise InputError(f"{bundle / MANIFEST}: {item.path!r} leaves the bundle; do not use it")
    path = bundle
    for part in relative.parts:
        path = path / part
        if path.is_symlink():
            raise TamperedError(f"{item.path}: is a symbolic link or lies behind one")
    if not path.is_file():
        raise TamperedError(f"{item.path}: is missing")
    if path.stat().st_size != item.size:
        raise TamperedError(f"{item.path}: has {path.stat().st_size} bytes, the manifest says {item.size}")
    if file_digest(path) != item.sha256:
        raise TamperedError(f"{item.path}: has another content than when it was packed")


def _files(bundle: Path) -> Iterator[str]:
    for path in sorted(bundle.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(bundle).as_posix()
