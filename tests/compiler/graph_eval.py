"""A slow interpreter of the compiler's graphs, operator by operator as they are defined, in numpy.

Rewrites are tested with it against ONNX Runtime, without any generated code. Operators that still have their ONNX
names run in ONNX Runtime, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Pointwise, Term

Array = np.ndarray[Any, Any]


def run(graph: Graph, inputs: Mapping[str, Array] | Sequence[Array]) -> list[Array]:
    """Outputs of ``graph``, in its order.

    Checks on the way that every node produces what its outputs declare (shape and dtype).

    Args:
        graph: ONNX nodes, edgevit's, or a mixture.
        inputs: arrays by input name, or in the order of the graph's inputs.
    """
    by_name = inputs if isinstance(inputs, Mapping) else dict(zip((t.name for t in graph.inputs), inputs, strict=True))
    values: dict[Tensor, Array] = {tensor: np.asarray(by_name[tensor.name]) for tensor in graph.inputs}

    def value(tensor: Tensor | None) -> Array | None:
        if tensor is None:
            return None
        return values[tensor] if tensor.data is None else tensor.data

    for node in graph.nodes:
        results = evaluate(node, [value(tensor) for tensor in node.inputs], graph.opset)
        for tensor, result in zip(node.outputs, results, strict=True):
            assert result.shape == tensor.shape, f"{node}: computed {result.shape}"
            assert result.dtype.name == tensor.dtype, f"{node}: computed {result.dtype}"
            values[tensor] = result
    return [np.asarray(value(tensor)) for tensor in graph.outputs]


def evaluate(node: Node, inputs: Sequence[Array | None], opset: int = 17) -> list[Array]:
    """Outputs of one node."""
    if node.op not in OPERATORS:
        return _onnx(node, inputs, opset)
    count = len(inputs)
    program: Pointwise | None = node.attrs.get("epilogue")
    if program is not None:
        count -= len(program.operands) - 1
    result = OPERATORS[node.op](node, *inputs[:count])
    if program is not None:
        operands = [result, *(array for array in inputs[count:] if array is not None)]
        result = apply_program(program, operands)
    return [np.ascontiguousarray(result).astype(node.output.dtype, copy=False).reshape(result.shape)]


def apply_program(program: Pointwise, operands: Sequence[Array]) -> Array:
    """Result of an elementwise program under numpy's broadcasting."""
    for array, operand in zip(operands, program.operands, strict=True):
        assert array.shape == operand.shape, f"operand {operand} is {array.shape}"
        assert array.dtype.name == operand.dtype, f"operand {operand} is {array.dtype}"

    def apply(term: Term, args: list[Any]) -> Any:
        return np.asarray(POINTWISE[term.op](*args, *term.params)).astype(term.dtype)

    with np.errstate(all="ignore"):
        return np.asarray(program.evaluate(list(operands), apply))


