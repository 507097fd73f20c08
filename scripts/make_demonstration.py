"""Make the embedded demonstration: two exported graphs and 60 phantom radiographs in `harness/demo/`.

    python -m training fit scripts/demo.toml --out runs/demo
    python scripts/make_demonstration.py runs/demo

The images are drawn with a seed that no training phase uses.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from pathlib import Path

import click
import cv2

from export.sources.keras import export_checkpoint, find_checkpoints
from export.write import Request
from harness.images.loading import read_picture
from training.phantoms import write_phantoms

DEMO = Path(__file__).parent.parent / "harness" / "demo"
IMAGES, PATIENTS, SEED, SIZE, JPEG_QUALITY = 60, 40, 20260, 224, 85


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def main(run: Path) -> None:
    """Export the two phases of RUN and draw the images."""
    shutil.rmtree(DEMO, ignore_errors=True)
    for record in find_checkpoints(run):
        if record.name in ("transfer", "finetune"):
            export_checkpoint(record, Request(["penultimate"], DEMO / f"{record.name}.onnx"))
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder), IMAGES, PATIENTS, seed=SEED, size=SIZE)
        _copy_as_jpeg(Path(folder))


def _copy_as_jpeg(source: Path) -> None:
    (DEMO / "images").mkdir(parents=True)
    with (source / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (DEMO / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "class", "group"])
        for number, row in enumerate(rows):
            name = f"images/phantom-{number:02d}.jpg"
            grey = read_picture(source / row["file"])
            cv2.imwrite(str(DEMO / name), grey.round().astype("uint8"), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            writer.writerow([name, row["class"], row["group"]])


if __name__ == "__main__":
    main()
