"""An ONNX file as a model that can be differentiated: read, normalised, at a supported opset, or refused.

Old files are normalised (initializers that are inputs, constants that are nodes, opsets below 18), functions of the
model are written out, fused operators of ONNX Runtime are spelled in standard ones, inputs that nothing reads are
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.inliner import inline_local_functions

from export import passes
from export.autodiff.emit import constant_array, dimensions
from export.captured_logs import warnings_of
from export.metadata import PREFIX
from export.sources.onnx.branches import take_constant_branches
from export.sources.onnx.opsets import at_supported_opset
from export.sources.onnx.preprocessing import layout_of
from export.sources.onnx.to_float32 import in_single_precision
from export.sources.onnx.unfuse import FOREIGN, name_domain_of_fused, spell_fused_operators
from harness.common.errors import InputError, first_line
from harness.common.storage import require_plain_file

MAX_BYTES = 2**31 - 1  # what a protobuf message can hold
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
RECURRENT = {"LSTM", "GRU", "RNN"}
OURS = ("image", "target")  # the inputs of an exported graph


@dataclass(frozen=True)
class Choices:
    """What a file leaves open: which output holds the class scores, and the height and width of a free input.

    logits: scores are logits, whatever their numbers look like
    """

    output: str | None = None
    logits: bool = False
    size: tuple[int, int] | None = None
    layout: str = "auto"


def load(path: Path, choices: Choices | None = None) -> ir.Model:
    """Read an ONNX file, refuse what cannot be differentiated, and bring it to a supported opset.

    :raises InputError: in one sentence, what the file lacks and how to get it.
    """
    choices = choices or Choices()
    proto = _read(path)
    _refuse_exported(path, proto)
    proto = inline_local_functions(proto) if proto.functions else proto
    spell_fused_operators(path, proto)
    _keep_one_output(path, proto, choices.output)
    _keep_read_inputs(path, proto)
    _fix_size(path, proto, choices)
    in_single_precision(path, proto)
    return _normalised(path, at_supported_opset(path, proto))


def _read(path: Path) -> onnx.ModelProto:
    if path.exists():
        require_plain_file(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an ONNX model")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: is larger than 2 GB, more than an ONNX file can hold; store a smaller model")
    try:
        proto = onnx.load(path, load_external_data=False)
        _refuse_distant_data(path, proto)
        onnx.load_external_data_for_model(proto, str(path.parent))
        _name_the_domain_as_usual(proto)
        name_domain_of_fused(proto)
        _free_negative_sizes(proto)
    except InputError:
        raise
    except Exception as error:  # protobuf and the file system share no base class
        raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from error
    if _bytes_of_weights(proto) > MAX_BYTES:
        raise InputError(f"{path}: holds more than 2 GB of weights, which no ONNX file can carry; use a smaller model")
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # the checker has errors of its own
        raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from error
    return proto


def _bytes_of_weights(proto: onnx.ModelProto) -> int:
    """Without asking for the size of the message, which fails above 2 GB."""
    return sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in proto.graph.initializer)


def _name_the_domain_as_usual(proto: onnx.ModelProto) -> None:
    """`ai.onnx` is the long name of the domain that most files leave empty."""
    for item in (*proto.opset_import, *proto.graph.node):
        if item.domain == "ai.onnx":
            item.domain = ""


def _free_negative_sizes(proto: onnx.ModelProto) -> None:
    """Sizes of -1, as Paddle writes them, are sizes that vary."""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value < 0:
                size.dim_param = "N" if axis == 0 else f"{value.name}/{axis}"


def _refuse_distant_data(path: Path, proto: onnx.ModelProto) -> None:
    folder = path.parent.resolve()
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            target = (folder / entry.value).resolve()
            if entry.key == "location" and not target.is_relative_to(folder):
                raise InputError(
                    f"{path}: keeps weights outside its own folder ({entry.value}); save it with them inside"
                )


def _refuse_exported(path: Path, proto: onnx.ModelProto) -> None:
    if any(entry.key.startswith(PREFIX) for entry in proto.metadata_props):
        raise InputError(
            f"{path}: is an exported graph already; use it as it is, or export the model that it came from"
        )


def _keep_one_output(path: Path, proto: onnx.ModelProto, name: str | None) -> None:
    """The output with the class scores; a file with several says which only by `name`."""
    names = [value.name for value in proto.graph.output]
    if name is None and len(names) != 1:
        raise InputError(f"{path}: has the outputs {', '.join(names)}; say which holds the class scores with --output")
    if name is not None and name not in names:
        raise InputError(f"{path}: has no output {name!r}; it has {', '.join(names)}")
    kept = proto.graph.output[names.index(name or names[0])]
    del proto.graph.output[:]
    proto.graph.output.append(kept)


def _keep_read_inputs(path: Path, proto: onnx.ModelProto) -> None:
    """Drop weights that stand among the inputs, and inputs that nothing reads; one image must be left."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    read = _names_read(proto.graph)
    kept = [value for value in inputs if value.name in read] if len(inputs) > 1 else inputs
    if len(kept) != 1:
        names = ", ".join(value.name for value in kept) or "none"
        raise InputError(f"{path}: has the inputs {names}; expected one image")
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _names_read(graph: onnx.GraphProto) -> set[str]:
    inside = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return {name for node in graph.node for name in node.input}.union(*map(_names_read, inside))


