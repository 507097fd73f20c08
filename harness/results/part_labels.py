"""What a Parquet part belongs to: the label in its file metadata, and the one that a plan expects at its number.

A part of the predictions or maps belongs to a checkpoint, a part of the scores to the comparison of two under one
layer and method. A part that comes from another evaluation, or was copied over its neighbour, is refused by name.
Parts of versions that wrote no labels are recognised by a column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.common.formatting import one_line

METADATA_KEY = b"evidence_drift.part"  # in the key-value metadata of a Parquet file
OWNER_COLUMN = {"predictions": "checkpoint", "maps": "checkpoint", "scores": "pair"}


@dataclass(frozen=True)
class Label:
    """What one part belongs to.

    owner: key of the checkpoint, or name of the pair (or of the checkpoint whose noise is compared); path: layer and
    method of scores, `with noise` for maps of noisy copies, else empty; digests: SHA-256 of the files of the
    checkpoints; plan: digest of what else the rows depend on; block: which block of images
    """

    kind: str
    owner: str
    path: str
    digests: tuple[str, ...]
    plan: str
    block: int

    def metadata(self) -> dict[bytes, bytes]:
        """The key and value in a Parquet file."""
        return {METADATA_KEY: json.dumps({"format": 1, **asdict(self)}).encode()}

    def complaint(self, metadata: Mapping[bytes, bytes]) -> str | None:
        """How the label in a file's metadata differs from this one; None where it does not."""
        try:
            found = json.loads(metadata[METADATA_KEY])
            kind, owner, path, plan = (str(found[name]) for name in ("kind", "owner", "path", "plan"))
            there = Label(kind, owner, path, tuple(map(str, found["digests"])), plan, int(found["block"]))
        except (ValueError, KeyError, TypeError):
            return "its label cannot be read"
        return self._difference(there)

    def complaint_of_owners(self, owners: Sequence[str]) -> str | None:
        """The same for a part without a label, from the values of its OWNER_COLUMN."""
        strange = [owner for owner in owners if owner != self.owner]
        return f"holds {self.kind} of {one_line(str(strange[0]))}, expected {one_line(self.owner)}" if strange else None

    def _difference(self, there: Label) -> str | None:
        if there.kind != self.kind:
            return f"holds {there._name()}, expected {self._name()}"
        if (there.owner, there.path) != (self.owner, self.path):
            return f"holds {there._name()}, expected {self._name().removeprefix(f'{self.kind} of ')}"
        if there.digests != self.digests:
            return f"holds {there._name()} computed with another model file ({_brief(there)}, expected {_brief(self)})"
        if there.plan != self.plan:
            return f"holds {there._name()} computed for other data or with other options"
        if there.block != self.block:
            return f"holds block {there.block} of the {there._name()}, expected block {self.block}"
        return None

    def _name(self) -> str:
        return one_line(f"{self.kind} of {', '.join(filter(None, (self.owner, self.path)))}")


@dataclass(frozen=True)
class PartLabels:
    """The labels of every part of a plan.

    owners: kind -> (owner, path, digests) in the order of the parts; plans: kind -> digest; blocks: parts per owner
    """

    owners: Mapping[str, Sequence[tuple[str, str, tuple[str, ...]]]]
    plans: Mapping[str, str]
    blocks: int

    def numbers(self, kind: str) -> range:
        """The numbers of all parts of a kind."""
        return range(len(self.owners[kind]) * self.blocks)

    def of(self, kind: str, number: int) -> Label | None:
        """The label of a part; None where the plan has no part of that number."""
        place, block = divmod(number, self.blocks)
        owners = self.owners[kind]
        return Label(kind, *owners[place], self.plans[kind], block) if place < len(owners) else None


def plan_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of what rows depend on, as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _brief(label: Label) -> str:
    return ", ".join(one_line(str(digest))[:12] for digest in label.digests)
