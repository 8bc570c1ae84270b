"""Attention in the spellings of different exporters and model libraries, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np
import onnx
import pytest

from edgevit.compiler.rewrite import attention, elementwise, linear, sink
from edgevit.zoo.graph import GraphBuilder
from tests.compiler.rewriting import LAYOUT, assert_equal_to_onnxruntime, inner_permutes, rewritten

BATCH, TOKENS, HEADS, DIM = 2, 6, 3, 4
WIDTH = HEADS * DIM


class Build(GraphBuilder):
    """Layers that attention is spelled with."""

    def __init__(self) -> None:
        super().__init__("attention", 3)
        self.count = 0

    def op(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        self.count += 1
        return self.node(op, inputs, f"v{self.count}", shape, **attributes)

    def number(self, data: object) -> str:
        self.count += 1
        return self.constant(f"c{self.count}", np.asarray(data, np.float32))

    def view(self, x: str, *shape: int) -> str:
        self.count += 1
        return self.reshape(x, f"v{self.count}", shape)

    def turn(self, x: str, *perm: int) -> str:
        self.count += 1
        return self.transpose(x, f"v{self.count}", perm)

    def dense(self, x: str, size: int) -> str:
        self.count += 1
        return self.linear(x, f"v{self.count}", size)

    def times(self, x: str, factor: object, op: str = "Mul") -> str:
        return self.op(op, [x, self.number(factor)], self.shape(x))

    def plus(self, x: str, other: str) -> str:
        return self.op("Add", [x, other], self.shape(x))

    def product(self, a: str, b: str) -> str:
        return self.op("MatMul", [a, b], (*self.shape(a)[:-1], self.shape(b)[-1]))

    def softmax(self, x: str, axis: int = -1) -> str:
        return self.op("Softmax", [x], self.shape(x), axis=axis)

    def parts(self, x: str, axis: int, sizes: list[int]) -> list[str]:
        shape = self.shape(x)
        self.count += 1
        names = [f"p{self.count}.{index}" for index in range(len(sizes))]
        split = self.constant(f"p{self.count}.sizes", sizes)
        self._nodes.append(onnx.helper.make_node("Split", [x, split], names, axis=axis))
        self._shapes.update({n: (*shape[:axis], s, *shape[axis + 1 :]) for n, s in zip(names, sizes, strict=True)})
        return names

    def pick(self, x: str, axis: int, index: int) -> str:
        shape = self.shape(x)
        self.count += 1
        at = self.constant(f"i{self.count}", np.array(index))
        return self.op("Gather", [x, at], (*shape[:axis], *shape[axis + 1 :]), axis=axis)

    def tokens(self, *shape: int) -> str:
        return self.layer_norm(self.input("x", shape or (BATCH, TOKENS, WIDTH)), "norm")

    def heads(self, x: str, heads: int = HEADS) -> str:
        """(batch, heads, tokens, dim) of (batch, tokens, width)."""
        batch, tokens, width = self.shape(x)
        return self.turn(self.view(x, batch, tokens, heads, width // heads), 0, 2, 1, 3)

    def join(self, x: str) -> str:
        """(batch, tokens, width) of (batch, heads, tokens, dim)."""
        batch, heads, tokens, dim = self.shape(x)
        return self.view(self.turn(x, 0, 2, 1, 3), batch, tokens, heads * dim)

    def finish(self, x: str) -> onnx.ModelProto:
        self.output("y", self.dense(x, 5))
        return self.build()


def three_products(b: Build) -> onnx.ModelProto:
    """Hugging Face's ViT and this project's models: scores divided."""
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    scores = b.times(b.product(q, b.turn(k, 0, 1, 3, 2)), sqrt(DIM), "Div")
    return b.finish(b.join(b.product(b.softmax(scores), v)))


def merged_and_picked(b: Build) -> onnx.ModelProto:
    """timm: one product for all, unbound along the first axis; queries scaled."""
    x = b.dense(b.tokens(), 3 * WIDTH)
    x = b.turn(b.view(x, BATCH, TOKENS, 3, HEADS, DIM), 2, 0, 3, 1, 4)
    q, k, v = (b.pick(x, 0, index) for index in range(3))
    scores = b.product(b.times(q, DIM**-0.5), b.turn(k, 0, 1, 3, 2))
    return b.finish(b.join(b.product(b.softmax(scores), v)))


def merged_and_split(b: Build) -> onnx.ModelProto:
    """timm with newer exporters: a Split, then Squeeze."""
    x = b.dense(b.tokens(), 3 * WIDTH)
    x = b.turn(b.view(x, BATCH, TOKENS, 3, HEADS, DIM), 2, 0, 3, 1, 4)
    parts = [b.view(part, BATCH, HEADS, TOKENS, DIM) for part in b.parts(x, 0, [1, 1, 1])]
    scores = b.times(b.product(parts[0], b.turn(parts[1], 0, 1, 3, 2)), 0.5)
    return b.finish(b.join(b.product(b.softmax(scores), parts[2])))


def split_columns(b: Build) -> onnx.ModelProto:
    """nn.MultiheadAttention: columns split before the heads, products over batch times heads."""
    x = b.dense(b.tokens(), 3 * WIDTH)
    parts = [b.view(b.heads(part), BATCH * HEADS, TOKENS, DIM) for part in b.parts(x, 2, [WIDTH, WIDTH, WIDTH])]
    scores = b.product(b.times(parts[0], 0.5), b.turn(parts[1], 0, 2, 1))
    mixed = b.product(b.softmax(scores), parts[2])
    return b.finish(b.join(b.view(mixed, BATCH, HEADS, TOKENS, DIM)))


def interleaved_heads(b: Build) -> onnx.ModelProto:
    """LeViT: each head's query, key and wider value side by side; a bias for each pair of positions."""
    x = b.view(b.dense(b.tokens(), HEADS * (DIM + DIM + 7)), BATCH, TOKENS, HEADS, 2 * DIM + 7)
    q, k, v = b.parts(x, 3, [DIM, DIM, 7])
    scores = b.times(b.product(b.turn(q, 0, 2, 1, 3), b.turn(k, 0, 2, 3, 1)), 0.5)
    scores = b.plus(scores, b.number(np.random.default_rng(0).standard_normal((HEADS, TOKENS, TOKENS))))
    return b.finish(b.join(b.product(b.softmax(scores), b.turn(v, 0, 2, 1, 3))))


