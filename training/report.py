"""What a finished run looks like: a table of its checkpoints, and the curves of its phases.

Everything is rendered from `run.json` and `history.csv`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tabulate import tabulate

from training.files import replacing

COLUMNS = ("checkpoint", "seed", "epochs", "seconds", "loss", "accuracy", "macro-AUC", "calibration")


def table(record: dict[str, Any]) -> str:
    """Test metrics per checkpoint with 95 % intervals over patients; recall, shortcuts and accepted changes beneath."""
    phases = record["phases"]
    parts = [aligned([COLUMNS, *(_row(stem, phase) for stem, phase in phases.items())])]
    parts += [_recalls({s: p for s, p in phases.items() if p["classes"] == c}, c) for c in _class_lists(phases)]
    if record.get("shortcuts"):
        parts.append(_shortcuts(record["shortcuts"]))
    parts += [_preserved(stem, item) for stem, phase in phases.items() for item in phase.get("preserved", [])]
    parts += [
        f"changed, accepted {entry['time']}: {'; '.join(entry['changes'])}" for entry in record.get("changes", [])
    ]
    return "\n\n".join(parts) + "\n"


def aligned(rows: list[tuple[str, ...]]) -> str:
    """A table under its first row: the first column to the left, numbers to the right."""
    sides = ("left", *["right"] * (len(rows[0]) - 1))
    return tabulate(rows[1:], rows[0], "plain", disable_numparse=True, colalign=sides)


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Loss, accuracy and macro-AUC over the epochs of every checkpoint, one after the other, as a PNG."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    shown = {title: names for title, names in _PANELS.items() if any(row.get(names[-1]) for row in rows)}
    figure = Figure(figsize=(4 * len(shown), 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown))
    for axes, (title, names) in zip(panels, shown.items(), strict=True):
        _panel(axes, title, names, rows)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)  # never over a curve
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


_PANELS = {
    "cross-entropy": ("train_loss", "val_loss"),
    "accuracy": ("train_accuracy", "val_accuracy"),
    "macro-AUC": ("val_auc",),
    "evidence: 1 - similarity": ("train_preserve", "val_preserve"),
}


def _panel(axes: Any, title: str, names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    for number, checkpoint in enumerate(checkpoints):
        steps = [(k, row) for k, row in enumerate(rows, start=1) if row["checkpoint"] == checkpoint]
        for name in names:
            dashed = name.startswith("train")
            known = [(k, float(row[name])) for k, row in steps if row.get(name) not in (None, "")]
            x, y = [k for k, _ in known], [value for _, value in known]
            axes.plot(x, y, "--" if dashed else "-", color=f"C{number}", label=None if dashed else checkpoint)
    axes.set(title=title, xlabel="epochs, all phases (dashed: training)")


def _row(stem: str, phase: dict[str, Any]) -> tuple[str, ...]:
    test = phase["metrics"]["test"]
    return (
        stem,
        str(phase["seed"]),
        str(phase["epochs"]),
        f"{phase['seconds']:.0f}",
        f"{test['loss']:.3f}",
        _spread(test["accuracy"], test["accuracy_interval"]),
        _spread(test["auc"], test["auc_interval"]),
        f"{test['calibration_error']:.3f}",
    )


def _preserved(stem: str, item: dict[str, Any]) -> str:
    """How a checkpoint was trained to preserve evidence, and what a step of that costs."""
    text = (
        f"{stem}: trained to preserve evidence in {item['checkpoint']}: {item['method']} at {item['layer']} "
        f"({item['similarity']}, weight {item['weight']:g}) of {item['reference']}, on {item['images']} of "
        f"{item['of']} training images"
    )
    cost = item["step_seconds"]
    if cost is None:
        return text
    ours, plain = cost["preserving"], cost["plain"]
    return f"{text}; a step takes {ours:.3g} s, a plain one {plain:.3g} s ({ours / plain:.2f} x)"


def _spread(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "undefined"
    edges = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{value:.3f}{edges}"


def _class_lists(phases: dict[str, Any]) -> list[list[str]]:
    lists: list[list[str]] = []
    for phase in phases.values():
        if phase["classes"] not in lists:
            lists.append(phase["classes"])
    return lists


def _recalls(phases: dict[str, Any], classes: list[str]) -> str:
    rows: list[tuple[str, ...]] = [("recall", *classes)]
    for stem, phase in phases.items():
        recall = phase["metrics"]["test"]["recall"]
        rows.append((stem, *("undefined" if recall[name] is None else f"{recall[name]:.3f}" for name in classes)))
    return aligned(rows)


def _shortcuts(found: dict[str, dict[str, float | None]]) -> str:
    rows: list[tuple[str, ...]] = [("label from the column alone", "accuracy", "macro-AUC")]
    rows += [(name, _spread(score["accuracy"], None), _spread(score["auc"], None)) for name, score in found.items()]
    return aligned(rows)
