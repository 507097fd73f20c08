"""What further passes will cost, said before the work starts: counted, and timed on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.common.formatting import count
from harness.evaluation.timing import seconds_of
from harness.images.dataset import Sample
from harness.models.attribution import explain_further
from harness.models.session import Explanation, Model
from harness.results.plan import Plan
from harness.results.references import pairs_with_noise
from harness.results.selection import sampled_records
from kernels.catalogue import cam_method


@dataclass(frozen=True)
class Cost:
    """What the maps of a method of several passes take, at most.

    passes: of one map, in words; records: of the sample; noisy: copies of them with noise; seconds: of all maps
    """

    method: str
    passes: str
    records: int
    checkpoints: int
    noisy: int
    layers: int
    seconds: float

    @property
    def maps(self) -> int:
        return (self.records * self.checkpoints + self.noisy) * self.layers

    def __str__(self) -> str:
        return (
            f"{self.method} takes {self.passes} per map: up to {count(self.maps, 'map')} "
            f"({count(self.records, 'sampled image')}, {count(self.checkpoints, 'checkpoint')}, "
            f"{self.noisy:,} noisy copies), about {self.seconds:.0f} s"
        )


def costs_of_methods(plan: Plan, samples: Sequence[Sample], provider: str, threads: int) -> list[Cost]:
    """Those of the methods that take several passes."""
    methods = plan.methods_of_several_passes
    if not methods or plan.options.maps == "graph":
        return []
    model = Model.open(plan.checkpoints[0].graph.path, provider, threads, at_once=True)
    found = model.explain(_picture(model), np.zeros(1, np.int64), plan.layers)
    records, checkpoints = int(sampled_records(samples, plan).sum()), len(plan.checkpoints)
    noisy = records * noisy_copies(plan)
    each = records * checkpoints + noisy
    return [
        Cost(
            method=method,
            passes=cam_method(method).cost,
            records=records,
            checkpoints=checkpoints,
            noisy=noisy,
            layers=len(plan.layers),
            seconds=each * sum(_seconds(model, found, layer, method) for layer in plan.layers) / model.calls,
        )
        for method in methods
    ]


def noisy_copies(plan: Plan) -> int:
    """At most so many noisy copies does an image have in all checkpoints together."""
    if plan.options.jitter is None:
        return len(pairs_with_noise(plan))
    return plan.options.jitter * len(plan.checkpoints)


def _seconds(model: Model, found: Explanation, layer: str, method: str) -> float:
    """Seconds for one map."""
    here, picture, first = Explanation(found.logits, {layer: found.layers[layer]}), _picture(model), np.zeros(1, int)
    return seconds_of(lambda: explain_further(model, here, [method], first, picture, first))


def _picture(model: Model) -> np.ndarray:
    """(1, 3, H, W): noise, whose maps are not empty."""
    noise = np.random.default_rng(0).uniform(0, 255, model.metadata.input_size).astype(np.float32)
    return np.broadcast_to(noise, (1, 3, *noise.shape)).copy()
