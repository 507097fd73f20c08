"""Result folders for tests of the report: tiny evaluations, one with hostile names, and a large one that is made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.api.evaluation import Settings, evaluate_plan
from harness.evaluation.study_file import ArchitectureConfig, make_plan, read_study
from harness.images.loading import RULE
from harness.models.metadata import Graph, GraphMetadata
from harness.results import folder as result_folder
from harness.results import part_files
from harness.results.options import Options
from harness.results.plan import Checkpoint, Data, Pair, Plan, StoredPlan, identity_of
from harness.results.reader import tasks
from harness.results.schema import ComparisonResult, Consistency, Evaluation, PairResult, StudyResult
from harness.results.vocabulary import COLUMNS, STABILITY
from tests import made_results, tiny_graphs

HOSTILE_CLASSES = ["<script>alert(1)</script>", "a\"b'c\u202e & d", "</script><img src=x onerror=alert(2)>"]
HOSTILE_IMAGES = ['"><img src=x onerror=alert(3)>.png', "it's \u202e<b>bold<b>.png", "{{ 7 * 7 }}.png"]
HOSTILE_PATIENT = "O'Hara \u200f<script>alert(4)</script>"
PLACES = ("penultimate", "last")
METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam")


def evaluated(plan: Plan, out: Path, resamples: int = 300) -> Path:
    """The result folder of a plan, with its report."""
    evaluate_plan(plan, Settings(out, threads=2, progress=False, resamples=resamples, command=("python", "study")))
    return out


def study(folder: Path) -> Path:
    """Two architectures, one with three replicates, on 48 tiny images of 24 patients."""
    graphs = folder / "graphs"
    first = tiny_graphs.write_graph(graphs / "a-before.onnx", 0, balanced=True, architecture="Alpha")
    for number, nudge in enumerate((0.15, -0.15, 0.3), 1):
        tiny_graphs.write_graph(graphs / f"a-after-{number}.onnx", 0, nudge=nudge, balanced=True, phase="finetune")
    tiny_graphs.write_graph(graphs / "b-before.onnx", 1, balanced=True, architecture="Beta")
    tiny_graphs.write_graph(graphs / "b-after.onnx", 1, nudge=0.3, balanced=True, phase="finetune")
    manifest = tiny_graphs.write_images(folder / "images", exposure=0.6)
    tiny_graphs.label_as(first, manifest)
    text = (
        'data = "images/manifest.csv"\nselect = "all"\nmap_size = 32\nchance = 3\njitter = 1\n'
        'methods = ["layercam", "gradcam", "gradcam++"]\n'
        '[[architecture]]\nname = "Alpha"\nbefore = "graphs/a-before.onnx"\nafter = ["graphs/a-after-1.onnx", '
        '"graphs/a-after-2.onnx", "graphs/a-after-3.onnx"]\n'
        '[[architecture]]\nname = "Beta"\nbefore = "graphs/b-before.onnx"\nafter = "graphs/b-after.onnx"\n'
    )
    (folder / "study.toml").write_text(text)
    return evaluated(read_study(folder / "study.toml"), folder / "out")


def pair(folder: Path) -> Path:
    """One checkpoint before and one after, two methods, on 48 tiny images."""
    graphs = [
        tiny_graphs.write_graph(folder / f"{phase}.onnx", 0, nudge=nudge, balanced=True, phase=phase)
        for phase, nudge in (("transfer", 0.0), ("finetune", 0.3))
    ]
    manifest = tiny_graphs.write_images(folder / "images", exposure=0.6)
    options = Options(map_size=(32, 32), chance=3, jitter=1, select="all")
    item = ArchitectureConfig(before=graphs[0], after=graphs[1])
    return evaluated(make_plan([item], Data(manifest), options), folder / "out")


def training(folder: Path) -> Path:
    """Three checkpoints of one training."""
    graphs = [
        tiny_graphs.write_graph(folder / f"epoch-{number}.onnx", 0, nudge=0.1 * number, balanced=True)
        for number in range(3)
    ]
    manifest = tiny_graphs.write_images(folder / "images", exposure=0.6)
    tiny_graphs.label_as(graphs[0], manifest)
    options = Options(map_size=(32, 32), chance=3, jitter=1)
    return evaluated(make_plan([ArchitectureConfig(checkpoints=graphs)], Data(manifest), options), folder / "out")


def hostile(folder: Path) -> Path:
    """Classes, files, patients, an architecture and an unreadable image, all named so that careless pages break."""
    changed = {"classes": HOSTILE_CLASSES, "architecture": "<svg onload=\u2066alert(5)>"}
    graphs = [
        tiny_graphs.write_graph(folder / f"{name}.onnx", 0, nudge=nudge, balanced=True, **changed)
        for name, nudge in (("<i>before", 0.0), ("after</i>", 0.3))
    ]
    manifest = tiny_graphs.write_images(folder / "images", exposure=0.6)
    rows = []
    for number in range(48):
        name = HOSTILE_IMAGES[number] if number < len(HOSTILE_IMAGES) else f"image-{number:03d}.png"
        (folder / "images" / f"image-{number:03d}.png").rename(folder / "images" / name)
        group = HOSTILE_PATIENT if number < 2 else f"patient {number // 2}"
        rows.append({"file": name, "class": HOSTILE_CLASSES[number % 3], "group": group})
    (folder / "images" / "broken <i>.png").write_bytes(b"no picture")
    rows.append({"file": "broken <i>.png", "class": HOSTILE_CLASSES[0], "group": "patient broken"})
    tiny_graphs.write_manifest(manifest, rows)
    options = Options(map_size=(32, 32), chance=3, jitter=1, select="all")
    item = ArchitectureConfig(before=graphs[0], after=graphs[1])
    return evaluated(make_plan([item], Data(manifest), options), folder / "out")


def large(folder: Path, architectures: int = 12, images: int = 1000, jitter: int = 4) -> Path:
    """A made-up result of so many pairs: every part, every number, two layers, five methods."""
    classes = [f"class_{number}" for number in range(5)]
    plan = made_plan(folder, architectures, classes, jitter)
    stored = StoredPlan(plan, "all", "digest", images, 0, "cpu", {})
    parts = result_folder.begin(folder, identity_of(stored), stored.details(folder), resume=False)
    parts.keep_scores_of(stored.statistics())
    rng = np.random.default_rng(0)
    names = [f"image-{number:04d}.png" for number in range(images)]
    blocks = [range(start, min(start + part_files.BLOCK, images)) for start in range(0, images, part_files.BLOCK)]
    for checkpoint, item in enumerate(plan.checkpoints):
        for number, block in enumerate(blocks, checkpoint * len(blocks)):
            parts.write("predictions", number, [prediction_table(item.key, names, block, classes, rng)])
            parts.write("maps", number, _maps(item.key, names, block, jitter, rng))
    for place, comparison in enumerate(tasks(plan)):
        for number, block in enumerate(blocks, place * len(blocks)):
            parts.write("scores", number, _scores(comparison.name, names, block, rng))
    made_evaluation(plan, images).write(folder)
    return folder


def made_plan(folder: Path, architectures: int, classes: list[str], jitter: int) -> Plan:
    metadata = {
        "format": 1, "architecture": "Made", "phase": "transfer", "classes": classes, "preprocessing": "none",
        "image_rule": RULE, "input_size": (224, 224), "input_range": (0, 255), "score_kind": "softmax",
        "explained": "logit", "layers": [], "weights_digest": "w", "data_digest": "", "tools": {}, "seed": 0,
        "git_commit": None,
    }  # fmt: skip
    graph = Graph(folder / "made.onnx", GraphMetadata.model_validate(metadata), "digest")
    names = [f"Architecture{number:02d}" for number in range(architectures)]
    checkpoints = tuple(
        Checkpoint(f"{name}/{phase}", graph, name) for name in names for phase in ("transfer", "finetune")
    )
    pairs = tuple(
        Pair(f"{name}/transfer -> {name}/finetune", f"{name}/transfer", f"{name}/finetune", "drift", name)
        for name in names
    )
    return Plan(checkpoints, pairs, Data(folder), Options(methods=METHODS, jitter=jitter, select="all"), PLACES)


def prediction_table(
    key: str, names: list[str], block: range, classes: list[str], rng: np.random.Generator
) -> pa.Table:
    count = len(block)
    columns = {
        "checkpoint": part_files.text(key, count),
        "image": [names[n] for n in block],
        "group": [f"patient {n // 2}" for n in block],
        "labels": [[classes[n % len(classes)]] for n in block],
        "logits": list(rng.normal(size=(count, len(classes))).astype(np.float32)),
        "error": [None] * count,
        "notices": [[]] * count,
    }
    return pa.table(columns, schema=part_files.SCHEMAS["predictions"])


def _maps(key: str, names: list[str], block: range, jitter: int, rng: np.random.Generator) -> list[pa.Table]:
    count = len(block)
    return [
        pa.table(
            {
                "checkpoint": part_files.text(key, count), "layer": part_files.text(layer, count),
                "method": part_files.text(method, count), "draw": np.full(count, draw, np.int32),
                "record": np.arange(block.start, block.stop, dtype=np.int32), "image": [names[n] for n in block],
                "class": part_files.text("class_0", count), "reason": part_files.text("defined", count),
                "height": np.full(count, 7, np.int32), "width": np.full(count, 7, np.int32),
                "map": list(rng.random((count, 49), np.float32)), "conditioning": [None] * count,
                "residual": [None] * count,
            },
            schema=part_files.SCHEMAS["maps"],
        )
        for draw in range(jitter + 1)
        for layer in PLACES
        for method in METHODS
    ]  # fmt: skip


def _scores(pair: str, names: list[str], block: range, rng: np.random.Generator) -> list[pa.Table]:
    return [
        score_table(pair, reference, metrics, names, np.array(block), rng.random((len(block), len(metrics))))
        for reference, metrics in (("observed", COLUMNS), ("chance", STABILITY))
    ]


def score_table(
    pair: str, reference: str, metrics: Sequence[str], names: list[str], records: np.ndarray, values: np.ndarray
) -> pa.Table:
    """Values (n, metrics) of some records."""
    width, count = len(metrics), values.size
    columns: dict[str, Any] = {
        "record": np.repeat(records.astype(np.int32), width),
        "image": part_files.coded(np.repeat(np.arange(len(records)), width), [names[n] for n in records]),
        **{
            name: part_files.text("x", count) for name in ("group", "class", "architecture", "phase", "layer", "method")
        },
        "pair": part_files.text(pair, count),
        "replicate": np.zeros(count, np.int32),
        "reference": part_files.text(reference, count),
        "metric": part_files.coded(np.tile(np.arange(width), len(records)), list(metrics)),
        "value": values.ravel(),
        "reason": part_files.reasons(np.zeros(count, np.uint8)),
    }
    return pa.table({name: columns[name] for name in part_files.SCHEMAS["scores"].names}, part_files.SCHEMAS["scores"])


def made_evaluation(plan: Plan, images: int) -> Evaluation:
    pairs = [_pair(pair, plan.classes, images) for pair in plan.drifts]
    checkpoints = [
        made_results.checkpoint(item.key, 0.8).model_copy(
            update={"consistency": [_consistency(*place, scope) for place in _places() for scope in plan.classes]}
        )
        for item in plan.checkpoints
    ]
    return made_results.evaluation().model_copy(
        update={
            "images": images, "patients": images // 2, "classes": plan.classes, "methods": list(METHODS),
            "layers": list(PLACES), "checkpoints": checkpoints, "pairs": pairs,
            "study": _study([pair.architecture for pair in plan.drifts], images),
        }
    )  # fmt: skip


def _places() -> list[tuple[str, str]]:
    return [(layer, method) for layer in PLACES for method in METHODS]


def _consistency(layer: str, method: str, scope: str) -> Consistency:
    return Consistency(layer=layer, method=method, scope=scope, value=0.3, reason=None, n=200)


def _pair(pair: Pair, classes: list[str], images: int) -> PairResult:
    metrics = [
        made_results.summary(metric=metric, scope=scope, layer=layer, method=method)
        for layer, method in _places()
        for scope in ("all", *classes)
        for metric in COLUMNS
    ]
    fields = asdict(pair)
    return (
        made_results.evaluation()
        .pairs[0]
        .model_copy(update={**fields, "selected": images, "selected_patients": images // 2, "metrics": metrics})
    )


def _study(names: list[str], images: int) -> StudyResult:
    shared = {"n": images, "n_patients": images // 2, "reason": None}
    differences = [
        {"first": (one, method), "second": (other, method), "value": 0.1, "low": 0.0, "high": 0.2, "p": 0.01,
         "p_holm": 0.04, **shared}
        for method in METHODS for one, other in combinations(names, 2)
    ]  # fmt: skip
    rankings = [
        {"method": method, "architectures": names, "means": [0.5] * len(names),
         "orders": [{"architectures": names, "probability": 0.6}], "most_stable": dict.fromkeys(names, 0.1), **shared}
        for method in METHODS
    ]  # fmt: skip
    reversals = [
        {"architectures": pair, "methods": methods, "first": 0.1, "second": -0.1, "called": number % 9 == 0,
         "probability": 0.9, **shared}
        for number, pair in enumerate(combinations(names, 2)) for methods in combinations(METHODS, 2)
    ]  # fmt: skip
    compared = [
        ComparisonResult.model_validate(
            {"layer": layer, "scope": "all", "metric": "iou_top20", "differences": differences, "rankings": rankings,
             "reversals": reversals, "interaction": {"value": 0.1, "low": 0.05, "high": 0.2, **shared}}
        )
        for layer in PLACES
    ]  # fmt: skip
    return StudyResult(
        selected=images, selected_patients=images // 2, resampled=[], comparisons=compared, convergence=[]
    )
