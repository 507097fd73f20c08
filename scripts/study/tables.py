"""The tables of the page, each a function of a part of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate

from scripts.study.claims import COARSE, PAPER

DASH = "-"
HEADS = {
    "centroid_shift": "displacement",
    "zone_overlap": "zones kept",
    "iou_top20": "IoU top 20",
    "pearson": "correlation",
    "gini_change": "Gini change",
}
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


def starts(rows: Rows) -> str:
    """The networks: what they started from and how long they were trained."""
    cells = [
        [row["name"], row["weights"], *(_epochs(row, phase) for phase in ("transfer", "finetune")),
         f"{row['learning_rate']:g}", f"`{row['layers']['penultimate']}`, `{row['layers']['last']}`",
         f"`{row['config']}`"]
        for row in rows
    ]  # fmt: skip
    heads = ["network", "first weights from", "epochs, phase 1", "phase 2", "learning rate", "`penultimate`, `last`",
             "configuration"]  # fmt: skip
    return table(heads, cells)


def _epochs(row: dict[str, Any], phase: str) -> str:
    return next(str(found["epochs"]) for found in row["phases"] if found["name"] == phase)


def trainings(rows: Rows) -> str:
    """Every phase of every run: epochs, seconds, accuracy on its own test images, digest of the weights."""
    cells = [
        [row["name"], phase["name"], str(phase["epochs"]), str(phase["best_epoch"]), f"{phase['seconds']:.0f}",
         number(phase["accuracy"]), f"`{phase['digest']}`"]
        for row in rows
        for phase in row["phases"]
    ]  # fmt: skip
    return table(["network", "phase", "epochs", "best", "seconds", "accuracy", "weights"], cells)


def drift(rows: Rows) -> str:
    """The paper's table: architecture, method, and what fine-tuning did to the maps."""
    cells = [[row["architecture"], row["method"], *(spanned(row[metric]) for metric in HEADS)] for row in rows]
    return table(["network", "method", *HEADS.values()], cells)


