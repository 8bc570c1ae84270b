"""Planted faults: rewrites that break the operator they touch, wherever fusion has put it."""

from __future__ import annotations

from dataclasses import replace

from edgevit.compiler.graph import Graph, Node
from edgevit.compiler.pointwise import Operand, Pointwise, Term


def stretch_sigmoid(graph: Graph) -> None:
    """Every sigmoid comes out half a percent too large."""
    for node in graph.nodes:
        for key in ("program", "epilogue"):
            program = node.attrs.get(key)
            if program is not None:
                node.attrs[key] = _scale(program, ("sigmoid", "silu"), 1.005)


def stretch_softmax(graph: Graph) -> None:
    """Every softmax sums to 1.02."""
    for node in list(graph.nodes):
        if node.op in ("softmax", "attention"):
            result = graph.tensor(node.output, node.output.shape)
            graph.replace(node.output, result)
            terms = (Term("constant", (), (1.02,)), Term("mul", (0, 1)))
            program = Pointwise((Operand(result.shape),), terms)
            graph.insert_after(node, Node("pointwise", [node.output], [result], {"program": program}, node.layers))


def _scale(program: Pointwise, operations: tuple[str, ...], factor: float) -> Pointwise:
    """The program with the results of some operations multiplied."""
    first, terms, place = len(program.operands), [], list(range(len(program.operands)))
    for term in program.terms:
        terms.append(replace(term, args=tuple(place[index] for index in term.args)))
        if term.op in operations:
            result = first + len(terms) - 1
            terms += [Term("constant", (), (factor,)), Term("mul", (result, result + 1))]
        place.append(first + len(terms) - 1)
    return Pointwise(program.operands, tuple(terms))
