"""The options that decide the numbers of an evaluation: one record for TOML, command line, Python and JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from harness.common.errors import InputError
from harness.common.validation import complaint
from kernels.catalogue import cam_method

Selection = Literal["true-positive", "agree", "all"]
MapSource = Literal["kernels", "graph"]  # who makes maps of activations and gradients: our kernels, or fused nodes
SMALLEST_MAP, LARGEST_MAP = 2, 4096  # pixels of a side
MOST_DRAWS = 1000  # of the noise floor and of the chance level: each costs a pass through the model, or a comparison
LEAST_BUDGET, MOST_BUDGET = 50, 10**6  # images
LARGEST_SEED = 2**63 - 1


def _square(value: Any) -> Any:
    """One number stands for both sides."""
    return (value, value) if isinstance(value, int) else value


def _once(value: Any) -> Any:
    """A list without what it repeats; a text would be taken for its letters."""
    return tuple(dict.fromkeys(value)) if isinstance(value, (list, tuple)) else value


Side = Annotated[int, Field(ge=SMALLEST_MAP, le=LARGEST_MAP)]
Names = Annotated[tuple[str, ...], BeforeValidator(_once)]


class Options(BaseModel):
    """How to evaluate; all of it is written into the result. Descriptions are the help of the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: Names = Field(default=("layercam", "gradcam++"), description="CAM method, repeatable")
    layers: Names = Field(default=(), description="CAM layer by role or name, repeatable [penultimate, else all]")
    select: Selection | None = Field(default=None, description="Images to compare [true-positive]")
    map_size: Annotated[tuple[Side, Side], BeforeValidator(_square)] = Field(
        default=(224, 224), description="Side of compared maps"
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of all that is drawn")
    jitter: int | None = Field(
        default=None, ge=0, le=MOST_DRAWS, description="Draws of the noise floor, 0 for none [by budget]"
    )
    chance: int | None = Field(
        default=None, ge=0, le=MOST_DRAWS, description="Derangements of the chance level, 0 for none [by budget]"
    )
    reference_budget: int = Field(
        default=1500, ge=LEAST_BUDGET, le=MOST_BUDGET, description="Most images on which floor and chance are estimated"
    )
    sample: int = Field(
        default=128, ge=2, le=1_000_000, description="Images for methods of several passes, as many of each class"
    )
    causal: int = Field(
        default=0, ge=0, le=1_000_000, description="Images of the causal check, for example 64; 0 for none"
    )
    margin: float = Field(default=0.02, gt=0, lt=1, description="Accuracies closer than this are equal")
    maps: MapSource = Field(default="kernels", description="Who makes the maps; graph: nodes exported with --fuse")

    @field_validator("methods")
    @classmethod
    def _at_least_one(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("name at least one CAM method")
        return names

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options that a user gives. Raises InputError that names the wrong one, an unknown CAM method too."""
        options = cls.stored(**given)
        try:
            for name in options.methods:
                cam_method(name)
        except ValueError as error:
            raise InputError(f"methods: {error}") from error
        return options

    @classmethod
    def stored(cls, **given: Any) -> Options:
        """Options of a result, whose CAM methods this process need not have."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InputError(complaint(error, cls, {})) from error

    def changed(self, **given: Any) -> Options:
        """The same with some options replaced; CAM methods are those of a result."""
        return Options.stored(**{**self.model_dump(), **given})
