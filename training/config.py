"""The configuration of a run: a TOML file, checked key by key, with every default in sight.

Paths are relative to the TOML file. Phases run in the order in which the file lists them; each starts from the
checkpoint of the one before. The names pretrain, transfer and finetune bring presets, any other name none.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.common.errors import InputError
from harness.common.storage import read_at_most
from harness.images.columns import require_roles

MOST_BYTES = 2**20  # of a configuration
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what Keras and NumPy take
Side = Annotated[int, Field(ge=32, le=8192)]  # pixels

PRESETS: dict[str, dict[str, Any]] = {
    "pretrain": {"trainable": "all", "batchnorm": "train", "learning_rate": 1e-3},
    "transfer": {"trainable": "head", "batchnorm": "inference", "learning_rate": 1e-3},
    "finetune": {
        "trainable": "all",
        "batchnorm": "inference",
        "learning_rate": 1e-4,
        "schedule": "cosine",
        "warmup_epochs": 1,
    },
}


class Settings(BaseModel):
    """Base of every table: unknown keys are refused and the nearest known one is named."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, values: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values if isinstance(values, dict) else ():
            if key not in known:
                raise ValueError(f"unknown key {key!r}; {nearest(key, known)}")
        return values


class Phantoms(Settings):
    """Images to draw instead of reading some (training/phantoms.py)."""

    images: Count = 1000
    patients: Count = 700
    seed: Seed = 0
    size: Side = 256

    @model_validator(mode="after")
    def _an_image_of_each_patient(self) -> Phantoms:
        if self.patients > self.images:
            raise ValueError(
                f"{self.images} images of {self.patients} patients: every patient needs at least one image"
            )
        return self


