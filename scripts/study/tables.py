"""The tables of the page, each a function of a part of the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

DASH = "-"
HEADS = {
    "centroid_shift": "displacement",
    "zone_overlap": "zones kept",
    "iou_top20": "IoU top 20",
    "pearson": "correlation",
    "gini_change": "Gini change",
}
REFERENCED = ("centroid_shift", "zone_overlap", "iou_top20", "pearson")
NULL_PROBABILITY = 0.5  # of opposite signs, for two differences that are none
Rows = Sequence[dict[str, Any]]


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals, a dash for null."""
    return DASH if value is None else f"{value:.{digits}f}"


def spanned(found: dict[str, Any], digits: int = 3) -> str:
    """`mean (low .. high)`; the mean alone where there is no interval."""
    if found["low"] is None:
        return number(found["mean"], digits)
    return f"{number(found['mean'], digits)} ({number(found['low'], digits)} .. {number(found['high'], digits)})"


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return DASH if value is None else f"{100 * value:.0f} %"


def probability(value: float | None) -> str:
    """A p value; one below 0.001 is only said to be."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    return tabulate([list(row) for row in rows], list(headers), tablefmt="github", disable_numparse=True)


def drift(rows: Rows) -> str:
    """The paper's table: architecture, method, and what fine-tuning did to the maps."""
    cells = [[row["architecture"], row["method"], *(spanned(row[metric]) for metric in HEADS)] for row in rows]
    return table(["architecture", "method", *HEADS.values()], cells)


def references(rows: Rows) -> str:
    """What each metric is for an unrelated image and for another training, and where fine-tuning lies between."""
    cells = [
        [
            row["layer"],
            row["method"],
            *(_levels(row[name]) for name in REFERENCED),
            spanned(row["iou_top20"]["index"], 2),
        ]
        for row in rows
    ]
    return table(["layer", "method", *(HEADS[name] for name in REFERENCED), "index of IoU"], cells)


def _levels(found: dict[str, Any]) -> str:
    return f"{number(found['chance'])} / **{number(found['mean'])}** / {number(found['floor'])}"


def quality(rows: Rows) -> str:
    """How well the checkpoints classify."""
    cells = [[row["key"], *(spanned(row[name]) for name in ("accuracy", "auc", "ece"))] for row in rows]
    return table(["checkpoint", "accuracy", "macro AUC", "calibration error"], cells)


def shortcuts(found: dict[str, Any]) -> str:
    """What the columns of the manifest give away without a look at the picture."""
    cells = [[name, number(item["accuracy"]), number(item["auc"])] for name, item in found.items()]
    return table(["known", "accuracy", "macro AUC"], cells)


def sources(rows: Rows) -> str:
    """Accuracy among the classes of one source."""
    cells = [
        [row["source"], ", ".join(row["classes"]), str(row["images"]), number(row["majority"]),
         *(spanned(row[name]) for name in ("before", "after", "change"))]
        for row in rows
    ]  # fmt: skip
    return table(["source", "classes", "images", "most frequent class", "transfer", "finetune", "change"], cells)


def differences(rows: Rows) -> str:
    """How two methods differ in the overlap that they report of the same fine-tunes."""
    cells = [
        [f"{row['first']} - {row['second']}", spanned(row), probability(row["p_holm"]), str(row["n"])] for row in rows
    ]
    return table(["methods", "difference of IoU top 20", "p (Holm)", "images"], cells)


def rankings(rows: Rows) -> str:
    """Order of the architectures under each method, with its bootstrap probability."""
    cells = [
        [row["method"], " > ".join(row["architectures"]), ", ".join(number(mean) for mean in row["means"]),
         number(_share_of(row), 2), str(row["n"])]
        for row in rows
    ]  # fmt: skip
    return table(["method", "order", "IoU top 20", "probability of this order", "images"], cells)


def _share_of(ranking: dict[str, Any]) -> float:
    shares = {tuple(order["architectures"]): order["probability"] for order in ranking["orders"]}
    return shares.get(tuple(ranking["architectures"]), 0.0)


def reversals(rows: Rows, methods: tuple[str, str] = ("layercam", "gradcam++")) -> str:
    """Whether two architectures change places between the paper's two methods."""
    cells = [
        [" and ".join(row["architectures"]), f"{row['first']:+.3f}", f"{row['second']:+.3f}",
         number(row["probability"], 2), number(NULL_PROBABILITY, 2), "yes" if row["called"] else "no"]
        for row in rows
        if tuple(row["methods"]) == methods
    ]  # fmt: skip
    heads = ["architectures", *(f"difference under {name}" for name in methods)]
    return table([*heads, "probability of opposite signs", "of two null differences", "called"], cells)


def training(rows: Rows, methods: tuple[str, str] = ("layercam", "gradcam++")) -> str:
    """One row per epoch of phase 2."""
    cells = [
        [str(row["epoch"]), number(row["accuracy"]["mean"]), number(row["auc"]["mean"]), *_overlaps(row, methods)]
        for row in rows
    ]
    heads = [f"{name}, with {since}" for name in methods for since in ("phase 1", "the epoch before")]
    return table(["epoch", "accuracy", "macro AUC", *heads], cells)


def _overlaps(row: dict[str, Any], methods: Sequence[str]) -> list[str]:
    if methods[0] not in row:
        return [DASH] * (2 * len(methods))
    return [spanned(row[name][since]) for name in methods for since in ("first", "previous")]


def anatomy(found: dict[str, Any]) -> str:
    """Share of the maps inside a region, before and after."""
    cells = [
        [row["layer"], row["method"], *(number(row[name]["mean"]) for name in ("before", "after", "area")),
         probability(row["p_change"]), probability(row["p_area"]), f"{row['n']} ({row['patients']})"]
        for row in found["rows"]
    ]  # fmt: skip
    heads = ["share before", "share after", "area", "p of no change", "p of after = area", "images (patients)"]
    return table(["layer", "method", *heads], cells)
