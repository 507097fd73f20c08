"""The two pictures of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"layercam": "#0b5fa5", "gradcam++": "#c2410c"}
LAYER_COLOURS = {"penultimate": "#0b5fa5", "last": "#7c3aed"}


def along_training(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Overlap with phase 1 and with the previous epoch, above accuracy and AUC, by epoch of phase 2."""
    figure = Figure(figsize=(7.5, 6), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for method, colour in COLOURS.items():
        _overlap(upper, rows[1:], method, colour)
    upper.set(ylabel="IoU of the top fifth", ylim=(0, 1), title="Evidence (MobileNetV2, penultimate layer, seed 0)")
    upper.legend(fontsize=8, ncols=2, frameon=False)
    for name, colour in (("auc", "#15803d"), ("accuracy", "#57534e")):
        _band(
            lower,
            [row["epoch"] for row in rows],
            [row[name] for row in rows],
            colour,
            "-",
            name.replace("auc", "macro AUC"),
        )
    lower.set(xlabel="epoch of phase 2 (0: the frozen backbone's checkpoint)", title="Classification, test images")
    lower.set_ylim(0.5, 1)
    lower.legend(fontsize=8, frameon=False, loc="lower right")
    for axes in (upper, lower):
        axes.grid(axis="y", color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_xticks([row["epoch"] for row in rows])
    figure.savefig(path, metadata={"Software": None})


def _overlap(axes: Axes, rows: Sequence[dict[str, Any]], method: str, colour: str) -> None:
    epochs = [row["epoch"] for row in rows]
    for since, style, words in (("first", "-", "with phase 1"), ("previous", "--", "with the epoch before")):
        _band(axes, epochs, [row[method][since] for row in rows], colour, style, f"{method}, {words}")
    chance = [row[method]["first"]["chance"] for row in rows]
    axes.plot(epochs, chance, color=colour, linestyle=":", linewidth=1, label=f"{method}, chance (phase 1)")


def _band(axes: Axes, x: Sequence[int], found: Sequence[dict[str, Any]], colour: str, style: str, label: str) -> None:
    """A line with its 95 % interval."""
    axes.plot(x, [item["mean"] for item in found], color=colour, linestyle=style, marker="o", markersize=3, label=label)
    axes.fill_between(x, [item["low"] for item in found], [item["high"] for item in found], color=colour, alpha=0.12)


def stability(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Stability index of the top-20 % overlap per method and layer, with the envelope over the replicates."""
    figure = Figure(figsize=(7.5, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for row in rows:
        _point(axes, row, len(methods) - 1 - methods.index(row["method"]))
    axes.set_yticks(range(len(methods)), methods[::-1])
    axes.axvline(0, color="#57534e", linewidth=1)
    axes.axvline(1, color="#57534e", linewidth=1)
    axes.set(
        xlim=(-0.1, 1.1), xlabel="stability index of IoU top 20: 0 an unrelated image, 1 another training of phase 2"
    )
    handles = [axes.plot([], [], "o", color=colour, label=layer)[0] for layer, colour in LAYER_COLOURS.items()]
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def _point(axes: Axes, row: dict[str, Any], place: int) -> None:
    index, colour = row["iou_top20"]["index"], LAYER_COLOURS[row["layer"]]
    if index["mean"] is None:
        return
    height = place + (0.13 if row["layer"] == "penultimate" else -0.13)
    axes.plot(index["mean"], height, "o", color=colour)
    if index["low"] is not None:
        axes.plot([index["low"], index["high"]], [height, height], color=colour)
