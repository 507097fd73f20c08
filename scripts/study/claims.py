"""The paper's three claims (arXiv 2604.08513), judged by rules that are fixed before the numbers are known.

Judged on the paper's three architectures, all of which started from the same drawn radiographs here, at `penultimate`.
Each verdict is one of SUPPORTED, NOT and OPEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SUPPORTED, NOT, OPEN = "supported", "not supported", "cannot be told here"
ARCHITECTURES = ("DenseNet201", "ResNet50V2", "InceptionV3")
PAPER = ("layercam", "gradcam++")  # the paper's two methods
LAYER = "penultimate"
COARSE = ("centroid_shift", "zone_overlap")
HALF = 0.5  # an index nearer to what two trainings share than to what two patients do
LEVEL = 0.05
Row = dict[str, Any]


def judge(references: Sequence[Row], ranking: Row) -> tuple[str, str, str]:
    """The verdicts on the three claims, in the paper's order."""
    return (
        coarse_localisation(references),
        overlap_by_architecture(ranking["comparisons"]),
        reversal(ranking["comparisons"], ranking["convergence"]),
    )


def learned(checkpoints: Sequence[Row], baseline: float) -> list[str]:
    """Networks whose trainings of phase 2 all classify better than the baseline, each with its whole interval."""
    worst: dict[str, float] = {}
    for row in checkpoints:
        if row["phase"] != "transfer":
            name, low = row["architecture"], row["accuracy"]["low"]
            worst[name] = min(low, worst.get(name, low))
    return [name for name, low in worst.items() if low > baseline]


def coarse_localisation(references: Sequence[Row]) -> str:
    """Supported where each index of displacement and of zones lies above 0.5 with its interval, under both methods.

    Not supported where one lies below it with its interval; open where neither is so, or an index is missing.
    """
    indices = [row[metric]["index"] for row in _at(references) for metric in COARSE]
    if any(index["high"] is not None and index["high"] < HALF for index in indices):
        return NOT
    return SUPPORTED if all(index["low"] is not None and index["low"] > HALF for index in indices) else OPEN


def overlap_by_architecture(comparisons: Sequence[Row]) -> str:
    """Supported where two architectures differ by their overlap under LayerCAM (Holm, 5 %); else open.

    That none is shown to differ is no proof that none does.
    """
    found = [one for one in differences(comparisons) if one["method"] == PAPER[0]]
    return SUPPORTED if any(one["p_holm"] < LEVEL for one in found) else OPEN


def reversal(comparisons: Sequence[Row], convergence: Sequence[Row]) -> str:
    """Supported where a reversal between the two methods is called for architectures of equivalent AUC.

    Not supported where none is called though both methods tell all pairs apart in the same order; else open.
    """
    if any(row["called"] and _equivalent(row["architectures"], convergence) for row in reversals(comparisons)):
        return SUPPORTED
    signs = [one["mean"] > 0 for one in differences(comparisons) if one["p_holm"] < LEVEL]
    told_apart = len(signs) == len(PAPER) * len(ARCHITECTURES)  # three pairs of three architectures
    return NOT if told_apart and not any(row["called"] for row in reversals(comparisons)) else OPEN


def differences(comparisons: Sequence[Row]) -> list[Row]:
    """Differences of overlap between two of the three architectures."""
    found = (one for comparison in comparisons if comparison["layer"] == LAYER for one in comparison["differences"])
    return [one for one in found if {one["first"], one["second"]} <= set(ARCHITECTURES)]


def reversals(comparisons: Sequence[Row]) -> list[Row]:
    """Whether two of the three architectures change places between the paper's methods."""
    found = (row for comparison in comparisons if comparison["layer"] == LAYER for row in comparison["reversals"])
    return [row for row in found if set(row["architectures"]) <= set(ARCHITECTURES)]


def _at(references: Sequence[Row]) -> list[Row]:
    return [
        row
        for row in references
        if row["architecture"] in ARCHITECTURES and row["layer"] == LAYER and row["method"] in PAPER
    ]


def _equivalent(architectures: Sequence[str], convergence: Sequence[Row]) -> bool:
    names = {" and ".join(order) for order in (architectures, tuple(reversed(architectures)))}
    found = [item for item in convergence if item["name"] in names and item["of"] == "auc"]
    return bool(found) and all(item["equivalent"] for item in found)
