"""Linears that read the same tensor for one attention (queries, keys, values) become one with more columns."""

from __future__ import annotations

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.fuse import epilogue_inputs, epilogue_of
from edgevit.compiler.rewrite.programs import bias_program


def apply(graph: Graph) -> None:
    """Merge linears that only attention reads: it takes columns of a wider matrix at no cost.

    Other readers would need their columns copied, which costs more than one read of the input saves.
    """
    groups: dict[tuple[Tensor, str], list[Node]] = {}
    for node in graph.nodes:
        if node.op == "linear" and _only_biased(node) and _readers(graph, node.output) is not None:
            groups.setdefault((_rows(graph, node.input(0)), node.output.dtype), []).append(node)
    for (x, _), members in groups.items():
        if len(members) > 1:
            _merge(graph, x, members)
    graph.sort()
    graph.prune()


def _only_biased(node: Node) -> bool:
    """Whether nothing, or one constant per column, is added to the products."""
    program, operands = epilogue_of(node), epilogue_inputs(node)
    if not program.terms:
        return True
    columns = node.output.shape[-1:]
    added = len(program.terms) == 1 and program.terms[0].op == "add" and set(program.terms[0].args) == {0, 1}
    return added and operands[0].is_constant and operands[0].shape == columns


def _rows(graph: Graph, x: Tensor) -> Tensor:
    """``x`` before reshapes that keep its rows whole."""
    node = graph.producer(x)
    while node is not None and node.op == "reshape" and node.input(0).shape[-1:] == x.shape[-1:]:
        x = node.input(0)
        node = graph.producer(x)
    return x


def _readers(graph: Graph, tensor: Tensor) -> list[tuple[Node, Tensor]] | None:
    """Attention nodes that read a matrix, and as what tensor; None if something else reads it."""
    if graph.is_output(tensor) or not graph.users(tensor):
        return None
    found: list[tuple[Node, Tensor]] = []
    for user in graph.users(tensor):
        if user.op == "attention" and not any(mask is tensor for mask in user.inputs[3:]):
            found.append((user, tensor))
            continue
        if user.op != "reshape" or user.output.shape[-1:] != tensor.shape[-1:]:
            return None
        behind = _readers(graph, user.output)
        if behind is None:
            return None
        found += behind
    return found


def _merge(graph: Graph, x: Tensor, members: list[Node]) -> None:
    widths = [node.output.shape[-1] for node in members]
    weights = [node.input(1).data for node in members]
    biases = [epilogue_inputs(node) for node in members]
    dtype, name = members[0].output.dtype, members[0].output.name
    total, rows = sum(widths), x.shape[:-1]
    merged = graph.tensor(members[0].output, (*rows, total))
    inputs: list[Tensor | None] = [
        x,
        graph.constant(f"{name}.weight", np.concatenate([w for w in weights if w is not None], 1)),
    ]
    attrs = {}
    if any(biases):
        vectors = [b[0].data if b else np.zeros(width, dtype) for b, width in zip(biases, widths, strict=True)]
        bias = graph.constant(f"{name}.bias", np.concatenate([v for v in vectors if v is not None]))
        inputs.append(bias)
        attrs["epilogue"] = bias_program(merged.shape, bias)
    layers = tuple(dict.fromkeys(layer for node in members for layer in node.layers))
    graph.insert_before(members[0], Node("linear", inputs, [merged], attrs, layers))
    starts = np.cumsum([0, *widths[:-1]])
    readers = [_readers(graph, node.output) or [] for node in members]
    for start, found in zip(starts, readers, strict=True):
        for user, tensor in found:
            _read_columns(graph, user, tensor, merged, int(start))
    graph.changed()


def _read_columns(graph: Graph, user: Node, old: Tensor, merged: Tensor, start: int) -> None:
    """Let an attention read columns from ``start`` of ``merged`` instead of ``old``."""
    columns = list(user.attrs["columns"])
    for index in range(3):
        if user.inputs[index] is old:
            user.inputs[index] = merged
            columns[index] += start
    user.attrs = {**user.attrs, "columns": tuple(columns)}
    graph.changed()
