"""The rates from which docs/scale.md computes what a large study costs: milliseconds on one CPU, the best of several.

Run as `python -m scripts.scale_rates`, on a machine with nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from harness.images.jitter import jittered
from harness.images.loading import decode_picture, squash
from kernels.cam import cams
from kernels.metrics import pair_metrics
from kernels.partners import partner_metrics

RADIOGRAPH, SMALL, NETWORK = (2544, 3056), (390, 320), (224, 224)  # width and height, but for the last
PAIRS, IMAGES, DRAWS = 64, 32, 4


def best(work: Callable[[], object], count: int = 1, rounds: int = 8) -> float:
    """CPU milliseconds of one of the `count` things that `work` does; the first round warms up."""
    found = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found[1:]) / count * 1000


def radiograph(rng: np.random.Generator) -> np.ndarray:
    """A smooth picture with noise, which takes about as many bytes as a radiograph."""
    smooth = cv2.resize(rng.uniform(0, 255, (40, 48)).astype(np.float32), RADIOGRAPH, interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    picture = radiograph(rng)
    whole, small = (_jpeg(picture), _jpeg(cv2.resize(picture, SMALL)))
    grey, name = picture.astype(np.float32), Path("made.jpg")
    network = squash(grey, NETWORK)
    before, after = (rng.gamma(1, size=(PAIRS, 7, 7)).astype(np.float32) for _ in range(2))
    layer = [rng.normal(size=(IMAGES, 1920, 7, 7)).astype(np.float32) for _ in range(2)]
    partners, defined = rng.integers(0, PAIRS, (DRAWS, PAIRS)), np.zeros(PAIRS, np.uint8)
    codes = {"before_reasons": defined, "after_reasons": defined}
    rates = {
        f"decode a JPEG of {len(whole) / 1e6:.1f} MB": best(lambda: decode_picture(name, whole)),
        "squash it to 224 x 224": best(lambda: squash(grey, NETWORK)),
        "decode and squash a JPEG of 390 x 320": best(lambda: squash(decode_picture(name, small), NETWORK)),
        "noise of one draw": best(lambda: jittered(network, "made", 1, 0)),
        "two CAMs of 1920 x 7 x 7": best(lambda: cams(("layercam", "gradcam++"), *layer, 1), IMAGES),
        "scores of a pair": best(lambda: pair_metrics(before, after, 1, size=NETWORK), PAIRS),
        "scores of a draw": best(
            lambda: partner_metrics(before, after, partners, 1, **codes, size=NETWORK), DRAWS * PAIRS
        ),
    }
    for what, rate in rates.items():
        print(f"{rate:8.2f} ms  {what}")


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


if __name__ == "__main__":
    main()
