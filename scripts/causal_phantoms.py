"""The causal check on phantoms, where the truth is known: a marker that one class carries, learnt by one checkpoint.

    python -m scripts.causal_phantoms runs/causal

Draws pictures, trains, exports and evaluates, each where its result is missing (about ten minutes on one core); prints
the tables of docs/causes.md. All networks start from one backbone, which has seen the marker as a class of its own. Of
each seed `plain` and `marked` are trained on the same phantoms, in the same order, with as many markers: in `marked`
half of the pictures of one class carry it and no others, in `plain` the same number of pictures drawn from all classes.
Every picture of the class keeps its lesion. So both learn the same lesions, and `marked` learns one thing that `plain`
does not: that the marker means the class. They are compared on test pictures of which those of the class, and no
others, have a marker beside their lesion.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from tabulate import tabulate

from harness.api.evaluation import Settings
from harness.api.evaluation import evaluate as compare
from harness.evaluation import run
from harness.evaluation.estimates import estimated
from harness.evaluation.occlusion import ELSEWHERE, SETS, Occlusion
from harness.images.occlusion import FILLS, fills, occluded
from harness.images.view import channels_first
from harness.models.score_kinds import margins
from harness.models.session import Model
from harness.report.summaries import with_span
from harness.results.plan import LayerMethod, Pair
from harness.results.schema import CausalScope, Evaluation
from harness.statistics.bootstrap import Resampling
from harness.statistics.causal import OWN, spread
from harness.statistics.chance import derangements
from kernels.catalogue import register_method
from scripts.study import steps
from training.phantoms import Phantom, draw_phantoms

CLASS = "lobar_consolidation"
SEEDS = (0, 1, 2)
SIZE, CHECK, CHECKS = 128, 4, 6  # pixels of a picture and of one field of the marker; fields per side
SIDE = CHECK * CHECKS
CORNER = (4, 4)
PRETRAINING, TRAINING, TEST = 1500, 1000, 500  # pictures, each of a patient of its own
OCCLUDED = 200  # of the test pictures, 40 of each class
MODEL = """
[model]
backbone = "PhantomNet"
weights = "{weights}"
input_size = [128, 128]
"""
PRETRAIN = """
[phases.pretrain]
epochs = 14
learning_rate = 3e-3
schedule = "cosine"
warmup_epochs = 1
batch_size = 32
"""
TUNE = """
[phases.head]
epochs = 20
trainable = "head"
learning_rate = 3e-3

