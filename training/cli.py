"""The command line of `python -m training`. TensorFlow is imported by the commands that need it."""

from __future__ import annotations

from pathlib import Path

import click

from harness.common.errors import InputError, warnings_shown

QUIET = click.option("--quiet", is_flag=True, help="No progress bars and no table: one line at the end, or an error.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train a classifier in phases, one checkpoint each."""
    click.get_current_context().with_resource(warnings_shown())


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default: runs/NAME-OF-CONFIG.")
@QUIET
def fit(config: Path, out: Path | None, quiet: bool) -> None:
    """Train what the file CONFIG (TOML) describes."""
    from training.config import read_config

    read_config(config)  # a slip in the file is told at once, not after the seconds that TensorFlow takes to load
    from training.run import fit

    _show(fit(config, out or Path("runs") / config.stem, quiet), quiet)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--accept-changes", is_flag=True, help="Go on with what is there now, and record it in run.json.")
@QUIET
def resume(run: Path, accept_changes: bool, quiet: bool) -> None:
    """Go on with the interrupted run in the directory RUN, unless its configuration, versions or images changed."""
    from training.run import resume

    _show(resume(run, accept_changes, quiet), quiet)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", default=1000, show_default=True)
@click.option("--patients", type=int, help="Default: two thirds of the images.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--size", default=256, show_default=True, type=click.IntRange(32, 8192))
def phantoms(folder: Path, images: int, patients: int | None, seed: int, size: int) -> None:
    """Draw synthetic chest radiographs with a manifest and lesion masks into FOLDER."""
    from training.phantoms import write_phantoms

    patients = max(1, images * 2 // 3) if patients is None else patients
    if not 1 <= patients <= images:
        raise InputError(f"{images} images of {patients} patients: every patient needs at least one image")
    click.echo(write_phantoms(folder, images, patients, seed=seed, size=size))


def _show(folder: Path, quiet: bool) -> None:
    if not quiet:
        click.echo((folder / "report.txt").read_text(encoding="utf-8"))
    click.echo(f"{folder}: checkpoints, run.json, split.csv, history.csv, report.txt, curves.png")
