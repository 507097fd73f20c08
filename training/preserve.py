"""What a phase with [preserve] holds its evidence to: reference maps of a checkpoint, or masks.

Without augmentation the maps of the reference checkpoint are computed once. With augmentation they are computed of each
augmented picture: a map that is moved along with its picture stands for them badly (docs/preserve.md). Masks are moved
along.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import InputError
from harness.common.storage import as_location
from harness.images.dataset import Sample as Named
from harness.images.regions import RegionFiles, Regions
from harness.images.rule import ImageRule
from training.batches import ImageBatches, PreservedBatches
from training.config import Model, Phase, Preserve, nearest
from training.evidence import EMPTY
from training.framework import tf
from training.model import cam_layer, weights_digest
from training.preserving_view import Evidence, PreservingView, evidence_of
from training.task import Task

BATCH = 32  # images that are explained at a time
REGION = "masks"  # what the one region is called among `harness.images.regions`


@dataclass(frozen=True)
class References:
    """For each of N samples R (h, w) and k: 1 where the image takes part, else 0; test images never do.

    With `live` R is empty, (N, 0, 0): maps are then computed of the augmented pictures. `digest` is the identity of
    what R comes from.
    """

    maps: np.ndarray
    kept: np.ndarray
    digest: str
    live: Evidence | None = None


@dataclass(frozen=True)
class Preservation:
    """The evidence of one phase: how it is computed (`layer` by its name in the network), and what it is held to."""

    preserve: Preserve
    layer: str
    references: References
    task: Task

    def view(self, classifier: Any, phase: Phase) -> PreservingView:
        """The model to train."""
        return PreservingView(classifier, phase, self.layer, self.preserve, self.references.live)

    def epoch(self, order: np.ndarray, *arguments: Any) -> PreservedBatches:
        """The batches of an epoch, as `ImageBatches` takes its arguments after the images' order."""
        return PreservedBatches((self.references.maps, self.references.kept), self.task.pixels, order, *arguments)

    def facts(self) -> dict[str, Any]:
        """What `run.json`, and the metadata of an exported graph, say about it."""
        train = self.references.kept[self.task.indices("train")]
        return {
            "layer": self.preserve.layer,
            "method": self.preserve.method,
            "similarity": self.preserve.term,
            "weight": self.preserve.weight,
            "reference": Path(self.preserve.reference or str(self.preserve.masks)).name,
            "reference_digest": self.references.digest,
            "images": int(train.sum()),
            "of": len(train),
        }


class Measure:
    """How far the evidence of the validation images is from their references, after each epoch."""

    def __init__(self, classifier: Any, preservation: Preservation, validation: np.ndarray) -> None:
        self._indices = validation[preservation.references.kept[validation] > 0]
        self._task, self._maps = preservation.task, validation_maps(preservation, self._indices)
        evidence = evidence_of(classifier, preservation.layer, preservation.preserve)
        self._losses = tf.function(lambda *given: evidence.losses(*given)[1])

    def mean(self) -> float:
        """Mean of 1 - s(M, R) over the validation images that take part; NaN without any."""
        if not len(self._indices):
            return float("nan")
        rows = dict(zip(self._indices.tolist(), self._maps, strict=True))
        found = [
            self._losses(images, targets, np.stack([rows[k] for k in indices.tolist()])).numpy()
            for indices, images, targets in _batches(self._task, self._indices)
        ]
        return float(np.concatenate(found).mean())


def validation_maps(preservation: Preservation, indices: np.ndarray) -> np.ndarray:
    """R of validation images, which are never augmented, (n, h, w)."""
    references = preservation.references
    if references.live is None:
        return references.maps[indices]
    return _maps_of(references.live, preservation.task, indices)[0]


