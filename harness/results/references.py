"""What a number is held against: which records get a chance level and a floor, and what each is compared with.

Both references are means over images, and what limits a mean over images is how much these differ, not how often each
is drawn. So by default (`chance` and `jitter` of `Options` are None) they are estimated by budget: on every compared
record, or above `reference_budget` records on a sample of so many in which the classes are balanced, with

- floor: one noisy copy per record, which the two checkpoints of the pair see in turns; where the one whose turn it is
  has no map of the record, and the other one has, that one sees a copy, too;
- chance: ten unrelated images per record (of more than 315 records fewer, down to three), its neighbours on a circle.

The sample and the turns depend on the records of the pair and on the seed of the noise alone: they are the same for
every layer and method. Numbers that were asked for are drawn for every record: `jitter` noisy copies by each
checkpoint, and `chance` derangements (of more than SAMPLE records: within a sample).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.images.dataset import Records, Sample
from harness.images.jitter import draw_of
from harness.models.metadata import GraphMetadata
from harness.results.options import Selection
from harness.results.plan import Pair, Plan
from harness.statistics.chance import SAMPLE, derangements, neighbours, partners_of, sampled, turns

NO_TURN, BEFORE, AFTER = -1, 0, 1


@dataclass(frozen=True)
class Unrelated:
    """The records of a pair that get a chance level (n,), and their partners (draws, n), as places in them.

    near: True where the partners of records that follow each other are nearly the same
    """

    records: np.ndarray
    partners: np.ndarray
    near: bool


@dataclass(frozen=True)
class Noise:
    """The records (n,), ascending, of which a checkpoint sees noisy copies, and the draws (n, D) of these."""

    records: np.ndarray
    draws: np.ndarray

    def within(self, start: int, stop: int) -> Noise:
        """Those of the records start..stop-1."""
        inside = slice(*np.searchsorted(self.records, [start, stop]))
        return Noise(self.records[inside], self.draws[inside])

    def among(self, chosen: np.ndarray) -> Noise:
        """Those of the records that are chosen (R,)."""
        inside = chosen[self.records]
        return Noise(self.records[inside], self.draws[inside])


class References:
    """The references of a plan, once it is known what its checkpoints say of the images.

    Threads may ask at the same time; what two of them look for is looked for twice.

    selections: pair -> (R,) records that are compared; seed: that of the noise; without_map: (R,) records of which a
    checkpoint (by its place) has no map with mass at a layer by a method
    """

    def __init__(
        self,
        plan: Plan,
        samples: Sequence[Sample],
        records: Records,
        selections: Mapping[str, np.ndarray],
        seed: int,
        without_map: Callable[[int, str, str], np.ndarray],
    ) -> None:
        self.plan = plan
        self.samples = samples
        self.records = records
        self.selections = selections
        self.seed = seed
        self.without_map = without_map
        self._unrelated: dict[tuple[str, bool], Unrelated] = {}
        self._turns: dict[str, np.ndarray] = {}

    def unrelated(self, pair: str, among: np.ndarray | None = None) -> Unrelated:
        """The chance partners of the records of a pair; of those `among` them (R,), for methods of several passes."""
        key = pair, among is None
        if key not in self._unrelated:
            chosen = self.selections[pair] if among is None else self.selections[pair] & among
            draw = self._by_budget if self.plan.options.chance is None else self._asked
            self._unrelated[key] = draw(np.flatnonzero(chosen))
        return self._unrelated[key]

    def turns(self, pair: str) -> np.ndarray:
        """(R,) whose noisy copy is the floor of a record, BEFORE or AFTER; NO_TURN where it has no floor."""
        if pair not in self._turns:
            chosen = self._sampled(np.flatnonzero(self.selections[pair]))
            names, classes, _ = self._described(chosen)
            found = np.full(len(self.records), NO_TURN)
            found[chosen] = turns(names, classes, self.seed)
            self._turns[pair] = found  # last: another thread may look
        return self._turns[pair]

    def passed_on(self, pair: Pair, layer: str, method: str) -> np.ndarray:
        """(R,) records whose floor is that of the other checkpoint where the one whose turn it is gives none.

        A map without mass has no floor, and in two trainings it is the same images that have none: without this, they
        would be missing among those on which an index rests, and only half of the time. Where neither has a map, the
        pair has no index, and the other one need not look.
        """
        turn = self.turns(pair.name)
        before, after = (self.without_map(side, layer, method) for side in self.plan.sides(pair))
        return ((turn == BEFORE) & before & ~after) | ((turn == AFTER) & after & ~before)

    def noise(self, checkpoint: int, logits: np.ndarray, select: Selection) -> Noise:
        """What a checkpoint with such logits (images, K) sees with noise."""
        if self.plan.options.jitter is None:
            return self._noise_by_turns(self.plan.checkpoints[checkpoint].key)
        metadata = self.plan.checkpoints[checkpoint].graph.metadata
        chosen = np.flatnonzero(_seen_with_noise(metadata, self.records, logits, select))
        draws = np.arange(1, self.plan.options.jitter + 1)
        return Noise(chosen, np.broadcast_to(draws, (len(chosen), len(draws))))

    def _noise_by_turns(self, key: str) -> Noise:
        mine = np.zeros(len(self.records), bool)
        for pair in pairs_with_noise(self.plan):
            if key in (pair.before, pair.after):
                mine |= self.turns(pair.name) == (BEFORE if key == pair.before else AFTER)
                for layer, method in self.plan.layer_methods:
                    mine |= self.passed_on(pair, layer, method)
        chosen = np.flatnonzero(mine)
        draws = [draw_of(self.samples[image].name, self.seed) for image in self.records.images[chosen]]
        return Noise(chosen, np.array(draws, np.int64).reshape(-1, 1))

    def _asked(self, chosen: np.ndarray) -> Unrelated:
        options = self.plan.options
        assert options.chance
        drawn = chosen[sampled(*self._described(chosen), options.seed, SAMPLE)]
        return Unrelated(drawn, derangements(*self._described(drawn), options.chance, options.seed), near=False)

    def _by_budget(self, chosen: np.ndarray) -> Unrelated:
        drawn = self._sampled(chosen)
        order, partners = neighbours(*self._described(drawn), partners_of(len(drawn)), self.plan.options.seed)
        return Unrelated(drawn[order], partners, near=True)

    def _sampled(self, chosen: np.ndarray) -> np.ndarray:
        return chosen[sampled(*self._described(chosen), self.seed, self.plan.options.reference_budget)]

    def _described(self, rows: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
        """Name, class and patient of some records."""
        return self.records.described(self.samples, rows)


def pairs_with_noise(plan: Plan) -> list[Pair]:
    """The pairs whose floor is noise: those of architectures without replicates."""
    replicated = {pair.architecture for pair in plan.pairs if pair.kind == "replicates"}
    return [pair for pair in plan.drifts if pair.architecture not in replicated]


def _seen_with_noise(metadata: GraphMetadata, records: Records, logits: np.ndarray, select: Selection) -> np.ndarray:
    """(R,) records that can be read and, where true positives are compared, that this checkpoint gets right."""
    readable = np.isfinite(logits).all(axis=1)[records.images]
    if select != "true-positive":
        return readable
    decided = metadata.decisions(logits)[records.images]
    return readable & np.take_along_axis(decided, np.maximum(records.classes, 0)[:, None], axis=1)[:, 0]
