"""The commands of the study, each skipped where its result is newer than everything that it is made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from scripts.study.starts import PHOTOGRAPHS, RUNS, STARTS, Start

DATA = Path("../shared/cxr5")
WEIGHTS = Path("../shared/weights/inceptionv3_photographs.npz")
PHOTOGRAPHS_MODEL = RUNS / "inceptionv3-photographs.keras"
DRIFT, TRAINING, EVERY_IMAGE = (RUNS / name for name in ("study-drift", "study-training", "study-every-image"))
STUDIES = {DRIFT: Path("scripts/study-drift.toml"), TRAINING: Path("scripts/study-training.toml")}
LAYERS = ("--layer", "penultimate", "--layer", "last")


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
    """Train what has no complete run, after what its weights come from; an unfinished run is resumed."""
    for start in STARTS:
        if start == PHOTOGRAPHS and not PHOTOGRAPHS_MODEL.is_file():
            command("scripts.study.photographs", WEIGHTS, PHOTOGRAPHS_MODEL)
        if start.pretraining and start.pretrained:
            train(start.pretraining, start.pretrained)
        train(start.config, start.run)


def train(config: Path, run: Path, *options: str) -> None:
    """Begin a run, or go on with it; a complete one is left as it is."""
    if not (run / "run.json").is_file():
        command("training", "fit", config, "--out", run, *options)
    elif facts_of(run)["status"] != "complete":
        command("training", "resume", run, *options)


def facts_of(run: Path) -> dict:
    """What `run.json` says of a run."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def export_all() -> None:
    """Export both phases of every run, and the kept epochs of its second one (seed 0)."""
    for start in STARTS:
        describe(start.exported, facts_of(start.run), phases_of(start))
        describe(start.epochs, facts_of(start.run), epochs_of(start))
        for folder in (start.exported, start.epochs):
            export(folder)


def export(folder: Path) -> None:
    """Export the checkpoints that the `run.json` of a folder lists, unless each has a graph that is newer."""
    phases = facts_of(folder)["phases"]
    graphs = {folder / f"onnx/{name}.onnx": folder / phase["checkpoint"] for name, phase in phases.items()}
    if not all(current(graph, [checkpoint]) for graph, checkpoint in graphs.items()):
        command("export", "keras", folder, *LAYERS, "--out", folder / "onnx")


def phases_of(start: Start) -> dict[str, dict]:
    """The checkpoints that are compared: name -> what `run.json` says of the phase, its file seen from a sub-folder."""
    return {
        name: {**phase, "checkpoint": f"../{phase['checkpoint']}"}
        for name, phase in facts_of(start.run)["phases"].items()
        if phase["phase"] != "pretrain"
    }


def epochs_of(start: Start) -> dict[str, dict]:
    """The kept epochs of phase `finetune`, described like phases; the last one is the phase's own checkpoint."""
    phase = facts_of(start.run)["phases"]["finetune"]
    return {
        f"epoch{kept['epoch']:02d}": {
            **phase,
            "checkpoint": f"../{kept['checkpoint']}",
            "weights_digest": kept["weights_digest"],
        }
        for kept in phase["along"]
        if kept["epoch"] < phase["epochs"]
    }


def describe(folder: Path, facts: dict, phases: dict[str, dict]) -> None:
    """Write a `run.json` with other phases, so that `export` finds them; one that says the same is left alone."""
    text = json.dumps({**facts, "phases": phases}, indent=1) + "\n"
    path = folder / "run.json"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        folder.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def evaluate_all() -> None:
    """Evaluate both studies; the first one again over all images, from the same maps."""
    graphs = [path for start in STARTS for path in start.run.glob("*/onnx/*.onnx")]
    for out, config in STUDIES.items():
        if not current(out / "evaluation.json", [config, *graphs]):
            unfinished = (out / "plan.json").is_file() and not (out / "evaluation.json").is_file()
            command("harness", "evaluate", config, "--out", out, *(["--resume"] if unfinished else []), "--quiet")
    if not current(EVERY_IMAGE / "evaluation.json", [DRIFT / "evaluation.json"]):
        command("harness", "evaluate", "--from", DRIFT, "--select", "all", "--out", EVERY_IMAGE, "--quiet")
