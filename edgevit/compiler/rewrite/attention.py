"""Recognise scaled dot-product attention, however an exporter spells it.

The pattern is ``softmax(scale * q @ k.T + masks) @ v``. How q, k and v come about is not matched but computed: the
chain of reshapes, transposes and slices behind each is one view of the tensor at its root, and the view tells where
batches, tokens and heads lie. The ``attention`` node reads the roots; what it returns is brought into the order the
model had by one permute, which :mod:`edgevit.compiler.rewrite.sink` composes with what follows.

Expects data movement as :mod:`edgevit.compiler.rewrite.movement` leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand as PointwiseOperand
from edgevit.compiler.pointwise import Pointwise, Term
from edgevit.compiler.rewrite import sink
from edgevit.compiler.rewrite.affine import combination, weighted
from edgevit.compiler.rewrite.attention_mask import Mask, masked_rows, merge
from edgevit.compiler.rewrite.attention_operand import Operand, operands
from edgevit.compiler.rewrite.movement import arrange
from edgevit.compiler.views import Atom, View


def apply(graph: Graph) -> None:
    """Replace every attention that fits; others stay products and softmaxes."""
    if not graph.count("softmax"):
        return
    _scale_queries(graph)
    # Queries and keys that are normalised head by head then are rows with all heads side by side, as values are.
    sink.apply(graph, trials=0)
    for node in list(graph.nodes):
        if node.op in ("MatMul", "matmul") and not node.attrs.get("epilogue"):
            _replace(graph, node)
    graph.prune()


def _scale_queries(graph: Graph) -> None:
    """Multiply queries instead of scores where each head has a factor of its own, as in Swin V2.

    The queries are fewer, and may then be scaled in whatever order they lie in.
    """
    for node in list(graph.nodes):
        split = weighted(node)
        scores = graph.producer(split[0]) if split else None
        if split is None or scores is None or scores.op not in ("MatMul", "matmul") or scores.attrs.get("epilogue"):
            continue
        factor, queries = split[1], scores.input(0)
        if factor.shape[-2:] != (1, 1) or len(factor.shape) > len(queries.shape) or node.output.shape != split[0].shape:
            continue
        scaled = graph.tensor(queries, queries.shape)
        program = Pointwise(
            tuple(PointwiseOperand(tensor.shape, tensor.dtype) for tensor in (queries, factor)),
            (Term("mul", (0, 1), dtype=queries.dtype),),
        )
        graph.insert_before(
            node,
            Node("pointwise", [queries, factor], [scaled], {"program": program}, node.layers),
            Node(scores.op, [scaled, *scores.inputs[1:]], node.outputs, scores.attrs, scores.layers),
        )
        graph.remove([node])
    graph.prune()


@dataclass(frozen=True)
class _Scores:
    """What a softmax is taken of.

    Attributes:
        product: the node that multiplies queries and keys.
        scale: factor of the product.
        masks: what is added.
    """

    product: Node
    scale: float
    masks: tuple[Mask, ...] = ()


def _replace(graph: Graph, mix: Node) -> None:
    found = _softmax(graph, mix.input(0))
    if found is None or mix.attrs.get("transpose_b"):
        return
    softmax, guarded = found
    scores = _scores(graph, softmax.input(0), 1.0)
    if scores is None or (guarded and masked_rows(scores.masks)):
        return
    queries, keys = scores.product.input(0), scores.product.input(1)
    batch = scores.product.output.shape[:-2]
    if not queries.shape[:-2] == keys.shape[:-2] == batch or mix.output.shape[:-2] != mix.input(1).shape[:-2]:
        return
    choices = product(
        operands(graph, queries, swapped=False),
        operands(graph, keys, swapped=not scores.product.attrs.get("transpose_b")),
        operands(graph, mix.input(1), swapped=False, scaled=False),
    )
    for q, k, v in choices:
        if _fits(q, k, v) and _emit(graph, mix, scores, (q, k, v)):
            return


def _fits(q: Operand, k: Operand, v: Operand) -> bool:
    """Whether the three agree on batches, heads and sizes, and every row is a query."""
    return (
        q.head_place == k.head_place == v.head_place
        and q.dim == k.dim
        and q.batch_size == k.batch_size == v.batch_size
        and (k.batch, k.tokens) == (v.batch, v.tokens)
        and q.covers_rows
    )


def _emit(graph: Graph, mix: Node, scores: _Scores, parts: tuple[Operand, Operand, Operand]) -> bool:
    q, k, v = parts
    width = q.heads * v.dim
    order = [Atom(extent, stride * width) for extent, stride in q.batch]
    order.insert(q.head_index, Atom(q.heads, v.dim))
    order += [Atom(extent, stride * width) for extent, stride in q.tokens]
    view = View(tuple((atom,) for atom in (*order, Atom(v.dim, 1)))).reshape(mix.output.shape)
    layers = tuple(dict.fromkeys((*scores.product.layers, *mix.layers)))
    fresh: list[Node] = []
    mask = merge(graph, scores.masks, q, fresh, layers)
    if view is None or mask is None:
        return False
    inputs: list[Tensor | None] = []
    for part in parts:
        shape = part.matrix_shape
        if shape != part.root.shape:
            matrix = graph.tensor(part.root, shape)
            fresh.append(Node("reshape", [part.root], [matrix], layers=layers))
            inputs.append(matrix)
        else:
            inputs.append(part.root)
    attrs = {
        "heads": q.heads,
        "dim": q.dim,
        "value_dim": v.dim,
        "scale": scores.scale * q.factor * k.factor,
        "columns": tuple(part.column for part in parts),
        "head_strides": tuple(part.head_stride for part in parts),
        "query_map": (q.batch, q.tokens),
        "key_map": (k.batch, k.tokens),
    }
    for tensor in mask:
        inputs.append(tensor)
        attrs["mask_shape"] = tensor.shape
    result = graph.tensor(mix.output, (*q.matrix_shape[:-1], width))
    fresh.append(Node("attention", inputs, [result], attrs, layers))
    fresh.append(arrange(result, view, mix.output, layers))
    graph.insert_before(mix, *fresh)
    graph.remove([mix])
    return True


def _softmax(graph: Graph, tensor: Tensor) -> tuple[Node, bool] | None:
    """The softmax over the last axis that ``tensor`` is, and whether NaN is replaced by 0 behind it."""
    node = graph.producer(tensor)
    guarded = False
    while node is not None:
        if node.op == "softmax" and not node.attrs.get("log"):
            return node, guarded
        following = None
        if node.op == "reshape" and node.input(0).shape[-2:] == node.output.shape[-2:]:
            following = node.input(0)
        elif not guarded:
            following, guarded = _unguarded(graph, node), True
        node = graph.producer(following) if following is not None else None
    return None


def _unguarded(graph: Graph, node: Node) -> Tensor | None:
    """``x`` of ``where(isnan(x), 0, x)``: how PyTorch's exporter guards rows that are masked throughout."""
    values: list[Tensor | float | None] = list(node.inputs)
    if node.op == "pointwise":
        *constants, last = node.attrs["program"].terms or (None,)
        if last is None or last.op != "where" or any(term.op != "constant" for term in constants):
            return None
        values += [term.params[0] for term in constants]
        values = [values[index] for index in last.args]
    elif node.op != "Where":
        return None
    condition, zero, x = values
    if not isinstance(condition, Tensor) or not isinstance(x, Tensor):
        return None
    number = zero.scalar() if isinstance(zero, Tensor) else zero
    test = graph.producer(condition)
    return x if number == 0 and test is not None and test.op == "IsNaN" and test.input(0) is x else None


def _scores(graph: Graph, tensor: Tensor, factor: float) -> _Scores | None:
    """Product, scale and masks whose weighted sum ``tensor`` is."""
    node = graph.producer(tensor)
    if node is None:
        return None
    if node.op in ("MatMul", "matmul"):
        return None if node.attrs.get("epilogue") else _Scores(node, factor)
    if node.op == "reshape" and node.input(0).shape[-2:] == node.output.shape[-2:]:
        return _scores(graph, node.input(0), factor)
    terms = combination(node)
    if terms is None or not all(_broadcasts(node, summand) for summand, _ in terms):
        return None
    for summand, weight in terms:
        if summand.is_constant or summand.shape[-2:] != tensor.shape[-2:] or summand.size != tensor.size:
            continue
        inner = _scores(graph, summand, factor * weight)
        if inner is not None:
            masks = tuple(Mask(t, factor * w, tensor.shape) for t, w in terms if t is not summand)
            return _Scores(inner.product, inner.scale, inner.masks + masks)
    return None


def _broadcasts(node: Node, summand: Tensor) -> bool:
    """Whether a summand broadcasts into the scores. A number added to all of them changes no softmax."""
    return summand.dtype == node.output.dtype and len(summand.shape) <= len(node.output.shape)
