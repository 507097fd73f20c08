"""The commands of the study, each skipped where its result is newer than everything that it is made of."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

REAL = Path("runs/study-mobilenetv2")
EPOCHS = REAL / "epochs"  # the checkpoints along the second phase, described like a run
SAMPLE = REAL / "sample.csv"
MINIATURES = tuple(Path("runs") / name for name in ("densenet201", "resnet50v2", "inceptionv3"))
CONFIGS = {REAL: Path("scripts/cxr5-mobilenetv2.toml")} | {
    run: Path(f"scripts/smoke-{run.name}.toml") for run in MINIATURES
}
DRIFT, MINIATURE, TRAINING = (Path("runs") / name for name in ("study-drift", "study-miniatures", "study-training"))
STUDIES = {
    DRIFT: Path("scripts/cxr5-study.toml"),
    MINIATURE: Path("scripts/study-miniatures.toml"),
    TRAINING: Path("scripts/study-training.toml"),
}
LAYERS = ("--layer", "penultimate", "--layer", "last")
SAMPLED = 20  # images of each class that the miniatures see


def command(*arguments: object) -> None:
    """Run one of this project's command lines; one that fails stops the study."""
    words = [sys.executable, "-m", *map(str, arguments)]
    print("$", " ".join(["python", *words[1:]]), flush=True)
    code = subprocess.run(words).returncode
    if code:
        raise SystemExit(f"the study stops here: exit code {code}; mend what the command says and run it again")


def current(target: Path, sources: Iterable[Path]) -> bool:
    """True where `target` is there and no source is newer."""
    return target.is_file() and all(path.stat().st_mtime <= target.stat().st_mtime for path in sources)


def train_all() -> None:
    """Train what has no complete run; an unfinished run is resumed."""
    for run, config in CONFIGS.items():
        if status(run) is None:
            command("training", "fit", config, "--out", run)
        elif status(run) != "complete":
            command("training", "resume", run)


def status(run: Path) -> str | None:
    """What `run.json` says of a training; None where there is none."""
    path = run / "run.json"
    return json.loads(path.read_text(encoding="utf-8"))["status"] if path.is_file() else None


def export_all() -> None:
    """Export every phase of every run, and every epoch of the real one's second phase."""
    describe_epochs(REAL, EPOCHS)
    write_sample(REAL / "split.csv", SAMPLE)
    for run in (*CONFIGS, EPOCHS):
        checkpoints = checkpoints_of(run)
        if not all(current(run / f"onnx/{name}.onnx", [path]) for name, path in checkpoints.items()):
            command("export", "keras", run, *LAYERS, "--out", run / "onnx")


def checkpoints_of(run: Path) -> dict[str, Path]:
    """Name -> Keras file of the phases of a run."""
    phases = json.loads((run / "run.json").read_text(encoding="utf-8"))["phases"]
    return {name: run / phase["checkpoint"] for name, phase in phases.items()}


def describe_epochs(run: Path, folder: Path) -> None:
    """Write a `run.json` whose phases are the kept epochs of phase `finetune`, to be exported like phases."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    phase = facts["phases"]["finetune"]
    facts["phases"] = {
        f"epoch{kept['epoch']:02d}": {
            **phase,
            "checkpoint": f"../{kept['checkpoint']}",
            "weights_digest": kept["weights_digest"],
        }
        for kept in phase["along"]
    }
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def write_sample(split: Path, sample: Path, each: int = SAMPLED) -> None:
    """A manifest of `each` test images of every class, those whose names have the lowest sha256."""
    with split.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    classes = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(Path(row["file"]).name.encode()).digest()):
        classes[row["class"]].append(row)
    chosen = [row for name in sorted(classes) for row in classes[name][:each]]
    with sample.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(chosen[0]))
        writer.writeheader()
        writer.writerows(chosen)


def evaluate_all() -> None:
    """Evaluate the three studies."""
    for out, config in STUDIES.items():
        runs = (REAL,) if out == DRIFT else (REAL, EPOCHS) if out == TRAINING else tuple(CONFIGS)
        graphs = [path for run in runs for path in (run / "onnx").glob("*.onnx")]
        if not current(out / "evaluation.json", [config, *graphs]):
            unfinished = (out / "plan.json").is_file() and not (out / "evaluation.json").is_file()
            command("harness", "evaluate", config, "--out", out, *(["--resume"] if unfinished else []), "--quiet")