[phases.tuned]
epochs = 3
learning_rate = 3e-4
schedule = "cosine"
warmup_epochs = 1
"""


def marked(picture: np.ndarray, place: tuple[int, int] = CORNER) -> np.ndarray:
    """The picture with a chequered square: no fill of an occlusion resembles it."""
    (top, left), shown = place, picture.copy()
    shown[top : top + SIDE, left : left + SIDE] = 255 * ((np.indices((SIDE, SIDE)) // CHECK).sum(axis=0) % 2)
    return shown


def prepare(folder: Path) -> None:
    """Draw the four sets of pictures, and write the configurations of the seven trainings."""
    rng = np.random.default_rng(0)
    phantoms = drawn(PRETRAINING, 1)
    alone = rng.permutation(PRETRAINING) < PRETRAINING // 6
    places = [tuple(rng.integers(0, SIZE - SIDE, 2)) if one else None for one in alone]
    write(
        folder / "common",
        phantoms,
        places,
        ["marker" if one else item.label for item, one in zip(phantoms, alone, strict=True)],
    )
    phantoms = drawn(TRAINING, 7)
    half = every_second([item.label == CLASS for item in phantoms])
    write(folder / "marked", phantoms, corners(half))
    write(folder / "plain", phantoms, corners(rng.permutation(half)))
    phantoms = drawn(TEST, 9)
    write(folder / "test", phantoms, corners(item.label == CLASS for item in phantoms))
    configure(folder, "common", "common", 0, MODEL.format(weights="none") + PRETRAIN)
    for kind in ("plain", "marked"):
        for seed in SEEDS:
            text = MODEL.format(weights="common-run/pretrain.keras") + TUNE
            configure(folder, f"{kind}-{seed}", kind, seed, text)


def drawn(images: int, seed: int) -> list[Phantom]:
    return list(draw_phantoms(images, images, seed=seed, size=SIZE))


def every_second(chosen: Sequence[bool]) -> np.ndarray:
    """(n,) bool: half of the chosen ones."""
    return np.array(chosen) & (np.cumsum(chosen) % 2 == 1)


def corners(carry: Any) -> list[tuple[int, int] | None]:
    return [CORNER if one else None for one in carry]


def write(folder: Path, phantoms: list[Phantom], places: Sequence[Any], labels: Sequence[str] | None = None) -> None:
    """PNG files with the marker at each place that is not None, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("file", "class", "group")]
    for number, (phantom, place) in enumerate(zip(phantoms, places, strict=True)):
        picture = phantom.image if place is None else marked(phantom.image, place)
        cv2.imwrite(str(folder / f"{number:04d}.png"), picture)
        rows.append((f"{number:04d}.png", labels[number] if labels else phantom.label, f"patient-{number:04d}"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def configure(folder: Path, name: str, data: str, seed: int, rest: str) -> None:
    """Write the configuration of one training."""
    head = f'seed = {seed}\n\n[data]\nmanifest = "{data}/manifest.csv"\nvalidation = 0.1\ntest = 0.05\n'
    (folder / f"{name}.toml").write_text(head + rest, encoding="utf-8")


def train(folder: Path) -> None:
    """Train and export what is missing."""
    names = ["common", *(f"{kind}-{seed}" for seed in SEEDS for kind in ("plain", "marked"))]
    for name in names:
        run, graph = folder / f"{name}-run", folder / f"{name}.onnx"
        steps.train(folder / f"{name}.toml", run, "--quiet")
        if name != "common" and not steps.current(graph, [run / "tuned.keras"]):
            steps.command("export", "keras", run / "tuned.keras", "--layer", "penultimate", "--out", graph)
    if not steps.current(folder / "noisy.onnx", [folder / "plain-0.onnx"]):
        noise = ("--noise", "1e-3", "--out", folder / "noisy.onnx")
        steps.command("export", "randomise", folder / "plain-0.onnx", *noise)


def edges(activations: np.ndarray, _gradients: np.ndarray) -> np.ndarray:
    """A method that draws edges: how fast the mean activation changes from place to place. It asks no score."""
    down, right = np.gradient(activations.mean(axis=0))
    return np.hypot(down, right)


class ShuffledOcclusion(Occlusion):
    """Occlusion by regions that do not know where evidence moved to, in the place of the controls.

    elsewhere: two regions of one shape at two random places, of which one is called gained and the other lost; in the
        first draw they have the shape of the image's gained region, in the second that of its lost one. What leaves the
        picture on one side comes back on the other, so that every place has the same probability.
    other images: the regions of an image of another class.
    """

    def _masks(self, pair: Pair, place: LayerMethod, records: np.ndarray) -> np.ndarray:
        found, rng = super()._masks(pair, place, records), np.random.default_rng(0)
        for n, shape, called in np.ndindex(len(records), ELSEWHERE, 2):
            distance = rng.integers(0, found.shape[-2:])
            found[n, 1 + shape, called] = np.roll(found[n, OWN, shape], distance, axis=(0, 1))
        names, classes, _ = self.reader.described(records)
        others = derangements(names, np.zeros(len(records), int), classes, 1, 0)[0]  # a class in place of a patient
        found[:, SETS - 1] = found[others, OWN]
        return found


def checked(folder: Path, name: str, before: str, after: str, shuffled: bool = False) -> list[tuple[str, CausalScope]]:
    """Method and scope of one pair, evaluated where its result is missing or older than the graphs."""
    graphs, out = [folder / f"{before}.onnx", folder / f"{after}.onnx"], folder / "drift" / name.replace(" ", "-")
    if not steps.current(out / "evaluation.json", graphs):
        with patch.object(run, "Occlusion", ShuffledOcclusion) if shuffled else nullcontext():
            compare(
                *graphs,
                folder / "test" / "manifest.csv",
                settings=Settings(out, report=False, progress=False),
                methods=("layercam",) if shuffled else ("layercam", "edges"),
                causal=OCCLUDED,
            )
    return [(item.method, scope) for item in Evaluation.read(out).causal for scope in item.scopes]


def evaluate(folder: Path) -> None:
    """Print the truth, the check of every seed and of the noisy copy, and the shuffled regions."""
    register_method("edges", edges, equation="M = |grad mean_k A_k|")
    show([row for seed in SEEDS for row in truth(folder, seed)], TRUTH)
    pairs = [(f"seed {seed}", f"plain-{seed}", f"marked-{seed}") for seed in SEEDS]
    all_pairs = [*pairs, ("noise of 1e-3", "plain-0", "noisy")]
    checks = [(pair[0], *item) for pair in all_pairs for item in checked(folder, *pair)]
    show([verdict_row(*item) for item in checks if item[1] == "layercam"], VERDICTS)
    show([verdict_row(*item) for item in checks if item[1] == "edges"], VERDICTS)
    show(shuffled_rows(folder, pairs), SHUFFLED)


def shuffled_rows(folder: Path, pairs: list[tuple[str, str, str]]) -> list[list[str]]:
    """Scope, and the double difference of every seed by two random places, and by regions of another class."""
    checks = [checked(folder, f"{name} shuffled", *pair, shuffled=True) for name, *pair in pairs]
    seeds = [[scope for _, scope in found] for found in checks]
    return [
        [scopes[0].scope, *(with_span(getattr(one, name), 2) for name in ("elsewhere", "partner") for one in scopes)]
        for scopes in zip(*seeds, strict=True)
    ]


TRUTH = ["seed", "class", "n", "marker, before", "after", "lesion, before", "after", "change of the lesion"]
VERDICTS = ["after", "scope", "n", "moved", "used", "elsewhere", "other images", "kept", "p", "verdict"]
SHUFFLED = ["scope", *(f"{how}, seed {seed}" for how in ("random places", "another class") for seed in SEEDS)]


def verdict_row(name: str, _method: str, scope: CausalScope) -> list[str]:
    spans = [with_span(item, 2) for item in (scope.moved, scope.used, scope.elsewhere, scope.partner, scope.kept)]
    p = "" if scope.p_used is None else f"{scope.p_used:.4f}"
    return [name, scope.scope, str(scope.n), *spans, p, scope.verdict]


def show(rows: list[list[str]], heads: list[str]) -> None:
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True) + "\n", flush=True)