def both_scaled_and_guarded(b: Build) -> onnx.ModelProto:
    """scaled_dot_product_attention by PyTorch's newer exporter: root of the scale twice, NaN replaced."""
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    k = b.turn(b.view(k, BATCH * HEADS, TOKENS, DIM), 0, 2, 1)
    k = b.view(k, BATCH, HEADS, DIM, TOKENS)
    scores = b.product(b.times(q, DIM**-0.25), b.times(k, DIM**-0.25))
    mask = np.where(np.tri(TOKENS, dtype=bool), 0, -np.inf)
    p = b.softmax(b.plus(scores, b.number(mask)))
    b._nodes.append(onnx.helper.make_node("IsNaN", [p], ["nan"]))
    p = b.op("Where", ["nan", b.number(0.0), p], b.shape(p))
    return b.finish(b.join(b.product(p, v)))


def shifted_windows(b: Build) -> onnx.ModelProto:
    """Swin: windows of an image, a bias for all of them, then a mask for each around reshapes."""
    side, window, count = 8, 4, 4
    x = b.tokens(1, side * side, WIDTH)
    t = b.turn(b.view(x, 1, side // window, window, side // window, window, WIDTH), 0, 1, 3, 2, 4, 5)
    t = b.view(t, count, window * window, WIDTH)
    q, k, v = (b.heads(b.dense(t, WIDTH)) for _ in range(3))
    draw, square = np.random.default_rng(0), (window * window,) * 2
    scores = b.times(b.product(q, b.turn(k, 0, 1, 3, 2)), 2.0, "Div")
    scores = b.plus(scores, b.number(draw.standard_normal((1, HEADS, *square))))
    scores = b.view(scores, 1, count, HEADS, *square)
    scores = b.plus(scores, b.number(draw.standard_normal((1, count, 1, *square))))
    scores = b.view(scores, count, HEADS, *square)
    t = b.dense(b.join(b.product(b.softmax(scores), v)), WIDTH)
    t = b.turn(b.view(t, 1, side // window, side // window, window, window, WIDTH), 0, 1, 3, 2, 4, 5)
    return b.finish(b.plus(b.view(t, 1, side * side, WIDTH), x))


def cosine(b: Build) -> onnx.ModelProto:
    """Swin V2: queries and keys normalised, a factor for each head."""
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))

    def unit(t: str) -> str:
        length = b.op("ReduceL2", [t], (*b.shape(t)[:-1], 1), axes=[-1], keepdims=1)
        shape = b.constant(f"{t}.shape", b.shape(t))
        return b.op("Div", [t, b.op("Expand", [length, shape], b.shape(t))], b.shape(t))

    scores = b.product(unit(q), b.turn(unit(k), 0, 1, 3, 2))
    scores = b.times(scores, np.arange(1, HEADS + 1).reshape(HEADS, 1, 1))
    return b.finish(b.join(b.product(b.softmax(scores), v)))


def fewer_keys(b: Build) -> onnx.ModelProto:
    """PVT and SegFormer: keys and values from a smaller image."""
    x = b.tokens(1, 16, WIDTH)
    image = b.view(b.turn(x, 0, 2, 1), 1, WIDTH, 4, 4)
    small = b.conv(image, "reduce", WIDTH, 2, stride=2)
    extent = prod(b.shape(small)[2:])
    small = b.turn(b.view(small, 1, WIDTH, extent), 0, 2, 1)
    q, k, v = b.heads(b.dense(x, WIDTH)), b.heads(b.dense(small, WIDTH)), b.heads(b.dense(small, WIDTH))
    scores = b.times(b.product(q, b.turn(k, 0, 1, 3, 2)), 0.5)
    return b.finish(b.join(b.product(b.softmax(scores), v)))


def convolved(b: Build) -> onnx.ModelProto:
    """Queries, keys and values from one convolution, tokens last."""
    x = b.input("x", (1, WIDTH, 4, 4))
    t = b.view(b.conv(x, "qkv", 3 * WIDTH, 1), 1, HEADS, 3 * DIM, 16)
    q, k, v = b.parts(t, 2, [DIM] * 3)
    scores = b.times(b.product(b.turn(q, 0, 1, 3, 2), k), 0.5)
    mixed = b.turn(b.product(b.softmax(scores), b.turn(v, 0, 1, 3, 2)), 0, 1, 3, 2)
    b.output("y", b.conv(b.view(mixed, 1, WIDTH, 4, 4), "out", 5, 1))
    return b.build()


def einsums(b: Build) -> onnx.ModelProto:
    """CvT: products as Einsum."""
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    scores = b.op("Einsum", [q, k], (BATCH, HEADS, TOKENS, TOKENS), equation="bhlk,bhtk->bhlt")
    p = b.softmax(b.times(scores, 0.5))
    return b.finish(b.join(b.op("Einsum", [p, v], (BATCH, HEADS, TOKENS, DIM), equation="bhlt,bhtv->bhlv")))


def one_head(b: Build) -> onnx.ModelProto:
    x = b.tokens()
    q, k, v = (b.dense(x, WIDTH) for _ in range(3))
    scores = b.times(b.product(q, b.turn(k, 0, 2, 1)), 0.3)
    return b.finish(b.product(b.softmax(scores), v))


def one_query(b: Build) -> onnx.ModelProto:
    """Class attention: only the first token asks."""
    x = b.tokens()
    first = b.op("Slice", [x, *(b.constant(f"s{i}", [i]) for i in (0, 1)), "s1"], (BATCH, 1, WIDTH))
    q, k, v = b.heads(b.dense(first, WIDTH)), b.heads(b.dense(x, WIDTH)), b.heads(b.dense(x, WIDTH))
    scores = b.times(b.product(q, b.turn(k, 0, 1, 3, 2)), 0.5)
    return b.finish(b.join(b.product(b.softmax(scores), v)))


def given_mask(b: Build) -> onnx.ModelProto:
    """A mask that is known only when the model runs, besides a constant one."""
    x, mask = b.tokens(), b.input("mask", (BATCH, 1, 1, TOKENS))
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    scores = b.plus(b.times(b.product(q, b.turn(k, 0, 1, 3, 2)), 0.5), mask)
    scores = b.plus(scores, b.number(np.random.default_rng(0).standard_normal((HEADS, TOKENS, TOKENS))))
    return b.finish(b.join(b.product(b.softmax(scores), v)))


SPELLINGS: dict[str, Callable[[Build], onnx.ModelProto]] = {
    function.__name__: function
    for function in (
        three_products,
        merged_and_picked,
        merged_and_split,
        split_columns,
        interleaved_heads,
        both_scaled_and_guarded,
        shifted_windows,
        cosine,
        fewer_keys,
        convolved,
        einsums,
        one_head,
        one_query,
        given_mask,
    )
}

PIPELINES = {
    "ONNX names": (*LAYOUT, attention.apply, sink.apply),
    "programs": (LAYOUT[0], linear.apply, elementwise.apply, *LAYOUT[1:], attention.apply, sink.apply),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str, pipeline: str) -> None:
    proto = SPELLINGS[name](Build())
    graph = rewritten(proto, PIPELINES[pipeline])
    assert graph.count("attention") == 1
    assert graph.count("softmax", "matmul", "Einsum") == 0
    assert inner_permutes(graph) == (1 if name == "convolved" else 0)
    assert_equal_to_onnxruntime(graph, proto)


def test_the_merged_product_is_read_in_place() -> None:
    graph = rewritten(merged_and_picked(Build()))
    (node,) = [node for node in graph.nodes if node.op == "attention"]
    assert node.input(0) is node.input(1) is node.input(2)
    assert node.attrs["columns"] == (0, WIDTH, 2 * WIDTH)
    assert (node.attrs["heads"], node.attrs["dim"], node.attrs["scale"]) == (HEADS, DIM, DIM**-0.5)
    assert node.attrs["query_map"] == (((BATCH, TOKENS),), ((TOKENS, 1),))


def test_interleaved_heads_have_strides() -> None:
    graph = rewritten(interleaved_heads(Build()))
    (node,) = [node for node in graph.nodes if node.op == "attention"]
    assert node.attrs["columns"] == (0, DIM, 2 * DIM)
    assert node.attrs["head_strides"] == (2 * DIM + 7,) * 3
    assert node.attrs["value_dim"] == 7
    assert node.attrs["mask_shape"] == (1, HEADS, TOKENS, TOKENS)


def test_windows_are_rows_of_the_image() -> None:
    graph = rewritten(shifted_windows(Build()))
    (node,) = [node for node in graph.nodes if node.op == "attention"]
    assert node.attrs["query_map"] == node.attrs["key_map"] == (((2, 32), (2, 4)), ((4, 8), (4, 1)))
    assert node.attrs["mask_shape"] == (4, HEADS, 16, 16)


def across_channels(b: Build) -> onnx.ModelProto:
    """XCiT: softmax over pairs of channels."""
    x = b.tokens()
    q, k, v = (b.turn(b.heads(b.dense(x, WIDTH)), 0, 1, 3, 2) for _ in range(3))
    p = b.softmax(b.product(q, b.turn(k, 0, 1, 3, 2)))
    return b.finish(b.join(b.turn(b.product(p, v), 0, 1, 3, 2)))


def without_softmax(b: Build) -> onnx.ModelProto:
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    p = b.op("Relu", [b.product(q, b.turn(k, 0, 1, 3, 2))], (BATCH, HEADS, TOKENS, TOKENS))
    return b.finish(b.join(b.product(p, v)))


def scaled_softly(b: Build) -> onnx.ModelProto:
    """The softmax is used besides: its value is needed."""
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    p = b.softmax(b.product(q, b.turn(k, 0, 1, 3, 2)))
    b.output("weights", p)
    return b.finish(b.join(b.product(p, v)))


def softmax_of_queries(b: Build) -> onnx.ModelProto:
    x = b.tokens()
    q, k, v = (b.heads(b.dense(x, WIDTH)) for _ in range(3))
    p = b.softmax(b.product(q, b.turn(k, 0, 1, 3, 2)), axis=2)
    return b.finish(b.join(b.product(p, v)))


@pytest.mark.parametrize("build", [across_channels, without_softmax, softmax_of_queries, scaled_softly])
def test_what_is_no_attention_keeps_its_meaning(build: Callable[[Build], onnx.ModelProto]) -> None:
    proto = build(Build())
    graph = rewritten(proto)
    assert graph.count("MatMul") == 4
    assert graph.count("matmul") == (1 if build is scaled_softly else 2)
    assert_equal_to_onnxruntime(graph, proto)


def test_keys_need_no_transpose_of_their_own() -> None:
    graph = rewritten(without_softmax(Build()))
    first = next(node for node in graph.nodes if node.op == "matmul")
    assert first.attrs["transpose_b"]
    assert first.input(1).shape == (BATCH, HEADS, TOKENS, DIM)
