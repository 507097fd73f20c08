"""A graph whose file fixed the batch size, with a batch that varies.

The exporters of PyTorch write the batch of their example into constants: shapes of Reshape and Expand, sizes of Resize,
a class token that is joined as it stands. Every node is looked at twice: with the shapes that its tensors have in the
file, and with those of another batch size. An axis that differs carries the batch, and where a constant stands in its
way, the constant is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export import passes
from export.autodiff.emit import Emitter, dimensions
from export.autodiff.engine import describe
from export.passes.concrete import Concrete, Sizes
from harness.common.errors import InputError

REMEDY = "export the model with a batch that varies (torch.onnx.export: dynamic_shapes or dynamic_axes)"


def with_free_batch(path: Path, model: ir.Model) -> ir.Model:
    """The model with a batch of any size; a copy of it where the file fixed the size.

    Where a target such as (1, 1, C) has two axes that could be the batch, all of them are taken for the first one, and
    if the scores do not follow the batch then, for the last one.

    :raises InputError: the graph reads single images of its batch, or mixes them.
    """
    fixed = dimensions(model.graph.inputs[0])[0]
    passes.resolve_ceil_mode(model.graph, fixed or 1)
    if fixed is None:
        return _without_shapes(model)
    content, failed = ir.to_proto(model), None
    for which in (0, -1):
        freed = ir.from_proto(content)
        try:
            _Freed(freed.graph, fixed, which).run(path)
        except InputError as error:
            failed = failed or error
        else:
            return _without_shapes(freed)
    assert failed is not None
    raise failed


def _without_shapes(model: ir.Model) -> ir.Model:
    """Only the image keeps its shape, of a batch N: all others are to be inferred anew."""
    image, graph = model.graph.inputs[0], model.graph
    image.shape = ir.Shape(["N", *dimensions(image)[1:]])
    for value in (*(value for node in graph for value in node.outputs), *graph.outputs):
        value.shape = None
    return model


@dataclass
class _Freed:
    """`before`: shapes at the file's own batch size; `now`: at one more, as far as the graph was walked."""

    graph: ir.Graph
    batch: int
    which: int  # of several axes that could be the batch, the first (0) or the last (-1)
    before: Concrete = field(init=False)
    now: Concrete = field(init=False)
    op: Emitter = field(init=False)
    ahead: dict[ir.Value, int] = field(default_factory=dict)  # how often an axis repeats the batch: (L N) -> L

    def run(self, path: Path) -> None:
        self.before = Concrete.of(self.graph, self.batch)
        self.now = Concrete(dict(self.graph.opset_imports))
        self.now.start(self.graph, self.batch + 1)
        self.op = Emitter(self.graph, "batch")
        for node in list(self.graph):
            self._free(node)
            self._visit(node)
        self.graph.sort()
        output = self.graph.outputs[0]
        if self._axis(output) != 0:
            raise InputError(
                f"{path}: its batch of {self.batch} cannot be made to vary, output {output.name!r} does not follow it; "
                f"{REMEDY}"
            )

    def _visit(self, node: ir.Node) -> None:
        self.now.visit(node)
        carried = [self.ahead[value] for value in node.inputs if value is not None and value in self.ahead]
        for value in node.outputs:
            axis = self._axis(value)
            if node.op_type != "Reshape" and carried and axis is not None and self._keeps_axis(node, value, axis):
                self.ahead[value] = carried[0]

    def _keeps_axis(self, node: ir.Node, value: ir.Value, axis: int) -> bool:
        """Whether an input has the batch on an axis as long as that of an output."""
        long = (self.now.shape(value) or ())[axis]
        axes = [(item, self._axis(item)) for item in node.inputs if item is not None]
        return any(i is not None and (self.now.shape(item) or ())[i] == long for item, i in axes)

    def _free(self, node: ir.Node) -> None:
        if node.op_type == "Reshape":
            self._reshape(node)
        elif node.op_type == "Squeeze" and len(node.inputs) < 2:
            self._squeeze(node)
        elif node.op_type == "Resize" and len(node.inputs) > 3:
            self._resize(node)
        elif node.op_type == "Expand":
            self._expand(node)
        elif node.op_type in ("Slice", "Gather", "Split"):
            self._refuse_picking(node)
        else:
            self._repeat_constants(node)

    def _axis(self, value: ir.Value | None) -> int | None:
        """The axis along which a tensor follows the batch, None where it does not."""
        one, other = self.before.shape(value), self.now.shape(value)
        if one is None or other is None or len(one) != len(other):
            return None
        return next((axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)

    def _sizes(self, value: ir.Value | None) -> Sizes:
        sizes = self.before.shape(value)
        assert sizes is not None
        return sizes

    def _reshape(self, node: ir.Node) -> None:
        """A constant target gets -1 where the batch goes: the axis in which the elements before it end."""
        source, target = node.inputs[0], self.before.shape(node.outputs[0])
        axis = self._axis(source)
        if axis is None or target is None or source is None:
            return
        sizes = self._sizes(source)
        first = prod(sizes[:axis]) * self.ahead.get(source, 1)  # elements before those of the second image
        place = self._place(target, first)
        if place is None:
            return
        if (repeats := first // prod(target[:place])) > 1:
            self.ahead[node.outputs[0]] = repeats
        if not self._follows(node, place):
            sizes_now = [-1 if j == place else size for j, size in enumerate(target)]
            node.replace_input_with(1, self.op.integers(*sizes_now))
            node.attributes.pop("allowzero", None)

    def _place(self, target: Sizes, first: int) -> int | None:
        """The axis of a target in which the elements of the second image begin, `first` elements behind the start.

        An axis of the batch alone, else the axis that begins there, but not the last one, which holds features: linear
        layers read (L N, E), not (L, N E).
        """
        begins = [axis for axis in range(len(target)) if prod(target[:axis]) == first]
        alone = [axis for axis in begins if target[axis] == self.batch]
        inside = [axis for axis in range(len(target)) if prod(target[:axis]) < first < prod(target[: axis + 1])]
        if alone or not begins:
            return alone[self.which] if alone else next(iter(inside), None)
        return begins[0] - 1 if 0 < begins[0] == len(target) - 1 else begins[0]

    def _follows(self, node: ir.Node, place: int) -> bool:
        """Whether the node as it stands puts the batch there."""
        self.now.visit(node)
        if node.outputs[0] in self.now.numbers:
            return True
        expected = list(self._sizes(node.outputs[0]))
        expected[place] = expected[place] // self.batch * (self.batch + 1)
        found = self.now.shapes.pop(node.outputs[0], None)
        return found == tuple(expected) and prod(found) == prod(self.now.shape(node.inputs[0]) or ())

    def _squeeze(self, node: ir.Node) -> None:
        """Without axes, a batch of one would be squeezed with the rest."""
        axis = self._axis(node.inputs[0])
        if axis is not None:
            axes = [j for j, size in enumerate(self._sizes(node.inputs[0])) if size == 1 and j != axis]
            node.resize_inputs(2)
            node.replace_input_with(1, self.op.integers(*axes))
            sizes = self._sizes(node.inputs[0])
            self.before.shapes[node.outputs[0]] = tuple(size for j, size in enumerate(sizes) if j not in axes)

    def _resize(self, node: ir.Node) -> None:
        """Constant sizes (N, C, h, w) become (h, w)."""
        sizes = self.before.known(node.inputs[3])
        if self._axis(node.inputs[0]) == 0 and sizes is not None and node.attributes.get("axes") is None:
            node.attributes["axes"] = ir.AttrInt64s("axes", list(range(2, len(sizes))))
            node.replace_input_with(3, self.op.integers(*map(int, sizes[2:])))

    def _expand(self, node: ir.Node) -> None:
        """A constant target of Expand leaves the batch as it is."""
        axis, numbers = self._axis(node.inputs[0]), self.before.known(node.inputs[1])
        if axis is None or numbers is None:
            return
        place = axis + len(numbers) - len(self._sizes(node.inputs[0]))
        node.replace_input_with(1, self.op.integers(*numbers[:place].tolist(), 1, *numbers[place + 1 :].tolist()))

    def _refuse_picking(self, node: ir.Node) -> None:
        """Part of the batch is no batch."""
        axis = self._axis(node.inputs[0])
        self.now.visit(node)
        if axis is not None and all(self._axis(value) is None for value in node.outputs):
            raise InputError(
                f"{describe(node)}: takes single images out of the batch of {self.batch} that the file fixes; {REMEDY}"
            )

    def _repeat_constants(self, node: ir.Node) -> None:
        """What stands beside the batch, as long as the file's batch but without following it, is repeated.

        Of Concat every such input (a class token), of other operators those that would not broadcast.
        """
        leading = next((value for value in node.inputs if self._axis(value) is not None), None)
        if leading is None or node.op_type not in _ALIGNED:
            return
        axis, sizes = self._axis(leading), self._sizes(leading)
        joined = node.op_type == "Concat"
        if axis is None or (joined and node.attributes.get_int("axis", 0) in (axis, axis - len(sizes))):
            return
        for place, value in enumerate(node.inputs):
            own = self.before.shape(value)
            if value is None or own is None or len(own) != len(sizes) or self._axis(value) is not None:
                continue
            features = node.op_type == "MatMul" and axis >= len(sizes) - 2  # rows and columns, which do not broadcast
            if own[axis] == sizes[axis] and (joined or own[axis] > 1) and not features:
                node.replace_input_with(place, self._repeated(node, value, leading, axis))

    def _repeated(self, node: ir.Node, value: ir.Value, leading: ir.Value, axis: int) -> ir.Value:
        """The rows of the first image as often as `leading` has images."""
        sizes = self._sizes(value)
        each = sizes[axis] // self.batch
        rows = self.before.known(value)
        if self.batch > 1 and (rows is None or np.ptp(rows.reshape(*sizes[:axis], self.batch, -1), axis=axis).any()):
            raise InputError(f"{describe(node)}: adds other numbers to each of {self.batch} images; {REMEDY}")
        first = self.op.Slice(value, self.op.integers(0), self.op.integers(each), self.op.integers(axis))
        images = self.op.Div(self.op.Shape(leading, start=axis, end=axis + 1), self.op.integers(each))
        ones = [self.op.integers(*[1] * count) for count in (axis, len(sizes) - axis - 1) if count]
        repeats = self.op.Concat(*(ones[:1] if axis else []), images, *ones[bool(axis) :], axis=0)
        made = self.op.Tile(first, repeats)
        self.before.shapes[made] = sizes
        self.now.shapes[made] = (*sizes[:axis], each * (self.batch + 1), *sizes[axis + 1 :])
        self.now.types[made] = self.before.types.get(value, int(value.dtype or ir.DataType.FLOAT))
        return made


_ALIGNED = {"Concat", "Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Sum", "Pow", "MatMul"}
