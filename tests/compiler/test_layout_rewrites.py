"""Channels-last operators and the cancelling of reorderings, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgevit.compiler.rewrite import pads, sink
from edgevit.model import load
from edgevit.zoo import build_mobilevit
from edgevit.zoo.graph import GraphBuilder
from tests.compiler.rewriting import LAYOUT, assert_equal_to_onnxruntime, inner_permutes, moved, rewritten
from tests.model.onnx_graphs import model, node, value

IMAGE = (1, 4, 8, 6)


def one_operator(
    op: str,
    output: tuple[int, ...],
    constants: dict[str, Any] | None = None,
    shape: tuple[int, ...] = IMAGE,
    opset: int = 17,
    inputs: tuple[str, ...] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Model of one operator on x, with constants as its other inputs."""
    constants = {name: np.asarray(data) for name, data in (constants or {}).items()}
    names = inputs if inputs is not None else ("x", *constants)
    return model(
        [node(op, names, ["y"], **attributes)], [value("x", shape)], [value("y", output)], constants, opset=opset
    )


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


CONVOLUTIONS = {
    "pointwise": one_operator("Conv", (1, 5, 8, 6), {"w": weight(5, 4, 1, 1)}),
    "bias": one_operator("Conv", (1, 5, 6, 4), {"w": weight(5, 4, 3, 3), "b": weight(5)}),
    "uneven pads": one_operator("Conv", (1, 5, 4, 4), {"w": weight(5, 4, 3, 3)}, pads=[0, 1, 2, 2], strides=[2, 2]),
    "dilated": one_operator("Conv", (1, 5, 4, 6), {"w": weight(5, 4, 3, 3)}, dilations=[2, 1], pads=[0, 1, 0, 1]),
    "grouped": one_operator("Conv", (1, 6, 6, 4), {"w": weight(6, 2, 3, 3)}, group=2),
    "depthwise": one_operator("Conv", (1, 4, 8, 6), {"w": weight(4, 1, 3, 3), "b": weight(4)}, group=4, pads=[1] * 4),
    "multiplier": one_operator("Conv", (1, 8, 6, 4), {"w": weight(8, 1, 3, 3)}, group=4),
    "same upper": one_operator("Conv", (1, 5, 4, 3), {"w": weight(5, 4, 3, 2)}, auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": one_operator("Conv", (1, 5, 8, 6), {"w": weight(5, 4, 2, 4)}, auto_pad="SAME_LOWER"),
    "one axis": one_operator(
        "Conv", (1, 5, 5), {"w": weight(5, 4, 3), "b": weight(5)}, (1, 4, 9), strides=[2], pads=[1, 1]
    ),
    "batch": one_operator("Conv", (3, 5, 6, 4), {"w": weight(5, 4, 3, 3)}, (3, 4, 8, 6)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    proto = CONVOLUTIONS[name]
    graph = rewritten(proto)
    assert graph.count("Conv") == 0
    assert graph.count("depthwise") == (name == "depthwise")
    assert_equal_to_onnxruntime(graph, proto)


IMAGES = {
    "max pool": one_operator("MaxPool", (1, 4, 4, 3), kernel_shape=[2, 2], strides=[2, 2]),
    "max pool, ceil": one_operator(
        "MaxPool", (1, 4, 4, 3), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[0, 0, 1, 1]
    ),
    "max pool, dilated": one_operator("MaxPool", (1, 4, 4, 4), kernel_shape=[3, 2], dilations=[2, 2]),
    "average pool": one_operator("AveragePool", (1, 4, 8, 6), kernel_shape=[3, 3], pads=[1] * 4),
    "average pool, pads counted": one_operator(
        "AveragePool", (1, 4, 8, 6), kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "average pool, ceil": one_operator(
        "AveragePool", (1, 4, 4, 3), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[0, 1, 0, 0]
    ),
    "pool of one axis": one_operator("MaxPool", (1, 4, 4), shape=(1, 4, 8), kernel_shape=[2], strides=[2]),
    "global average": one_operator("GlobalAveragePool", (1, 4, 1, 1)),
    "global maximum": one_operator("GlobalMaxPool", (1, 4, 1, 1)),
    "bilinear by sizes": one_operator(
        "Resize", (1, 4, 16, 9), {"s": np.array([1, 4, 16, 9])}, inputs=("x", "", "", "s"), mode="linear"
    ),
    "bilinear, corners": one_operator(
        "Resize",
        (1, 4, 16, 12),
        {"s": np.array([1, 1, 2, 2], np.float32)},
        inputs=("x", "", "s"),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "nearest": one_operator(
        "Resize",
        (1, 4, 16, 12),
        {"s": np.array([1, 1, 2, 2], np.float32)},
        inputs=("x", "", "s"),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "cubic stays": one_operator(
        "Resize", (1, 4, 16, 12), {"s": np.array([1, 1, 2, 2], np.float32)}, inputs=("x", "", "s"), mode="cubic"
    ),
    "upsample": one_operator("Upsample", (1, 4, 16, 12), {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9),
    "batch norm": one_operator(
        "BatchNormalization", IMAGE, {"s": weight(4), "b": weight(4), "m": weight(4), "v": weight(4) ** 2}
    ),
    "softmax of channels": one_operator("Softmax", IMAGE, axis=1),
    "old softmax": one_operator("Softmax", IMAGE, axis=1, opset=11),
    "depth to space": one_operator("DepthToSpace", (1, 1, 16, 12), blocksize=2),
    "depth to space, CRD": one_operator("DepthToSpace", (1, 1, 16, 12), blocksize=2, mode="CRD"),
    "space to depth": one_operator("SpaceToDepth", (1, 16, 4, 3), blocksize=2),
    "mean": one_operator("ReduceMean", (1, 4, 6), axes=[2], keepdims=0),
    "all": one_operator("ReduceMax", (1, 1, 1, 1)),
    "crop": one_operator(
        "Pad", (1, 4, 9, 4), {"p": np.array([0, 0, 2, -1, 0, 0, -1, -1]), "v": np.float32(3)}, mode="constant"
    ),
    "reflect": one_operator("Pad", (1, 4, 11, 6), {"p": np.array([0, 0, 2, 0, 0, 0, 1, 0])}, mode="reflect"),
    "reversed": one_operator(
        "Slice",
        (1, 4, 3, 6),
        {"s": np.array([-2]), "e": np.array([-9]), "a": np.array([2]), "t": np.array([-3])},
    ),
    "picked": one_operator("Gather", (1, 3, 8, 6), {"i": np.array([3, 0, -1])}, axis=1),
    "one picked": one_operator("Gather", (1, 8, 6), {"i": np.array(-1)}, axis=1),
    "tiled": one_operator("Tile", (2, 4, 24, 6), {"r": np.array([2, 1, 3, 1])}),
    "expanded": one_operator("Expand", (3, 4, 8, 6), {"r": np.array([3, 1, 1, 6])}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_operators_on_images(name: str) -> None:
    assert_equal_to_onnxruntime(rewritten(IMAGES[name]), IMAGES[name])


def backbone() -> onnx.ModelProto:
    """Stem, residual block with squeeze and excitation, pooling, branches, classifier."""
    build = GraphBuilder("backbone", 0)
    x = build.input("image", (1, 3, 16, 16))
    x = build.silu(build.conv(x, "stem", 8, 3, stride=2), "a")
    inner = build.conv(build.silu(build.conv(x, "expand", 16, 1), "b"), "depthwise", 16, 3, depthwise=True)
    pooled = build.node("ReduceMean", [inner], "squeeze", (1, 16, 1, 1), axes=[2, 3], keepdims=1)
    gate = build.node("Sigmoid", [build.conv(pooled, "excite", 16, 1)], "gate", (1, 16, 1, 1))
    inner = build.node("Mul", [inner, gate], "gated", build.shape(inner))
    x = build.add(x, build.conv(inner, "project", 8, 1), "residual")
    shape = build.shape(x)
    scale, shift = weight(8, 1, 1), weight(1, 8, 1, 1)
    x = build.node("Mul", [x, build.constant("scale", scale)], "scaled", shape)
    x = build.node("Add", [build.constant("shift", shift), x], "shifted", shape)
    halves = [build.conv(x, f"half{index}", 4, 1) for index in range(2)]
    x = build.node("Concat", halves, "halves", shape, axis=1)
    x = build.node("MaxPool", [x], "pool", (1, 8, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
    build.output("logits", build.linear(build.global_average(x, "average"), "head", 5))
    return build.build()


def test_a_convolutional_network_keeps_the_permute_of_its_input_only() -> None:
    proto = backbone()
    graph = rewritten(proto)
    assert graph.count("permute") == 1
    assert inner_permutes(graph) == 0
    assert_equal_to_onnxruntime(graph, proto)


@pytest.mark.parametrize(("value", "absorbed"), [(0.0, True), (1.0, False)])
def test_padding_with_zeros_is_the_convolution_s(value: float, absorbed: bool) -> None:
    build = GraphBuilder("padded", 0)
    x = build.conv(build.input("x", (1, 3, 8, 8)), "first", 4, 1)
    widths = build.constant("widths", (0, 0, 0, 1, 0, 0, 1, 2))
    number = build.constant("number", np.array(value, np.float32))
    x = build.node("Pad", [x, widths, number], "pad", (1, 4, 9, 11))
    build.output("y", build.conv(x, "second", 4, 3, stride=2, depthwise=True))
    proto = build.build()
    graph = rewritten(proto, (pads.apply, *LAYOUT, sink.apply))
    assert graph.count("pad") == (not absorbed)
    assert_equal_to_onnxruntime(graph, proto)


def test_a_grey_image_needs_no_permute() -> None:
    proto = one_operator("Conv", (1, 1, 6, 4), {"w": weight(1, 1, 3, 3)}, (1, 1, 8, 6))
    graph = rewritten(proto)
    assert graph.count("permute") == 0
    assert_equal_to_onnxruntime(graph, proto)


def test_gates_of_channels_and_pixels_multiply_channels_last() -> None:
    build = GraphBuilder("gates", 0)
    x = build.conv(build.input("x", (1, 1, 6, 4)), "first", 8, 1)
    channels = build.node("ReduceMean", [x], "channels", (1, 8, 1, 1), axes=[2, 3], keepdims=1)
    pixels = build.node("ReduceMean", [x], "pixels", (1, 1, 6, 4), axes=[1], keepdims=1)
    gate = build.node("Mul", [channels, pixels], "gate", (1, 8, 6, 4))
    x = build.conv(build.add(x, gate, "sum"), "second", 1, 3)
    build.output("y", x)
    proto = build.build()
    graph = rewritten(proto)
    assert graph.count("permute") == 0
    assert_equal_to_onnxruntime(graph, proto)


def test_an_output_that_is_square_keeps_its_name_and_order() -> None:
    build = GraphBuilder("square", 0)
    x = build.conv(build.input("image", (1, 8, 8, 8)), "conv", 8, 1)
    build.output("first", build.node("Relu", [x], "relu", (1, 8, 8, 8)))
    build.output("second", build.conv(x, "next", 8, 3))
    proto = build.build()
    graph = rewritten(proto)
    assert graph.count("permute") == 3
    assert_equal_to_onnxruntime(graph, proto)


def test_one_reordering_is_not_made_real_twice() -> None:
    # Handed on, the transpose would be made real behind each of the three.
    build = GraphBuilder("fan", 0)
    x = build.transpose(build.input("x", (1, 4, 8, 6)), "turned", (0, 2, 3, 1))
    for op in ("Relu", "Sigmoid", "Tanh"):
        build.output(op.lower(), build.node(op, [x], f"{op}.0", (1, 8, 6, 4)))
    proto = build.build()
    graph = rewritten(proto)
    assert graph.count("permute") == 1
    assert_equal_to_onnxruntime(graph, proto)


def test_channel_shuffle_moves_each_element_once() -> None:
    build = GraphBuilder("shuffle", 0)
    x = build.conv(build.input("x", (1, 1, 6, 6)), "first", 8, 1)
    x = build.reshape(x, "groups", (1, 2, 4, 6, 6))
    x = build.reshape(build.transpose(x, "mixed", (0, 2, 1, 3, 4)), "joined", (1, 8, 6, 6))
    x = build.node("Relu", [x], "relu", build.shape(x))
    build.output("y", build.global_average(build.conv(x, "second", 8, 3), "mean"))
    proto = build.build()
    graph = rewritten(proto)
    assert graph.count("permute") == 1
    assert_equal_to_onnxruntime(graph, proto)


def test_rows_may_stay_unfolded_through_a_residual_mlp() -> None:
    build = GraphBuilder("fold", 0)
    x = build.conv(build.input("x", (1, 1, 8, 4)), "first", 6, 1)
    t = build.transpose(build.reshape(x, "split", (24, 2, 2, 2)), "gather", (0, 2, 1, 3))
    t = build.transpose(build.reshape(t, "patches", (1, 6, 8, 4)), "last", (0, 3, 2, 1))
    t = build.reshape(t, "tokens", (4, 8, 6))
    t = build.add(t, build.linear(build.layer_norm(t, "norm"), "mlp", 6), "residual")
    t = build.transpose(build.reshape(t, "positions", (1, 4, 8, 6)), "first_again", (0, 3, 2, 1))
    t = build.transpose(build.reshape(t, "unpatched", (24, 2, 2, 2)), "scatter", (0, 2, 1, 3))
    x = build.node("Concat", [x, build.reshape(t, "folded", (1, 6, 8, 4))], "both", (1, 12, 8, 4), axis=1)
    build.output("y", build.global_average(build.conv(x, "second", 3, 3), "mean"))
    proto = build.build()
    graph = rewritten(proto)
    assert graph.count("permute") == 0
    assert_equal_to_onnxruntime(graph, proto)


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_keep_their_meaning(seed: int) -> None:
    proto = random_graph(seed)
    graph, plain = rewritten(proto), rewritten(proto, LAYOUT)
    assert moved(graph) <= moved(plain)
    assert_equal_to_onnxruntime(graph, proto)
    cost = moved(graph)
    sink.apply(graph)
    assert moved(graph) <= cost
    assert_equal_to_onnxruntime(graph, proto)


def random_graph(seed: int) -> onnx.ModelProto:
    """Images and token sequences through random layers, joined where shapes allow it."""
    draw = np.random.default_rng(seed)
    build = GraphBuilder("random", seed)
    values = [build.input("x", (1, 4, 4, 6))]
    for index in range(14):
        x = values[int(draw.integers(max(0, len(values) - 4), len(values)))]
        made = random_layer(build, x, f"n{index}", draw, values)
        if made is not None and np.prod(build.shape(made)) < 5000:
            values.append(made)
    build.output("last", values[-1])
    build.output("middle", values[len(values) // 2])
    return build.build()


def random_layer(build: GraphBuilder, x: str, name: str, draw: np.random.Generator, values: list[str]) -> str | None:
    shape = build.shape(x)
    rank = len(shape)
    kind = draw.choice(
        [
            "conv",
            "relu",
            "transpose",
            "split",
            "merge",
            "linear",
            "norm",
            "add",
            "scale",
            "mean",
            "concat",
            "slice",
            "pad",
        ]
    )
    axis = int(draw.integers(rank))
    if kind == "conv" and rank == 4:
        return build.conv(x, name, int(draw.choice([4, 6])), int(draw.choice([1, 3])))
    if kind == "relu":
        return build.node(str(draw.choice(["Relu", "Tanh"])), [x], name, shape)
    if kind == "transpose":
        return build.transpose(x, name, tuple(int(a) for a in draw.permutation(rank)))
    if kind == "split" and shape[axis] % 2 == 0 and rank < 6:
        return build.reshape(x, name, (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :]))
    if kind == "merge" and rank > 2 and axis > 0:
        return build.reshape(x, name, (*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :]))
    if kind == "linear":
        return build.linear(x, name, 4)
    if kind == "norm":
        return build.layer_norm(x, name)
    if kind == "add":
        others = [other for other in values if build.shape(other) == shape]
        return build.add(x, str(draw.choice(others)), name)
    if kind == "scale":
        extents = tuple(extent if draw.random() < 0.5 else 1 for extent in shape[axis:])
        constant = build.constant(f"{name}.c", draw.standard_normal(extents).astype(np.float32))
        return build.node("Mul", [x, constant], name, shape)
    if kind == "mean":
        keep = int(draw.integers(2)) if rank > 2 else 1
        left = (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :])
        mean = build.node("ReduceMean", [x], f"{name}.mean", left, axes=[axis], keepdims=keep)
        return build.node("Sub", [x, mean], name, shape) if keep else mean
    if kind == "concat":
        others = [
            o for o in values if len(build.shape(o)) == rank and without(build.shape(o), axis) == without(shape, axis)
        ]
        other = str(draw.choice(others))
        extent = shape[axis] + build.shape(other)[axis]
        return build.node("Concat", [x, other], name, (*shape[:axis], extent, *shape[axis + 1 :]), axis=axis)
    if kind == "slice" and shape[axis] > 2:
        bounds = [build.constant(f"{name}.{part}", [v]) for part, v in (("s", 1), ("e", 1000), ("a", axis))]
        return build.node("Slice", [x, *bounds], name, (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :]))
    if kind == "pad":
        pads = [0] * 2 * rank
        pads[axis] = 1
        bound = build.constant(f"{name}.p", pads)
        return build.node("Pad", [x, bound], name, (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :]))
    return None


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@pytest.mark.parametrize("variant", ["xxs", "xs", "s"])
def test_mobilevit_has_no_unfolding_left(variant: str) -> None:
    proto = build_mobilevit(variant)
    graph = rewritten(proto)
    assert (graph.count("permute"), inner_permutes(graph), graph.count("attention")) == (1, 0, 9)
    assert graph.count("softmax", "Softmax", "matmul", "Reshape", "Transpose") == 0
    if variant == "xxs":
        assert_equal_to_onnxruntime(graph, proto)


@pytest.mark.parametrize("variant", ["xxs", "xs", "s"])
def test_exported_mobilevit_has_no_unfolding_left(variant: str, shared_models: Path) -> None:
    proto = load(shared_models / f"mobilevit_{variant}.onnx").proto
    graph = rewritten(proto)
    assert (graph.count("permute"), inner_permutes(graph), graph.count("attention")) == (1, 0, 9)
    assert graph.count("softmax", "Softmax", "matmul", "Reshape", "Transpose") == 0
    if variant == "xxs":
        assert_equal_to_onnxruntime(graph, proto)
