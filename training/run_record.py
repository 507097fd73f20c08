"""run.json: what a run is told to do, with what, and which of its phases are finished."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.common.errors import InputError, first_line
from harness.common.provenance import file_digest
from harness.common.storage import require_plain_file
from harness.images.presets import find_preset
from harness.images.rule import ImageRule, stored
from training import backbones
from training.config import Config, complaints
from training.framework import versions
from training.model import build_classifier, cam_layer, preprocessing, set_trainable

FORMAT = 1
NEEDED = ("config", "config_folder", "phases")


def new_record(config: Config, path: Path, folder: Path) -> dict[str, Any]:
    """All that is known before any training. Building the model once also checks every layer's name."""
    base = path.resolve().parent
    backbone = backbones.find(config.model)
    classifier = build_classifier(config.model.located(base), 2, config.seed)
    for phase in config.phases.values():
        set_trainable(classifier, phase)
        if phase.preserve is not None:
            cam_layer(classifier, config.model, phase.preserve.layer)
    width = f"-{config.model.alpha:g}" if config.model.alpha else ""
    return {
        "format": FORMAT,
        "status": "running",
        "architecture": backbone.name + width,
        "input_size": list(config.model.input_size),
        "classes": [],
        "score": "",
        "preprocessing": preprocessing(classifier),
        "cam_layers": {"last": backbone.last, "penultimate": backbone.penultimate},
        "seed": config.seed,
        "phases": {},
        "data": {},
        **software(image_rule(config, base)),
        "git_commit": _git_commit(),
        "config_folder": os.path.relpath(base, folder.resolve()),
        "config_file": path.resolve().name,
        "config_sha256": file_digest(path),
        "config": config.model_dump(mode="json"),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder. Raises InputError where there is none, or none that can be continued."""
    path = folder / "run.json"
    try:
        require_plain_file(path)
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no run.json; start with `python -m training fit CONFIG.toml`") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: format {found!r}; this version reads {FORMAT}")
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise InputError(f"{path}: lacks {missing[0]!r}; restore the file, or fit again into another folder")
    return record


def recorded_config(record: dict[str, Any], folder: Path) -> Config:
    """The configuration that a record holds."""
    try:
        return Config.model_validate(record["config"])
    except ValidationError as error:
        raise InputError(f"{folder / 'run.json'}: config: {complaints(error)}") from error


def config_path(record: dict[str, Any], folder: Path) -> Path | None:
    """The TOML file that the run was started with; None where it is gone, or was not recorded (earlier versions)."""
    path = folder / record["config_folder"] / record.get("config_file", "")
    return path if path.is_file() else None


def image_rule(config: Config, base: Path) -> ImageRule:
    """The rule by which a file becomes the input of the network.

    :param base: the folder that the configuration's paths are relative to.
    :raises InputError: an unknown one, or one that does not give the network's size.
    """
    try:
        return find_preset(config.model.image_rule, base).rule.for_size(config.model.input_size)
    except ValueError as error:
        raise InputError(f"model.image_rule: {first_line(error)}; set model.input_size, or name another") from None


def software(rule: ImageRule) -> dict[str, Any]:
    """What computes here: versions of packages, and the rule by which files become pixels."""
    return {"versions": versions(), "image_rule": stored(rule)}


def accept(record: dict[str, Any], changes: list[str], rule: ImageRule) -> None:
    """Write into a record what has changed and when that was accepted, and the versions from now on."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record.setdefault("changes", []).append({"time": now, "changes": changes})
    record.update(status="running", **software(rule))


def reconfigure(record: dict[str, Any], config: Config, folder: Path) -> None:
    """Put an edited configuration in the place of the recorded one. What has been trained stays recorded."""
    path = config_path(record, folder)
    assert path is not None, "it was read a moment ago"
    done = ("status", "phases", "classes", "score", "data", "git_commit")
    record.update(new_record(config, path, folder) | {key: record[key] for key in done if key in record})


def _git_commit() -> str | None:
    """The commit of this source tree; None where it is not under git."""
    here = Path(__file__).parent
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here, check=True, capture_output=True
        )
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