def preservation_of(
    classifier: Any, phase: Phase, model: Model, task: Task, rule: ImageRule, reference: Any
) -> Preservation | None:
    """The preservation of a phase; None where it has none.

    :param reference: the reference checkpoint's model; None with masks.
    :raises InputError: a reference of another kind than the classifier, no image to learn from, unusable masks.
    """
    preserve = phase.preserve
    if preserve is None:
        return None
    layer = cam_layer(classifier, model, preserve.layer)
    if reference is None:
        found = _of_masks(Path(str(preserve.masks)), classifier.get_layer(layer).output.shape[1:3], task, rule)
    else:
        _require_alike(preserve, classifier, reference, layer)
        found = _of_checkpoint(preserve, evidence_of(reference, layer, preserve), task, phase.augment.active())
        found = References(found.maps, found.kept, weights_digest(reference), found.live)
    _require_images(preserve, found.kept[task.indices("train")])
    return Preservation(preserve, layer, found, task)


def _of_checkpoint(preserve: Preserve, evidence: Evidence, task: Task, augmented: bool) -> References:
    indices = np.sort(np.concatenate([task.indices("train"), task.indices("validation")]))
    maps, logits = _maps_of(evidence, task, indices)
    filled = maps.max(axis=(1, 2)) > EMPTY
    right = logits.argmax(axis=1) == task.targets[indices].argmax(axis=1)
    kept = np.zeros(len(task.samples), np.float32)
    kept[indices] = filled & (right | (preserve.on == "all"))
    if augmented:
        return References(np.zeros((len(task.samples), 0, 0), np.float32), kept, "", evidence)
    every = np.zeros((len(task.samples), *maps.shape[1:]), np.float32)
    every[indices] = maps
    return References(every, kept, "")


def _maps_of(evidence: Evidence, task: Task, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, h, w) of the true classes, and logits (n, K)."""
    maps = tf.function(evidence.maps)
    found = [maps(images, targets) for _, images, targets in _batches(task, indices)]
    return np.concatenate([part[1] for part in found]), np.concatenate([part[0] for part in found])


def _batches(task: Task, indices: np.ndarray) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """(sample numbers, images, targets) of a few images at a time, in inference's batches."""
    for part in np.array_split(indices, -(-len(indices) // BATCH)):
        (images,) = ImageBatches(task.pixels, part, len(part))[0]
        yield part, tf.constant(images), tf.constant(task.targets[part])


def _of_masks(folder: Path, size: tuple[int, int], task: Task, rule: ImageRule) -> References:
    """R is the share of each position of the map that the mask of its image covers; images without one take no part."""
    named = [Named(sample.file, as_location(sample.path), None, sample.group) for sample in task.samples]
    regions = Regions(RegionFiles({REGION: as_location(folder)}), named)
    maps, kept = np.zeros((len(named), *size), np.float32), np.zeros(len(named), np.float32)
    for index in regions.images(REGION):
        cover = regions.covers(index, rule, task.pixels.size, size).get(REGION)
        if cover is not None and task.chosen[index] < 2:
            maps[index], kept[index] = cover, 1
    return References(maps, kept, regions.digest(REGION))


def _require_alike(preserve: Preserve, classifier: Any, reference: Any, layer: str) -> None:
    """The reference has the classes and the map of the classifier."""
    names = [item.name for item in reference.layers]
    if layer not in names:
        raise InputError(f"preserve.from {preserve.reference}: has no layer {layer!r}; {nearest(layer, names)}")
    for what, ours, theirs in (
        ("classes", classifier.output_shape[1:], reference.output_shape[1:]),
        ("map", classifier.get_layer(layer).output.shape[1:3], reference.get_layer(layer).output.shape[1:3]),
        ("image", classifier.input_shape[1:], reference.input_shape[1:]),
    ):
        if tuple(ours) != tuple(theirs):
            raise InputError(
                f"preserve.from {preserve.reference}: has another {what} ({theirs}) than this phase ({ours}); name a "
                "checkpoint of the same network and classes"
            )


def _require_images(preserve: Preserve, kept: np.ndarray) -> None:
    if not kept.any():
        why = "has a mask" if preserve.masks else "has a map that the reference classifies correctly"
        raise InputError(f"preserve: none of the {len(kept)} training images {why}; there is nothing to preserve")
