"""`evaluate --dry-run`: what an evaluation will do, and about how long it will take, before it is begun.

Counts are those of a run in which every image is compared and no map is empty: what is, is known only once the
checkpoints have seen the images. Seconds are those of some batches through every checkpoint and of some pairs of its
maps, here and now, times the counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import CannotEvaluateError
from harness.common.formatting import count
from harness.evaluation.announce import Cost, noisy_copies
from harness.evaluation.explain import Batching, blocks
from harness.evaluation.jobs import Explaining
from harness.evaluation.timing import seconds_of
from harness.images.dataset import Records, Sample
from harness.results import part_files
from harness.results.options import Selection
from harness.results.part_files import Store, reason_codes
from harness.results.plan import Plan
from harness.results.reader import maps_of_rows
from harness.results.references import pairs_with_noise
from harness.results.selection import sampled_records
from harness.statistics.chance import PARTNERS, SAMPLE, neighbours, partners_of
from kernels.metrics import pair_metrics
from kernels.partners import partner_metrics

EACH = 16  # images per thread that are timed
SCORE_BYTES = 6  # of one row of scores in Parquet: measured on 344 radiographs, 17 metrics and two methods


@dataclass(frozen=True)
class Work:
    """Some of the work: what is done, how often, and the seconds of all of it."""

    what: str
    times: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """The work of an evaluation, the bytes that it will write, and which parts of an earlier run there are.

    kept: kind of parts -> (how many are there, how many there will be); None without `--resume`
    """

    head: str
    work: list[Work]
    bytes: int
    kept: dict[str, tuple[int, int]] | None = None

    @property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.work)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield self.head
        width = max(len(item.what) for item in self.work)
        for item in self.work:
            yield f"  {item.what:<{width}}  {item.times:>13,}  {duration(item.seconds):>8}"
        yield "  (where every image is compared, and no map is empty)"
        yield (
            f"about {duration(self.seconds)} on this machine, beside start, summary and report; "
            f"{self.bytes / 1e6:,.1f} MB"
        )
        for kind, (there, all_of_them) in (self.kept or {}).items():
            yield f"--resume keeps {there} of {all_of_them} parts of {kind}"


@dataclass(frozen=True)
class Measured:
    """Seconds of a pass (by checkpoint), of a pair of maps, of a further partner of a map; bytes of a stored map."""

    passes: list[float]
    pair: float
    partner: float
    bytes: float


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def measure(
    plan: Plan, samples: list[Sample], batching: Batching, explaining: Callable[[int, Store], Explaining]
) -> Measured:
    """Time some batches of the first images and the pairs of their maps; writes into a temporary folder only.

    Methods of several passes are left out, since `costs_of_methods` times them; where there are no others, their maps
    are made to be compared.

    :param explaining: the job of a checkpoint that writes into a folder.
    :raises CannotEvaluateError: the first images have no maps to compare.
    """
    few = samples[: min(EACH * batching.threads, part_files.BLOCK)]  # one block
    records = Records.of(few)
    several_only = len(_single(plan)) == 0
    plain, whole = (blocks(few, records, np.full(len(records), chosen), {})[0] for chosen in (False, True))
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary))
        store.make(["predictions", "maps"])
        passes = []
        for number in range(len(plan.checkpoints)):
            job = explaining(number, store)
            job.prepare()
            passes.append(seconds_of(partial(job.do, (number, plain), _ignored)) / len(few))
            if several_only:
                job.do((number, whole), _ignored)
        written = sum(path.stat().st_size for path in Path(temporary).rglob("*.parquet"))
        pair, partner = _comparisons(plan, store, batching.threads)
    maps = len(records) * len(plan.checkpoints) * len(plan.layers) * len(_single(plan) or plan.options.methods)
    return Measured(passes, pair, partner, written / maps)


def _single(plan: Plan) -> list[str]:
    """The methods that take one pass."""
    return [method for method in plan.options.methods if method not in plan.methods_of_several_passes]


def _ignored(_: int) -> None:
    """Progress that is shown nowhere."""


def _comparisons(plan: Plan, store: Store, threads: int) -> tuple[float, float]:
    """Seconds of a pair, and of a further partner, of maps at the first layer; of one pass, where any method has it."""
    where = {"layer": plan.layers[0], "method": [*_single(plan), *plan.options.methods][0]}
    columns = ["reason", "height", "width", "map"]
    sides = [store.read("maps", [number], columns, **where) for number in plan.sides(plan.pairs[0])]
    if not all(map(len, sides)):
        raise CannotEvaluateError("none of the first images has a map to be timed; evaluate without --dry-run")
    before, after = map(maps_of_rows, sides)
    reasons = {
        f"{side}_reasons": reason_codes(one["reason"]) for side, one in zip(("before", "after"), sides, strict=True)
    }
    options: dict[str, Any] = {"size": plan.options.map_size, "metrics": plan.vocabulary.functions(), **reasons}
    _, partners = neighbours([str(n) for n in range(len(before))], [0] * len(before), range(len(before)), PARTNERS)
    pair = seconds_of(lambda: pair_metrics(before, after, threads, **options)) / len(before)
    near = seconds_of(lambda: partner_metrics(before, after, partners, threads, near=True, **options))
    return pair, near / max(1, int(np.sum(partners >= 0)))


def work_of(plan: Plan, samples: list[Sample], measured: Measured, costs: Sequence[Cost] = ()) -> list[Work]:
    """What will be done to so many images, with its seconds.

    :param costs: of the methods that take several passes, which are computed on a sample.
    """
    images, records = len(samples), len(Records.of(samples))
    copies = dict(_copies(plan, records))
    sampled, noisy = int(sampled_records(samples, plan).sum()), sum(copies.values())
    several = plan.methods_of_several_passes
    each = [sampled if method in several else records for method in plan.options.methods] * len(plan.layers)
    pairs, chance = sum(each) * len(plan.pairs), len(plan.drifts) * sum(_partners(plan, n) for n in each)
    with_noise = sum(min(noisy, n * noisy_copies(plan)) for n in each)
    found = [
        Work("passes of images", images * len(plan.checkpoints), images * sum(measured.passes)),
        Work("passes of noisy copies", noisy, sum(n * measured.passes[place] for place, n in copies.items())),
        *(Work(f"maps of {cost.method}", cost.maps, cost.seconds) for cost in costs),
        Work("comparisons of pairs", pairs, pairs * measured.pair),
        Work("comparisons with noisy copies", with_noise, with_noise * measured.pair),
        Work("comparisons with unrelated images", chance, chance * _each(plan, measured)),
    ]
    return [item for item in found if item.times]


def _copies(plan: Plan, records: int) -> Iterator[tuple[int, int]]:
    """(checkpoint, noisy copies that it sees)."""
    if plan.options.jitter is not None:
        yield from ((place, records * plan.options.jitter) for place in range(len(plan.checkpoints)))
        return
    sampled = min(records, plan.options.reference_budget)
    for place, item in enumerate(plan.checkpoints):
        sides = sum(item.key in (pair.before, pair.after) for pair in pairs_with_noise(plan))
        yield place, min(sampled, -(-sampled * sides // 2))


def _partners(plan: Plan, records: int) -> int:
    """Comparisons with unrelated images, of one pair, layer and method."""
    if plan.options.chance is not None:
        return min(records, SAMPLE) * plan.options.chance
    sampled = min(records, plan.options.reference_budget)
    return sampled * partners_of(sampled)


def _each(plan: Plan, measured: Measured) -> float:
    return measured.partner if plan.options.chance is None else measured.pair


def disk(plan: Plan, measured: Measured, work: list[Work]) -> int:
    """Bytes of predictions, maps and scores, about."""
    passes = sum(item.times for item in work if item.what.startswith("passes"))
    maps = passes * len(plan.layers) * len(_single(plan)) + sum(n.times for n in work if n.what.startswith("maps"))
    compared = sum(item.times for item in work if item.what.startswith("comparisons of"))
    rows = compared * (len(plan.vocabulary.columns) + 2 * len(plan.vocabulary.stability))
    return round(maps * measured.bytes + rows * SCORE_BYTES)


def head_of(plan: Plan, samples: list[Sample], select: Selection) -> str:
    """What is evaluated."""
    patients = len({sample.group for sample in samples})
    things = [(len(plan.checkpoints), "checkpoint"), (len(plan.pairs), "pair"), (len(plan.layers), "layer")]
    counted = ", ".join(count(*one) for one in [*things, (len(plan.options.methods), "method")])
    return f"{count(len(samples), 'image')} of {count(patients, 'patient')}, {counted}; compared: {select}"
