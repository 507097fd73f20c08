"""The study level: architectures and methods against each other, on the images that every pair selects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np

from harness.evaluation.summarise import HELD, Summary, groups_of
from harness.results.plan import Pair
from harness.results.reader import Reader
from harness.results.schema import ComparisonResult, Equivalence, StudyResult
from harness.statistics.rankings import compare

Values = dict[tuple[str, str], np.ndarray]  # (architecture, method) -> (R, metrics, replicates)


class ArchitectureComparison:
    """Compares the drift of the architectures of a plan. A checkpoint series is no architecture to rank."""

    def __init__(self, reader: Reader, summary: Summary) -> None:
        self.reader = reader
        self.plan = plan = reader.plan
        self.summary = summary
        self.vocabulary = plan.vocabulary
        self.compared = (*self.vocabulary.stability, *self.vocabulary.changes)
        self.architectures: dict[str, list[Pair]] = {}
        for pair in plan.pairs:
            if pair.kind == "drift":
                self.architectures.setdefault(pair.architecture, []).append(pair)

    def result(self) -> StudyResult | None:
        """Comparisons per layer, scope and metric; None where there is neither a second architecture nor method."""
        if len(self.architectures) * len(self.plan.options.methods) < 2 or not self.architectures:
            return None
        chosen = np.logical_and.reduce([self.reader.selections[pair.name] for pair in self._pairs()])
        resampled: dict[str, None] = {}
        found = []
        for comparison, names in self._comparisons(chosen) if chosen.any() else ():
            found.append(comparison)
            resampled |= dict.fromkeys(names)
        return StudyResult(
            selected=int(chosen.sum()),
            selected_patients=len(np.unique(self.summary.by_record.patient[chosen])),
            resampled=list(resampled),
            comparisons=found,
            convergence=list(self._convergence()),
        )

    def _pairs(self) -> list[Pair]:
        return [pair for pairs in self.architectures.values() for pair in pairs]

    def _comparisons(self, chosen: np.ndarray) -> Iterator[tuple[ComparisonResult, tuple[str, ...]]]:
        """Every metric overall; per class, too, where there are architectures to compare.

        As many metrics at a time are read, and compared, as there is room for.
        """
        scopes = self.summary.scopes if len(self.architectures) > 1 else self.summary.scopes[:1]
        each = self.summary.by_record.images * len(self._pairs()) * len(self.plan.options.methods)
        for layer in self.plan.layers:
            found = {}
            for names in groups_of(self.compared, each):
                values = self._values(layer, names)
                tasks = [(scope, mask & chosen, metric) for scope, mask in scopes for metric in names]

                def work(
                    task: tuple[str, np.ndarray, str], layer: str = layer, of: tuple = names, values: Values = values
                ) -> tuple[ComparisonResult, tuple[str, ...]]:
                    scope, mask, metric = task
                    own = {cell: of_cell[:, of.index(metric)] for cell, of_cell in values.items()}
                    return self._compare(layer, scope, metric, mask, own)

                with ThreadPoolExecutor(min(self.summary.threads, max(1, HELD // each))) as pool:
                    for (scope, _, metric), result in zip(tasks, pool.map(work, tasks), strict=True):
                        found[scope, metric] = result
            yield from (found[scope, metric] for scope, _ in scopes for metric in self.compared)

    def _values(self, layer: str, names: Sequence[str]) -> Values:
        observed = {pair.name: self.summary.observed(pair, layer, names) for pair in self._pairs()}
        return {
            (name, method): np.stack([observed[pair.name][method] for pair in pairs], axis=-1)
            for name, pairs in self.architectures.items()
            for method in self.plan.options.methods
        }

    def _compare(
        self, layer: str, scope: str, metric: str, mask: np.ndarray, values: Values
    ) -> tuple[ComparisonResult, tuple[str, ...]]:
        """One comparison of cells (R, replicates)."""
        cells = {cell: np.where(mask[:, None], of_cell, np.nan) for cell, of_cell in values.items()}
        direction = self.vocabulary.direction_of(metric) or -1  # of a change, the smaller one comes first
        found = compare(cells, self.summary.by_record, direction, self.plan.options.seed)
        place = {"layer": layer, "scope": scope, "metric": metric}
        parts = {name: getattr(found, name) for name in ("differences", "rankings", "reversals", "interaction")}
        if metric in self.vocabulary.changes:  # stable near zero: from low to high is no order of stability
            parts["rankings"] = ()
        return ComparisonResult.model_validate({**place, **parts}), found.resampled

    def _convergence(self) -> Iterator[Equivalence]:
        """Whether the architectures classify equally well after fine-tuning."""
        for one, other in combinations(self.architectures, 2):
            places = [[self.plan.number_of(pair.after) for pair in self.architectures[name]] for name in (one, other)]
            yield from self.summary.classification.equivalences(f"{one} and {other}", *places)
