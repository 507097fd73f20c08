"""An exported graph, read again, and its forward part with constants folded."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import onnx

from export.compress.methods import outputs_of
from export.metadata import FORMAT, PREFIX, Metadata
from export.proof import parity
from export.proof.proof_images import views_of
from harness.common.errors import CannotEvaluateError, InputError, first_line
from harness.common.storage import require_plain_file
from harness.images.rule import GREY, restored
from harness.images.view import channels_first

EQUAL = 1e-5  # relative L2 error that preparing the forward part may have


def read_export(path: Path) -> tuple[onnx.ModelProto, Metadata]:
    """A graph that this project exported and has not compressed yet, with its metadata."""
    try:
        require_plain_file(path)
        model = onnx.load(path, load_external_data=False)
    except InputError:
        raise
    except Exception as error:  # protobuf and the file system share no base class
        raise InputError(f"{path}: cannot be read as ONNX ({first_line(error)}); give an exported graph") from error
    facts = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    if facts.get("format") != str(FORMAT):
        raise InputError(f"{path}: not a graph of this project; make one with `python -m export onnx {path.name}`")
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise InputError(f"{path}: keeps weights outside of the file, which no export does; export it again")
    if "compression" in facts:
        raise InputError(f"{path}: is compressed already ({facts['compression']}); compress the graph it came from")
    try:
        named = {item.name for item in fields(Metadata)} & facts.keys()  # earlier versions wrote fewer
        metadata = Metadata(**{name: json.loads(facts[name]) for name in named | {"layers"}})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata is damaged ({first_line(error)}); export it again") from error
    try:
        restored(metadata.image_rule)
    except ValueError as error:
        raise InputError(f"{path}: exported under {first_line(error)}; export again") from None
    return model, metadata


def forward_part(source: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
    """image -> logits and CAM tensors."""
    outputs = ["logits", *(layer["activations"] for layer in metadata.layers)]
    forward = onnx.utils.Extractor(source).extract_model(["image"], outputs)
    del forward.metadata_props[:]
    return forward


def prepared_forward(path: Path, forward: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The forward part as ONNX Runtime's basic optimisations leave it: constants folded, shapes known."""
    from onnxruntime.quantization import quant_pre_process

    onnx.save(forward, folder / "forward.onnx")
    quant_pre_process(folder / "forward.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    made = onnx.load(folder / "prepared.onnx")
    used = {node.domain for node in made.graph.node}
    domains = [entry for entry in made.opset_import if entry.domain in used]
    del made.opset_import[:]
    made.opset_import.extend(domains)
    for number, node in enumerate(made.graph.node):
        node.name = f"{node.op_type}_{number}"  # unique: nodes are left out of a compression by name
    _require_unchanged(path, forward, made)
    return made


def _require_unchanged(path: Path, forward: onnx.ModelProto, prepared: onnx.ModelProto) -> None:
    height, width = (axis.dim_value for axis in forward.graph.input[0].type.tensor_type.shape.dim[2:])
    images = channels_first(views_of([], GREY, (height, width)))
    before, after = outputs_of(forward, images), outputs_of(prepared, images)
    apart = [parity.difference("basic", name, after[name], before[name]) for name in before]
    worst = max(apart, key=lambda item: item.relative_l2)
    if not worst.relative_l2 <= EQUAL:
        raise CannotEvaluateError(
            f"{path}: ONNX Runtime's preparation changes {worst.output} (relative L2 error {worst.relative_l2:.1e}); "
            "it cannot be compressed here"
        )
