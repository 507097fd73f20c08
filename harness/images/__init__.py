"""A file becomes an array, and a manifest or folder a list of images."""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.images.columns import parse_columns
    from harness.images.containers import MAX_PIXELS
    from harness.images.dataset import Sample, images_below, read_dataset
    from harness.images.labels import Labelling
    from harness.images.loading import (
        DICOM_SUFFIXES,
        SUFFIXES,
        channels_first,
        channels_last,
        decode_grey,
        is_dicom,
        load_grey,
        read_grey,
        squash,
    )
    from harness.images.manifest import Manifest, Row, read_manifest
    from harness.images.notices import Notices
    from harness.images.rule import RULE

__all__ = [
    "DICOM_SUFFIXES", "MAX_PIXELS", "RULE", "SUFFIXES", "Labelling", "Manifest", "Notices", "Row", "Sample",
    "channels_first", "channels_last", "decode_grey", "images_below", "is_dicom", "load_grey", "parse_columns",
    "read_dataset", "read_grey", "read_manifest", "squash",
]  # fmt: skip
_HOMES = dict.fromkeys(__all__, "loading") | {
    **dict.fromkeys(("Sample", "images_below", "read_dataset"), "dataset"),
    **dict.fromkeys(("Manifest", "Row", "read_manifest"), "manifest"),
    "RULE": "rule",
    "Labelling": "labels",
    "MAX_PIXELS": "containers",
    "Notices": "notices",
    "parse_columns": "columns",
}
__getattr__ = on_demand(__name__, _HOMES)
