"""What happened to pixels before they reached the model, in NumPy and as nodes of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.common.errors import InputError

CHANNELS = (1, 3)  # of models whose input is a picture


@dataclass(frozen=True)
class Preprocessing:
    """What happened to pixels before they reached the model: (image * scale - mean) / std, then layout and channels.

    channels: the order of the model's three; mean and std are in that order
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "auto"
    channels: str = "rgb"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, 3):
                raise InputError(f"--{name} takes one number or three, not {len(getattr(self, name))}")
        if 0.0 in self.std:
            raise InputError("--std must not be 0")

    def for_input(self, sizes: Sequence[int | None]) -> Preprocessing:
        """With the layout that an input (N, C, H, W) or (N, H, W, C) has, where it is left open."""
        return replace(self, layout=layout_of(sizes)) if self.layout == "auto" else self

    def apply(self, images: np.ndarray, channels: int) -> np.ndarray:
        """What the model's own input is for `images` (N, 3, H, W): the arithmetic of the graph, in NumPy."""
        mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        ordered = images[:, ::-1] if self.channels == "bgr" else images
        pixels = (ordered * np.float32(self.scale) - mean) / std
        pixels = pixels[:, :channels]
        return pixels if self.layout == "nchw" else np.ascontiguousarray(np.moveaxis(pixels, 1, -1))

    @property
    def arithmetic(self) -> str:
        """What is done to the levels, in words."""
        image = "image" if self.channels == "rgb" else f"image as {self.channels}"
        return f"({image} * {self.scale:g} - {list(self.mean)}) / {list(self.std)}"

    def __str__(self) -> str:
        return f"{self.arithmetic}, {self.layout}"


def layout_of(sizes: Sequence[int | None]) -> str:
    """`nhwc` where the last axis can be channels (1 or 3) and the second cannot, else `nchw`."""
    last = len(sizes) == 4 and sizes[3] in CHANNELS and sizes[1] not in CHANNELS
    return "nhwc" if last else "nchw"
