"""Phantoms: repeatable, oriented the right way, with a lesion where the mask says."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.phantoms import CLASSES, draw_phantom, draw_phantoms, write_phantoms


def test_same_arguments_same_pixels_and_other_seeds_other_pixels() -> None:
    first, again = draw_phantom("apical_cavity", 7, seed=3), draw_phantom("apical_cavity", 7, seed=3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.lesion, again.lesion)
    for other in (draw_phantom("apical_cavity", 7, seed=4), draw_phantom("apical_cavity", 7, seed=3, visit=1)):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("label", CLASSES)
def test_image_is_a_full_range_grey_plane_with_a_mask_of_its_size(label: str) -> None:
    phantom = draw_phantom(label, 1, size=96)
    assert phantom.image.shape == phantom.lesion.shape == (96, 96)
    assert phantom.image.dtype == np.uint8
    assert np.ptp(phantom.image) > 150
    assert phantom.label == label
    assert phantom.patient == 1


def test_only_the_normal_chest_has_no_lesion() -> None:
    for label in CLASSES:
        covered = [draw_phantom(label, patient, size=96).lesion.mean() for patient in range(6)]
        if label == "normal":
            assert max(covered) == 0
        else:
            assert min(covered) > 0.001, label
            assert max(covered) < 0.5, label


def test_heart_is_on_the_right_of_the_image() -> None:
    """Just above the diaphragm the image's right half is brighter by the heart; a mirrored drawing would fail."""
    halves = []
    for patient in range(12):
        image = draw_phantom("normal", patient).image.astype(float)
        rows = image[int(0.5 * 256) : int(0.65 * 256)]
        halves.append(rows[:, 140:180].mean() - rows[:, 76:116].mean())
    assert np.mean(halves) > 30
    assert min(halves) > 0


def test_lesion_brightens_the_film_where_the_mask_is() -> None:
    """Against the same thorax without it: same patient, same visit, averaged over patients to cancel exposure."""
    gains: dict[str, list[float]] = {label: [] for label in CLASSES[1:]}
    for patient in range(6):
        well = draw_phantom("normal", patient, size=96).image.astype(float)
        for label, found in gains.items():
            sick = draw_phantom(label, patient, size=96)
            change = sick.image - well
            found.append(change[sick.lesion].mean() - np.median(change[~sick.lesion]))
    assert min(np.mean(found) for found in gains.values()) > 5, gains


def test_lesions_lie_where_their_names_say() -> None:
    rows, columns = np.mgrid[0:96, 0:96] / 95
    for patient in range(8):
        cavity = draw_phantom("apical_cavity", patient, size=96).lesion
        assert rows[cavity].mean() < 0.35
        glass = draw_phantom("peripheral_ground_glass", patient, size=96).lesion
        assert np.abs(columns[glass] - 0.5).mean() > 0.22
        interstitial = draw_phantom("diffuse_interstitial", patient, size=96).lesion
        assert (columns[interstitial] < 0.5).mean() == pytest.approx(0.5, abs=0.25)


def test_patients_keep_their_class_and_classes_are_even() -> None:
    drawn = list(draw_phantoms(25, 10, size=32))
    classes = {}
    for phantom in drawn:
        assert classes.setdefault(phantom.patient, phantom.label) == phantom.label
    assert {label: [p.label for p in drawn].count(label) for label in CLASSES} == dict.fromkeys(CLASSES, 5)


def test_written_folder_has_images_masks_and_manifest(tmp_path: Path) -> None:
    manifest = write_phantoms(tmp_path, 6, 4, seed=1, size=64)
    with manifest.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["file", "class", "group", "sha256"]
    assert len({row["group"] for row in rows}) == 4
    for row in rows:
        content = (tmp_path / row["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        mask = cv2.imread(str(tmp_path / "masks" / row["file"].replace(".jpg", ".png")), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask.max() == 0) == (row["class"] == "normal")


def test_refusals_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="'tuberculosis' is no phantom class; expected one of normal"):
        draw_phantom("tuberculosis", 0)
    with pytest.raises(ValueError, match="every patient needs at least one image"):
        list(draw_phantoms(3, 4))
