"""Elementwise work in epilogues, merged programs and absorbed concatenations, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite import fuse
from edgevit.model import load
from tests.compiler.spelling import Speller, compiled, draw, ops, spell, terms

X = Speller.x
IMAGE = (1, 6, 4, 4)


def conv(s: Speller, x: str, *bias: Any, inner: int = 6, **attributes: Any) -> str:
    return s("Conv", x, draw(6, inner, 1, 1), *bias, **attributes)


def silu(s: Speller, x: str) -> str:
    return s("Mul", x, s("Sigmoid", x))


def inside(graph: Graph) -> list[Node]:
    """Nodes between the reorderings of the model's input and output."""
    return [node for node in graph.nodes if node.op not in ("permute", "reshape")]


ANCHORS: dict[str, Any] = {
    "conv": (IMAGE, IMAGE, lambda s: conv(s, X, draw(6))),
    "depthwise": (IMAGE, IMAGE, lambda s: s("Conv", X, draw(6, 1, 3, 3), draw(6), group=6, pads=[1] * 4)),
    "linear": ((2, 5, 8), (2, 5, 7), lambda s: s("MatMul", X, draw(8, 7))),
    "matmul": ((2, 5, 5), (2, 5, 5), lambda s: s("MatMul", X, X)),
    "layer_norm": ((2, 5, 8), (2, 5, 8), lambda s: s("LayerNormalization", X, draw(8), draw(8))),
    "reduce": (IMAGE, (1, 6, 1, 1), lambda s: s("GlobalAveragePool", X)),
    "pool": (IMAGE, (1, 6, 2, 2), lambda s: s("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2])),
    "resize": (IMAGE, (1, 6, 8, 8), lambda s: s("Resize", X, "", np.asarray([1, 1, 2, 2]), mode="linear")),
}


@pytest.mark.parametrize("op", ANCHORS)
def test_activation_joins_its_producer(op: str) -> None:
    shape, output, spelling = ANCHORS[op]
    graph = compiled(spell(lambda s: silu(s, spelling(s)), shape, output))
    assert [node.op for node in inside(graph)] == [op]
    assert terms(graph)[-1] == "silu"


def test_bias_comes_first() -> None:
    graph = compiled(spell(lambda s: silu(s, conv(s, X, draw(6))), IMAGE))
    (node,) = inside(graph)
    assert node.attrs["epilogue"].terms[0].op == "add"
    assert node.inputs[-1].shape == (6,)


def test_residual_joins_the_later_producer() -> None:
    def spelling(s: Speller) -> str:
        first = s("Conv", X, draw(6, 6, 1, 1) + 1)
        return s("Add", s("Relu", first), s("Tanh", conv(s, s("Sigmoid", conv(s, X)), draw(6))))

    graph = compiled(spell(spelling, IMAGE))
    assert [node.op for node in inside(graph)] == ["conv"] * 3
    assert [term.op for term in inside(graph)[-1].attrs["epilogue"].terms] == ["add", "tanh", "add"]


def test_a_value_read_twice_is_stored() -> None:
    def spelling(s: Speller) -> str:
        image = conv(s, X)
        return s("Add", s("Tanh", image), conv(s, image))

    graph = compiled(spell(spelling, IMAGE))
    assert [node.op for node in inside(graph)] == ["conv", "conv"]
    assert terms(graph) == ["tanh", "add"]


def test_a_returned_value_is_stored() -> None:
    def spelling(s: Speller) -> list[str]:
        product = s("MatMul", X, draw(8, 8))
        return [product, s("Relu", product)]

    assert ops(compiled(spell(spelling))) == ["linear", "pointwise"]


def test_chains_and_diamonds_merge() -> None:
    def spelling(s: Speller) -> str:
        wave = s("Sin", X)
        return s("Mul", s("Add", s("Tanh", X), draw(8)), s("Sub", s("Exp", wave), draw(5, 1)))

    graph = compiled(spell(spelling))
    assert ops(graph) == ["pointwise"]
    assert len(graph.nodes[0].inputs) == 3


def test_equal_operations_in_merged_programs_are_computed_once() -> None:
    graph = compiled(spell(lambda s: s("Add", s("Tanh", s("Neg", X)), s("Exp", s("Neg", X)))))
    assert terms(graph).count("neg") == 1


def test_what_is_repeated_is_computed_before() -> None:
    def spelling(s: Speller) -> str:
        row = s("Exp", s("ReduceMax", X, axes=[1]))
        return s("Add", X, s("Tanh", s("Mul", row, draw(8))))

    graph = compiled(spell(spelling))
    assert ops(graph) == ["reduce", "pointwise"]
    assert [term.op for term in graph.nodes[0].attrs["epilogue"].terms] == ["exp", "mul", "tanh"]


def test_a_reshape_between_is_moved_away() -> None:
    def spelling(s: Speller) -> str:
        image = s("Reshape", s("MatMul", X, draw(8, 8)), (2, 5, 2, 4))
        return s("Add", s("Mul", image, draw(2, 4)), s("Reshape", s("Tanh", X), (2, 5, 2, 4)))

    graph = compiled(spell(spelling, (2, 5, 8), (2, 5, 2, 4)))
    assert ops(graph) == ["linear", "reshape"]
    assert sorted(terms(graph)) == ["add", "mul", "tanh"]
    assert graph.nodes[0].output.shape == (2, 5, 8)


def test_an_operand_that_cuts_a_reshape_keeps_it() -> None:
    def spelling(s: Speller) -> str:
        return s("Mul", s("Reshape", s("MatMul", X, draw(8, 8)), (2, 5, 2, 4)), draw(2, 1))

    graph = compiled(spell(spelling, (2, 5, 8), (2, 5, 2, 4)))
    assert [node.op for node in inside(graph)] == ["linear", "pointwise"]


def test_integers_do_not_join_a_floating_point_kernel() -> None:
    def spelling(s: Speller) -> str:
        product = s("MatMul", X, draw(8, 8))
        return s("Cast", s("Cast", product, to=6), to=1)

    assert ops(compiled(spell(spelling))) == ["linear", "pointwise"]


def test_concatenation_disappears_into_a_convolution() -> None:
    def spelling(s: Speller) -> str:
        return conv(s, s("Concat", silu(s, conv(s, X)), X, axis=1), draw(6), inner=12)

    graph = compiled(spell(spelling, IMAGE))
    assert [node.op for node in inside(graph)] == ["conv", "conv"]
    assert inside(graph)[-1].attrs["sources"] == 2


def test_concatenation_read_twice_is_made() -> None:
    def spelling(s: Speller) -> str:
        both = s("Concat", s("Tanh", X), X, axis=1)
        return s("Add", conv(s, both, inner=12), s("Sigmoid", conv(s, s("Relu", both), inner=12)))

    assert ops(compiled(spell(spelling, IMAGE))).count("concat") == 1


def test_squeeze_and_excite() -> None:
    def spelling(s: Speller) -> str:
        image = silu(s, conv(s, X, draw(6)))
        gate = s("Relu", conv(s, s("GlobalAveragePool", image), draw(6)))
        return conv(s, s("Mul", image, s("Sigmoid", conv(s, gate))))

    graph = compiled(spell(spelling, IMAGE))
    assert [node.op for node in inside(graph)] == ["conv", "reduce", "conv", "conv", "pointwise", "conv"]


def test_shapes_of_operands_under_a_reshape() -> None:
    x, weight = Tensor("x", (6, 4)), Tensor("w", (4, 4), "float32", draw(4, 4))
    made, shaped = Tensor("made", (6, 4)), Tensor("shaped", (1, 2, 3, 4))
    from edgevit.compiler.pointwise import Operand, Pointwise, Term

    bias = Tensor("b", (2, 3, 1))
    result = Tensor("y", (1, 2, 3, 4))
    program = Pointwise((Operand(shaped.shape), Operand(bias.shape)), (Term("add", (0, 1)),))
    nodes = [
        Node("linear", [x, weight], [made]),
        Node("reshape", [made], [shaped]),
        Node("pointwise", [shaped, bias], [result], {"program": program}),
    ]
    graph = Graph([x, bias], [result], nodes, 17)
    fuse.apply(graph)
    assert ops(graph) == ["reshape", "linear", "reshape"]
    assert graph.nodes[1].inputs[2].shape == (6, 1)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevit_s"])
def test_mobilevit_is_all_kernels(shared_models: Path, name: str) -> None:
    proto = load(shared_models / f"{name}.onnx").proto
    graph = compiled(proto, 1e-4)
    counts = {op: graph.count(op) for op in ops(graph)}
    assert counts == {
        "permute": 1,
        "conv": 28,
        "depthwise": 7,
        "layer_norm": 21,
        "linear": 37,
        "attention": 9,
        "reduce": 1,
    }
    assert {layer for node in graph.nodes for layer in node.layers} >= {
        node.name for node in proto.graph.node if node.op_type in ("Conv", "MatMul", "Gemm", "Sigmoid")
    }
