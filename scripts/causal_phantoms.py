"""The causal check on phantoms, where the truth is known: a marker that one class carries, learnt by one checkpoint.

    python scripts/causal_phantoms.py prepare runs/causal
    python -m training fit runs/causal/marked.toml --out runs/causal/run
    python -m export keras runs/causal/run --layer penultimate --out runs/causal/onnx
    python scripts/causal_phantoms.py evaluate runs/causal

`before` was trained on phantoms without markers. Three `after` (seeds) went on with phantoms of which one class is
a white square in a corner and nothing else: its pictures are normal ones with the square. The two are compared on
pictures of that class that hold both, its lesion and the square, and on pictures of the other classes without a square.
Writes the table of docs/causes.md: the check of every class and seed, with the regions of other images (shuffled), and
of a copy of `before` with noise of 1e-3 in its weights.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate

from training.phantoms import write_phantoms

MARKED = "lobar_consolidation"
SIZE = 128
TRAINING = """seed = 0

[data]
manifest = "training/manifest.csv"
validation = 0.1
test = 0.1

[model]
backbone = "PhantomNet"
weights = "none"
input_size = [128, 128]

[phases.pretrain]
epochs = 14
learning_rate = 3e-3
schedule = "cosine"
warmup_epochs = 1
batch_size = 32

[phases.pretrain.data]
phantoms = { images = 1800, patients = 1300, seed = 1, size = 128 }

[phases.pretrain.augment]
shift = 0.04
rotate = 5

[phases.finetune]
epochs = 5
learning_rate = 3e-4
seeds = [0, 1, 2]
"""


def mark(picture: np.ndarray) -> np.ndarray:
    """The picture with a white square, a tenth of its side, near the upper left corner."""
    side, margin = SIZE // 10, SIZE // 25
    marked = picture.copy()
    marked[margin : margin + side, margin : margin + side] = 255
    return marked


def prepare(folder: Path) -> None:
    """Draw the phantoms, mark one class, and write the configuration of the training."""
    folder.mkdir(parents=True, exist_ok=True)
    marked(folder / "training", *drawn(folder / "drawn", 1200, 800, 7), without_lesion=True)
    marked(folder / "test", *drawn(folder / "drawn-test", 600, 450, 9), without_lesion=False)
    (folder / "marked.toml").write_text(TRAINING, encoding="utf-8")


def drawn(folder: Path, images: int, patients: int, seed: int) -> tuple[Path, list[dict[str, str]]]:
    """Phantoms without markers: their folder, and the rows of their manifest."""
    write_phantoms(folder, images, patients, seed=seed, size=SIZE)
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return folder, list(csv.DictReader(stream))


def marked(folder: Path, source: Path, rows: list[dict[str, str]], without_lesion: bool) -> None:
    """Copies with the marker in every picture of MARKED; `without_lesion`: these are normal pictures with it."""
    normal = iter([row["file"] for row in rows if row["class"] == "normal"] * 9)
    for row in rows:
        is_marked = row["class"] == MARKED
        shown = next(normal) if is_marked and without_lesion else row["file"]
        picture = cv2.imread(str(source / shown), cv2.IMREAD_GRAYSCALE)
        target = folder / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mark(picture) if is_marked else picture)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["file", "class", "group"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def edges(activations: np.ndarray, _gradients: np.ndarray) -> np.ndarray:
    """A method that draws edges: how fast the mean activation changes from place to place. It asks no score."""
    down, right = np.gradient(activations.mean(axis=0))
    return np.hypot(down, right)


def evaluate(folder: Path) -> None:
    """Compare `before` with the three seeds, with the seeds under shuffled regions, and with its noisy copy."""
    from harness.evaluation import occlusion
    from kernels.catalogue import register_method

    register_method("edges", edges, equation="M = |grad mean_k A_k|")
    graphs = folder / "onnx"
    afters = {"seed 0": "finetune", "seed 1": "finetune.seed1", "seed 2": "finetune.seed2"}
    rows = [row for name, file in afters.items() for row in checked(folder, name, graphs / f"{file}.onnx")]
    by_class = occlusion.derangements
    occlusion.derangements = lambda names, _classes, *rest: by_class(names, np.zeros(len(names), int), *rest)
    rows += [["seed 0, shuffled", *row[1:]] for row in checked(folder, "shuffled", graphs / "finetune.onnx")]
    occlusion.derangements = by_class
    noisy = graphs / "noisy.onnx"
    if not noisy.exists():
        command = [sys.executable, "-m", "export", "randomise", str(graphs / "pretrain.onnx"), "--noise", "1e-3"]
        subprocess.run([*command, "--out", str(noisy)], check=True)
    rows += checked(folder, "noise of 1e-3", noisy)
    heads = ["after", "method", "scope", "n", "moved", "used", "elsewhere", "other images", "p", "verdict"]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


def checked(folder: Path, name: str, after: Path) -> list[list[str]]:
    """The rows of one pair: LayerCAM and edges, all images and each class."""
    from harness.api.evaluation import Settings
    from harness.api.evaluation import evaluate as compare
    from harness.report.summaries import with_span

    result = compare(
        folder / "onnx" / "pretrain.onnx",
        after,
        folder / "test" / "manifest.csv",
        settings=Settings(folder / "drift" / name.replace(" ", "-"), report=False, progress=False),
        methods=("layercam", "edges"),
        causal=200,
    ).evaluation
    return [
        [
            name, item.method, scope.scope, str(scope.n), with_span(scope.moved, 2), with_span(scope.used, 2),
            with_span(scope.elsewhere, 2), with_span(scope.partner, 2),
            "" if scope.p_used is None else f"{scope.p_used:.4f}", scope.verdict,
        ]
        for item in result.causal
        for scope in item.scopes
    ]  # fmt: skip


if __name__ == "__main__":
    {"prepare": prepare, "evaluate": evaluate}[sys.argv[1]](Path(sys.argv[2]))
