"""Regions where evidence was gained, lost and kept are occluded in the picture, in both checkpoints.

Per image: the picture as it is, and by two fills each of SETS: its own three regions, the same ones elsewhere in the
picture (ELSEWHERE draws of a symmetry), and those of another image of the class. One run serves all layers and methods.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from harness.common.errors import CannotEvaluateError
from harness.common.formatting import count
from harness.common.progress import Announce, Counter, Progress
from harness.evaluation.explain import Batching
from harness.evaluation.prefetch import prefetch
from harness.images.notices import ignore
from harness.images.occlusion import FILLS, Symmetry, fills, occluded, symmetries
from harness.images.view import channels_first
from harness.models.score_kinds import margins
from harness.models.session import Model
from harness.results.plan import LayerMethod, Pair
from harness.results.reader import Reader
from harness.statistics.causal import OWN, spread
from harness.statistics.chance import derangements
from kernels.partners import NOBODY
from kernels.reasons import Reason
from kernels.regions import GAINED, KEPT, LOST, regions
from kernels.resize import upsample

ELSEWHERE = 2  # draws of a symmetry per image
SETS = 1 + ELSEWHERE + 1  # own, elsewhere, those of another image
REGIONS = 3  # gained, lost and kept


@dataclass(frozen=True)
class Effects:
    """What occlusion did to the margins of a pair.

    records: (n,) the occluded ones
    falls: (2, n, F, S, 3) by how much the margin falls, by checkpoint, record, fill, set and region; NaN where there is
        no region
    compared: (m,) all records that the pair compares; margins: (2, m) theirs, unoccluded; classes: (m,) explained
    passes: calls of a picture through a checkpoint, of all places together
    """

    records: np.ndarray
    falls: dict[LayerMethod, np.ndarray]
    compared: np.ndarray
    margins: np.ndarray
    classes: np.ndarray
    passes: int

    def within(self, place: LayerMethod, scope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Occluded records (k,) of a scope (R,) bool, and their effects (2, k, F, S, 3) in standard deviations.

        The unit is the spread of the margins of all compared records of the scope: no other record has a part in it.
        """
        inside, there = scope[self.records], scope[self.compared]
        unit = spread(self.margins[:, there], self.classes[there])
        return self.records[inside], self.falls[place][:, inside] / unit[:, None, None, None, None]


