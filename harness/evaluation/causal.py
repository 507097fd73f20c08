"""The causal check: is the evidence that moved used? Effects of occlusion become estimates, tests and words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.common.progress import Progress
from harness.evaluation.estimates import estimated
from harness.evaluation.occlusion import ELSEWHERE, SETS, Effects, Occlusion
from harness.results.moved_records import moved_records
from harness.results.plan import LayerMethod, Pair
from harness.results.reader import Reader
from harness.results.schema import ALL, CausalResult, CausalScope, Estimate
from harness.statistics.bootstrap import Resampling
from harness.statistics.causal import OWN, change_of_kept, double_difference, joint_p, verdict
from harness.statistics.hypothesis_tests import holm
from harness.statistics.moved import JITTER_SHARE


class CausalCheck:
    """What the occlusion of pictures says of every pair of a plan that tells drift.

    resampling: of the records
    scopes: name and records (R,) bool of each
    """

    def __init__(
        self,
        reader: Reader,
        resampling: Resampling,
        scopes: Sequence[tuple[str, np.ndarray]],
        occlusion: Occlusion,
    ) -> None:
        self.reader = reader
        self.plan = reader.plan
        self.resampling = resampling
        self.scopes = scopes
        self.occlusion = occlusion

    def results(self, progress: Progress) -> list[CausalResult]:
        """One per pair, layer and method; empty where the check was not asked for."""
        if not self.plan.options.causal:
            return []
        found = [(pair, self.occlusion.effects(pair, progress)) for pair in self.plan.drifts]
        results = [self._result(pair, place, effects) for pair, effects in found for place in effects.falls]
        judge(results)
        return results

    def _result(self, pair: Pair, place: LayerMethod, effects: Effects) -> CausalResult:
        layer, method = place
        scopes = [self._scope(pair, place, scope, mask, effects) for scope, mask in self.scopes]
        return CausalResult(pair=pair.name, layer=layer, method=method, passes=effects.passes, scopes=scopes)

    def _scope(self, pair: Pair, place: LayerMethod, scope: str, mask: np.ndarray, effects: Effects) -> CausalScope:
        """Estimates and p values of one scope; the p values are adjusted, and words found, by `judge`."""
        rows, own_effects = effects.within(place, mask)
        uses, changes = double_difference(own_effects), change_of_kept(own_effects)  # (n, F, S)
        used, elsewhere, partner = _by_set(uses.mean(axis=1))
        kept, kept_elsewhere, _ = _by_set(changes.mean(axis=1))
        resampling, seed = self.resampling.of(rows), self.plan.options.seed
        estimates = {
            "used": used, "elsewhere": elsewhere, "partner": partner, "contrast": used - elsewhere,
            "blur": uses[:, 0, OWN], "mean": uses[:, 1, OWN], "kept": kept, "kept_contrast": kept - kept_elsewhere,
        }  # fmt: skip
        return CausalScope(
            scope=scope,
            n=int(np.isfinite(used).sum()),
            n_patients=int(resampling.n_patients(used[:, None])[0]),
            moved=self._moved(pair, place, mask),
            **{name: estimated(resampling, values) for name, values in estimates.items()},
            p_used=joint_p(used, elsewhere, resampling.patient, seed),
            p_kept=joint_p(kept, kept_elsewhere, resampling.patient, seed),
            verdict="not judged",
        )

    def _moved(self, pair: Pair, place: LayerMethod, mask: np.ndarray) -> Estimate:
        """Share of the compared records of a scope that moved, by the headline metric."""
        found = moved_records(self.reader, pair, *place)
        rows = np.flatnonzero(mask & found.known)
        return estimated(self.resampling.of(rows), found.rate[rows])


def _by_set(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) of an image's own regions, of the same elsewhere (mean of the draws), of a partner's; from values (n, S)."""
    return values[:, OWN], values[:, 1 : 1 + ELSEWHERE].mean(axis=1), values[:, SETS - 1]


def judge(results: list[CausalResult]) -> None:
    """Adjust the p values, and find the words.

    Two families, each of all pairs, layers and methods: the tests over all images, and those of all single classes.
    """
    scopes = [item for result in results for item in result.scopes]
    for family in ([item for item in scopes if item.scope == ALL], [item for item in scopes if item.scope != ALL]):
        if family:
            _judge_family(family)


def _judge_family(family: list[CausalScope]) -> None:
    used, kept = (holm(np.array([_nan(getattr(item, name)) for item in family])) for name in ("p_used", "p_kept"))
    for item, p_used, p_kept in zip(family, used.tolist(), kept.tolist(), strict=True):
        item.p_used, item.p_kept = (None if np.isnan(p) else p for p in (p_used, p_kept))
        unknown = item.moved.low is None or (item.used.low is None and item.n > 0)  # too few patients
        moved = None if unknown or item.moved.low is None else item.moved.low > JITTER_SHARE
        means = [_nan(estimate.mean) for estimate in (item.used, item.kept, item.kept_contrast)]
        item.verdict = verdict(moved, means[0], p_used, means[1:], p_kept)


def _nan(value: float | None) -> float:
    return np.nan if value is None else value