class Data(Settings):
    """Where images and labels come from: exactly one of `manifest`, `folders` and `phantoms`."""

    manifest: str | None = None
    columns: dict[str, str] = {}  # manifest only: role -> what the manifest calls the column (docs/formats.md)
    folders: str | None = None
    phantoms: Phantoms | None = None
    group_pattern: str | None = None  # folders only: regular expression whose match in a file name is the group
    labels: Literal["single", "multi"] = "single"
    classes: list[str] | None = None  # order of the outputs; default: the sorted names found
    per_class: Count | None = None  # use at most so many images of each class
    split: str | None = None  # split.csv of another run, so that both share their test images
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    cache_gb: Annotated[float, Field(ge=0)] = 2.0  # decoded images kept in memory

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        given = [name for name in ("manifest", "folders", "phantoms") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of manifest, folders and phantoms (found {found})")
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave something to train on (their sum must be below 1)")
        return self


class Model(Settings):
    """The classifier. `scale`, `offset`, `last` and `penultimate` belong to the backbone `custom` alone."""

    backbone: str
    alpha: Annotated[float, Field(gt=0, le=10)] | None = None  # width of MobileNetV2
    weights: str = "imagenet"  # or "none", or a path to .weights.h5, .h5 or .keras
    input_size: tuple[Side, Side] = (224, 224)  # (H, W)
    image_rule: str = "radiograph"  # how a file becomes the input: a name or a TOML file (docs/images.md)
    dropout: Share = 0.2
    path: str | None = None  # custom: a .keras backbone, image in, feature map out
    scale: list[float] | None = None
    offset: list[float] | None = None
    last: str | None = None
    penultimate: str | None = None

    def located(self, base: Path) -> Model:
        """The same with its files found from `base`, the folder of the TOML file."""
        weights = self.weights if self.weights in ("imagenet", "none") else str(base / self.weights)
        path = None if self.path is None else str(base / self.path)
        return self.model_copy(update={"weights": weights, "path": path})


class Augment(Settings):
    """Random changes that a radiograph survives (training/augment.py). Flips are off: the heart is on the left."""

    shift: Share = 0.0  # up to this share of the side
    rotate: Annotated[float, Field(ge=0, le=45)] = 0.0  # up to so many degrees, either way
    contrast: Share = 0.0  # factor 1 +- this
    brightness: Annotated[float, Field(ge=0, le=128)] = 0.0  # grey levels, either way
    flip: bool = False

    def active(self) -> bool:
        return self != Augment()


class Preserve(Settings):
    """Keep the evidence of a phase where it was, or inside of masks (docs/preserve.md)."""

    model_config = ConfigDict(serialize_by_alias=True)  # `from` is no name in Python

    layer: str = "penultimate"  # or "last", or a layer's name
    method: Literal["layercam", "gradcam", "hirescam"] = "layercam"
    weight: Annotated[float, Field(ge=0)]  # of the loss, beside the cross-entropy; 0 measures only
    reference: str | None = Field(None, alias="from")  # an earlier phase (or replicate), or a path to a .keras file
    on: Literal["correct", "all"] = "correct"  # with `from`: the images that the reference classifies correctly
    similarity: Literal["soft-iou", "cosine"] = "soft-iou"  # of the two maps
    masks: str | None = None  # in place of `from`: a folder of masks, outside of which no evidence should lie

    @property
    def term(self) -> str:
        """What the loss is 1 minus of: a record of `training.evidence.SIMILARITIES`."""
        return self.similarity if self.masks is None else "inside"

    @model_validator(mode="after")
    def _one_reference(self) -> Preserve:
        if (self.reference is None) == (self.masks is None):
            raise ValueError("give exactly one of from (a checkpoint) and masks (a folder)")
        for key in ("on", "similarity"):
            if self.masks is not None and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to from, a reference checkpoint; with masks leave it out")
        return self

    def located(self, base: Path) -> Preserve:
        """The same with its files found from `base`, the folder of the TOML file."""
        masks = None if self.masks is None else str(base / self.masks)
        file = self.reference if self.reference is None or not self.is_file else str(base / self.reference)
        return self.model_copy(update={"masks": masks, "reference": file})

    @property
    def is_file(self) -> bool:
        """Whether the reference is a file and not a checkpoint of this run."""
        return str(self.reference).endswith(".keras")


class Phase(Settings):
    """One phase of training."""

    epochs: Count
    learning_rate: Positive
    trainable: str = "all"  # "head", "all", or a layer's name: it and everything after it
    batchnorm: Literal["train", "inference"] = "inference"
    batchnorm_momentum: Share = 0.9  # with batchnorm = "train"
    batch_size: Count = 16
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0  # cosine only: linear rise from zero
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # above zero: AdamW
    label_smoothing: Share = 0.0
    class_weights: bool = False
    early_stopping: Count | None = None  # epochs without a better validation macro-AUC; then the best is kept
    checkpoint_every: Count | None = None  # keep a checkpoint every so many epochs
    cache_features: bool = True  # head only and without augmentation: run the backbone once, not every epoch
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None  # replicates; default: the run's seed
    augment: Augment = Augment()
    preserve: Preserve | None = None
    data: Data | None = None  # its own data; the head is then its own too


class Config(Settings):
    """A whole run."""

    seed: Seed = 0
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    data: Data
    model: Model
    phases: Annotated[dict[str, Phase], Field(min_length=1)]

    def replicates(self, phase: str) -> list[tuple[str, int]]:
        """(stem of the checkpoint, seed) of each replicate of a phase."""
        seeds = self.phases[phase].seeds or [self.seed]
        return [(phase if number == 0 else f"{phase}.seed{seed}", seed) for number, seed in enumerate(seeds)]

    def located(self, base: Path) -> Config:
        """The same with the files of [model] and of every [preserve] found from `base`, the folder of the TOML file."""
        phases = {
            name: phase
            if phase.preserve is None
            else phase.model_copy(update={"preserve": phase.preserve.located(base)})
            for name, phase in self.phases.items()
        }
        return self.model_copy(update={"model": self.model.located(base), "phases": phases})

    @model_validator(mode="before")
    @classmethod
    def _with_presets(cls, values: Any) -> Any:
        phases = values.get("phases") if isinstance(values, dict) else None
        if not isinstance(phases, dict):
            return values
        filled = {k: {**PRESETS.get(k, {}), **v} if isinstance(v, dict) else v for k, v in phases.items()}
        return {**values, "phases": filled}

    @model_validator(mode="after")
    def _random_weights_need_pretraining(self) -> Config:
        name, first = next(iter(self.phases.items()))
        if self.model.weights == "none" and not (first.trainable == "all" and first.batchnorm == "train"):
            raise ValueError(
                f'model.weights = "none" leaves a dead backbone to the phase {name}: put [phases.pretrain] '
                'first (trainable = "all", batchnorm = "train")'
            )
        return self


def read_config(path: Path) -> Config:
    """Read and check a TOML file. Raises InputError with the place of every wrong key."""
    try:
        config = Config.model_validate(tomllib.loads(read_at_most(path, MOST_BYTES).decode("utf-8-sig")))
        _require_sound(config)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8 ({error}); save it as such") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise InputError(f"{path}: {complaints(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return config


def _require_sound(config: Config) -> None:
    """Refuse what is well-formed and cannot be meant. Not asked of run.json: earlier versions let it pass."""
    stems: list[str] = []
    for name, phase in config.phases.items():
        if name in ("", ".", "..") or set("/\\\0") & set(name):
            raise ValueError(f"phases.{name}: cannot be the name of a file; use letters, digits, - and _")
        if _repeated(phase.seeds or []) is not None:
            raise ValueError(f"phases.{name}.seeds: two replicates of one seed are equal; list each seed once")
        if phase.preserve is not None:
            _require_sound_preserve(config, phase, phase.preserve, stems, f"phases.{name}.preserve")
        stems += [stem for stem, _ in config.replicates(name)]
        if phase.data is not None:
            _require_sound_data(phase.data, f"phases.{name}.data")
    _require_sound_data(config.data, "data")
    twice = _repeated(stems)
    if twice is not None:
        raise ValueError(f"phases: two checkpoints would be called {twice}; let names and seeds differ")


def _require_sound_preserve(config: Config, phase: Phase, preserve: Preserve, before: list[str], place: str) -> None:
    """Refuse what a loss of evidence cannot be computed with; `before`: the checkpoints of earlier phases."""
    if config.precision != "float32":
        raise ValueError(
            f'{place}: its gradients of gradients vanish in 16 bits; leave precision = "{config.precision}" out'
        )
    if (phase.data or config.data).labels == "multi":
        raise ValueError(f"{place}: takes the map of the one true class of an image; use single labels")
    reference = preserve.reference
    if reference is not None and not preserve.is_file and reference not in before:
        raise ValueError(
            f"{place}.from: {reference!r} is no checkpoint of an earlier phase; "
            f"{nearest(reference, before) if before else 'there is none'}, or give a path to a .keras file"
        )


def _require_sound_data(data: Data, place: str) -> None:
    if data.classes is not None and (len(data.classes) < 2 or _repeated(data.classes)):
        raise ValueError(f"{place}.classes: list each of at least two classes once")
    if data.columns and data.manifest is None:
        raise ValueError(f"{place}.columns: names columns of a manifest; leave it out")
    _require_roles(data.columns, place)
    if data.group_pattern is None:
        return
    if data.folders is None:
        raise ValueError(f"{place}.group_pattern: belongs to folders; a manifest has the column group")
    try:
        re.compile(data.group_pattern)
    except re.error as error:
        raise ValueError(f"{place}.group_pattern: no regular expression ({error})") from error


def _require_roles(columns: dict[str, str], place: str) -> None:
    try:
        require_roles(columns)
    except InputError as error:
        raise ValueError(f"{place}.{error}") from None


def _repeated(names: Sequence[Any]) -> Any:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def complaints(error: ValidationError) -> str:
    """All findings of pydantic in one sentence: `phases.finetune.epochs: input should be ...`."""
    return "; ".join(_complaint(found) for found in error.errors())


def _complaint(found: Any) -> str:
    place = ".".join(str(part) for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def nearest(name: str, known: list[str]) -> str:
    """`did you mean 'x'?`, or the list of what is known."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
