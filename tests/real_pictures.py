"""Twenty real colour pictures of odd sizes, made of those that scikit-learn, scikit-image and Matplotlib ship.

JPEG upright and turned by EXIF in all eight ways, CMYK, palette and transparency, 8 and 16 bits, PNG, TIFF and WebP.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import skimage
import sklearn
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the tag of EXIF and TIFF


def sources() -> list[Image.Image]:
    """The pictures themselves."""
    folders = (
        (Path(sklearn.__file__).parent / "datasets" / "images", ("china.jpg", "flower.jpg")),
        (Path(skimage.__file__).parent / "data", ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")),
        (Path(matplotlib.get_data_path()) / "sample_data", ("grace_hopper.jpg",)),
    )
    return [Image.open(folder / name).convert("RGB") for folder, names in folders for name in names]


def write_pictures(folder: Path) -> list[Path]:
    """Write the twenty files and name them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = sources()
    made: list[Path] = []

    def cut(number: int, width: int, height: int) -> Image.Image:
        return pictures[number % len(pictures)].crop((3, 5, 3 + width, 5 + height))

    def save(picture: Image.Image, name: str, **how: object) -> None:
        made.append(folder / name)
        picture.save(folder / name, **how)

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture = cut(orientation, 301 + 13 * orientation, 257 - 3 * orientation)
        save(picture, f"turned-{orientation}.jpg", quality=92, exif=exif)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(cut(0, 333, 211), "turned.png", exif=exif)
    save(cut(1, 300, 299), "turned.webp", exif=exif, lossless=True)
    save(cut(5, 411, 205), "turned.tif", exif=exif)
    save(cut(2, 257, 383), "plain.png")
    save(cut(3, 400, 266).quantize(200), "palette.png")
    save(cut(4, 311, 233).convert("CMYK"), "cmyk.jpg", quality=95)
    save(cut(6, 341, 401), "plain.jpg", quality=80)
    save(cut(0, 639, 97), "panorama.jpg", quality=90)
    save(cut(1, 149, 421), "small.tif")
    transparent = cut(2, 301, 247)
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    save(transparent, "transparent.png")
    save(cut(3, 225, 224), "nearly.jpg", quality=99, subsampling=0)
    deep = (np.asarray(cut(4, 277, 309)).astype(np.uint16) * 257)[..., ::-1]
    deep = deep + np.random.default_rng(0).integers(0, 100, deep.shape).astype(np.uint16) * (deep < 65000)
    made.append(folder / "deep.png")
    assert cv2.imwrite(str(made[-1]), deep.astype(np.uint16))
    return made


def by_pillow(path: Path) -> Image.Image:
    """As a framework's reader decodes it, turned upright; 16 bits rounded to 8, which Pillow would cut."""
    if path.stem == "deep":
        deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
        return Image.fromarray(np.rint(deep / 257.0).astype(np.uint8))
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
