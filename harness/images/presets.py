"""Image rules by name: what the frameworks do to a picture before their published models see it.

| name | copies |
|---|---|
| `radiograph` | the default rule, `grey-squash/1` |
| `torchvision:MODEL[:WEIGHTS]` | `Weights.transforms()` of torchvision, of the default weights where none are named |
| `timm:FILE.json` | `timm.data.create_transform(**data_config)` of a data_config, or of a config.json of a hub |
| `keras.applications:FAMILY` | `keras.utils.load_img(path, target_size=...)` and the family's `preprocess_input` |
| `keras.dataset` | `keras.utils.image_dataset_from_directory(...)` with its defaults |
| `FILE.toml` | fields of `ImageRule`, and `like`: a name above, whose fields are taken where the file has none |

Every name but `radiograph` applies the EXIF orientation, which the readers of these frameworks do not: in a file,
`orientation = "ignore"` does without.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from harness.common.errors import InputError, first_line
from harness.common.storage import read_at_most
from harness.common.validation import complaint
from harness.images.rule import GREY, RULE, ImageRule

MOST_BYTES = 2**20  # of a rule
NAMES = (
    "radiograph", "torchvision:MODEL[:WEIGHTS]", "timm:FILE.json", "keras.applications:FAMILY", "keras.dataset",
    "FILE.toml",
)  # fmt: skip
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Normalisation:
    """What a framework does to the levels of a view x in 0..255: (x * scale - mean) / std, channel by channel.

    channels: the order in which the model takes them; mean and std are in that order
    """

    scale: float = 1.0
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    channels: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class Preset:
    """An image rule, and how the framework that it copies goes on."""

    rule: ImageRule
    normalisation: Normalisation = Normalisation()


_IMAGENET = Normalisation(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MODES = {  # of keras.applications.imagenet_utils.preprocess_input
    "tf": Normalisation(1 / 127.5, (1.0,)),
    "torch": _IMAGENET,
    "caffe": Normalisation(1.0, (103.939, 116.779, 123.68), channels="bgr"),
    "inside": Normalisation(),  # the model holds it
}
_FAMILIES = {
    "tf": "xception inception_v3 inception_resnet_v2 mobilenet mobilenet_v2 nasnet resnet_v2",
    "torch": "densenet",
    "caffe": "vgg16 vgg19 resnet",
    "inside": "efficientnet efficientnet_v2 mobilenet_v3 convnext",
}
_MODE_OF = {family: mode for mode, families in _FAMILIES.items() for family in families.split()}
_KERAS = {"fit": "squash", "resampler": "pillow", "levels": "whole"}


def find_preset(name: str, base: Path = Path()) -> Preset:
    """The rule of a name or file (see above).

    :param base: the folder that files are relative to.
    :raises InputError: an unknown name, or a file that cannot be read or holds no rule.
    """
    source, _, rest = name.partition(":")
    if name in ("radiograph", RULE):
        return Preset(GREY)
    if name.endswith(".toml"):
        return _of_toml(base / name)
    if name == "keras.dataset":
        return Preset(_rule(name, fit="squash", resampler="opencv", levels="fractions"))
    if source not in _SOURCES:
        raise InputError(f"image rule {name!r} is unknown; known: {', '.join(NAMES)}")
    return _SOURCES[source](name, rest, base)


def _of_keras(name: str, family: str, _: Path) -> Preset:
    if family not in _MODE_OF:
        raise InputError(f"image rule {name!r} is unknown; {_nearest(family, _MODE_OF)}")
    return Preset(_rule(name, interpolation="nearest", **_KERAS), _MODES[_MODE_OF[family]])


def _of_torchvision(name: str, weights: str, _: Path) -> Preset:
    known = _torchvision()
    if weights not in known:
        raise InputError(f"image rule {name!r} is unknown; {_nearest(weights, known)}")
    found = known[weights]
    size, normalisation = found["crop"], Normalisation(1 / 255, tuple(found["mean"]), tuple(found["std"]))
    return Preset(_cropped(name, found["resize"], (size, size), found["interpolation"]), normalisation)


@cache
def _torchvision() -> dict[str, dict[str, Any]]:
    """MODEL:WEIGHTS, and MODEL for its default, -> transform."""
    text = Path(__file__).with_name("torchvision.toml").read_text(encoding="utf-8")
    named = {name: item for item in tomllib.loads(text)["transform"] for name in item["weights"]}
    default = {name.partition(":")[0]: item for name, item in named.items() if name.endswith("*")}
    return default | {name.removesuffix("*"): item for name, item in named.items()}


def _of_timm(name: str, file: str, base: Path) -> Preset:
    """`resolve_model_data_config(model)`, or a config.json of a hub, which holds it as `pretrained_cfg`."""
    path = base / file
    try:
        content = json.loads(_text(path))
        config = content.get("pretrained_cfg", content)
        height, width = (int(side) for side in config["input_size"][1:])
        share = float(config.get("crop_pct") or 0.875)
        mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
        mode, interpolation = config.get("crop_mode") or "center", config.get("interpolation") or "bilinear"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no data_config of timm as JSON ({first_line(error)})") from error
    normalisation = Normalisation(1 / 255, mean, std)
    if mode == "center" and height == width:
        return Preset(_cropped(name, math.floor(height / share), (height, width), interpolation), normalisation)
    if mode == "squash" and share == 1:
        squashed = _rule(name, fit="squash", interpolation=interpolation, size=(height, width))
        return Preset(squashed, normalisation)
    raise InputError(
        f"{path}: crop_mode {mode!r} with crop_pct {share:g} at {height} x {width} has no image rule; "
        "expected center at a square size, or squash with crop_pct 1"
    )


_SOURCES = {"torchvision": _of_torchvision, "timm": _of_timm, "keras.applications": _of_keras}


def _of_toml(path: Path) -> Preset:
    try:
        given = tomllib.loads(_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file ({first_line(error)})") from error
    like = given.pop("like", None)
    preset = Preset(GREY)
    if like is not None:
        if not isinstance(like, str) or like.endswith(".toml"):
            raise InputError(f"{path}: `like` takes the name of a rule, not {like!r}")
        preset = find_preset(like, path.parent)
        given = {**preset.rule.model_dump(exclude={"name"}), **given}
    try:
        rule = ImageRule.model_validate({"name": path.stem, **given})
    except ValidationError as error:
        raise InputError(f"{path}: {complaint(error, ImageRule, {})}") from error
    return Preset(rule, preset.normalisation)


def _text(path: Path) -> str:
    try:
        return read_at_most(path, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an image rule") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8 ({first_line(error)})") from error


def _cropped(name: str, shorter: int, size: tuple[int, int], interpolation: str) -> ImageRule:
    return _rule(name, fit="crop", shorter=shorter, size=size, interpolation=interpolation)


def _rule(name: str, **fields: Any) -> ImageRule:
    try:
        return ImageRule(name=name, **fields)
    except ValidationError as error:
        raise InputError(f"image rule {name!r}: {complaint(error, ImageRule, {})}") from error


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(sorted(known))}"
