"""What every export ends with: clean, differentiate, stamp, prove, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export import assemble, parity
from export.metadata import Metadata, stamp
from harness.common.errors import InputError
from harness.images.labels import warn_in_python
from harness.images.loading import load_grey
from harness.images.notices import Notices

PATTERNS = 4  # images to prove parity on where none are given

Proof = Callable[[bytes], list[parity.Difference]]


@dataclass(frozen=True)
class Request:
    """What the user asked of an export, whatever its source."""

    layers: Sequence[str]
    out: Path
    methods: Sequence[str] = ()  # CAM methods whose maps become outputs
    probability: bool = False  # explain the probability, not the logit
    images: Sequence[Path] = ()
    classes: Sequence[str] = ()
    thresholds: Sequence[float] = ()  # multi-label: per class, the probability from which the answer is yes


def finish(
    forward: assemble.Forward, metadata: Metadata, request: Request, prove: Proof, roles: Mapping[str, str]
) -> list[parity.Difference]:
    """Write the exported graph after `prove` has found it equal to its source.

    :param roles: CAM layer -> `penultimate` or `last`, where it is one of them: what it is called in any network.
    :raises CannotEvaluateError: it is not; nothing is written.
    """
    outputs = assemble.output_names(forward.layer_names, request.methods)
    metadata = replace(
        metadata,
        layers=[{"name": layer, "role": roles.get(layer), **asdict(names)} for layer, names in outputs.items()],
        explained="probability" if request.probability else "logit",
        thresholds=_thresholds(request, metadata),
    )
    assemble.clean(forward)
    exported = assemble.add_backward(forward, metadata.score_kind, request.methods, request.probability)
    stamp(exported, metadata)
    content = ir.to_proto(exported).SerializeToString()
    differences = prove(content)
    parity.require(differences)
    _write(request.out, content)
    return differences


def _thresholds(request: Request, metadata: Metadata) -> list[float] | None:
    given = list(request.thresholds)
    if given and metadata.score_kind != "multilabel":
        raise InputError(f"--thresholds are for models with a sigmoid per class; this one is {metadata.score_kind!r}")
    if given and (len(given) != len(metadata.classes) or not all(0 < value < 1 for value in given)):
        raise InputError(f"--thresholds takes {len(metadata.classes)} numbers between 0 and 1, one per class")
    return given or None


def greys_of(images: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) grey levels to prove parity on: of the images, or of patterns where there are none."""
    if not images:
        return _patterns(size)
    notices = Notices()
    greys = np.stack([load_grey(path, size, notice=notices.of(path.name)) for path in images])
    notices.warn(len(images), warn_in_python)
    return greys


def _patterns(size: tuple[int, int]) -> np.ndarray:
    """(4, H, W) seeded patches of grey with noise, for a model that comes without images."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (PATTERNS, -(-size[0] // 16), -(-size[1] // 16)))
    patches = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]]
    return np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.float32)


def _write(out: Path, content: bytes) -> None:
    """Whole or not at all: a reader never sees half a graph."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_bytes(content)
    partial.replace(out)
