"""The images of a folder: class folders, images alone, a PACS export of nested DICOM files without suffix, a DICOMDIR.

- Pictures go by their suffix, at most one folder deep. DICOM files go by their content, at any depth.
- Where a sub-folder is called like a class, or holds pictures that are no DICOM, sub-folders are classes, and every one
  has to be. Everything else (patients, studies, series of a PACS) has no classes, unless a table names them.
- A DICOMDIR says which of the files below its folder belong to it.
- What is hidden is left out; what else is not used is counted in a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from harness.common.storage import Location
from harness.images.columns import Warn, normalised
from harness.images.dicom_headers import FOR_PROCESSING, Header, listed_files, read_header
from harness.images.loading import DICOM_SUFFIXES, PICTURE_SUFFIXES, SUFFIXES

DICOMDIR = "DICOMDIR"
_THREADS = 4
Parts = tuple[str, ...]


@dataclass(frozen=True)
class FolderImage:
    """An image of a folder: its path below the folder, and what its header says where it is DICOM."""

    parts: Parts
    path: Location
    header: Header | None

    @property
    def name(self) -> str:
        """What results call it: its path below the folder."""
        return "/".join(self.parts)

    @property
    def is_picture(self) -> bool:
        """True for a file with the suffix of a picture that is no DICOM."""
        return self.header is None and self.path.suffix.lower() in PICTURE_SUFFIXES


@dataclass
class _Tree:
    """What lies below a folder: files by their parts; hidden entries; folders without any visible entry."""

    files: dict[Parts, Location] = field(default_factory=dict)
    hidden: list[Location] = field(default_factory=list)
    empty: dict[Parts, Location] = field(default_factory=dict)


def is_visible(name: str) -> bool:
    """False for a name that begins with a dot (`._a.png`, `.ipynb_checkpoints`), and for `__MACOSX`."""
    return not name.startswith(".") and name != "__MACOSX"


def folder_images(
    folder: Location,
    classes: Sequence[str],
    warn: Warn,
    warn_of_others: Callable[[Location, set[Location], Warn], None],
    listed: Location | None = None,
    with_table: bool = False,
) -> tuple[list[FolderImage], bool]:
    """The images of a folder in the order of their paths, and whether its sub-folders are their classes.

    :param warn_of_others: is given what lies in the folder and is not used.
    :param listed: a DICOMDIR; by default the one in the folder, if there is one.
    :param with_table: a table names the classes, so that sub-folders do not.
    :raises InputError: a damaged DICOMDIR.
    """
    tree = _walk(folder)
    images, no_images = _images(tree)
    spare = set(no_images)
    listed = listed or next((tree.files[parts] for parts in tree.files if _is_dicomdir(parts)), None)
    if listed is not None:
        images, others = _restricted(images, listed, tree)
        spare |= {image.parts for image in others}
        _warn_of_unlisted(listed, others, warn)
    by_class = not with_table and _names_classes(images, classes)
    found = [image for image in images if len(image.parts) > 1] if by_class else images
    used = _distinct(found, folder, warn)
    _warn_of_headers(folder, [image.header for image in used if image.header is not None], warn)
    _warn_of_no_images(folder, no_images.values(), warn)
    left = _unused(tree, {image.parts for image in found} | spare)
    warn_of_others(folder, {*left, *tree.hidden}, warn)
    return used, by_class


def _walk(folder: Location) -> _Tree:
    tree = _Tree()
    _add(tree, folder, (), ())
    return tree


def _add(tree: _Tree, folder: Location, parts: Parts, above: tuple[Location, ...]) -> None:
    """Add what lies in a folder; a link that leads back to a folder above it is not followed."""
    here = folder.resolve()
    entries: list[Location] = [] if here in above else [*folder.iterdir()]
    entries.sort()
    shown = [path for path in entries if is_visible(path.name)]
    tree.hidden += [path for path in entries if not is_visible(path.name)]
    if not shown and len(parts) > 1:
        tree.empty[parts] = folder
    for path in shown:
        inner = (*parts, path.name)
        if path.suffix.lower() in SUFFIXES or not path.is_dir():
            tree.files[inner] = path
        else:
            _add(tree, path, inner, (*above, here))


def _images(tree: _Tree) -> tuple[list[FolderImage], dict[Parts, Header]]:
    """The images of a tree, and the headers of the DICOM files that are none."""
    candidates = [(parts, path) for parts, path in tree.files.items() if path.suffix.lower() not in PICTURE_SUFFIXES]
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(read_header, (path for _, path in candidates)))
    headers = {parts: header for (parts, _), header in zip(candidates, read, strict=True) if header is not None}
    none = {parts: header for parts, header in headers.items() if header.is_no_image}
    found = [FolderImage(parts, path, headers.get(parts)) for parts, path in tree.files.items() if parts not in none]
    return [image for image in found if _is_image(image)], none


def _is_image(image: FolderImage) -> bool:
    suffix = image.path.suffix.lower()
    return (
        image.header is not None or suffix in DICOM_SUFFIXES or (suffix in PICTURE_SUFFIXES and len(image.parts) <= 2)
    )


def _is_dicomdir(parts: Parts) -> bool:
    return len(parts) == 1 and parts[0].upper() == DICOMDIR


def _restricted(
    images: list[FolderImage], listed: Location, tree: _Tree
) -> tuple[list[FolderImage], list[FolderImage]]:
    """The images that a DICOMDIR lists, in the order of their paths, and those that it does not.

    A disc may show the names in another case, or with a version: they are compared without. What is listed and not
    there stays, so that it is counted as unreadable.
    """
    wanted = {_spelled(parts): parts for parts in listed_files(listed)}
    there = {_spelled(parts) for parts in tree.files}
    missing = [parts for key, parts in wanted.items() if key not in there]
    gone = [FolderImage(parts, listed.parent / "/".join(parts), None) for parts in missing]
    kept = [image for image in images if _spelled(image.parts) in wanted]
    others = [image for image in images if _spelled(image.parts) not in wanted]
    return sorted([*kept, *gone], key=lambda image: image.parts), others


def _spelled(parts: Parts) -> Parts:
    return tuple(part.upper().partition(";")[0].rstrip(".") for part in parts)


def _names_classes(images: Iterable[FolderImage], classes: Sequence[str]) -> bool:
    """Whether the folders of the images are classes."""
    known = {normalised(name) for name in classes}
    inner = [image for image in images if len(image.parts) > 1]
    return any(image.is_picture or normalised(image.parts[0]) in known for image in inner)


def _distinct(images: list[FolderImage], folder: Location, warn: Warn) -> list[FolderImage]:
    """The images without those that repeat a SOP Instance UID: a PACS export may hold a file twice."""
    first: dict[str, FolderImage] = {}
    kept: list[FolderImage] = []
    again: list[FolderImage] = []
    for image in images:
        uid = image.header.instance if image.header else ""
        (again if uid and uid in first else kept).append(image)
        if uid:
            first.setdefault(uid, image)
    if again:
        warn(
            f"{folder}: {len(again)} DICOM files repeat the SOP Instance UID of another, {again[0].name} for example; "
            "the first of each is used"
        )
    return kept


def _warn_of_headers(folder: Location, headers: Sequence[Header], warn: Warn) -> None:
    """Say what makes numbers less sure, or other than they look."""
    nobody = [header for header in headers if not header.patient]
    if nobody:
        warn(
            f"{folder}: {len(nobody)} of {len(headers)} DICOM files name no patient: the images of each of their "
            "studies count as those of one patient, and intervals may be too narrow"
        )
    birth_dates: dict[str, set[str]] = {}
    for header in headers:
        if header.patient and header.birth_date:
            birth_dates.setdefault(header.patient, set()).add(header.birth_date)
    several = sum(len(dates) > 1 for dates in birth_dates.values())
    if several:
        warn(
            f"{folder}: {several} patient IDs stand for more than one date of birth, and their images count as those "
            "of one patient; check how the files were pseudonymised"
        )
    raw = sum(header.intent == FOR_PROCESSING for header in headers)
    if raw:
        warn(f"{folder}: {raw} of {len(headers)} DICOM files are FOR PROCESSING, which is not what readers are shown")


def _warn_of_no_images(folder: Location, headers: Iterable[Header], warn: Warn) -> None:
    """Count the DICOM files that are read as no image, but for a DICOMDIR."""
    kinds = Counter(header.kind for header in headers if not header.is_directory)
    if kinds:
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        warn(f"{folder}: {sum(kinds.values())} DICOM files are no images to evaluate ({named}); they are not used")


def _warn_of_unlisted(listed: Location, others: Sequence[FolderImage], warn: Warn) -> None:
    if others:
        warn(f"{listed}: does not list {len(others)} images of its folder, {others[0].name} for example; not used")


def _unused(tree: _Tree, used: set[Parts]) -> Iterator[Location]:
    """Files that are not used; a folder of such, from the second level on, stands for what it holds."""
    folders = {parts[:length] for parts in used for length in range(1, len(parts))}
    seen: set[Parts] = set()
    for parts, path in [*tree.files.items(), *tree.empty.items()]:
        if parts in used:
            continue
        top = next((length for length in range(2, len(parts)) if parts[:length] not in folders), len(parts))
        if parts[:top] not in seen:
            seen.add(parts[:top])
            yield _ancestor(path, len(parts) - top)


def _ancestor(path: Location, levels: int) -> Location:
    for _ in range(levels):
        path = path.parent
    return path


def is_dicomdir(path: Location) -> bool:
    """Whether a file is a DICOMDIR, whatever it is called."""
    header = read_header(path)
    return header is not None and header.is_directory