class Occlusion:
    """Occludes the sampled pictures of the pairs of a plan, and measures what it did to the margins."""

    def __init__(self, reader: Reader, provider: str, batching: Batching, announce: Announce) -> None:
        self.reader = reader
        self.plan = reader.plan
        self.provider = provider
        self.batching = batching
        self.announce = announce
        self.places = self.plan.layer_methods

    def effects(self, pair: Pair, progress: Progress) -> Effects:
        """Effects on the margin in standard deviations of each checkpoint's margin, over the sampled images."""
        records = self.reader.sample_of(pair, self.plan.options.causal)
        models = [
            Model.open(self.plan.by_key[key].graph.path, self.provider, self.batching.threads, at_once=True)
            for key in (pair.before, pair.after)
        ]
        masks = {place: self._masks(pair, place, records) for place in self.places}
        each = 1 + len(self.places) * len(FILLS) * SETS * REGIONS
        passes = 2 * each * len(records)
        if len(records):
            self._announce(pair, models, records, passes)
        falls = self._falls(models, records, masks, Counter(progress, "occlude images", len(records)))
        return Effects(records, falls, *self._unoccluded(pair), passes)

    def _falls(
        self, models: Sequence[Model], records: np.ndarray, masks: dict[LayerMethod, np.ndarray], done: Counter
    ) -> dict[LayerMethod, np.ndarray]:
        """(2, n, F, S, 3) by how much each checkpoint's margin falls; pictures are made while models run."""
        falls = {place: np.full((2, len(records), len(FILLS), SETS, REGIONS), np.nan) for place in self.places}
        pictures = prefetch(
            lambda n: (n, self._pictures(models[0], records[n], {place: mask[n] for place, mask in masks.items()})),
            range(len(records)),
            depth=2 * self.batching.threads,
            threads=self.batching.threads,
        )
        calls = models[0].calls

        def margins_of(numbered: tuple[int, np.ndarray]) -> list[np.ndarray]:
            n, batch = numbered
            return [self._margins(model, batch, records[n]) for model in models]

        for n, sides in enumerate(prefetch(margins_of, pictures, depth=calls, threads=calls)):
            for side, found in enumerate(sides):
                by_place = (found[0] - found[1:]).reshape(len(self.places), len(FILLS), SETS, REGIONS)
                for place, values in zip(self.places, by_place, strict=True):
                    falls[place][side, n] = np.where(_tells(masks[place][n]), values, np.nan)
            done.add()
        return falls

    def _masks(self, pair: Pair, place: LayerMethod, records: np.ndarray) -> np.ndarray:
        """(n, S, 3, H, W) bool: each image's own regions, the same elsewhere, and those of a partner."""
        sides = [self.reader.maps(side, *place, records) for side in self.plan.sides(pair)]
        size = self.plan.by_key[pair.before].graph.metadata.input_size
        before, after = (
            upsample(np.where((side.codes == Reason.DEFINED)[:, None, None], side.raw, np.nan), size) for side in sides
        )
        own = regions(before, after)
        found = np.zeros((len(records), SETS, *own.shape[1:]), bool)
        found[:, OWN] = own
        names, classes, groups = self.reader.described(records)
        for n, name in enumerate(names):
            for draw, move in enumerate(drawn_symmetries(size, name, self.plan.options.seed), start=1):
                found[n, draw] = move(own[n])
        partners = derangements(names, classes, groups, 1, self.plan.options.seed)[0] if names else np.zeros(0, int)
        there = partners != NOBODY
        found[there, SETS - 1] = own[partners[there]]
        return found

    def _pictures(self, model: Model, record: int, masks: dict[LayerMethod, np.ndarray]) -> np.ndarray:
        """(1 + places F S 3, 3, H, W): the picture, and occluded by every mask with every fill."""
        sample = self.reader.collected.samples[self.reader.collected.records.images[record]]
        pixels = model.view(sample.path, max_pixels=self.batching.max_pixels, notice=ignore).pixels
        filled = fills(pixels)
        made = [pixels]
        for own in masks.values():
            flat = own.reshape(-1, *own.shape[-2:])  # (S 3, H, W)
            made += [occluded(pixels, mask, filled[fill]) for fill in FILLS for mask in flat]
        return channels_first(np.stack(made))

    def _margins(self, model: Model, pictures: np.ndarray, record: int) -> np.ndarray:
        """(m,) margin of the explained class in each of the pictures."""
        target = np.full(len(pictures), self.reader.collected.records.classes[record])
        starts = range(0, len(pictures), model.batch)
        logits = np.concatenate([model.logits(pictures[start : start + model.batch]) for start in starts])
        if not np.isfinite(logits).all():
            raise CannotEvaluateError(f"{model.graph.path}: its logits for an occluded picture are not finite")
        return margins(logits, target, model.metadata.score_kind)

    def _unoccluded(self, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The compared records (m,), each checkpoint's margin (2, m) of them, and their explained classes (m,)."""
        collected, rows = self.reader.collected, np.flatnonzero(self.reader.selections[pair.name])
        classes, images = collected.records.classes[rows], collected.records.images[rows]
        sides = self.plan.sides(pair)
        found = [margins(collected.logits[side][images], classes, self.plan.score_kind) for side in sides]
        return rows, np.stack(found), classes

    def _announce(self, pair: Pair, models: Sequence[Model], records: np.ndarray, passes: int) -> None:
        """Say what the check of a pair takes, timed on one batch of grey pictures."""
        pictures = np.full((models[0].batch, 3, *models[0].metadata.input_size), 127, np.float32)
        seconds = 0.0
        for model in models:
            model.logits(pictures[:1])
            started = time.perf_counter()
            model.logits(pictures)
            seconds += passes / 2 * (time.perf_counter() - started) / (len(pictures) * model.calls)
        self.announce(
            f"causal check of {pair.name}: {count(passes, 'forward pass', 'forward passes')} of occluded pictures "
            f"({count(len(records), 'image')}, {count(len(self.places), 'map')} each), about {seconds:.0f} s"
        )


def _tells(masks: np.ndarray) -> np.ndarray:
    """(S, 3) which effects count, of masks (S, 3, H, W): gained and lost where there is one of them, kept where it is.

    Occluding an empty region has no effect: where nothing was gained, what was lost still tells.
    """
    there = np.asarray(masks.any(axis=(-2, -1)))
    moved = there[:, GAINED] | there[:, LOST]
    return np.stack([moved, moved, there[:, KEPT]], axis=1)


def drawn_symmetries(size: tuple[int, int], name: str, seed: int) -> list[Symmetry]:
    """ELSEWHERE different symmetries, by the seed and the image's name."""
    known = symmetries(size)
    drawn = np.random.default_rng([seed, crc32(name.encode())]).choice(len(known), ELSEWHERE, replace=False)
    return [known[number] for number in drawn]
