"""`python -m scripts.study.photographs STORED.npz OUT.keras`: InceptionV3 without top from 8-bit weights.

The archive holds, per weight tensor NNN in the order of `get_weights()`, either `NNN_value` (float32) or `NNN_levels`
(at most 256 float32 values) and `NNN_index` (uint8, the shape of the tensor).
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

SIZE = 224  # pixels of a side


def read_weights(path: Path, count: int) -> list[np.ndarray]:
    """The `count` weight tensors of an archive, in order."""
    with np.load(path) as stored:
        return [
            stored[f"{number:03d}_value"]
            if f"{number:03d}_value" in stored
            else stored[f"{number:03d}_levels"][stored[f"{number:03d}_index"]]
            for number in range(count)
        ]


def main() -> None:
    """Write the model that the archive holds as a Keras file."""
    source, target = map(Path, sys.argv[1:])
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    model.set_weights(read_weights(source, len(model.get_weights())))
    model.save(target)


if __name__ == "__main__":
    main()