def gelu(x: Array) -> Array:
    """Exact GELU."""
    return x * 0.5 * (1 + special.erf(x / np.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    """GELU's tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


POINTWISE: dict[str, Callable[..., Any]] = {
    "constant": lambda value: value,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: np.trunc(a / b) if a.dtype.kind in "iu" else a / b,
    "pow": np.power,
    "mod": np.mod,
    "fmod": np.fmod,
    "min": np.minimum,
    "max": np.maximum,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": special.erf,
    "sigmoid": special.expit,
    "silu": lambda x: x * special.expit(x),
    "relu": lambda x: np.maximum(x, 0),
    "clip": np.clip,
    "identity": lambda x: x,
    "thresholded_relu": lambda x, alpha: np.where(x > alpha, x, 0),
    "leaky_relu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x),
    "celu": lambda x, alpha: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)),
    "selu": lambda x, alpha, gamma: gamma * np.where(x < 0, alpha * np.expm1(x), x),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hard_sigmoid": lambda x, alpha=1 / 6, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "where": np.where,
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "not": np.logical_not,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "cast": lambda x: x,
}
"""Elementwise operations by name; the operation's parameters follow its arguments."""


def _windows(x: Array, kernel: Sequence[int], node: Node, out: Sequence[int], fill: float) -> Array:
    """Windows (N, OH, OW, C, KH, KW) of an image (N, H, W, C)."""
    (sh, sw), (top, left, _, _) = node.attrs["strides"], node.attrs["pads"]
    dh, dw = node.attrs["dilations"]
    spans = (kernel[0] - 1) * dh + 1, (kernel[1] - 1) * dw + 1
    below = max(0, (out[0] - 1) * sh + spans[0] - top - x.shape[1])
    right = max(0, (out[1] - 1) * sw + spans[1] - left - x.shape[2])
    padded = np.pad(x, ((0, 0), (top, below), (left, right), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    return windows[:, : (out[0] - 1) * sh + 1 : sh, : (out[1] - 1) * sw + 1 : sw, :, ::dh, ::dw]


def _conv(node: Node, *inputs: Array) -> Array:
    *sources, weight = inputs
    assert len(sources) == node.attrs["sources"]
    return _convolve(node, np.concatenate(sources, axis=-1), weight, node.attrs["groups"])


def _depthwise(node: Node, x: Array, weight: Array) -> Array:
    assert weight.shape[0] == x.shape[-1]
    return _convolve(node, x, weight, x.shape[-1])


def _convolve(node: Node, x: Array, weight: Array, groups: int) -> Array:
    channels, inner, *kernel = weight.shape
    windows = _windows(x, kernel, node, node.output.shape[1:3], 0)
    parts = [
        np.einsum(
            "nhwcij,ocij->nhwo",
            windows[:, :, :, g * inner : (g + 1) * inner],
            weight[g * channels // groups : (g + 1) * channels // groups],
            optimize=True,
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=-1)


def _pool(node: Node, x: Array) -> Array:
    kernel, out = node.attrs["kernel"], node.output.shape[1:3]
    if node.attrs["kind"] == "max":
        return np.asarray(_windows(x, kernel, node, out, -np.inf).max(axis=(-2, -1)))
    counted = np.ones_like(x)
    total = _windows(x, kernel, node, out, 0).sum(axis=(-2, -1))
    if node.attrs["count_include_pad"]:
        top, left, bottom, right = node.attrs["pads"]
        counted = np.pad(counted, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=1)
        inside = Node("pool", [], node.outputs, {**node.attrs, "pads": (0, 0, 0, 0)})
        return np.asarray(total / _windows(counted, kernel, inside, out, 0).sum(axis=(-2, -1)))
    return np.asarray(total / _windows(counted, kernel, node, out, 0).sum(axis=(-2, -1)))


def _resize(node: Node, x: Array) -> Array:
    attrs = {
        "mode": node.attrs["mode"],
        "coordinate_transformation_mode": node.attrs["coordinates"],
        "nearest_mode": node.attrs["nearest_mode"],
    }
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    scales = np.asarray((1, 1, *node.attrs["scales"]), np.float32)
    size = node.output.shape
    output = Tensor("y", (size[0], size[3], size[1], size[2]), x.dtype.name)
    names = [Tensor(name, array.shape, array.dtype.name) for name, array in (("x", images), ("s", scales))]
    (result,) = _onnx(Node("Resize", [names[0], None, names[1]], [output], attrs), [images, None, scales], 13)
    return np.asarray(result.transpose(0, 2, 3, 1))


def _linear(node: Node, x: Array, weight: Array) -> Array:
    return x @ weight


def _matmul(node: Node, a: Array, b: Array) -> Array:
    return a @ (b.swapaxes(-1, -2) if node.attrs.get("transpose_b") else b)


def rows_of(axes: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]) -> Array:
    """Row index (batch, tokens) that a map of batch and token atoms describes."""
    batch, tokens = (sum_of(atoms) for atoms in axes)
    return batch[:, None] + tokens[None, :]


def sum_of(atoms: Sequence[tuple[int, int]]) -> Array:
    """Row offsets of all indices of some (extent, stride) atoms, outermost first."""
    offsets = np.zeros(1, int)
    for extent, stride in atoms:
        offsets = (offsets[:, None] + np.arange(extent) * stride).reshape(-1)
    return offsets


def _attention(node: Node, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    attrs = node.attrs
    heads, dim, value_dim = attrs["heads"], attrs["dim"], attrs["value_dim"]
    queries, keys = rows_of(attrs["query_map"]), rows_of(attrs["key_map"])
    assert sorted(queries.reshape(-1)) == list(range(q.size // q.shape[-1])), (
        "the queries are not a bijection onto rows"
    )
    strides = attrs.get("head_strides", (dim, dim, value_dim))

    def heads_of(x: Array, rows: Array, column: int, stride: int, width: int) -> Array:
        columns = column + stride * np.arange(heads)[:, None] + np.arange(width)
        # (batch, heads, tokens, width)
        return np.asarray(x.reshape(-1, x.shape[-1])[rows[:, None, :, None], columns[None, :, None, :]])

    split = [
        heads_of(x, rows, column, stride, width)
        for x, rows, column, stride, width in zip(
            (q, k, v), (queries, keys, keys), attrs["columns"], strides, (dim, dim, value_dim), strict=True
        )
    ]
    scores = (split[0] @ split[1].swapaxes(-1, -2)) * np.asarray(attrs["scale"], q.dtype)
    if mask is not None:
        assert tuple(attrs["mask_shape"]) == mask.shape
        scores = scores + mask
    mixed = special.softmax(scores, axis=-1) @ split[2]
    result = np.empty((queries.size, heads * value_dim), q.dtype)
    result[queries] = mixed.transpose(0, 2, 1, 3).reshape(*queries.shape, -1)
    return result.reshape(node.output.shape)


def _layer_norm(node: Node, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + node.attrs["epsilon"])
    return (normal if scale is None else normal * scale) + (0 if bias is None else bias)


def _rms_norm(node: Node, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
    normal = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + node.attrs["epsilon"])
    return normal if scale is None else normal * scale


def _softmax(node: Node, x: Array) -> Array:
    return np.asarray((special.log_softmax if node.attrs.get("log") else special.softmax)(x, axis=-1))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "l2": lambda x, **kwargs: np.sqrt(np.sum(x * x, **kwargs)),
}


def _reduce(node: Node, x: Array) -> Array:
    reduce = REDUCTIONS[node.attrs["kind"]]
    return np.asarray(reduce(x, axis=tuple(node.attrs["axes"]), keepdims=bool(node.attrs["keepdims"])))


def _pointwise(node: Node, *operands: Array) -> Array:
    return np.asarray(np.broadcast_to(apply_program(node.attrs["program"], operands), node.output.shape))


def _permute(node: Node, x: Array) -> Array:
    return x.reshape(node.attrs["view"]).transpose(node.attrs["perm"]).reshape(node.output.shape)


def _slice(node: Node, x: Array) -> Array:
    for axis, (start, step) in enumerate(zip(node.attrs["starts"], node.attrs["steps"], strict=True)):
        x = x.take(start + step * np.arange(node.output.shape[axis]), axis=axis)
    return x


def _pad(node: Node, x: Array) -> Array:
    before = node.attrs["before"]
    widths = [(b, size - b - old) for b, size, old in zip(before, node.output.shape, x.shape, strict=True)]
    if node.attrs["mode"] == "constant":
        return np.pad(x, widths, constant_values=node.attrs["value"])
    return np.pad(x, widths, mode=node.attrs["mode"])


OPERATORS: dict[str, Callable[..., Array]] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "linear": _linear,
    "matmul": _matmul,
    "attention": _attention,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "softmax": _softmax,
    "reduce": _reduce,
    "pool": _pool,
    "resize": _resize,
    "pointwise": _pointwise,
    "permute": _permute,
    "reshape": lambda node, x: x.reshape(node.output.shape),
    "concat": lambda node, *xs: np.concatenate(xs, axis=node.attrs["axis"]),
    "slice": _slice,
    "pad": _pad,
    "gather": lambda node, x, indices: x.take(indices, axis=node.attrs["axis"]),
}


def _onnx(node: Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """A node with an ONNX name, in ONNX Runtime."""
    import onnxruntime
    from onnx import helper, numpy_helper

    names = ["" if tensor is None else f"i{index}" for index, tensor in enumerate(node.inputs)]
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    attrs = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in node.attrs.items()}
    outputs = [f"o{index}" for index in range(len(node.outputs))]
    proto = helper.make_node(node.op, names, outputs, domain=node.domain, **attrs)
    dtype = helper.np_dtype_to_tensor_dtype
    constants = {
        name: tensor.data
        for name, tensor in zip(names, node.inputs, strict=True)
        if tensor is not None and tensor.data is not None
    }
    graph = helper.make_graph(
        [proto],
        "one",
        [helper.make_tensor_value_info(n, dtype(a.dtype), a.shape) for n, a in feeds.items() if n not in constants],
        [
            helper.make_tensor_value_info(n, dtype(np.dtype(t.dtype)), t.shape)
            for n, t in zip(outputs, node.outputs, strict=True)
        ],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(node.domain, 1)] if node.domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: np.ascontiguousarray(array) for name, array in feeds.items() if name not in constants}
    return [np.asarray(result) for result in session.run(outputs, feeds)]
