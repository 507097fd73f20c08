"""Which tensors of a foreign graph are CAM layers, what they are called, and how they become maps."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.autodiff.emit import Emitter, constant_array, dimensions
from export.autodiff.engine import active_path, ancestors, is_real
from export.graph.arrangements import Arrangement, Grid, arrangement_of, as_map, missed
from harness.common.errors import InputError

PICTURE = "image"  # the layer that is the picture itself
PICTURE_TENSOR = "image/copy"
ROLES = ("penultimate", "last")  # what CAM layers are called in any network
MIXING = {"Softmax", "Attention"}  # where tokens read each other
LEARNED = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"}
PRODUCTS = {"MatMul", "Einsum"}
ELEMENTWISE = {"Add", "Cast", "Div", "Dropout", "Mul", "Softmax", "Sub", "Where"}
FAITHFUL = 1.0  # places: a map that misses the picture's proportions by as much has strides that differ

Candidates = dict[str, tuple[ir.Value, Arrangement]]


def choose(
    model: ir.Model, logits: ir.Value, layers: Sequence[str], grid: Grid | None
) -> tuple[dict[str, str], dict[str, str]]:
    """(CAM layer -> its map's tensor, CAM layer -> role) of what `--layer` names.

    Tensors that are no (N, C, h, w) maps get one, see `export.graph.arrangements`.

    :raises InputError: a tensor that is not there or holds no map, or roles that contradict each other.
    """
    asked = [_role_and_tensor(layer) for layer in layers]
    picture = picture_layer(model) if any(layer == PICTURE for _, layer in asked) else None
    known = candidates(model, logits, grid) | ({PICTURE: picture} if picture is not None else {})
    tensors = [_tensor(model, logits, known, layer, grid) for _, layer in asked]
    names = [tensor if layer == "auto" else layer for tensor, (_, layer) in zip(tensors, asked, strict=True)]
    roles = _roles(names, [role for role, _ in asked])
    chosen = dict(zip(names, tensors, strict=True))
    maps = {tensor: str(as_map(model.graph, *known[tensor]).name) for tensor in dict.fromkeys(tensors)}
    return {name: maps[tensor] for name, tensor in chosen.items()}, roles


def picture_layer(model: ir.Model) -> tuple[ir.Value, Arrangement]:
    """The picture itself as a layer: a copy of the input, which everything behind it now reads."""
    image = model.graph.inputs[0]
    _, _, height, width = dimensions(image)
    assert height is not None
    assert width is not None
    readers = list(image.uses())
    copied = Emitter(model.graph, "picture").Identity(image)
    copied.name, copied.shape, copied.type = PICTURE_TENSOR, image.shape, image.type
    for use in readers:
        use.node.replace_input_with(use.idx, copied)
    model.graph.sort()
    return copied, Arrangement("nchw", (height, width))


def candidates(model: ir.Model, logits: ir.Value, grid: Grid | None = None) -> Candidates:
    """Tensors that can be explained: those on the way to the score that hold a map larger than 1x1. Later ones last.

    Tokens count in networks with attention; the rows of other networks are rarely places in the image. What comes
    before any convolution or matrix product is the picture itself, which the layer `image` stands for; what attention
    compares is no map, though it has the shape of one.
    """
    image, image_batch = dimensions(model.graph.inputs[0]), model.graph.inputs[0].shape[0]  # type: ignore[index]
    assert image[2] is not None
    assert image[3] is not None
    path = active_path(model.graph, model.opset_imports[""], logits, list(model.graph.inputs))
    with_tokens = any(map(_mixes, path))
    found: Candidates = {}
    comparing = _comparing(path)
    for value in (node.outputs[0] for node in _behind_weights(path) if node not in comparing):
        if not is_real(value) or value.shape is None or (len(value.shape) == 3 and not with_tokens):
            continue
        if len(value.shape) and value.shape[0] != image_batch:
            continue  # heads of attention, windows: rows that are no images
        arrangement = arrangement_of(dimensions(value), (image[2], image[3]), grid)
        if arrangement is not None:
            found[str(value.name)] = (value, arrangement)
    return found


def _behind_weights(path: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes that a convolution or matrix product is, or comes before."""
    made: set[ir.Value | None] = set()
    behind = []
    for node in path:
        if node.op_type in LEARNED or made.intersection(node.inputs):
            made.update(node.outputs)
            behind.append(node)
    return behind


def _comparing(path: Sequence[ir.Node]) -> set[ir.Node]:
    """Products of two activations that are no maps, and what keeps their shape."""
    varying = {value for node in path for value in node.outputs}
    found: set[ir.Node] = set()
    for node in path:
        pairs = node.op_type in PRODUCTS and sum(v in varying for v in node.inputs) > 1 and _of_tokens(node.outputs[0])
        keeps = node.op_type in ELEMENTWISE and any(v is not None and v.producer() in found for v in node.inputs)
        if pairs or keeps:
            found.add(node)
    return found


def _of_tokens(value: ir.Value) -> bool:
    """Whether a tensor has a number for each pair of tokens, (N, L, L), or several heads, (N, heads, L, d)."""
    sizes = dimensions(value) if value.shape is not None else ()
    return len(sizes) == 4 or (len(sizes) == 3 and sizes[1] == sizes[2])


def modules(value: ir.Value) -> list[str]:
    """The PyTorch modules, outermost first, in which a tensor was computed, as far as the exporter recorded them."""
    node = value.producer()
    recorded = node.metadata_props.get("pkg.torch.onnx.name_scopes") if node is not None else None
    try:
        scopes = ast.literal_eval(recorded) if recorded else []
    except (ValueError, SyntaxError):
        return []
    return [str(scope) for scope in scopes[:-1] if scope]


def _mixes(node: ir.Node) -> bool:
    return node.op_type in MIXING and node.outputs[0].shape is not None and len(node.outputs[0].shape) > 2


def _last(model: ir.Model, logits: ir.Value, known: Candidates) -> str:
    """The last map on the way to the score.

    Maps of a mirrored picture, and maps whose strides break its proportions, are taken where there are no others. Where
    the score is read from the class token alone, it is the normalised input of the last attention: behind it the other
    tokens no longer matter.
    """
    name = _faithful(model, known)[-1]
    arrangement = known[name][1]
    if arrangement.kind != "tokens" or not arrangement.extra:
        return name
    path = active_path(model.graph, model.opset_imports[""], logits, list(model.graph.inputs))
    same = _read_by_last_attention(path, known, name)
    if not same:
        raise InputError(
            "the model reads its score from a class token; name a layer before its last attention with --layer NAME"
        )
    return same[-1]


def _faithful(model: ir.Model, known: Candidates) -> list[str]:
    """The maps that lie as the picture does, all maps where none does."""
    _, _, height, width = dimensions(model.graph.inputs[0])
    assert height is not None
    assert width is not None
    straight = [name for name, (value, _) in known.items() if not any(map(_mirrors, ancestors(value)))]
    names = [name for name in straight if missed(known[name][1].grid, (height, width)) < FAITHFUL]
    return names or straight or list(known)


def _mirrors(node: ir.Node) -> bool:
    """Whether a node turns a picture round: a Slice against the order of height or width, or a Gather that does so."""
    if node.op_type == "Slice" and len(node.inputs) > 4:
        steps, axes = constant_array(node.inputs[4]), constant_array(node.inputs[3])
        return (
            steps is not None and axes is not None and any(s < 0 and a != 1 for s, a in zip(steps, axes, strict=True))
        )
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) not in (0, 1):
        places = constant_array(node.inputs[1])
        return places is not None and places.ndim == 1 and len(places) > 1 and bool((np.diff(places) == -1).all())
    return False