def by_method(rows: Rows, show: Callable[[dict[str, Any]], str]) -> str:
    """One row per method, one column per network; `show` writes a cell."""
    networks = list(dict.fromkeys(row["architecture"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(row["architecture"], row["method"]): show(row) for row in rows}
    return table(["method", *networks], [[method, *(found[name, method] for name in networks)] for method in methods])


def overlaps(rows: Rows) -> str:
    """Overlap of each network under each method: chance / measured / floor."""
    return by_method(rows, lambda row: _levels(row["iou_top20"]))


def indices(rows: Rows) -> str:
    """Stability index of the overlap of each network under each method."""
    return by_method(rows, lambda row: spanned(row["iou_top20"]["index"], 2))


def coarse(rows: Rows) -> str:
    """Displacement and zones kept between chance and floor, with their indices."""
    cells = [
        [row["architecture"], row["method"], *(_levels(row[name]) for name in COARSE),
         *(spanned(row[name]["index"], 2) for name in COARSE)]
        for row in rows
    ]  # fmt: skip
    names = [HEADS[name] for name in COARSE]
    return table(["network", "method", *names, *(f"index of {name}" for name in names)], cells)


def _levels(found: dict[str, Any]) -> str:
    return f"{number(found['chance'])} / **{number(found['mean'])}** / {number(found['floor'])}"


def quality(checkpoints: Rows, pairs: Rows) -> str:
    """How well each network classifies after either phase, and the paired change of each training."""
    networks = list(dict.fromkeys(row["architecture"] for row in checkpoints))
    heads = ["network", "accuracy, phase 1", "phase 2, three trainings", "change of accuracy", "macro AUC, phase 1",
             "phase 2"]  # fmt: skip
    return table(heads, [_quality_of(name, checkpoints, pairs) for name in networks])


def _quality_of(name: str, checkpoints: Rows, pairs: Rows) -> list[str]:
    first, *after = [row for row in checkpoints if row["architecture"] == name]
    changes = [row["change"]["accuracy"] for row in pairs if row["architecture"] == name]
    return [
        name,
        spanned(first["accuracy"]),
        "; ".join(spanned(row["accuracy"]) for row in after),
        "; ".join(spanned(change) for change in changes),
        spanned(first["auc"]),
        ", ".join(number(row["auc"]["mean"]) for row in after),
    ]


def shortcuts(found: dict[str, Any]) -> str:
    """What the columns of the manifest give away without a look at the picture."""
    cells = [[name, number(item["accuracy"]), number(item["auc"])] for name, item in found.items()]
    return table(["known", "accuracy", "macro AUC"], cells)


def sources(rows: Rows) -> str:
    """Accuracy among the classes of one source."""
    cells = [
        [row["architecture"], row["source"], number(row["majority"]),
         *(spanned(row[name]) for name in ("before", "after", "change"))]
        for row in rows
    ]  # fmt: skip
    return table(["network", "source", "most frequent class", "transfer", "finetune", "change"], cells)


def methods(rows: Rows) -> str:
    """How two methods differ in the overlap that they report of the same fine-tunes."""
    cells = [
        [row["architecture"], row["layer"], spanned(row, 4), probability(row["p_holm"]), str(row["n"])] for row in rows
    ]
    return table(["network", "layer", "layercam - gradcam++", "p (Holm)", "images"], cells)


def differences(rows: Rows) -> str:
    """How two networks differ in the overlap under one method, and what as many patients would have shown."""
    cells = [
        [f"{row['first']} - {row['second']}", row["method"], spanned(row), probability(row["p_holm"]),
         number(row["shown"])]
        for row in rows
    ]  # fmt: skip
    return table(["networks", "method", "difference of IoU top 20", "p (Holm)", "shown with 80 % power"], cells)


def convergence(rows: Rows) -> str:
    """Whether two networks classify equally well after fine-tuning."""
    cells = [
        [row["name"], row["of"].replace("auc", "macro AUC"), f"{number(row['difference'])} ({number(row['low90'])} .. "
         f"{number(row['high90'])})", "yes" if row["equivalent"] else "not shown"]
        for row in rows
    ]  # fmt: skip
    return table(["networks", "of", "difference (90 %)", "equivalent"], cells)


def rankings(rows: Rows) -> str:
    """Order of the networks under each method, with its bootstrap probability."""
    cells = [
        [row["method"], " > ".join(row["architectures"]), ", ".join(number(mean) for mean in row["means"]),
         number(row["probability"], 2), f"{row['n']} ({row['n_patients']})"]
        for row in rows
    ]  # fmt: skip
    return table(["method", "order", "IoU top 20", "probability of this order", "images (patients)"], cells)


def reversals(rows: Rows) -> str:
    """Whether two architectures change places between the paper's two methods."""
    cells = [
        [" and ".join(row["architectures"]), f"{row['first']:+.3f}", f"{row['second']:+.3f}",
         number(row["probability"], 2), number(NULL_PROBABILITY, 2), "yes" if row["called"] else "no"]
        for row in rows
    ]  # fmt: skip
    heads = ["networks", *(f"difference under {name}" for name in PAPER)]
    return table([*heads, "probability of opposite signs", "of two null differences", "called"], cells)


def training(found: dict[str, Rows], method: str = "layercam") -> str:
    """Overlap and AUC at the end of phase 1, after the first epoch of phase 2 and at its end."""
    return table(
        ["network", "AUC: phase 1, epoch 1, end", "chance", "overlap with phase 1: epoch 1", "end",
         "with the epoch before: epoch 2", "end"],
        [_training_of(name, rows, method) for name, rows in found.items()],
    )  # fmt: skip


def _training_of(name: str, rows: Rows, method: str) -> list[str]:
    start, first, second, *_ = rows
    last = rows[-1]
    return [
        name,
        ", ".join(number(row["auc"]["mean"]) for row in (start, first, last)),
        number(last[method]["first"]["chance"]),
        *(spanned(row[method]["first"]) for row in (first, last)),
        *(spanned(row[method]["previous"]) for row in (second, last)),
    ]


def anatomy(rows: Rows) -> str:
    """Share of the maps inside a region, before and after."""
    cells = [
        [row["architecture"], row["layer"], row["method"],
         *(number(row[name]["mean"]) for name in ("before", "after", "area")),
         probability(row["p_change"]), probability(row["p_area"]), f"{row['n']} ({row['patients']})"]
        for row in rows
    ]  # fmt: skip
    heads = ["share before", "share after", "area", "p of no change", "p of after = area", "images (patients)"]
    return table(["network", "layer", "method", *heads], cells)
