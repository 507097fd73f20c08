"""Logging a result to a tracking server: the only file that knows MLflow.

`mlflow` alone means a SQLite file in the working folder, `mlflow.db`, with the artefacts in `mlruns/` beside it: what
`mlflow ui`, started there, shows without any option. `mlflow:URI` is any tracking URI that MLflow knows.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.common.errors import InputError, first_line
from harness.results.file_names import REPORT, RESULT
from harness.results.pseudonyms import without_home
from harness.results.schema import ALL, Evaluation
from harness.results.vocabulary import HEADLINE

KIND = "mlflow"
DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "evidence-drift"
ARTEFACTS = (REPORT, "report.md", RESULT)
_LONGEST = 500  # characters of a parameter that every store takes
_BATCH = 1000  # metrics that a store takes at once
SECONDS = 5.0  # for the first answer of a server
# A server that falls silent is given up within half a minute and not after MLflow's four; a user's own values hold.
_FEW_RETRIES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
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
    if uri.startswith(("http://", "https://")):
        _require_answer(uri)
    return uri or DEFAULT_URI


def _require_answer(uri: str) -> None:
    """Refuse a server that says nothing at all; any answer will do, since a path or a password may be wrong later."""
    try:
        with urllib.request.urlopen(uri, timeout=SECONDS):
            pass
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError, http.client.HTTPException) as error:
        what = first_line(getattr(error, "reason", error))
        raise InputError(
            f"--log-to {KIND}:{uri}: no answer ({what}); start the server, or leave --log-to out"
        ) from None


def log(result: Evaluation, folder: Path, uri: str) -> str:
    """Log parameters, metrics and the report of a result folder; returns the id of the run.

    Neither the name of the user nor that of the machine is logged.

    :raises InputError: the store cannot be reached or refuses what it is given.
    """
    for name, value in _FEW_RETRIES.items():
        os.environ.setdefault(name, value)
    import mlflow

    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment, run_name=_run_name(result)).info.run_id
        with _failed_otherwise(client, run):
            _fill(client, run, result, folder)
    except Exception as error:  # MLflow, its database driver, its server: each has errors of its own
        raise InputError(f"--log-to {KIND}:{uri}: {first_line(error)}; the result itself is in {folder}") from error
    return run


@contextmanager
def _failed_otherwise(client: Any, run: str) -> Iterator[None]:
    """End the run as finished, or where it could not be filled as failed: a run is never left running."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the server may be gone; the error that is raised says so
            client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)


def _fill(client: Any, run: str, result: Evaluation, folder: Path) -> None:
    """Parameters, metrics and files of a run."""
    from mlflow.entities import Metric, Param

    client.log_batch(run, params=[Param(name, value) for name, value in parameters(result).items()])
    found = [Metric(name, value, 0, 0) for name, value in metrics(result).items()]
    for start in range(0, len(found), _BATCH):
        client.log_batch(run, metrics=found[start : start + _BATCH])
    for name in ARTEFACTS:
        if (folder / name).is_file():
            client.log_artifact(run, str(folder / name))


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
