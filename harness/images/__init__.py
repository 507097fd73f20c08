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
        decode_picture,
        is_dicom,
        load_grey,
        load_view,
        read_grey,
        read_picture,
    )
    from harness.images.manifest import Manifest, Row, read_manifest
    from harness.images.notices import Notices
    from harness.images.presets import Preset, find_preset
    from harness.images.rule import GREY, RULE, ImageRule
    from harness.images.view import Geometry, View, channels_first, channels_last, fit, squash, view

__all__ = [
    "DICOM_SUFFIXES", "GREY", "MAX_PIXELS", "RULE", "SUFFIXES", "Geometry", "ImageRule", "Labelling", "Manifest",
    "Notices", "Preset", "Row", "Sample", "View", "channels_first", "channels_last", "decode_picture", "find_preset",
    "fit", "images_below", "is_dicom", "load_grey", "load_view", "parse_columns", "read_dataset", "read_grey",
    "read_manifest", "read_picture", "squash", "view",
]  # fmt: skip
_HOMES = dict.fromkeys(__all__, "loading") | {
    **dict.fromkeys(("Sample", "images_below", "read_dataset"), "dataset"),
    **dict.fromkeys(("Manifest", "Row", "read_manifest"), "manifest"),
    **dict.fromkeys(("GREY", "RULE", "ImageRule"), "rule"),
    **dict.fromkeys(("Preset", "find_preset"), "presets"),
    **dict.fromkeys(("Geometry", "View", "channels_first", "channels_last", "fit", "squash", "view"), "view"),
    "Labelling": "labels",
    "MAX_PIXELS": "containers",
    "Notices": "notices",
    "parse_columns": "columns",
}
__getattr__ = on_demand(__name__, _HOMES)
