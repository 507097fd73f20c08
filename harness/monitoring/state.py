"""The state file of a monitor: which pictures were measured in which night, and nothing that could contradict them.

Evidence, alarms and trends are computed from it anew each time (`harness.monitoring.history`). It is written whole or
not at all, once the reference has been measured and once at the end of a night, so a night that was killed is as if it
had not begun. It holds no names: pictures are known by the sha256 of their files, patients by keyed hashes
(`names.key`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.common.errors import InputError
from harness.common.storage import read_at_most, write_bytes
from harness.common.validation import first_problem
from harness.monitoring.pictures import Watched
from harness.results.schema import Number, finite_or_none

FORMAT: Literal[1] = 1
MOST_BYTES = 1024 * 2**20
REFERENCE = -1  # the night of the reference's pictures


class Record(BaseModel):
    """What is written: no unknown key, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Identity(Record):
    """What may not change from night to night.

    model: sha256 of the exported graph; execution: the providers that really run it, the first first; reference: sha256
    of the accepted `evaluation.json`; alpha: probability of ever raising an alarm where nothing changed, at most
    """

    model: str
    image_rule: str
    classes: list[str]
    provider: str
    execution: list[str]
    reference: str
    layer: str
    method: str
    map_size: tuple[int, int]
    regions: list[str]
    alpha: float = Field(gt=0, lt=1)
    patients: str  # hash of nothing under the key of the patients: another key would not know them again

    @property
    def watched(self) -> Watched:
        """What is measured of a picture."""
        return Watched(self.layer, self.method, self.map_size, tuple(self.regions), tuple(self.classes))


class Picture(Record):
    """A picture that was seen. `values`: of the statistics in their order; empty where it is not tested.

    Of a patient one picture is tested, the first that comes: those of one patient are not exchangeable with others.
    """

    digest: str
    patient: str | None
    night: int = Field(ge=REFERENCE)
    values: list[Number]


class GoldenCases(Record):
    """How `verify` went: `problem` where the bundle itself is damaged."""

    manifest_digest: str
    passed: bool
    authenticated: bool
    problem: str | None


class Night(Record):
    """A run that found new pictures. given: pictures in its data; seen: those that an earlier run had seen."""

    night: str
    time: str
    given: int
    seen: int
    unreadable: int
    runtime: str  # version of ONNX Runtime


class State(Record):
    """Everything. `golden`: of the last run that was given a bundle."""

    format: Literal[1] = FORMAT
    identity: Identity
    pictures: list[Picture]
    nights: list[Night] = []
    golden: GoldenCases | None = None

    @model_validator(mode="after")
    def _check(self) -> State:
        width = len(self.identity.watched.statistics)
        nights = [picture.night for picture in self.pictures]
        if any(len(picture.values) not in (0, width) for picture in self.pictures):
            raise ValueError(f"a picture has another number of values than {width}")
        if nights != sorted(nights) or (nights and nights[-1] >= len(self.nights)):
            raise ValueError("a picture is of a night that is not listed, or out of order")
        if len({picture.digest for picture in self.pictures}) < len(self.pictures):
            raise ValueError("a picture is listed twice")
        return self

    @property
    def digests(self) -> set[str]:
        """Of all pictures that were seen."""
        return {picture.digest for picture in self.pictures}

    @property
    def patients(self) -> set[str]:
        """Of which a picture was tested."""
        return {picture.patient for picture in self.pictures if picture.patient is not None}

    def add(self, digests: Sequence[str], patients: Sequence[str | None], values: np.ndarray, night: int) -> None:
        """Add pictures, those with values first-come in their order; rows of NaN throughout are not tested."""
        for digest, patient, row in zip(digests, patients, values, strict=True):
            tested = bool(np.isfinite(row).any())
            shown = [finite_or_none(float(value)) for value in row] if tested else []
            self.pictures.append(Picture(digest=digest, patient=patient, night=night, values=shown))


def read_state(path: Path) -> State | None:
    """The state in a file, None where there is none.

    :raises InputError: a file that is no state of format 1.
    """
    if not path.exists():
        return None
    try:
        return State.model_validate_json(read_at_most(path, MOST_BYTES))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the state of this monitor") from None
    except ValidationError as error:
        raise InputError(
            f"{path}: not the state of a monitor of format {FORMAT} ({first_problem(error)}); restore it from a "
            "backup, or begin anew with another --state"
        ) from error


def write_state(path: Path, state: State, before: State | None) -> None:
    """Write the state in the place of `before`.

    :raises InputError: somebody else wrote meanwhile, whose night would be lost.
    """
    if read_state(path) != before:
        raise InputError(f"{path}: was changed while this night ran, by another monitor; run one at a time")
    write_bytes(path, (state.model_dump_json() + "\n").encode())


def require_same(path: Path, before: Identity, now: Identity) -> None:
    """Refuse to go on with another model, image rule, provider or reference.

    :raises InputError: naming the first difference.
    """
    for name, value in now:
        old = getattr(before, name)
        if old != value:
            what = name.replace("_", " ")
            raise InputError(
                f"{path}: was begun with another {what} ({_brief(old)}, now {_brief(value)}), and what differs by that "
                "is no drift of the pictures; go on with the same, or begin anew with another --state"
            )


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
