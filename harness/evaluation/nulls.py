"""The null ladder: are maps more like those of a network that knows nothing than they should be?

A null is an exported graph of the architecture that was not trained for the task: its weights drawn anew (`python -m
export randomise`), or trained on permuted labels. Its maps are compared with those of `after`, image by image, and with
what two different patients of a class have in common within `after`. A method whose maps stay like those of the null is
blind to what the null has lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.common.errors import InputError
from harness.common.progress import Counter, Progress
from harness.common.storage import Location
from harness.evaluation.estimates import estimated
from harness.evaluation.explain import Batching
from harness.evaluation.prefetch import prefetch
from harness.images.notices import ignore
from harness.images.view import channels_first
from harness.models.attribution import Maps as Made
from harness.models.attribution import all_maps
from harness.models.metadata import Graph, require_comparable
from harness.models.session import Model
from harness.results.plan import LayerMethod, Pair
from harness.results.pseudonyms import portable_path
from harness.results.reader import Maps, Reader
from harness.results.schema import NullResult
from harness.results.vocabulary import HEADLINE
from harness.statistics.bootstrap import Resampling, mean
from harness.statistics.chance import derangements
from kernels.catalogue import METRICS
from kernels.metrics import pair_metrics
from kernels.partners import mean_over_draws, partner_metrics

RANK = "spearman"
PARTNERS = 10  # other patients per image


def require_nulls(compared: Sequence[Graph], nulls: Sequence[Location]) -> list[Graph]:
    """The graphs of the nulls, each of the architecture of one of the compared checkpoints.

    :raises InputError: one that is of none.
    """
    found = [Graph.read(path) for path in nulls]
    for null in found:
        like = [graph for graph in compared if is_null_of(null, graph)]
        if not like:
            known = ", ".join(dict.fromkeys(graph.metadata.architecture for graph in compared))
            raise InputError(
                f"{null.path}: is of the architecture {null.metadata.architecture!r}, and none that is compared is "
                f"(they are: {known}); give a null of one of them"
            )
        require_comparable(like[0], null)
    return found


def is_null_of(null: Graph, graph: Graph) -> bool:
    """Whether both are of one architecture, so that one is a null of the other."""
    return null.metadata.architecture == graph.metadata.architecture


class NullLadder:
    """Compares the maps after with those of nulls, on a sample of the compared images of each pair."""

    def __init__(self, reader: Reader, resampling: Resampling, provider: str, batching: Batching) -> None:
        self.reader = reader
        self.plan = reader.plan
        self.resampling = resampling
        self.provider = provider
        self.batching = batching

    def results(self, progress: Progress) -> list[NullResult]:
        """One per null, pair of its architecture, layer and method."""
        graphs = [self.plan.by_key[pair.after].graph for pair in self.plan.drifts]
        nulls = require_nulls(graphs, self.plan.nulls) if self.plan.nulls else []
        return [
            result
            for null in nulls
            for pair, graph in zip(self.plan.drifts, graphs, strict=True)
            if is_null_of(null, graph)
            for result in self._of(null, pair, progress)
        ]

    def _of(self, null: Graph, pair: Pair, progress: Progress) -> list[NullResult]:
        records = self.reader.sample_of(pair, self.plan.options.sample)
        made = self._maps(null.path, records, progress) if len(records) else {}
        return [self._result(null, pair, place, records, maps) for place, maps in made.items()]

    def _maps(self, path: Location, records: np.ndarray, progress: Progress) -> dict[LayerMethod, Made]:
        """(layer, method) -> the null's maps of some records, of the classes that are explained."""
        model = Model.open(path, self.provider, self.batching.threads, at_once=True)
        done = Counter(progress, "explain null images", len(records))
        parts: dict[LayerMethod, list[Made]] = {}

        def explain(some: np.ndarray) -> tuple[int, dict[LayerMethod, Made]]:
            pictures, targets = self._pictures(model, some), self.reader.collected.records.classes[some]
            return len(some), all_maps(model, pictures, targets, self.plan.layers, self.plan.options.methods)[1]

        batches = (records[start : start + model.batch] for start in range(0, len(records), model.batch))
        for explained, made in prefetch(explain, batches, depth=model.calls, threads=model.calls):
            for place, maps in made.items():
                parts.setdefault(place, []).append(maps)
            done.add(explained)
        return {
            place: Made(*(np.concatenate(column) for column in zip(*of_batches, strict=True)))
            for place, of_batches in parts.items()
        }

    def _pictures(self, model: Model, records: np.ndarray) -> np.ndarray:
        collected = self.reader.collected
        paths = [collected.samples[image].path for image in collected.records.images[records]]
        views = [model.view(path, max_pixels=self.batching.max_pixels, notice=ignore) for path in paths]
        return channels_first(np.stack([view.pixels for view in views]))

    def _result(self, null: Graph, pair: Pair, place: LayerMethod, records: np.ndarray, theirs: Made) -> NullResult:
        own = self.reader.maps(self.plan.number_of(pair.after), *place, records)
        like, others = self._alike(own, theirs), self._other_patients(own, records)
        values = {
            "similarity": like[HEADLINE], "others": others[HEADLINE], "margin": others[HEADLINE] - like[HEADLINE],
            "rank": like[RANK], "others_rank": others[RANK],
        }  # fmt: skip
        estimates = {name: estimated(self.resampling.of(records), of_all) for name, of_all in values.items()}
        margin = estimates["margin"]
        return NullResult(
            null=portable_path(str(null.path)),
            digest=null.digest,
            phase=null.metadata.phase,
            pair=pair.name,
            layer=place[0],
            method=place[1],
            n=int(np.isfinite(like[HEADLINE]).sum()),
            entropy=mean(like["entropy_change"]) / mean(like["entropy_before"]),
            blind=None if margin.low is None else margin.low <= 0,
            **estimates,
        )

    def _alike(self, own: Maps, theirs: Made) -> dict[str, np.ndarray]:
        """Metrics (n,) of the maps after, as `before`, and of the null, as `after`."""
        scores = pair_metrics(
            own.raw,
            theirs.raw,
            self.batching.threads,
            before_reasons=own.codes,
            after_reasons=theirs.codes,
            size=self.plan.options.map_size,
            metrics=[METRICS[name] for name in (HEADLINE, RANK, "entropy")],
        )
        return {name: scores.column(name)[0] for name in scores.names}

    def _other_patients(self, own: Maps, records: np.ndarray) -> dict[str, np.ndarray]:
        names, classes, groups = self.reader.described(records)
        partners = derangements(names, classes, groups, PARTNERS, self.plan.options.seed)
        return with_partners(own, partners, self.plan.options.map_size, self.batching.threads, (HEADLINE, RANK))


def with_partners(
    own: Maps, partners: np.ndarray, size: tuple[int, int], threads: int, metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics (n,) of maps of one checkpoint and of their partners (draws, n) within it, as means over the draws."""
    scores = mean_over_draws(
        partner_metrics(
            own.raw,
            own.raw,
            partners,
            threads,
            before_reasons=own.codes,
            after_reasons=own.codes,
            size=size,
            metrics=[METRICS[name] for name in metrics],
        )
    )
    return {name: scores.column(name)[0] for name in metrics}