def _fix_size(path: Path, proto: onnx.ModelProto, choices: Choices) -> None:
    """Height and width of an input that leaves them free."""
    axes = proto.graph.input[0].type.tensor_type.shape.dim
    if len(axes) != 4:
        return
    known = [axis.dim_value if axis.dim_value > 0 else None for axis in axes]
    layout = layout_of(known) if choices.layout == "auto" else choices.layout
    places = (2, 3) if layout == "nchw" else (1, 2)
    for place, size, side in zip(places, choices.size or (0, 0), ("height", "width"), strict=True):
        if axes[place].HasField("dim_value") and axes[place].dim_value > 0:
            if size and axes[place].dim_value != size:
                raise InputError(f"{path}: its input has the {side} {axes[place].dim_value}, not {size} (--input-size)")
        elif not size:
            raise InputError(f"{path}: its input has a free {side}; say which it is with --input-size")
        else:
            axes[place].dim_value = size
    if choices.size:
        del proto.graph.value_info[:]


def _normalised(path: Path, proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    with warnings_of("onnx_ir"):
        passes.tidy(model)
        take_constant_branches(model)
    _refuse_operators(path, model.graph)
    sizes = dimensions(model.graph.inputs[0])
    if len(sizes) != 4 or None in sizes[2:]:
        raise InputError(f"{path}: its input is {sizes}; expected four axes with fixed height and width")
    _rename_ours(model.graph)
    model.ir_version = max(model.ir_version or 0, 8)
    return model


def _rename_ours(graph: ir.Graph) -> None:
    """No tensor of the file is called like an input of the exported graph."""
    made = [value for node in graph for value in node.outputs]
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        if value.name in OURS:
            value.name = f"{value.name}/of_file"


def _refuse_operators(path: Path, graph: ir.Graph) -> None:
    used = {(node.domain, node.op_type) for node in graph}
    for what, operators in (("control flow", CONTROL_FLOW), ("recurrent operators", RECURRENT)):
        if found := sorted(name for domain, name in used if not domain and name in operators):
            raise InputError(
                f"{path}: has {what} ({', '.join(found)}), which cannot be differentiated; export it without"
            )
    if any(map(_is_training, graph)):
        raise InputError(f"{path}: is in training mode, so that its output is random; export it after model.eval()")
    if foreign := sorted(f"{domain}::{name}" for domain, name in used if domain and domain != FOREIGN):
        raise InputError(
            f"{path}: has operators that are not ONNX's own ({', '.join(foreign)}); export it without them"
        )


def _is_training(node: ir.Node) -> bool:
    """Whether a node drops units at random, or normalises by the batch."""
    if node.op_type == "Dropout":
        mode = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        return mode is not None and bool(mode)
    return node.op_type == "BatchNormalization" and bool(node.attributes.get_int("training_mode", 0))
