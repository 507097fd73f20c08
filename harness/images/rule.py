"""The rule by which an image file becomes a network's input: one record, its name, and how it is stored.

`harness.images.loading` decodes a file by it, `harness.images.view` applies it to the decoded picture. Checkpoints,
exported graphs and results carry it, since numbers that come from other pixels cannot be compared.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

VERSION: Literal[1] = 1  # of what the fields of a record mean
RULE = "grey-squash/1"  # the default, which is stored by this name alone

_SAME_CROP = 0.01  # of the shorter side

Side = Annotated[int, Field(ge=1, le=16384)]  # pixels

_FITS = {
    "squash": "squashed to the network's size",
    "crop": "shorter side to {shorter}, centre crop",
    "letterbox": "longer side to the network's, padded with {pad:g}",
    "native": "of the network's size already",
}


class ImageRule(BaseModel):
    """From a decoded picture to a network's input of (H, W), in levels 0..255.

    name, version: what the rule is called, and the version of this record by which its fields are read
    colour: one grey plane in three equal channels, or red, green and blue
    fit: how the size is reached. `squash`: each axis by itself. `crop`: the shorter side to `shorter` (None: until the
        picture covers the size), then the middle. `letterbox`: the longer side, the rest filled with `pad`. `native`:
        the picture must have the size
    interpolation, resampler: Pillow's kinds are antialiased where a picture shrinks, except for `nearest`; OpenCV's
        are not, except for `area` (which is linear where a picture grows)
    levels: `whole`: 8-bit arithmetic, so that deeper pictures and DICOM are rounded to 0..255 before they are resized;
        `fractions`: float32
    orientation: whether the EXIF or TIFF orientation is applied
    size: (H, W) of the network's input, where the rule is made for one
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    version: Literal[1] = VERSION
    colour: Literal["grey", "rgb"] = "rgb"
    fit: Literal["squash", "crop", "letterbox", "native"]
    shorter: Side | None = None
    pad: Annotated[float, Field(ge=0, le=255)] = 0
    interpolation: Literal["nearest", "area", "bilinear", "bicubic", "lanczos"] = "bilinear"
    resampler: Literal["opencv", "pillow"] = "pillow"
    levels: Literal["fractions", "whole"] = "whole"
    orientation: Literal["apply", "ignore"] = "apply"
    size: tuple[Side, Side] | None = None

    @model_validator(mode="after")
    def _check(self) -> ImageRule:
        if self.shorter is not None and self.fit != "crop":
            raise ValueError(f"`shorter` belongs to fit = 'crop', not {self.fit!r}; leave it out")
        if self.shorter is not None and self.size is not None and self.shorter < max(self.size):
            raise ValueError(f"`shorter` is {self.shorter}, less than the crop of {_by(self.size)}; make it larger")
        return self

    @property
    def label(self) -> str:
        """Name and version: `grey-squash/1`."""
        return f"{self.name}/{self.version}"

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the pixels: everything but the name."""
        return self.model_dump(exclude={"name"})

    def differences(self, other: ImageRule) -> dict[str, tuple[Any, Any]]:
        """The fields in which two rules give other pixels, with both values."""
        ours, theirs = self.recipe, other.recipe
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    def shows_what(self, other: ImageRule, size: tuple[int, int], other_size: tuple[int, int]) -> bool:
        """Whether networks of two input sizes see the same part of every picture (to one hundredth of a crop)."""
        ours, theirs = (
            (rule.fit, rule.orientation, tuple(side / (rule.shorter or min(sides)) for side in sides))
            for rule, sides in ((self, size), (other, other_size))
        )
        if ours[:2] != theirs[:2]:
            return False
        shares = zip(ours[2], theirs[2], strict=True)
        return self.fit == "squash" or all(abs(one - another) <= _SAME_CROP for one, another in shares)

    def for_size(self, size: tuple[int, int]) -> ImageRule:
        """The rule for a network that takes (H, W).

        :raises ValueError: it is made for another size, or its crop would be larger than the resized picture.
        """
        if self.size is not None and self.size != tuple(size):
            raise ValueError(f"image rule {self.label} gives {_by(self.size)}, the network takes {_by(size)}")
        return ImageRule.model_validate({**self.model_dump(), "size": size}) if self != GREY else self

    def __str__(self) -> str:
        fit = _FITS[self.fit].format(shorter=self.shorter or "the network's size", pad=self.pad)
        size = f" ({_by(self.size)})" if self.size else ""
        turned = "orientation applied" if self.orientation == "apply" else "stored orientation"
        resized = f"{'Pillow' if self.resampler == 'pillow' else 'OpenCV'} {self.interpolation}"
        levels = "8-bit" if self.levels == "whole" else "float32"
        colour = "RGB" if self.colour == "rgb" else "grey"
        return f"{self.label}: {colour}, {fit}{size}, {resized}, {levels}, {turned}"


GREY = ImageRule(
    name="grey-squash", colour="grey", fit="squash", interpolation="area", resampler="opencv", levels="fractions",
    orientation="ignore",
)  # fmt: skip


def stored(rule: ImageRule) -> Any:
    """What metadata hold: the name of the default, the record of any other rule."""
    return RULE if rule == GREY else rule.model_dump(mode="json")


def restored(found: Any) -> ImageRule:
    """The rule that metadata hold.

    :raises ValueError: a rule of a later version, an unknown one, or no rule.
    """
    if isinstance(found, ImageRule) or found == RULE:
        return GREY if found == RULE else found
    name, version = _named(found)
    if version is not None and version > VERSION and (isinstance(found, dict) or name == GREY.name):
        raise ValueError(f"image rule '{name}/{version}', later than this version knows (/{VERSION}); update it")
    if not isinstance(found, dict) or version != VERSION:
        raise ValueError(f"image rule {found if isinstance(found, str) else f'{name}/{version}'!r}, this is {RULE!r}")
    return ImageRule.model_validate(found)


def _named(found: Any) -> tuple[str, int | None]:
    """(name, version) of what metadata hold; no version where there is none."""
    if isinstance(found, dict):
        version = found.get("version")
        return str(found.get("name")), version if isinstance(version, int) else None
    name, _, number = str(found).rpartition("/")
    return name, int(number) if number.isdecimal() else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
