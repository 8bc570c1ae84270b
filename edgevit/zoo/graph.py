"""A small builder of ONNX graphs: layers in, ``ModelProto`` out, shapes tracked on the way."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8

Array = np.ndarray[Any, np.dtype[Any]]


class Weights:
    """Seeded parameters. Each is drawn from a stream of its own, named by the parameter.

    Adding or removing a layer therefore leaves every other parameter as it was: a backbone has the same
    weights under every head. Scales keep activations in a realistic range through dozens of layers, and
    batch norm statistics are spread so that a compiler that folds them wrongly is found out.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def convolution(self, name: str, shape: tuple[int, int, int, int]) -> Array:
        """Kaiming normal, fan-out mode, for weights of shape (out, in / groups, height, width)."""
        # Groups cancel: every output channel is read by out / groups channels of its own group.
        return self._normal(name, shape, np.sqrt(2.0 / (shape[0] * shape[2] * shape[3])))

    def depthwise(self, name: str, shape: tuple[int, int, int, int]) -> Array:
        """Kaiming normal for depthwise weights of shape (channels, 1, height, width)."""
        return self._normal(name, shape, np.sqrt(2.0 / (shape[2] * shape[3])))

    def linear(self, name: str, shape: tuple[int, int]) -> Array:
        """Xavier normal, for weights of shape (in, out)."""
        return self._normal(name, shape, np.sqrt(2.0 / sum(shape)))

    def small(self, name: str, size: int, mean: float = 0.0) -> Array:
        """Normal around ``mean`` with deviation 0.1: biases, shifts, running means."""
        return self._normal(name, (size,), 0.1) + np.float32(mean)

    def spread(self, name: str, size: int) -> Array:
        """Uniform in 0.5 to 1.5: scales, running variances."""
        return self._stream(name).uniform(0.5, 1.5, size).astype(np.float32)

    def _normal(self, name: str, shape: tuple[int, ...], deviation: float) -> Array:
        return (self._stream(name).standard_normal(shape) * deviation).astype(np.float32)

    def _stream(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, zlib.crc32(name.encode())]))


class GraphBuilder:
    """Adds layers to a graph, in execution order. Values are referred to by name.

    Args:
        name: name of the graph.
        seed: seed of its parameters.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.weights = Weights(seed)
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
        from onnx import TensorProto, helper

        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self._shapes[name] = shape
        return name

    def output(self, name: str, value: str) -> None:
        """Make ``value`` a float32 graph output called ``name``."""
        from onnx import TensorProto, helper

        self.node("Identity", [value], name, self.shape(value))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shape(value)))

    def constant(self, name: str, data: Array | Sequence[int]) -> str:
        """Add an initializer; integer sequences become int64."""
        from onnx import numpy_helper

        array = data if isinstance(data, np.ndarray) else np.asarray(data, np.int64)
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op_type: str, inputs: Sequence[str], name: str, shape: tuple[int, ...], **attributes: object) -> str:
        """Add a node with one output, called like the node, of the given shape."""
        from onnx import helper

        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self._shapes[name] = shape
        return name

    def conv(self, x: str, name: str, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False) -> str:
        """Convolution without bias, same padding; ``depthwise`` keeps the channel count."""
        batch, inner, height, width = self.shape(x)
        groups = inner if depthwise else 1
        shape = (channels, inner // groups, kernel, kernel)
        draw = self.weights.depthwise if depthwise else self.weights.convolution
        weight = self.constant(f"{name}.weight", draw(f"{name}.weight", shape))
        pad = kernel // 2
        extent = tuple((size + 2 * pad - kernel) // stride + 1 for size in (height, width))
        return self.node(
            "Conv",
            [x, weight],
            name,
            (batch, channels, *extent),
            group=groups,
            kernel_shape=[kernel, kernel],
            pads=[pad] * 4,
            strides=[stride, stride],
        )

    def batch_norm(self, x: str, name: str) -> str:
        """Batch normalization with seeded statistics."""
        channels = self.shape(x)[1]
        inputs = [
            self.constant(f"{name}.weight", self.weights.spread(f"{name}.weight", channels)),
            self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", channels)),
            self.constant(f"{name}.mean", self.weights.small(f"{name}.mean", channels)),
            self.constant(f"{name}.var", self.weights.spread(f"{name}.var", channels)),
        ]
        return self.node("BatchNormalization", [x, *inputs], name, self.shape(x), epsilon=1e-5)

    def silu(self, x: str, name: str) -> str:
        """``x * sigmoid(x)``."""
        gate = self.node("Sigmoid", [x], f"{name}.sigmoid", self.shape(x))
        return self.node("Mul", [x, gate], name, self.shape(x))

    def layer_norm(self, x: str, name: str) -> str:
        """Layer normalization over the last axis."""
        size = self.shape(x)[-1]
        scale = self.constant(f"{name}.weight", self.weights.small(f"{name}.weight", size, mean=1.0))
        bias = self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", size))
        return self.node("LayerNormalization", [x, scale, bias], name, self.shape(x), axis=-1, epsilon=1e-5)

    def linear(self, x: str, name: str, size: int) -> str:
        """Matrix product over the last axis, plus bias."""
        shape = self.shape(x)
        weight = self.constant(f"{name}.weight", self.weights.linear(f"{name}.weight", (shape[-1], size)))
        bias = self.constant(f"{name}.bias", self.weights.small(f"{name}.bias", size))
        product = self.node("MatMul", [x, weight], f"{name}.matmul", (*shape[:-1], size))
        return self.node("Add", [product, bias], name, (*shape[:-1], size))

    def reshape(self, x: str, name: str, shape: tuple[int, ...]) -> str:
        """Reshape to a static shape."""
        return self.node("Reshape", [x, self.constant(f"{name}.shape", shape)], name, shape)

    def transpose(self, x: str, name: str, order: tuple[int, ...]) -> str:
        """Permute axes."""
        shape = self.shape(x)
        return self.node("Transpose", [x], name, tuple(shape[axis] for axis in order), perm=order)

    def matmul(self, a: str, b: str, name: str) -> str:
        """Batched matrix product of two values with equal leading axes."""
        return self.node("MatMul", [a, b], name, (*self.shape(a)[:-1], self.shape(b)[-1]))

    def add(self, a: str, b: str, name: str) -> str:
        """Sum of two values of one shape."""
        return self.node("Add", [a, b], name, self.shape(a))

    def concat(self, values: Sequence[str], name: str, axis: int) -> str:
        """Join values along one axis."""
        shape = list(self.shape(values[0]))
        shape[axis] = sum(self.shape(value)[axis] for value in values)
        return self.node("Concat", values, name, tuple(shape), axis=axis)

    def resize(self, x: str, name: str, height: int, width: int) -> str:
        """Bilinear resize of the last two axes, corners not aligned."""
        batch, channels, *_ = self.shape(x)
        shape = (batch, channels, height, width)
        sizes = self.constant(f"{name}.sizes", shape)
        return self.node(
            "Resize",
            [x, "", "", sizes],
            name,
            shape,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def global_average(self, x: str, name: str) -> str:
        """Mean over the last two axes, which are dropped."""
        batch, channels, *_ = self.shape(x)
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
