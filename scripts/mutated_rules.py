"""Which wrong gradient rules the proof of an export refuses: each rule times a factor, on whole networks.

Run as `python -m scripts.mutated_rules [--factor 1.01] [NETWORK ...]`; the table is that of docs/engine.md. Networks
are the three of tests/test_export_proof.py, and those of the `onnx` package with random weights
(tests/light_models.py). For every operator behind the first map of a network, its rule gives gradients `factor`
times too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest
from tabulate import tabulate

from export.sources.onnx import Preprocessing, export_onnx, list_layers
from export.write import Request
from harness.common.errors import CannotEvaluateError, run_command_line
from tests import light_models
from tests.test_export_proof import NETWORKS, scaled

PIXELS = Preprocessing(1 / 64, (2.0,))


def rows(name: str, factor: float, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(network, rule, caught or not, by what) of every operator between the first map and the score."""
    path = folder / f"{name}.onnx"
    (NETWORKS[name](path) if name in NETWORKS else light_models.with_random_weights(name, path))
    layer = list_layers(path, PIXELS)[0][0]
    right = export_onnx(path, Request([layer], folder / "right.onnx"), PIXELS)
    worst = max((item for item in right if item.output.startswith(("slopes", "rules"))), key=lambda i: i.relative_l2)
    yield name, "none", "passes", f"{worst.output}: {worst.relative_l2:.0e}"
    operators = {item.output.split(":")[1].split(" ")[0] for item in right if item.output.startswith("rules")}
    for operator in sorted(operators):
        with pytest.MonkeyPatch.context() as patch:
            scaled(patch, operator, factor)
            yield name, operator, *_outcome(path, layer, folder)


def _outcome(path: Path, layer: str, folder: Path) -> tuple[str, str]:
    try:
        export_onnx(path, Request([layer], folder / "wrong.onnx"), PIXELS)
    except CannotEvaluateError as error:
        return "caught", str(error).partition("its source: ")[2].partition(" at optimisation")[0]
    return "NOT CAUGHT", ""


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--factor", default=1.01, show_default=True)
def main(networks: tuple[str, ...], factor: float) -> None:
    """Print the table of mutated rules."""
    with TemporaryDirectory() as folder:
        found = [
            row for name in networks or (*NETWORKS, *light_models.NAMES) for row in rows(name, factor, Path(folder))
        ]
    click.echo(tabulate(found, ("network", "rule times factor", "outcome", "by"), tablefmt="github"))


if __name__ == "__main__":
    run_command_line(main, "python -m scripts.mutated_rules")
