"""The command line: `python -m harness ...`. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
from pathlib import Path

import click

from harness.errors import InputError, run_command_line

METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam")


@click.group()
def cli() -> None:
    """Measure how far a classifier's visual evidence drifts between two checkpoints.

    Add --debug to any command to see tracebacks.
    """


@cli.command()
@click.option("--before", type=click.Path(path_type=Path), help="Exported graph of the earlier checkpoint.")
@click.option("--after", type=click.Path(path_type=Path), help="Exported graph of the later checkpoint.")
@click.option("--data", type=click.Path(path_type=Path), help="Manifest (CSV: file, class, group) or class folders.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder of the manifest's files [its own folder].")
@click.option("--split", help="Only manifest rows whose column `split` has this value, for example test.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("drift"), show_default=True, help="Result folder.")
@click.option(
    "--method", "methods", multiple=True, type=click.Choice(METHODS), help="Repeatable [layercam, gradcam++]."
)
@click.option("--layer", "layers", multiple=True, help="CAM layer, repeatable [the first that both graphs carry].")
@click.option(
    "--select", type=click.Choice(["true-positive", "agree", "all"]), default="true-positive", show_default=True
)
@click.option("--map-size", type=click.IntRange(2, 4096), default=224, show_default=True, help="Side of compared maps.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Images per call.")
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="CPUs")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--provider", default="cpu", show_default=True, help="cpu, cuda or tensorrt.")
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@click.option("--wide", is_flag=True, help="Show every metric.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def evaluate(
    before: Path | None,
    after: Path | None,
    data: Path | None,
    root: Path | None,
    split: str | None,
    out: Path,
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    select: str,
    map_size: int,
    batch: int,
    threads: int,
    seed: int,
    provider: str,
    strict: bool,
    wide: bool,
    quiet: bool,
) -> None:
    """Compare two exported checkpoints on radiographs; without arguments, on the embedded demonstration."""
    from harness import command, demonstration
    from harness.evaluate import Options
    from harness.table import drift_table

    if before is None and after is None and data is None:
        inputs = demonstration.inputs()
    elif before is None or after is None or data is None:
        raise InputError("give --before, --after and --data together, or none of them for the demonstration")
    else:
        inputs = command.Inputs(before, after, data, root, split)
    options = Options(methods or Options.methods, layers, select, (map_size, map_size), batch, threads, strict)
    result = command.evaluate(inputs, options, out, seed, provider, quiet)
    click.echo(drift_table(result, wide))
    click.echo(f"\nwritten to {out}: evaluation.json, scores/, maps/, predictions/, {command.SHEET}")


@cli.command()
@click.option("--warm", is_flag=True, help="Compile the kernels now, so that no evaluation waits for it.")
def env(warm: bool) -> None:
    """Show versions, execution providers and where our packages come from."""
    import onnxruntime as ort
    from tabulate import tabulate

    from harness.environment import origins, versions

    rows = [*versions().items(), ("execution providers", ", ".join(ort.get_available_providers()))]
    rows += [(f"{name} from", folder) for name, folder in origins().items()]
    click.echo(tabulate(rows, tablefmt="plain"))
    if warm:
        from kernels.warm import compile_all

        compile_all()
        click.echo("kernels compiled")


def main() -> None:
    """Entry point of `python -m harness` and of `evidence-drift`."""
    run_command_line(cli, "python -m harness")
