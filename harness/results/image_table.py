"""`images.parquet`: what the headers of DICOM files say about the images of a result, to be joined by image.

Patients and studies are hashes (`harness.images.dicom_headers.Pseudonyms`); the file is written only where the images
of a folder are DICOM.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from harness.common.storage import Location, write_bytes
from harness.images.dataset import Sample
from harness.results.file_names import IMAGES

COLUMNS = ("image", "group", "study", "laterality", "view")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])


def write_image_table(folder: Location, samples: Sequence[Sample]) -> None:
    """One row per image; an image without a header has none of the last three. Nothing where no image has one."""
    if all(sample.header is None for sample in samples):
        return
    rows = [{"image": sample.name, "group": sample.group, **_columns(sample)} for sample in samples]
    whole = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), whole, compression="zstd")
    write_bytes(folder / IMAGES, memoryview(whole.getvalue()))


def copy_image_table(source: Location, target: Location) -> None:
    """Put the table of one result folder, if there is one, into another."""
    if (source / IMAGES).is_file():
        write_bytes(target / IMAGES, (source / IMAGES).read_bytes())


def _columns(sample: Sample) -> dict[str, str | None]:
    found = sample.header
    if found is None:
        return dict.fromkeys(COLUMNS[2:])
    return {name: getattr(found, name) or None for name in COLUMNS[2:]}
