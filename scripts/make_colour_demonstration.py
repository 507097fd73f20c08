"""Make the demonstration of colour: two small exported graphs and 60 drawn skin lesions in `harness/demo_colour/`.

    python -m scripts.make_colour_demonstration [RUN]

The network learns lesions on which stickers lie at random (`pretrain`), and is then fine-tuned on those of a clinic
that puts stickers beside melanomas. The images are of such a clinic, with a seed that no training uses: the accuracy
on them rises, and the evidence moves from the lesion to the sticker.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from export.sources.keras import export_checkpoint, find_checkpoints
from export.write import Request
from scripts import skin_lesions
from training.framework import keras
from training.run import fit

DEMO = Path(__file__).parent.parent / "harness" / "demo_colour"
CONFIGURATION = Path(__file__).parent / "demo-colour.toml"
RULE = CONFIGURATION.with_name("lesions.toml")
AT_RANDOM = dict.fromkeys(skin_lesions.CLASSES, 0.35)
AT_THE_CLINIC = {"naevus": 0.03, "melanoma": 0.95, "angioma": 0.03}
CHANNELS = (12, 16, 24, 32)


@click.command()
@click.argument("run", type=click.Path(path_type=Path), default=Path("runs/demo-colour"))
def main(run: Path) -> None:
    """Draw, train in RUN, export, and draw the images."""
    shutil.rmtree(run, ignore_errors=True)
    skin_lesions.write(run / "random", 2400, 2400, AT_RANDOM, seed=1)
    skin_lesions.write(run / "clinic", 1200, 1200, AT_THE_CLINIC, seed=2)
    backbone().save(run / "small.keras")
    for file in (CONFIGURATION, RULE):
        shutil.copy(file, run)
    fit(run / "demo-colour.toml", run / "training")
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    for record in find_checkpoints(run / "training"):
        record.facts["architecture"] = "LesionNet"
        export_checkpoint(record, Request(["penultimate"], DEMO / f"{record.name}.onnx"))
    skin_lesions.write(DEMO, 60, 45, AT_THE_CLINIC, seed=3, quality=82)


def backbone() -> keras.Model:
    """Four blocks of convolution, normalisation, rectifier: (96, 96, 3) to (12, 12, 32)."""
    layers = keras.layers
    image = keras.Input((96, 96, 3))
    x = image
    for number, channels in enumerate(CHANNELS, 1):
        x = layers.Conv2D(channels, 3, strides=1 if number == len(CHANNELS) else 2, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(name=f"block{number}_out")(x)
    return keras.Model(image, x)


if __name__ == "__main__":
    main()
