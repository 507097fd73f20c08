"""The common end of every export: clean, differentiate, stamp, prove, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from export.graph.assemble import add_backward, clean
from export.graph.forward import Forward
from export.graph.outputs import output_names
from export.metadata import Metadata, stamp
from export.proof import parity
from harness.common.errors import InputError
from harness.common.storage import require_no_folder, write_bytes
from harness.images.rule import ImageRule

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
    rule: ImageRule | None = None  # how a file becomes the model's input; None: as the source says, else the default


def write_export(
    forward: Forward, metadata: Metadata, request: Request, prove: Proof, roles: Mapping[str, str]
) -> list[parity.Difference]:
    """Write the exported graph after `prove` has found it equal to its source.

    :param roles: CAM layer -> `penultimate` or `last`, where it is one of them: what it is called in any network.
    :raises CannotEvaluateError: it is not; nothing is written.
    """
    outputs = output_names(forward.layer_names, request.methods)
    metadata = replace(
        metadata,
        layers=[{"name": layer, "role": roles.get(layer), **asdict(names)} for layer, names in outputs.items()],
        explained="probability" if request.probability else "logit",
        thresholds=_thresholds(request, metadata),
    )
    clean(forward)
    exported = add_backward(forward, metadata.score_kind, request.methods, request.probability)
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


def refuse_to_overwrite(source: Path, out: Path) -> None:
    """An export never takes the place of what it was made of, nor of a folder."""
    require_no_folder(out)
    if source.exists() and out.exists() and source.samefile(out):
        raise InputError(f"{out}: is the model to be exported; write the exported graph to another file (--out)")


def _write(out: Path, content: bytes) -> None:
    """Whole or not at all: a reader never sees half a graph."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, content)
