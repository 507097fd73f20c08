"""`python -m benchmarks kernels`: time the kernels beside their rivals and print a Markdown table of ratios."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.report import kernel_table, replace_section, run


@click.group()
def main() -> None:
    """Benchmarks, as ratios within one run."""


@main.command()
@click.option(
    "--write", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Replace the table in FILE."
)
def kernels(write: Path | None) -> None:
    """The map kernels against numpy, SciPy, scikit-image and OpenCV, on one thread."""
    table = kernel_table(run("benchmarks/test_kernels_speed.py"))
    click.echo(table)
    if write:
        write.write_text(
            replace_section(write.read_text(encoding="utf-8"), "kernels-benchmark", table), encoding="utf-8"
        )


@main.command()
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(3))
def engine(rounds: int) -> None:
    """Exported graphs against the forward pass alone and TensorFlow's compiled GradientTape, on two threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    from benchmarks.engine_report import engine_table

    click.echo(engine_table(rounds))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
