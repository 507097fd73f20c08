"""Explaining images: files, folders, a PACS export; as PNG, or as DICOM objects that go back beside their source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from harness.api.explanation import explain
from harness.common.errors import CannotEvaluateError, InputError, first_line
from harness.common.provenance import versions
from harness.common.storage import Location, write_bytes
from harness.images.columns import Warn
from harness.images.dataset import warn_of_others
from harness.images.folders import folder_images, is_dicomdir
from harness.images.loading import is_dicom_file
from harness.models.attribution import ExplainedImage, Map
from harness.models.session import Model
from kernels.reasons import Reason


@dataclass(frozen=True)
class Request:
    """What is explained: a class (the predicted one, if None), layers and methods (all, if none); and how it is kept.

    dicom: one of `harness.report.dicom_map.KINDS`; None: a PNG per image
    """

    target: str | None = None
    layers: Sequence[str] = ()
    methods: Sequence[str] = ()
    dicom: str | None = None
    max_pixels: float = 100e6


def list_images(given: Iterable[Location], warn: Warn) -> dict[str, Location]:
    """Name -> file of every image among files, folders and DICOMDIRs; names are paths below a folder.

    :raises InputError: two images of one name, or none at all.
    """
    found: dict[str, Location] = {}
    for name, path in (pair for where in given for pair in _images_of(where, warn)):
        if found.setdefault(name, path) != path:
            raise InputError(f"{path}: has the name of {found[name]}, which would be written to the same file; "
                             "give the folder above both")  # fmt: skip
    if not found:
        raise InputError("no image to explain; give image files, folders of them, or a DICOMDIR")
    return found


def _images_of(where: Location, warn: Warn) -> Iterator[tuple[str, Location]]:
    if not where.is_dir() and not is_dicomdir(where):
        yield where.name, where
        return
    folder, listed = (where, None) if where.is_dir() else (where.parent, where)
    images, _ = folder_images(folder, (), warn, warn_of_others, listed, with_table=True)
    yield from ((image.name, image.path) for image in images)


def explain_all(
    model: Model, images: dict[str, Location], out: Path, request: Request, warn: Warn
) -> Iterator[tuple[str, ExplainedImage]]:
    """Explain images one after the other, and write what is asked for below the folder `out`, by their names.

    An image that cannot be read, or whose map is undefined, is warned of and left out.

    :raises InputError: `out` is a file, an image that is no DICOM where DICOM is asked for, names that do not exist.
    :raises CannotEvaluateError: none of the images could be read.
    """
    _require_folder(out)
    if request.dicom is not None:
        _require_dicom(images.values())
    unread = 0
    for name, path in images.items():
        try:
            found = explain(model, path, request.target, request.layers, request.methods, max_pixels=request.max_pixels)
            _write(name, path, found, model, out, request, warn)
        except InputError as error:
            if not str(error).startswith(str(path)):  # a class or a layer that is not there is no matter of this image
                raise
            unread += 1
            warn(f"{error}; it is not explained")
        else:
            yield name, found
    if unread == len(images):
        raise CannotEvaluateError(f"none of the {unread} images could be read")


def _require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; for several images, or with --dicom, --out names a folder")


def _require_dicom(paths: Iterable[Location]) -> None:
    other = next((path for path in paths if path.is_file() and not is_dicom_file(path)), None)
    if other is not None:
        raise InputError(f"{other}: is no DICOM file, so there is no study to add a map to; leave out --dicom")


def _write(
    name: str, path: Location, found: ExplainedImage, model: Model, out: Path, request: Request, warn: Warn
) -> None:
    for a_map in found.maps:
        if a_map.reason != Reason.DEFINED:
            warn(f"{name}: {a_map.method} at {a_map.layer} is undefined ({a_map.reason.label}), and not written")
    if request.dicom is None:
        from harness.report.explain_image import draw

        target = out / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        draw(found, f"{model.metadata.title}: {found.classes[found.target]}", target)
        return
    for a_map in (a_map for a_map in found.maps if a_map.reason == Reason.DEFINED):
        target = out / f"{name}.{_plain(a_map.layer)}.{_plain(a_map.method)}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, _object(path, found, a_map, model, request.dicom))


def _object(path: Location, found: ExplainedImage, a_map: Map, model: Model, kind: str) -> bytes:
    """The bytes of a DICOM object."""
    from harness.report import dicom_map

    by = dicom_map.Explainer(
        model.metadata.title, model.graph.digest,
        versions(("evidence-drift",)).get("evidence-drift", "unknown"),
    )  # fmt: skip
    source, stream = dicom_map.read_source(path), BytesIO()
    try:
        made = dicom_map.KINDS[kind](dicom_map.Explanation(source, found, a_map, by))
        made.save_as(stream, enforce_file_format=True)
    except Exception as error:  # what is copied from a foreign header fails in many ways when it is read or written
        raise InputError(f"{path}: its header cannot be taken over ({first_line(error)}); correct it") from error
    return stream.getvalue()


def _plain(name: str) -> str:
    """A layer or method within the name of a file."""
    return re.sub(r"[^\w+-]", "_", name)
