"""Write harness/images/torchvision.toml: what `Weights.transforms()` does for every classifier of torchvision.

python -m scripts.torchvision_rules
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchvision
from torchvision import models

TARGET = Path(__file__).parent.parent / "harness" / "images" / "torchvision.toml"


def main() -> None:
    """A table per transform, with the weights that use it; the default of each model is marked by a star."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            made = weights.transforms()
            assert made.antialias, f"{name} resizes without antialiasing"
            transform = (
                *made.resize_size,
                *made.crop_size,
                made.interpolation.value,
                tuple(made.mean),
                tuple(made.std),
            )
            star = "*" if weights is type(weights).DEFAULT else ""
            found.setdefault(transform, []).append(f"{name}:{weights.name}{star}")
    TARGET.write_text(_document(found), encoding="utf-8")


def _document(found: dict[tuple[Any, ...], list[str]]) -> str:
    version = torchvision.__version__.partition("+")[0]
    lines = [
        f"# Weights.transforms() of torchvision {version}, written by scripts/torchvision_rules.py. *: the default."
    ]
    for (resize, crop, interpolation, mean, std), names in sorted(found.items()):
        lines += ["", "[[transform]]", f"resize = {resize}", f"crop = {crop}", f'interpolation = "{interpolation}"']
        lines += [f"mean = {list(mean)}", f"std = {list(std)}", "weights = ["]
        lines += [f'    "{name}",' for name in names] + ["]"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
