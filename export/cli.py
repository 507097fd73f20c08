"""The command line: `python -m export ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import InputError, run_command_line

if TYPE_CHECKING:
    from export.record import CheckpointRecord


@click.group()
def cli() -> None:
    """Turn a classifier into one ONNX file that returns logits, activations and gradients.

    Add --debug to any command to see tracebacks.
    """


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--layer",
    "layers",
    multiple=True,
    help="penultimate (default), last, auto, or a layer's name; repeatable.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write; a folder for a whole run.")
@click.option("--phase", help="Export only this phase of a run directory, to the file --out.")
@click.option("--images", multiple=True, type=click.Path(path_type=Path), help="Images to prove parity on; repeatable.")
@click.option("--classes", default="", help="Class names, separated by commas, where no run.json gives them.")
def keras(
    source: Path,
    layers: tuple[str, ...],
    out: Path,
    phase: str | None,
    images: tuple[Path, ...],
    classes: str,
) -> None:
    """Export a Keras checkpoint, or every phase of a run directory, and prove it equal to Keras."""
    from export.from_keras import export_checkpoint
    from export.record import find_checkpoints

    records = _of_phase(find_checkpoints(source), source, phase)
    names = [name.strip() for name in classes.split(",") if name.strip()]
    for record in records:
        default = "penultimate" if record.cam_layers else "auto"
        file = out / f"{record.name}.onnx" if len(records) > 1 else out
        differences = export_checkpoint(record, layers or (default,), file, images, names)
        _report(file, differences)


@cli.command()
def operators() -> None:
    """List the operators that can be differentiated."""
    import export.rules  # noqa: F401
    from export.engine import all_rules

    for rule in all_rules():
        gradient = f"inputs {rule.inputs}" if rule.vjp else "none, by nature"
        extra = "; ".join(text for text in (rule.ties and f"ties: {rule.ties}", rule.note if rule.vjp else "") if text)
        click.echo(f"{rule.operator:24} gradient of {gradient:18} {extra}".rstrip())


def _of_phase(records: list[CheckpointRecord], source: Path, phase: str | None) -> list[CheckpointRecord]:
    if phase is None:
        return records
    chosen = [record for record in records if record.name == phase]
    if not chosen:
        known = ", ".join(record.name for record in records)
        raise InputError(f"{source}: no phase {phase!r}; this run has: {known}")
    return chosen


def _report(file: Path, differences: list) -> None:
    from export.from_keras import summary

    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB, equal to Keras at all ONNX Runtime optimisation levels")
    for row in summary(differences):
        click.echo(
            f"  {row['output']}: relative L2 error {row['relative_l2']:.1e}, cosine {row['cosine']:.7f}, "
            f"{row['switched']} switched elements"
        )


def main() -> None:
    """Entry point."""
    run_command_line(cli, "python -m export")