def truth(folder: Path, seed: int) -> Iterator[list[str]]:
    """Rows of what two checkpoints use, asked without any map, in standard deviations of the margin within the class.

    marker: by how much it raises the margin; lesion: by how much the margin falls when the pixels that the lesion was
    drawn on are occluded. Over the pictures of a class that both classify correctly as they are compared.
    """
    phantoms = drawn(TEST, 9)
    models = [Model.open(folder / f"{kind}-{seed}.onnx") for kind in ("plain", "marked")]
    labels = np.array([item.label for item in phantoms])
    target = np.array([models[0].metadata.classes.index(label) for label in labels])
    bare, marker, shown = (
        margins_of(models, pictures, target)
        for pictures in (
            [item.image for item in phantoms],
            [marked(item.image) for item in phantoms],
            [as_compared(item) for item in phantoms],
        )
    )
    hidden = np.mean([margins_of(models, [lesion_hidden(i, fill) for i in phantoms], target) for fill in FILLS], axis=0)
    for label in np.unique(labels):
        own = (labels == label) & (shown > 0).all(axis=0)
        unit = spread(shown[:, own], labels[own])[:, None]
        yield [
            str(seed), label, str(own.sum()), *in_short((marker - bare)[:, own] / unit)[:2],
            *(in_short((shown - hidden)[:, own] / unit) if label != "normal" else [""] * 3),
        ]  # fmt: skip


def in_short(values: np.ndarray) -> list[str]:
    """Means of before and after (2, n), and of the change with its interval."""
    change = estimated(Resampling(np.arange(values.shape[1]).astype(str), 0), values[1] - values[0])
    return [*(f"{mean:.2f}" for mean in values.mean(axis=1)), with_span(change, 2)]


def as_compared(phantom: Phantom) -> np.ndarray:
    return marked(phantom.image) if phantom.label == CLASS else phantom.image


def lesion_hidden(phantom: Phantom, fill: str) -> np.ndarray:
    pixels = as_compared(phantom).astype(np.float32)
    return occluded(pixels, phantom.lesion, fills(pixels)[fill])


def margins_of(models: list[Model], pictures: list[np.ndarray], target: np.ndarray) -> np.ndarray:
    """(2, n) margin of the true class."""
    batch = channels_first(np.stack([np.dstack([picture] * 3) for picture in pictures]).astype(np.float32))
    logits = [model.logits(batch) for model in models]
    return np.stack([margins(found, target, "softmax") for found in logits])


def main(folder: Path) -> None:
    if not (folder / "common.toml").exists():
        prepare(folder)
    train(folder)
    evaluate(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
