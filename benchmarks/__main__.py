"""`python -m benchmarks report`: time the suites beside their rivals, and judge the ratios by a stored report."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import gpu, judge, report
from benchmarks.rows import Report
from harness.common.errors import run_command_line

FILE = click.Path(path_type=Path, dir_okay=False)
ROUNDS = click.option("--rounds", default=6, show_default=True, type=click.IntRange(1), help="Turns of each contender.")


@click.group()
def main() -> None:
    """Benchmarks, as ratios within one run."""


@main.command("report")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(list(report.SUITES)),
    help="Repeatable [all that can run here].",
)
@ROUNDS
@click.option("--out", type=FILE, help="Write the report as Markdown, too.")
@click.option("--json", "json_file", type=FILE, help="Write the report as JSON.")
@click.option("--note", default="", help="A sentence for the head of the report.")
@click.option("--compare", type=FILE, help="Exit with 1 where a ratio is worse than in this JSON.")
@click.option(
    "--tolerance", default=0.8, show_default=True, type=click.FloatRange(0, 1, min_open=True),
    help="Worse: below this share of the stored ratio.",
)  # fmt: skip
def write_report(
    suites: tuple[str, ...], rounds: int, out: Path | None, json_file: Path | None, note: str,
    compare: Path | None, tolerance: float,
) -> int:  # fmt: skip
    """Every suite beside its rivals, as Markdown."""
    chosen = suites or tuple(name for name, suite in report.SUITES.items() if suite.is_possible)
    stored = _stored(compare)
    found = report.measure(chosen, rounds, sys.argv[1:], note)
    text = report.markdown(found)
    click.echo(text)
    for path, content in ((out, text), (json_file, found.model_dump_json(indent=1) + "\n")):
        if path:
            path.write_text(content, encoding="utf-8")
    if failed := [name for name in chosen if not any(row.suite == name for row in found.rows)]:
        raise click.ClickException(f"not measured: {', '.join(failed)}; see the output above")
    return _judged(stored, found, tolerance, chosen) if stored else 0


@main.command()
@ROUNDS
def engine(rounds: int) -> None:
    """Exported graphs against the forward pass alone and TensorFlow's compiled GradientTape, on two threads."""
    click.echo(report.table(report.measure(["engine"], rounds, sys.argv[1:]).rows))


@main.command("gpu")
@click.option("--provider", default="cuda", show_default=True, help="Execution provider; cpu shows that it runs.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Images a call.")
@click.option("--images", default=320, show_default=True, type=click.IntRange(20, 1500), help="Of an evaluation.")
@click.option("--network", "networks", multiple=True, type=click.Choice(list(gpu.NETWORKS)), help="Repeatable [all].")
@click.option("--seconds", default=480.0, show_default=True, help="Nothing is begun after so long.")
def measure_gpu(networks: tuple[str, ...], **asked: Any) -> None:
    """Rates, shares and differences on an accelerator: four networks in float32, TF32 and float16."""
    with tempfile.TemporaryDirectory() as folder:
        click.echo(gpu.table(gpu.Asked(networks=networks or tuple(gpu.NETWORKS), **asked), Path(folder)))


def _stored(path: Path | None) -> Report | None:
    """The stored report, looked at before a run of many minutes."""
    if path is None:
        return None
    found = Report.read(path)
    judge.require_same_machine(found, report.machine())
    return found


def _judged(stored: Report, found: Report, tolerance: float, suites: tuple[str, ...]) -> int:
    judgement = judge.judge(stored, found, tolerance, suites)
    for line in judgement.lines():
        click.echo(line, err=True)
    return 1 if judgement.worse else 0


if __name__ == "__main__":
    run_command_line(main, "python -m benchmarks")
