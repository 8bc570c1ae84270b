"""A small builder of ONNX graphs: layers in, ``ModelProto`` out, shapes tracked on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgevit.zoo.seeding import Array, Weights

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True)
class OpenExtent:
    """A height or width that is known only when the model runs.

    Attributes:
        name: the int64 value of one element that holds it.
        value: what it is at the size the graph was built at.
    """

    name: str
    value: int


Extent = int | OpenExtent
"""A dimension: a number, or a value of the graph in models of open image size."""


class GraphBuilder:
    """Adds layers to a graph, in execution order. Values are referred to by name.

    Args:
        name: name of the graph.
        seed: seed of its parameters.
        dynamic: leave the height and width of images open. Shapes that the builder tells are then those at the
            size of the input; layers whose operators depend on the size compute it.
    """

    def __init__(self, name: str, seed: int, *, dynamic: bool = False) -> None:
        self.weights = Weights(seed)
        self.dynamic = dynamic
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def shape(self, value: str) -> tuple[int, ...]:
        """Shape of a value added before."""
        return self._shapes[value]

    def input(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a float32 graph input."""
        self._inputs.append(self._value_info(name, shape, "height", "width"))
        self._shapes[name] = shape
        return name

    def output(self, name: str, value: str) -> None:
        """Make ``value`` a float32 graph output called ``name``."""
        self.node("Identity", [value], name, self.shape(value))
        self._outputs.append(self._value_info(name, self.shape(value), f"{name}_height", f"{name}_width"))

    def constant(self, name: str, data: Array | Sequence[int]) -> str:
        """Add an initializer; integer sequences become int64."""
        from onnx import numpy_helper

        array = data if isinstance(data, np.ndarray) else np.asarray(data, np.int64)
        self._initializers[name] = numpy_helper.from_array(array, name)
        self._shapes[name] = array.shape
        return name

    def node(self, op_type: str, inputs: Sequence[str], name: str, shape: tuple[int, ...], **attributes: object) -> str:
        """Add a node with one output, called like the node, of the given shape."""
        from onnx import helper

        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self._shapes[name] = shape
        return name

    def conv(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        pads: Sequence[int] | Literal["same"] | None = None,
    ) -> str:
        """Convolution of an image.

        Args:
            x: (batch, channels, height, width).
            name: of the node; its parameters are ``name.weight`` (out, in / groups, kernel, kernel) and ``name.bias``.
            channels: of the output.
            kernel: height and width of the window.
            stride: of the window.
            depthwise: one group per input channel; ``channels`` is a multiple of their number.
            groups: where it is not depthwise.
            dilation: distance between the window's elements.
            bias: whether there is one.
            pads: top, left, bottom, right; None for half the window on every side; ``same`` for TensorFlow's rule, by
                which the output has ``ceil(size / stride)`` elements and an odd row or column goes below or right.
        """
        batch, inner, height, width = self.shape(x)
        groups = inner if depthwise else groups
        shape = (channels, inner // groups, kernel, kernel)
        draw = self.weights.depthwise if depthwise else self.weights.convolution
        inputs = [x, self.constant(f"{name}.weight", draw(f"{name}.weight", shape))]
        if bias:
            inputs.append(self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", channels)))
        reach = dilation * (kernel - 1)
        if pads == "same":
            # Explicit pads would depend on the size, which may be open.
            rows, columns = -(-height // stride), -(-width // stride)
            padding: dict[str, object] = {"auto_pad": "SAME_UPPER"}
        else:
            top, left, bottom, right = pads if pads is not None else (reach // 2,) * 4
            rows = (height + top + bottom - reach - 1) // stride + 1
            columns = (width + left + right - reach - 1) // stride + 1
            padding = {"pads": [top, left, bottom, right]}
        return self.node(
            "Conv",
            inputs,
            name,
            (batch, channels, rows, columns),
            group=groups,
            kernel_shape=[kernel, kernel],
            dilations=[dilation, dilation],
            strides=[stride, stride],
            **padding,
        )

    def batch_norm(self, x: str, name: str, *, epsilon: float = 1e-5) -> str:
        """Batch normalization with seeded statistics: ``weight``, ``bias``, ``mean``, ``var``."""
        channels = self.shape(x)[1]
        inputs = [
            self.constant(f"{name}.weight", self.weights.spread(f"{name}.weight", channels)),
            self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", channels)),
            self.constant(f"{name}.mean", self.weights.small(f"{name}.mean", channels)),
            self.constant(f"{name}.var", self.weights.spread(f"{name}.var", channels)),
        ]
        return self.node("BatchNormalization", [x, *inputs], name, self.shape(x), epsilon=epsilon)

    def silu(self, x: str, name: str) -> str:
        """``x * sigmoid(x)``."""
        gate = self.node("Sigmoid", [x], f"{name}.sigmoid", self.shape(x))
        return self.node("Mul", [x, gate], name, self.shape(x))

    def relu(self, x: str, name: str) -> str:
        """``max(x, 0)``."""
        return self.node("Relu", [x], name, self.shape(x))

    def relu6(self, x: str, name: str) -> str:
        """``min(max(x, 0), 6)``."""
        low = self.constant(f"{name}.low", np.asarray(0, np.float32))
        high = self.constant(f"{name}.high", np.asarray(6, np.float32))
        return self.node("Clip", [x, low, high], name, self.shape(x))

    def gelu(self, x: str, name: str) -> str:
        """``x / 2 * (1 + erf(x / sqrt(2)))``."""
        shape = self.shape(x)
        root = self.constant(f"{name}.sqrt2", np.asarray(np.sqrt(2), np.float32))
        one = self.constant(f"{name}.one", np.asarray(1, np.float32))
        half = self.constant(f"{name}.half", np.asarray(0.5, np.float32))
        y = self.node("Div", [x, root], f"{name}.scaled", shape)
        y = self.node("Erf", [y], f"{name}.erf", shape)
        y = self.node("Add", [y, one], f"{name}.plus", shape)
        y = self.node("Mul", [x, y], f"{name}.product", shape)
        return self.node("Mul", [y, half], name, shape)

    def softmax(self, x: str, name: str, axis: int = -1) -> str:
        """Softmax over one axis."""
        return self.node("Softmax", [x], name, self.shape(x), axis=axis)

    def layer_norm(self, x: str, name: str, *, epsilon: float = 1e-5) -> str:
        """Layer normalization over the last axis."""
        size = self.shape(x)[-1]
        scale = self.constant(f"{name}.weight", self.weights.small(f"{name}.weight", size, mean=1.0))
        bias = self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", size))
        return self.node("LayerNormalization", [x, scale, bias], name, self.shape(x), axis=-1, epsilon=epsilon)

    def linear(self, x: str, name: str, size: int, *, bias: bool = True) -> str:
        """Matrix product over the last axis, plus bias; ``name.weight`` is (in, out)."""
        shape = (*self.shape(x)[:-1], size)
        weight = self.constant(f"{name}.weight", self.weights.linear(f"{name}.weight", (self.shape(x)[-1], size)))
        if not bias:
            return self.node("MatMul", [x, weight], name, shape)
        product = self.node("MatMul", [x, weight], f"{name}.matmul", shape)
        offset = self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", size))
        return self.node("Add", [product, offset], name, shape)

    def extent(self, x: str, axis: int, name: str) -> Extent:
        """Size of an image along axis 2 or 3; open in a model of open image size."""
        size = self.shape(x)[axis]
        if not self.dynamic:
            return size
        return OpenExtent(self.node("Shape", [x], name, (1,), start=axis, end=axis + 1), size)

    def times(self, extent: Extent, factor: int, name: str) -> Extent:
        """``extent * factor``."""
        if isinstance(extent, int):
            return extent * factor
        inputs = [extent.name, self.constant(f"{name}.factor", [factor])]
        return OpenExtent(self.node("Mul", inputs, name, (1,)), extent.value * factor)

    def product(self, a: Extent, b: Extent, name: str) -> Extent:
        """``a * b``."""
        if isinstance(a, int):
            return self.times(b, a, name)
        if isinstance(b, int):
            return self.times(a, b, name)
        return OpenExtent(self.node("Mul", [a.name, b.name], name, (1,)), a.value * b.value)

    def parts(self, extent: Extent, size: int, name: str) -> Extent:
        """How many parts of ``size`` cover ``extent``: the quotient, rounded up."""
        if isinstance(extent, int):
            return -(-extent // size)
        more = self.node("Add", [extent.name, self.constant(f"{name}.more", [size - 1])], f"{name}.sum", (1,))
        inputs = [more, self.constant(f"{name}.size", [size])]
        return OpenExtent(self.node("Div", inputs, name, (1,)), -(-extent.value // size))

    def reshape(self, x: str, name: str, shape: Sequence[Extent]) -> str:
        """Reshape to a shape of numbers and open extents."""
        known = tuple(size if isinstance(size, int) else size.value for size in shape)
        return self.node("Reshape", [x, self._extents(f"{name}.shape", shape)], name, known)

    def transpose(self, x: str, name: str, order: tuple[int, ...]) -> str:
        """Permute axes."""
        shape = self.shape(x)
        return self.node("Transpose", [x], name, tuple(shape[axis] for axis in order), perm=order)

    def matmul(self, a: str, b: str, name: str) -> str:
        """Batched matrix product of two values with equal leading axes."""
        return self.node("MatMul", [a, b], name, (*self.shape(a)[:-1], self.shape(b)[-1]))

    def add(self, a: str, b: str, name: str) -> str:
        """Sum; shapes broadcast."""
        return self.node("Add", [a, b], name, np.broadcast_shapes(self.shape(a), self.shape(b)))

    def multiply(self, a: str, b: str, name: str) -> str:
        """Product; shapes broadcast."""
        return self.node("Mul", [a, b], name, np.broadcast_shapes(self.shape(a), self.shape(b)))

    def concat(self, values: Sequence[str], name: str, axis: int) -> str:
        """Join values along one axis."""
        shape = list(self.shape(values[0]))
        shape[axis] = sum(self.shape(value)[axis] for value in values)
        return self.node("Concat", values, name, tuple(shape), axis=axis)

    def slice(self, x: str, name: str, axis: int, start: int, end: int) -> str:
        """Elements ``start`` to ``end`` (exclusive) of one axis; both count from the front."""
        shape = list(self.shape(x))
        shape[axis] = end - start
        parts = [self.constant(f"{name}.{role}", [v]) for role, v in (("start", start), ("end", end), ("axis", axis))]
        return self.node("Slice", [x, *parts], name, tuple(shape))

    def resize(self, x: str, name: str, height: Extent, width: Extent, *, align_corners: bool = False) -> str:
        """Bilinear resize of the last two axes."""
        batch, channels, *_ = self.shape(x)
        known = tuple(size if isinstance(size, int) else size.value for size in (height, width))
        return self.node(
            "Resize",
            [x, "", "", self._extents(f"{name}.sizes", (batch, channels, height, width))],
            name,
            (batch, channels, *known),
            mode="linear",
            coordinate_transformation_mode="align_corners" if align_corners else "half_pixel",
        )

    def global_average(self, x: str, name: str, *, flat: bool = True) -> str:
        """Mean over the last two axes, which are dropped, or kept with size 1."""
        batch, channels, *_ = self.shape(x)
        if not flat:
            return self.node("GlobalAveragePool", [x], name, (batch, channels, 1, 1))
        pooled = self.node("GlobalAveragePool", [x], f"{name}.pool", (batch, channels, 1, 1))
        return self.node("Flatten", [pooled], name, (batch, channels), axis=1)

    def build(self) -> onnx.ModelProto:
        """The finished, checked model."""
        from onnx import checker, helper

        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="edgevit",
        )
        checker.check_model(proto, full_check=True)
        return proto

    def _extents(self, name: str, extents: Sequence[Extent]) -> str:
        """An int64 vector: a constant where every extent is known."""
        if all(isinstance(extent, int) for extent in extents):
            return self.constant(name, [extent for extent in extents if isinstance(extent, int)])
        parts = [
            extent.name if isinstance(extent, OpenExtent) else self.constant(f"{name}.{index}", [extent])
            for index, extent in enumerate(extents)
        ]
        return self.node("Concat", parts, name, (len(parts),), axis=0)

    def _value_info(self, name: str, shape: tuple[int, ...], height: str, width: str) -> onnx.ValueInfoProto:
        from onnx import TensorProto, helper

        open_sizes = self.dynamic and len(shape) == 4
        dims = [*shape[:2], height, width] if open_sizes else list(shape)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
