"""The metrics of a result: which have references and an index, and which way they count."""

from __future__ import annotations

from kernels.catalogue import METRICS

CONCENTRATION = tuple(record.name for record in METRICS.values() if record.kind == "concentration")
PAIR_METRICS = tuple(record.name for record in METRICS.values() if record.kind == "pair")
SHIFTS = tuple(f"{name}_shift" for name in CONCENTRATION)  # |change|: a concentration as a pair metric
STABILITY = PAIR_METRICS + SHIFTS  # what has a chance level, a floor and an index
COLUMNS = (*(column for record in METRICS.values() for column in record.columns), *SHIFTS)
DIRECTIONS = {**{name: METRICS[name].direction for name in PAIR_METRICS}, **dict.fromkeys(SHIFTS, -1)}

HEADLINE = "iou_top20"
