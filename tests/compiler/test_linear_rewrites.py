"""Products of matrices in exporters' spellings, and merged queries, keys and values, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevit.compiler.rewrite.fuse import epilogue_inputs
from tests.compiler.spelling import Speller, Spelling, compiled, draw, ops, spell, terms

X = Speller.x


def only(graph: Any, op: str) -> Any:
    (found,) = [node for node in graph.nodes if node.op == op]
    return found


@pytest.mark.parametrize("shape", [(2, 5, 8), (5, 8), (1, 8), (2, 3, 5, 8)])
@pytest.mark.parametrize("bias", [(7,), (1, 7), (1,), ()])
def test_matmul_and_bias(shape: tuple[int, ...], bias: tuple[int, ...]) -> None:
    proto = spell(lambda s: s("Add", draw(*bias), s("MatMul", X, draw(8, 7))), shape, (*shape[:-1], 7))
    graph = compiled(proto)
    assert ops(graph) == ["linear"]
    assert terms(graph) == ["add"]


def test_vectors() -> None:
    assert "linear" in ops(compiled(spell(lambda s: s("MatMul", X, draw(8, 7)), (8,), (7,))))
    assert "linear" in ops(compiled(spell(lambda s: s("MatMul", X, draw(8)), (5, 8), (5,))))


def test_a_constant_with_leading_ones_is_one_matrix() -> None:
    graph = compiled(spell(lambda s: s("MatMul", X, draw(1, 8, 7)), (5, 8), (1, 5, 7)))
    assert only(graph, "linear").input(1).shape == (8, 7)


def test_a_constant_batch_of_matrices_stays_a_batch() -> None:
    graph = compiled(spell(lambda s: s("MatMul", X, draw(2, 8, 7)), (2, 5, 8), (2, 5, 7)))
    assert ops(graph) == ["matmul"]


def test_constant_left_side() -> None:
    graph = compiled(spell(lambda s: s("MatMul", draw(7, 5), X), (2, 5, 8), (2, 7, 8)))
    assert set(ops(graph)) == {"linear", "permute"}


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (7,), (1, 7), (5, 1), (5, 7), ()])
def test_gemm(trans_a: int, trans_b: int, bias: tuple[int, ...] | None) -> None:
    weight = draw(7, 8) if trans_b else draw(8, 7)
    operands = [] if bias is None else [draw(*bias)]
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": 1.5}
    proto = spell(lambda s: s("Gemm", X, weight, *operands, **attributes), (8, 5) if trans_a else (5, 8), (5, 7))
    graph = compiled(proto)
    assert [op for op in ops(graph) if op != "permute"] == ["linear"]


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_with_constant_left_side(trans_a: int, trans_b: int) -> None:
    left = draw(8, 5) if trans_a else draw(5, 8)
    proto = spell(
        lambda s: s("Gemm", left, X, draw(7), transA=trans_a, transB=trans_b, alpha=2.0),
        (7, 8) if trans_b else (8, 7),
        (5, 7),
    )
    assert "linear" in ops(compiled(proto))


def test_gemm_of_two_values() -> None:
    proto = spell(lambda s: s("Gemm", X, s("Tanh", X), draw(5), transB=1, alpha=0.5), (5, 8), (5, 5))
    graph = compiled(proto)
    assert ops(graph) == ["pointwise", "matmul"]


def heads(s: Speller, x: str, order: tuple[int, ...] = (0, 2, 1, 3)) -> str:
    return s("Transpose", s("Reshape", x, (1, 6, 2, 4)), perm=list(order))


def attention(*, biased: tuple[bool, bool, bool] = (True, False, True), gemm: bool = False) -> Spelling:
    """Two heads of size 4 over six tokens, queries, keys and values by linears of their own."""

    def project(s: Speller, index: int) -> str:
        weight = draw(8, 8) + index
        if gemm:
            flat = s("Gemm", s("Reshape", X, (6, 8)), weight, draw(8) * index, transB=1)
            return s("Reshape", flat, (1, 6, 8))
        product = s("MatMul", X, weight)
        return s("Add", product, draw(8) - index) if biased[index] else product

    def spelling(s: Speller) -> str:
        q, k, v = heads(s, project(s, 0)), heads(s, project(s, 1), (0, 2, 3, 1)), heads(s, project(s, 2))
        weights = s("Softmax", s("Div", s("MatMul", q, k), 20.0), axis=-1)
        return s("Reshape", s("Transpose", s("MatMul", weights, v), perm=[0, 2, 1, 3]), (1, 6, 8))

    return spelling


@pytest.mark.parametrize("gemm", [False, True])
def test_queries_keys_and_values_come_from_one_linear(gemm: bool) -> None:
    graph = compiled(spell(attention(gemm=gemm), (1, 6, 8)), 5e-5)
    assert [op for op in ops(graph) if op != "reshape"] == ["linear", "attention"]
    assert only(graph, "linear").output.shape[-1] == 24
    assert only(graph, "attention").attrs["columns"] == (0, 8, 16)


def test_merged_linear_without_any_bias() -> None:
    graph = compiled(spell(attention(biased=(False,) * 3), (1, 6, 8)), 5e-5)
    assert epilogue_inputs(only(graph, "linear")) == []


def test_layers_of_merged_linears_are_kept() -> None:
    merged = only(compiled(spell(attention(), (1, 6, 8)), 5e-5), "linear")
    assert sum(layer.startswith("matmul") for layer in merged.layers) == 3


def test_a_projection_that_is_read_elsewhere_stays_apart() -> None:
    def spelling(s: Speller) -> str:
        q, k, v = (s("MatMul", X, draw(8, 8) + i) for i in range(3))
        weights = s("Softmax", s("MatMul", heads(s, q), heads(s, k, (0, 2, 3, 1))), axis=-1)
        mixed = s("Reshape", s("Transpose", s("MatMul", weights, heads(s, v)), perm=[0, 2, 1, 3]), (1, 6, 8))
        return s("Add", mixed, v)

    graph = compiled(spell(spelling, (1, 6, 8)), 2e-4)
    assert sorted(node.output.shape[-1] for node in graph.nodes if node.op == "linear") == [8, 16]


def test_linears_outside_attention_are_not_merged() -> None:
    proto = spell(lambda s: s("Mul", s("Sigmoid", s("MatMul", X, draw(8, 8))), s("MatMul", X, draw(8, 8) + 1)))
    graph = compiled(proto)
    assert ops(graph) == ["linear", "linear"]


def test_number_of_products_is_kept() -> None:
    weight = np.asarray(draw(8, 8))
    graph = compiled(spell(lambda s: s("MatMul", s("Tanh", s("MatMul", X, weight)), weight)))
    assert ops(graph) == ["linear", "linear"]
