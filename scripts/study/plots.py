"""The two pictures of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.study.claims import PAPER

COLOURS = ("#0b5fa5", "#c2410c", "#15803d", "#7c3aed", "#57534e")  # of the networks, in their order
LAYERS = ("penultimate", "last")
Rows = Sequence[dict[str, Any]]


def along_training(found: Mapping[str, Rows], path: Path) -> None:
    """Overlap with phase 1 under the paper's methods, and macro AUC, by epoch of phase 2; a colour per network."""
    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    for (name, rows), colour in zip(found.items(), COLOURS, strict=False):
        for axes, method in zip(panels, PAPER, strict=False):
            _band(axes, rows[1:], [row[method]["first"] for row in rows[1:]], colour, name)
            chance = [row[method]["first"]["chance"] for row in rows[1:]]
            axes.plot([row["epoch"] for row in rows[1:]], chance, color=colour, linestyle=":", linewidth=1)
        _band(panels[2], rows, [row["auc"] for row in rows], colour, name)
    for axes, method in zip(panels, PAPER, strict=False):
        axes.set(title=f"{method}, penultimate", ylabel="IoU of the top fifth with phase 1", ylim=(0, 1))
    panels[2].set(title="test images", ylabel="macro AUC", ylim=(0.7, 1))
    panels[0].legend(fontsize=7, frameon=False)
    for axes in panels:
        axes.set_xlabel("epoch of phase 2")
        axes.grid(axis="y", color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def _band(axes: Axes, rows: Rows, found: Rows, colour: str, label: str) -> None:
    """A line with its 95 % interval."""
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [item["mean"] for item in found], color=colour, marker="o", markersize=3, label=label)
    axes.fill_between(
        epochs, [item["low"] for item in found], [item["high"] for item in found], color=colour, alpha=0.1
    )


def stability(rows: Rows, path: Path) -> None:
    """Stability index of the top-20 % overlap by network, method and layer, with the envelope over the replicates."""
    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    networks = list(dict.fromkeys(row["architecture"] for row in rows))
    for axes, layer in zip(figure.subplots(1, len(LAYERS), sharey=True), LAYERS, strict=True):
        for row in rows:
            if row["layer"] == layer and row["method"] in PAPER:
                _point(axes, row, len(networks) - 1 - networks.index(row["architecture"]))
        axes.set_yticks(range(len(networks)), networks[::-1])
        axes.axvline(0, color="#57534e", linewidth=1)
        axes.axvline(1, color="#57534e", linewidth=1)
        axes.set(xlim=(-0.25, 1.25), title=layer, xlabel="stability index of IoU top 20")
        axes.spines[["top", "right"]].set_visible(False)
        handles = [axes.plot([], [], "o", color=colour, label=method)[0] for method, colour in _by_method()]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside upper right", ncols=2)
    figure.savefig(path, metadata={"Software": None})


def _by_method() -> list[tuple[str, str]]:
    return list(zip(PAPER, COLOURS, strict=False))


def _point(axes: Axes, row: dict[str, Any], place: int) -> None:
    index, colour = row["iou_top20"]["index"], dict(_by_method())[row["method"]]
    height = place + (0.13 if row["method"] == PAPER[0] else -0.13)
    if index["mean"] is None:
        axes.text(0.02, height, "no index", color=colour, fontsize=7, va="center")
        return
    axes.plot(index["mean"], height, "o", color=colour)
    if index["low"] is not None:
        axes.plot([max(index["low"], -0.25), min(index["high"], 1.25)], [height, height], color=colour)
