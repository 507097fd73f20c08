"""Logging a result to a tracking server: the only file that knows MLflow.

`mlflow` alone means a SQLite file in the working folder, `mlflow.db`, with the artefacts in `mlruns/` beside it: what
`mlflow ui`, started there, shows without any option. `mlflow:URI` is any tracking URI that MLflow knows.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from harness.common.errors import InputError, first_line
from harness.results.layout import REPORT, RESULT
from harness.results.pseudonyms import without_home
from harness.results.schema import ALL, Evaluation
from harness.results.vocabulary import HEADLINE

KIND = "mlflow"
DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "evidence-drift"
ARTEFACTS = (REPORT, "report.md", RESULT)
_LONGEST = 500  # characters of a parameter that every store takes
_BATCH = 1000  # metrics that a store takes at once
_UNFIT = re.compile(r"[^\w\-. /]")  # characters that MLflow refuses in a name


def destination(asked: str) -> str:
    """The tracking URI that `--log-to` asks for, before any work is done.

    :raises InputError: something else than `mlflow` or `mlflow:URI`, or MLflow is not installed.
    """
    kind, _, uri = asked.partition(":")
    if kind != KIND:
        raise InputError(f"--log-to {asked}: not known; give mlflow, or mlflow:URI with the URI of a tracking server")
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("--log-to mlflow: MLflow is not installed; pip install 'evidence-drift[mlflow]'")
    return uri or DEFAULT_URI


def log(result: Evaluation, folder: Path, uri: str) -> str:
    """Log parameters, metrics and the report of a result folder; returns the id of the run.

    Neither the name of the user nor that of the machine is logged.

    :raises InputError: the store cannot be reached or refuses what it is given.
    """
    import mlflow
    from mlflow.entities import Metric, Param

    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment, run_name=_run_name(result)).info.run_id
        client.log_batch(run, params=[Param(name, value) for name, value in parameters(result).items()])
        found = [Metric(name, value, 0, 0) for name, value in metrics(result).items()]
        for start in range(0, len(found), _BATCH):
            client.log_batch(run, metrics=found[start : start + _BATCH])
        for name in ARTEFACTS:
            if (folder / name).is_file():
                client.log_artifact(run, str(folder / name))
        client.set_terminated(run)
    except Exception as error:  # MLflow, its database driver, its server: each has errors of its own
        raise InputError(f"--log-to {KIND}:{uri}: {first_line(error)}; the result itself is in {folder}") from error
    return run


def parameters(result: Evaluation) -> dict[str, str]:
    """What was compared, and how."""
    found = {
        "data": result.data,
        "split": result.split or "",
        "data_digest": result.data_digest,
        "selection": result.selection,
        "methods": ", ".join(result.methods),
        "layers": ", ".join(result.layers),
        "map_size": " x ".join(map(str, result.map_size)),
        "seed": str(result.seed),
        "images": str(result.images),
        "patients": str(result.patients),
        "git_commit": str(result.environment.get("git_commit") or ""),
    }
    found |= {f"model {item.key}": item.metadata.weights_digest for item in result.checkpoints}
    return {_name(name): without_home(value)[:_LONGEST] for name, value in found.items()}


def metrics(result: Evaluation) -> dict[str, float]:
    """Headline means and indices of every pair, layer and method, and how well the checkpoints classify."""
    return {_name(name): value for name, value in _metrics(result) if value is not None}


def _metrics(result: Evaluation) -> Iterator[tuple[str, float | None]]:
    for pair in result.pairs:
        for item in pair.metrics:
            if (item.scope, item.metric) == (ALL, HEADLINE):
                where = f"{pair.before} to {pair.after}/{item.layer}/{item.method}"
                yield f"{HEADLINE}/{where}", item.estimate.mean
                yield f"index/{where}", item.index.value if item.index else None
    for checkpoint in result.checkpoints:
        for name, estimate in checkpoint.quality.items():
            yield f"{name}/{checkpoint.key}", estimate.mean


def _name(text: str) -> str:
    """Names that MLflow takes: gradcam++ becomes gradcampp."""
    return _UNFIT.sub("_", text.replace("+", "p"))


def _run_name(result: Evaluation) -> str:
    return ", ".join(dict.fromkeys(pair.architecture for pair in result.pairs))