def _read_by_last_attention(path: Sequence[ir.Node], known: Candidates, like: str) -> list[str]:
    """Maps that both the weights and the values of the last attention are made of, as many channels as `like`.

    Normalised ones, where a node says so; the sum that ends a normalisation in single steps is then the last one.
    """
    last = max(number for number, node in enumerate(path) if _mixes(node))
    tokens, arrangement = known[like]
    readers = [use.node for use in path[last].outputs[0].uses()]
    sides = [ancestors(value) for node in (path[last], *readers) for value in node.inputs if value is not None]
    common = [node for node in path[:last] if all(node in side for side in sides if side)]
    normalised = [node for node in path[:last] if node.op_type == "LayerNormalization"]
    names = [str(node.outputs[0].name) for node in normalised or common]
    width = dimensions(tokens)[-1]
    return [
        name
        for name in names
        if name in known and known[name][1] == arrangement and dimensions(known[name][0])[-1] == width
    ]


def _tensor(model: ir.Model, logits: ir.Value, known: Candidates, layer: str, grid: Grid | None) -> str:
    """The name of the tensor that a layer means: its own, or that of the PyTorch module that it leaves.

    `auto` is the last map on the way to the score.
    """
    if layer == PICTURE:
        return PICTURE
    if not known:
        of = f" of {grid[0]}x{grid[1]}" if grid else ""
        raise InputError(f"the model has no spatial map{of} on the way to its score; class activation maps need one")
    if layer == "auto":
        return _last(model, logits, {name: item for name, item in known.items() if name != PICTURE})
    leaving = [name for name, (value, _) in known.items() if layer in modules(value)]
    if layer not in known and leaving:
        return leaving[-1]
    if layer not in known:
        near = difflib.get_close_matches(layer, known, n=3) or list(known)[-5:]
        shapes = ", ".join(f"{name} {dimensions(known[name][0])[1:]}" for name in near)
        raise InputError(
            f"the model has no spatial tensor {layer!r}; nearest (C, h, w): {shapes}; "
            "a role is given as penultimate=TENSOR or last=TENSOR"
        )
    return layer


def _role_and_tensor(layer: str) -> tuple[str | None, str]:
    """What `--layer` names: `auto` is the last map, any other tensor has a role only where one is given."""
    role, given, tensor = layer.partition("=")
    if layer == "penultimate=auto":
        raise InputError("--layer penultimate=auto: auto is the last map; name the tensor that is the penultimate one")
    if given and role in ROLES:
        return role, tensor
    return ("last" if layer == "auto" else None), layer


def _roles(names: Sequence[str], roles: Sequence[str | None]) -> dict[str, str]:
    """CAM layer -> role; a role belongs to one layer, and a layer has one role."""
    found: dict[str, str] = {}
    for name, role in zip(names, roles, strict=True):
        if role is None or found.get(name) == role:
            continue
        if role in found.values():
            raise InputError(f"--layer gives the role {role!r} to more than one tensor; give it to one")
        if name in found:
            raise InputError(f"--layer gives tensor {name!r} the roles {found[name]!r} and {role!r}; give it one")
        found[name] = role
    return found
