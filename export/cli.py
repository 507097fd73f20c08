"""The command line: `python -m export ...`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from export.catalogue import COMPRESSIONS
from harness.common.errors import InputError, run_command_line, warnings_shown
from harness.common.storage import is_standard_output, require_no_folder
from kernels.catalogue import METHODS, of_one_pass

if TYPE_CHECKING:
    from export.proof.parity import Difference
    from export.sources.keras.run_record import CheckpointRecord
    from export.sources.onnx import Preprocessing
    from export.write import Request
    from harness.images.rule import ImageRule

# A graph holds neither a function of the user's own, nor further passes of itself.
FUSED = tuple(name for name in of_one_pass(METHODS.built_in) if METHODS[name].where != "picture")
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def cli() -> None:
    """Turn a classifier into one ONNX file that returns logits, activations and gradients.

    Add --debug to any command to see tracebacks.
    """
    click.get_current_context().with_resource(warnings_shown())


def _shared_options(command: Command) -> Command:
    """What both sources have in common, bottom up."""
    for option in (
        click.option("--classes", default="", help="Class names, separated by commas."),
        click.option("--thresholds", default="", help="Multi-label: one probability per class, from which it is yes."),
        click.option("--images", multiple=True, type=click.Path(path_type=Path), help="Images to prove parity on."),
        click.option("--probability", is_flag=True, help="Explain class probabilities, not logits."),
        click.option("--fuse", "methods", multiple=True, type=click.Choice(FUSED), help="CAM maps as outputs too."),
        click.option("--layer", "layers", multiple=True, help="CAM layer, repeatable; auto: the last map."),
    ):
        command = option(command)
    return command


def _file_options(command: Command) -> Command:
    """What an ONNX file can leave open, bottom up."""
    for option in (
        click.option("--input-size", metavar="HxW", help="Of a file that leaves them free; 224 is both."),
        click.option("--output", help="The output with the class scores, of a file that has several."),
        click.option(
            "--layout", type=click.Choice(["auto", "nchw", "nhwc"]), default="auto", show_default=True,
            help="Axes of the file's input; auto: where 1 or 3 channels can be.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _pixel_options(command: Command) -> Command:
    """What was done to a file and its pixels before they reached the model, bottom up."""
    for option in (
        click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Order of the model's channels [rgb]."),
        click.option("--std", help="One number, or three separated by commas [1]."),
        click.option("--mean", help="One number, or three separated by commas [0]."),
        click.option(
            "--scale", type=float, help="The model expects (x * scale - mean) / std of levels x in 0..255 [1]."
        ),
        click.option(
            "--image-rule",
            metavar="NAME|FILE.toml",
            help="How a file becomes levels: torchvision:resnet18, keras.applications:vgg16, ... [radiograph]; it "
            "brings its own --scale, --mean, --std and --channels where none of them is given.",
        ),
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write; a folder for a whole run.")
@click.option("--phase", help="Export only this phase of a run directory, to the file --out.")
@click.option("--input-size", metavar="HxW", help="Of a model that leaves them free; 224 is both.")
@click.option("--output", help="The output with the class scores, of a model that has several.")
@_pixel_options
@_shared_options
def keras(
    source: Path,
    out: Path,
    phase: str | None,
    input_size: str | None,
    output: str | None,
    layers: tuple[str, ...],
    **asked: Any,
) -> None:
    """Export a Keras checkpoint, or every phase of a run directory, and prove it equal to Keras.

    Layers: penultimate (the default in a run directory), last, auto, image (the picture itself), or a Keras layer's
    name; base/block5_conv4 is one inside the nested model base.
    """
    from export.sources.keras import export_checkpoint, find_checkpoints
    from export.sources.onnx import Preprocessing

    rule, pixels = _pixels(asked)
    given = pixels if pixels != Preprocessing() else None
    records = _of_phase(find_checkpoints(source), source, phase)
    for record in records:
        default = "penultimate" if record.facts.get("cam_layers") else "auto"
        file = out / f"{record.name}.onnx" if len(records) > 1 else out
        require_no_folder(file)
        request = _request(layers or (default,), file, rule, **asked)
        click.echo(f"{record.path}: loading it with Keras", err=True)
        _report(file, "Keras", export_checkpoint(record, request, _size(input_size), output, given))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
@_pixel_options
@_file_options
@click.option("--logits", is_flag=True, help="The outputs are logits, though they look like probabilities.")
@click.option("--grid", metavar="HxW", help="The map that a layer's tokens are, as 14x14; default: found from shapes.")
@_shared_options
def onnx(
    model: Path,
    out: Path,
    layout: str,
    output: str | None,
    input_size: str | None,
    logits: bool,
    grid: str | None,
    layers: tuple[str, ...],
    **asked: Any,
) -> None:
    """Export any ONNX image classifier, and prove it equal to its source."""
    from export.sources.onnx import Choices, export_onnx

    rule, preprocessing = _pixels(asked, layout)
    choices = Choices(output, logits, _size(input_size), layout)
    request = _request(layers or ("auto",), out, rule, **asked)
    _report(out, "its source", export_onnx(model, request, preprocessing, _grid(grid), choices))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@_file_options
@click.option("--grid", metavar="HxW", help="Only what holds a map of this size.")
def layers(model: Path, layout: str, output: str | None, input_size: str | None, grid: str | None) -> None:
    """List what `onnx --layer` can name: tensors on the way to the score that hold a map."""
    from tabulate import tabulate

    from export.sources.onnx import Choices, Preprocessing, list_layers

    choices = Choices(output, size=_size(input_size), layout=layout)
    rows = list_layers(model, Preprocessing(layout=layout), _grid(grid), choices)
    click.echo(tabulate(rows, ("tensor", "C x h x w", "map", "PyTorch module")))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--to", "target", required=True, type=click.Choice(COMPRESSIONS), help="int8 needs --data to calibrate on."
)
@click.option("--data", type=click.Path(path_type=Path), help="Manifest (CSV, column file) or folder of images.")
@click.option("--root", type=click.Path(path_type=Path), help="What a manifest's paths are relative to.")
@click.option("--split", help="Only the manifest's rows of this split.")
@click.option("--columns", metavar="ROLE=NAME,...", help="What the manifest calls its columns: file=path for example.")
@click.option("--images", "count", default=100, show_default=True, help="How many of the images to use.")
@click.option(
    "--reduce-range/--full-range", default=None, help="int8 weights of 7 or 8 bits; default: what suits this CPU."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
def compress(
    model: Path,
    target: str,
    data: Path | None,
    root: Path | None,
    split: str | None,
    columns: str | None,
    count: int,
    reduce_range: bool | None,
    out: Path,
) -> None:
    """Compress an exported graph, and explain it through the compression.

    Layers, classes and preprocessing stay what they were: compare the two with `python -m harness evaluate`.
    """
    from export.compress import compress as write_compressed
    from export.compress import find_images
    from harness.images.columns import parse_columns

    images = find_images(data, count, root, split, parse_columns(columns)) if data else []
    _report(out, "the compressed forward graph", write_compressed(model, target, out, images, reduce_range))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), help="Only so many tensors of weights, counted from the logits [all].")
@click.option("--noise", type=click.FloatRange(0, min_open=True), help="Keep the weights, add noise of this share.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the weights that are drawn.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
def randomise(model: Path, top: int | None, noise: float | None, seed: int, out: Path) -> None:
    """Draw the weights of an exported graph anew: what do its maps look like when it knows nothing?"""
    from export.randomise import randomise as write_randomised

    _report(out, "the randomised forward graph", write_randomised(model, out, top, noise, seed))


@cli.command()
@click.option("--markdown", is_flag=True, help="As docs/operators.md has it.")
def operators(markdown: bool) -> None:
    """List the operators that can be differentiated."""
    from export.autodiff import coverage

    click.echo(coverage.markdown() if markdown else coverage.table())


def _request(
    layers: Sequence[str],
    out: Path,
    rule: ImageRule | None,
    methods: Sequence[str],
    probability: bool,
    images: Sequence[Path],
    classes: str,
    thresholds: str,
) -> Request:
    from export.write import Request

    names = [name.strip() for name in classes.split(",") if name.strip()]
    limits = _numbers("--thresholds", thresholds) if thresholds else ()
    return Request(layers, out, methods, probability, images, names, limits, rule)


def _pixels(asked: dict[str, Any], layout: str = "auto") -> tuple[ImageRule | None, Preprocessing]:
    """Take the options about files and pixels out of `asked`: the rule (None: none was named), and what follows it."""
    from export.sources.onnx import Preprocessing
    from harness.images.presets import Normalisation, find_preset

    name = asked.pop("image_rule")
    given = {key: asked.pop(key) for key in ("scale", "mean", "std", "channels")}
    given = {key: value for key, value in given.items() if value is not None}
    given |= {key: _numbers(f"--{key}", given[key]) for key in ("mean", "std") if key in given}
    preset = find_preset(name) if name else None
    pixels = Normalisation(**given) if given or preset is None else preset.normalisation
    if preset is not None:
        click.echo(f"image rule {preset.rule}", err=True)
    rule = None if preset is None else preset.rule
    return rule, Preprocessing(pixels.scale, pixels.mean, pixels.std, layout, pixels.channels)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} takes numbers separated by commas, not {text!r}") from None


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width) > 1):
        raise InputError(f"--grid takes a height and a width such as 14x14, not {text!r}")
    return int(height), int(width)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text, re.ASCII)
    height, width = (int(part) for part in (found[1], found[2] or found[1])) if found else (0, 0)
    if height * width < 2:
        raise InputError(
            f"--input-size takes a size such as 224, or a height and a width such as 320x240, not {text!r}"
        )
    return int(height), int(width)


def _of_phase(records: list[CheckpointRecord], source: Path, phase: str | None) -> list[CheckpointRecord]:
    if phase is None:
        return records
    chosen = [record for record in records if record.name == phase]
    if not chosen:
        known = ", ".join(record.name for record in records)
        raise InputError(f"{source}: no phase {phase!r}; this run has: {known}")
    return chosen


def _report(file: Path, source: str, differences: Sequence[Difference]) -> None:
    from export.proof.parity import summary

    size = f"{file.stat().st_size / 1e6:.1f} MB, " if file.is_file() else ""
    lines = [f"{file}: {size}equal to {source} at all ONNX Runtime optimisation levels"]
    lines += [
        f"  {item.output}: relative L2 error {item.relative_l2:.1e}, cosine {item.cosine:.7f}, "
        f"{item.switched} switched elements"
        for item in summary(differences)
    ]
    click.echo("\n".join(lines), err=is_standard_output(file))  # never between the bytes of the graph


def main() -> None:
    """Entry point."""
    run_command_line(cli, "python -m export")
