"""The graph that rewrites work on: ONNX operators at first, edgevit's own at the end.

A node's operator is an ONNX name (``Conv``, ``Add``) until a rewrite turns it into one of edgevit's (written in
lower case: ``conv``, ``attention``). What no rewrite claims keeps its ONNX name and goes to TVM's importer. All
shapes are static; constants are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(eq=False)
class Tensor:
    """A value.

    Attributes:
        name: unique in its graph.
        shape: extent of every axis.
        dtype: numpy's name, such as ``float32``.
        data: its elements if it is a constant.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: np.ndarray[Any, Any] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether its elements are known now."""
        return self.data is not None

    def scalar(self) -> float | None:
        """The number it holds, if it is a constant of one element."""
        return float(self.data.reshape(-1)[0]) if self.data is not None and self.data.size == 1 else None

    def __repr__(self) -> str:
        return f"{'const ' if self.is_constant else ''}{self.name}{list(self.shape)}:{self.dtype}"


@dataclass(eq=False)
class Node:
    """An operation.

    Attributes:
        op: ONNX operator, or one of edgevit's in lower case.
        inputs: None stands for an optional input that is absent.
        outputs: values it defines.
        attrs: the operator's attributes, plain Python values.
        layers: names of the model's nodes that it stands for.
        domain: ONNX domain; empty for the standard operators and edgevit's own.
    """

    op: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    attrs: dict[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    domain: str = ""

    @property
    def output(self) -> Tensor:
        """Its first output."""
        return self.outputs[0]

    def input(self, index: int) -> Tensor:
        """Input that must be there."""
        tensor = self.inputs[index]
        assert tensor is not None, f"{self.op} lacks input {index}"
        return tensor

    def has(self, index: int) -> bool:
        """Whether input ``index`` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.inputs))}) -> {self.outputs} {self.attrs or ''}"


class Graph:
    """Nodes in an order in which every value is defined before it is used.

    Attributes:
        inputs: in the model's order.
        outputs: in the model's order; :meth:`replace` keeps their names.
        nodes: in execution order.
        opset: version of the standard ONNX operators.
    """

    def __init__(self, inputs: list[Tensor], outputs: list[Tensor], nodes: list[Node], opset: int) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.nodes = nodes
        self.opset = opset
        self._names = {t.name for n in nodes for t in (*n.inputs, *n.outputs) if t} | {t.name for t in inputs}
        self._producers: dict[Tensor, Node] | None = None
        self._users: dict[Tensor, list[Node]] = {}

    def tensor(self, like: Tensor | str, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        """New value named after ``like``."""
        base = like if isinstance(like, str) else like.name
        dtype = dtype or ("float32" if isinstance(like, str) else like.dtype)
        return Tensor(self._fresh(base), tuple(int(extent) for extent in shape), dtype)

    def constant(self, name: str, data: np.ndarray[Any, Any]) -> Tensor:
        """New constant."""
        return Tensor(self._fresh(name), tuple(data.shape), str(data.dtype), data)

    def producer(self, tensor: Tensor) -> Node | None:
        """Node that defines ``tensor``; None for inputs and constants."""
        self._index()
        assert self._producers is not None
        return self._producers.get(tensor)

    def users(self, tensor: Tensor) -> list[Node]:
        """Nodes that read ``tensor``, once each, in execution order."""
        self._index()
        return self._users.get(tensor, [])

    def is_output(self, tensor: Tensor) -> bool:
        """Whether the model returns ``tensor``."""
        return any(tensor is output for output in self.outputs)

    def only_user(self, tensor: Tensor) -> Node | None:
        """The one node that reads ``tensor``, if nothing else does and the model does not return it."""
        users = self.users(tensor)
        return users[0] if len(users) == 1 and not self.is_output(tensor) else None

    def insert_before(self, node: Node, *new: Node) -> None:
        """Put nodes in front of ``node``."""
        position = self._position(node)
        self.nodes[position:position] = new
        self._producers = None

    def insert_after(self, node: Node, *new: Node) -> None:
        """Put nodes behind ``node``."""
        position = self._position(node) + 1
        self.nodes[position:position] = new
        self._producers = None

    def remove(self, nodes: Iterable[Node]) -> None:
        """Take nodes out; nothing may read their outputs any more."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self._producers = None

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Let every reader of ``old`` read ``new``, the model's outputs included."""
        for node in self.users(old):
            node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
        self.outputs = [new if tensor is old else tensor for tensor in self.outputs]
        self._producers = None

    def changed(self) -> None:
        """Must be called after a node's inputs or outputs were assigned directly."""
        self._producers = None

    def prune(self) -> None:
        """Drop nodes whose outputs nothing needs."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if any(tensor in needed for tensor in node.outputs):
                kept.append(node)
                needed.update(tensor for tensor in node.inputs if tensor is not None)
        self.nodes = kept[::-1]
        self._producers = None

    def sort(self) -> None:
        """Restore execution order, keeping the present order where it is valid.

        Raises:
            ValueError: the nodes form a cycle.
        """
        pending = list(self.nodes)
        undefined = {tensor for node in pending for tensor in node.outputs}
        ordered: list[Node] = []
        while pending:
            rest = []
            for node in pending:
                if any(tensor in undefined for tensor in node.inputs if tensor is not None):
                    rest.append(node)
                else:
                    ordered.append(node)
                    undefined.difference_update(node.outputs)
            if len(rest) == len(pending):
                raise ValueError("the graph has a cycle")
            pending = rest
        self.nodes = ordered
        self._producers = None

    def count(self, *ops: str) -> int:
        """Number of nodes with one of these operators."""
        return sum(node.op in ops for node in self.nodes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.nodes))

    def _position(self, node: Node) -> int:
        return next(index for index, other in enumerate(self.nodes) if other is node)

    def _fresh(self, base: str) -> str:
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        return name

    def _index(self) -> None:
        if self._producers is not None:
            return
        self._producers = {tensor: node for node in self.nodes for tensor in node.outputs}
        self._users = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                if tensor is not None:
                    self._users.setdefault(tensor, []).append(node)
