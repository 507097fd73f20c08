"""A file becomes an array, and a manifest or folder a list of images."""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.images.dataset import Sample, read_dataset
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
    from harness.images.rule import RULE

__all__ = [
    "DICOM_SUFFIXES", "RULE", "SUFFIXES", "Sample", "channels_first", "channels_last", "decode_grey", "is_dicom",
    "load_grey", "read_dataset", "read_grey", "squash",
]  # fmt: skip
_HOMES = dict.fromkeys(__all__, "loading") | {"RULE": "rule", "Sample": "dataset", "read_dataset": "dataset"}
__getattr__ = on_demand(__name__, _HOMES)
