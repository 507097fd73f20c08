"""Two months of nights on phantoms, a change of exposure planted in the middle: the figure of docs/deploy.md.

    python -m scripts.monitor_nights runs/nights

Draws a reference of 300 phantoms and 60 nights of 20, all of different patients; from night 31 on, every picture is
darkened by 30 %, as after a change of exposure. The embedded checkpoints are evaluated on the reference, and
`python -m harness monitor` runs once a night, as it would in a hospital; the tenth night is killed halfway and run
again. Prints the table of the last night, and draws docs/images/monitor-nights.png.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from harness.evaluation.demonstration import FOLDER
from harness.monitoring.history import History, history
from harness.monitoring.state import read_state
from training.phantoms import CLASSES, draw_phantom

REFERENCE, NIGHTS, EACH, CHANGED, KILLED = 300, 60, 20, 31, 10
GAIN = 0.7  # of the grey levels, from night CHANGED on
SEED, SIZE = 77, 224
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "monitor-nights.png"
SHOWN = ("gini", "confidence")


def draw(folder: Path, first: int, count: int, gain: float = 1.0) -> Path:
    """Phantoms of patients first ... first + count - 1, in class folders where they are the reference, else plain."""
    for patient in range(first, first + count):
        label = CLASSES[patient % len(CLASSES)]
        where = folder / label if first == 0 else folder
        where.mkdir(parents=True, exist_ok=True)
        image = draw_phantom(label, patient, seed=SEED, size=SIZE).image
        cv2.imwrite(str(where / f"{patient:05d}.png"), np.round(gain * image).astype(np.uint8))
    return folder


def harness(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness", *map(str, arguments), "--quiet"]


def night(out: Path, number: int) -> list[str]:
    """The command line of a night."""
    first = REFERENCE + (number - 1) * EACH
    data = draw(out / f"night-{number:02d}", first, EACH, GAIN if number >= CHANGED else 1.0)
    where = ("--reference", out / "accepted", "--data", data, "--state", out / "monitor" / "state.json")
    return harness("monitor", FOLDER / "finetune.onnx", *where, "--night", number)


def killed(line: list[str], state: Path) -> None:
    """Begin a night, and kill it before it ends: the state stays what it was."""
    before = state.read_bytes()
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as child:
        time.sleep(1.0)
        os.kill(child.pid, signal.SIGKILL)
    assert state.read_bytes() == before


def run(out: Path) -> History:
    """All nights; returns what the state says."""
    data = draw(out / "reference", 0, REFERENCE)
    pair = ("--before", FOLDER / "transfer.onnx", "--after", FOLDER / "finetune.onnx", "--data", data)
    subprocess.run(harness("evaluate", *pair, "--out", out / "accepted"), check=True, stdout=subprocess.DEVNULL)
    for number in range(1, NIGHTS + 1):
        line = night(out, number)
        if number == KILLED:
            killed(line, out / "monitor" / "state.json")
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
    print(done.stdout)
    state = read_state(out / "monitor" / "state.json")
    assert state is not None
    return history(state)


def plot(found: History) -> None:
    """Two statistics night by night, and the evidence of all."""
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    panels = figure.subplots(len(SHOWN) + 1, 1, sharex=True)
    numbers = np.arange(1, len(found.nights) + 1)
    names = [item.name for item in found.nights[-1].statistics]
    for axes, name in zip(panels, SHOWN, strict=False):
        items = [night.statistics[names.index(name)] for night in found.nights]
        reference, spreads = items[-1].reference, [item.tonight for item in items]
        axes.axhspan(reference.q25, reference.q75, color="0.88", label="reference: quartiles")
        axes.vlines(numbers, [one.q25 for one in spreads], [one.q75 for one in spreads], color="C0")
        axes.plot(
            numbers, [one.median for one in spreads], "o", color="C0", markersize=4, label="night: median, quartiles"
        )
        axes.set_ylabel(name)
    panels[0].legend(loc="best", fontsize=8)
    for place in range(len(names)):
        panels[-1].plot(numbers, [night.statistics[place].log10_e for night in found.nights], linewidth=1)
    panels[-1].axhline(found.nights[-1].log10_threshold, color="C3", linestyle="--", label="alarm")
    panels[-1].set(ylabel="evidence of each statistic,\nlog10", xlabel="night", ylim=(-2, 12))
    panels[-1].legend(loc="upper left", fontsize=8)
    for axes in panels:
        axes.axvline(CHANGED - 0.5, color="0.3", linewidth=1, linestyle=":")
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    found = run(Path(sys.argv[1]))
    print(found.since)
    plot(found)
