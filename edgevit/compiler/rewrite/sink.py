"""Push reorderings from producers towards consumers, so that opposite ones meet and cancel.

Every value is kept as the tensor that holds its elements and a pending :class:`~edgevit.compiler.views.View` of
it. Operators that can work in another order do so and hand the reordering on; the others make it real first. One
walk through the graph settles everything, so it always ends. Where a value in one order meets a value in another,
or where a reordering would be handed on twice, either choice may be the cheaper one: alternatives are tried, and
the one that moves the fewest elements is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.layout import Lazy
from edgevit.compiler.rewrite.movement import arrange
from edgevit.compiler.views import Atoms, View

TRIALS = 48
"""Most alternatives that are tried."""

_NOTHING: frozenset[int] = frozenset()


def apply(graph: Graph, trials: int = TRIALS) -> None:
    """Compose, push down and cancel ``permute`` and ``reshape`` nodes.

    Args:
        graph: changed in place.
        trials: most alternatives to try.
    """
    from edgevit.compiler.rewrite.sink_rules import RULES

    constants: dict[tuple[Tensor, Atoms], Tensor] = {}

    def attempt(choices: dict[int, int]) -> Walk:
        walk = Walk(graph, choices, constants)
        for index, node in enumerate(graph.nodes):
            walk.visit(index, node, RULES.get(node.op))
        walk.finish()
        return walk

    best = attempt({})
    promising = best.promising()[:trials]
    if promising:
        # Nothing handed on at all: never move more than the graph did.
        permutes = [index for index, node in enumerate(graph.nodes) if node.op == "permute"]
        best = min(best, attempt(dict.fromkeys(permutes, 1)), key=lambda walk: walk.cost)
    for index, choice in promising:
        other = attempt({**best.choices, index: choice})
        if other.cost < best.cost:
            best = other
    best.commit()


class Walk:
    """One way to rebuild the graph.

    Args:
        graph: read only, until :meth:`commit`.
        choices: by a node's index, which of its alternatives to take; the first where nothing is said.
        constants: reordered constants, shared by all walks.

    Attributes:
        cost: elements that real permutes move.
    """

    def __init__(self, graph: Graph, choices: dict[int, int], constants: dict[tuple[Tensor, Atoms], Tensor]) -> None:
        self.choices = choices
        self.cost = 0
        self._alternatives: dict[int, int] = {}
        self._caused: Counter[int] = Counter()
        self._causes: dict[Tensor, frozenset[int]] = {}
        self._blamed = _NOTHING
        self.nodes: list[Node] = []
        self._graph = graph
        self._constants = constants
        self._lazies: dict[Tensor, Lazy] = {}
        self._moved: dict[tuple[Tensor, Atoms], Tensor] = {}
        self._shaped: dict[tuple[Tensor, tuple[int, ...]], Tensor] = {}
        self._index = 0
        self._node: Node | None = None

    def visit(self, index: int, node: Node, rule: Callable[[Walk, Node], bool] | None) -> None:
        """Rebuild one node."""
        self._index, self._node = index, node
        empty = any(tensor.size == 0 for tensor in (*node.inputs, *node.outputs) if tensor)
        self._blamed = _NOTHING.union(*(self._causes.get(t, ()) for t in node.inputs if t))
        if rule is None or empty or not rule(self, node):
            self.keep(node)

    def choose(self, count: int) -> int:
        """Which of ``count`` alternatives the node at hand takes."""
        if count > 1:
            self._alternatives[self._index] = count
            self._blamed |= {self._index}
        return min(self.choices.get(self._index, 0), count - 1)

    def lazy(self, tensor: Tensor) -> Lazy:
        """A value of the old graph, possibly with a pending reordering."""
        return self._lazies.get(tensor) or Lazy(tensor, View.of(tensor.shape))

    def hand_on(self, tensor: Tensor, lazy: Lazy) -> None:
        """Let a value of the old graph be this."""
        self._lazies[tensor] = lazy
        if not lazy.view.is_identity:
            self._causes[tensor] = self._blamed

    def settle(self, tensor: Tensor) -> Tensor:
        """A value of the old graph in its logical shape and order."""
        lazy = self.lazy(tensor)
        return self.place(lazy.root, lazy.view, tensor.shape)

    def place(self, root: Tensor, view: View, shape: Sequence[int]) -> Tensor:
        """The arrangement ``view`` of ``root`` for real, in ``shape``."""
        return self._reshaped(root if view.is_identity else self._permuted(root, view, shape), tuple(shape))

    def keep(self, node: Node) -> None:
        """Leave a node as it is: inputs in logical order, outputs too."""
        inputs = [None if tensor is None else self.settle(tensor) for tensor in node.inputs]
        self.nodes.append(Node(node.op, inputs, node.outputs, node.attrs, node.layers, node.domain))

    def emit(
        self, node: Node, inputs: Sequence[Tensor | None], attrs: Mapping[str, object], shape: Sequence[int], view: View
    ) -> None:
        """A node like ``node`` with other inputs and attributes, whose output's logical order is ``view``."""
        old = node.output
        output = old if view.is_identity and tuple(shape) == old.shape else Tensor(old.name, tuple(shape), old.dtype)
        self.nodes.append(Node(node.op, list(inputs), [output], dict(attrs), node.layers, node.domain))
        self.hand_on(old, Lazy(output, view))

    def promising(self) -> list[tuple[int, int]]:
        """Alternatives (node index, choice) that could be cheaper, the likeliest first.

        A reordering that would be made real at its own node costs its size there; unless more than that was
        moved on its account, there is nothing to gain.
        """
        found = []
        for index, count in self._alternatives.items():
            gain = self._caused[index] - self._graph.nodes[index].output.size
            if gain > 0 or (self._caused[index] and self._graph.nodes[index].op != "permute"):
                found += [(-gain, index, choice) for choice in range(1, count)]
        return [(index, choice) for _, index, choice in sorted(found)]

    def _pay(self, elements: int) -> None:
        self.cost += elements
        self._caused.update(dict.fromkeys(self._blamed, elements))

    def finish(self) -> None:
        """Bring the model's outputs into their order, under their own names."""
        self._node = None
        for tensor in self._graph.outputs:
            lazy = self.lazy(tensor)
            if lazy.root is tensor:
                continue
            moved = self._moved.get((lazy.root, lazy.view.atoms))
            if moved is not None:
                lazy = Lazy(moved, View.of(moved.shape))
            if not lazy.view.is_identity:
                self._blamed = self._causes[tensor]
                self._pay(tensor.size)
            self.nodes.append(arrange(lazy.root, lazy.view, tensor))
            self._lazies.pop(tensor)

    def commit(self) -> None:
        """Make this walk's nodes the graph's."""
        graph = self._graph
        known = {tensor for node in graph.nodes for tensor in (*node.inputs, *node.outputs) if tensor}
        graph.nodes = self.nodes
        graph.changed()
        graph.prune()
        for tensor in dict.fromkeys(t for node in graph.nodes for t in (*node.inputs, *node.outputs) if t):
            if tensor not in known:
                tensor.name = graph.tensor(tensor, ()).name

    def _permuted(self, root: Tensor, view: View, shape: Sequence[int]) -> Tensor:
        store = self._constants if root.is_constant else self._moved
        key = (root, view.atoms)
        if key not in store:
            result = Tensor(root.name, tuple(shape), root.dtype)
            store[key] = result
            if root.data is not None:
                import numpy as np

                result.data = np.ascontiguousarray(view.apply(root.data)).reshape(result.shape)
            else:
                self._pay(root.size)
                self.nodes.append(arrange(root, view, result, self._node.layers if self._node else ()))
        return store[key]

    def _reshaped(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tensor.shape == shape:
            return tensor
        key = (tensor, shape)
        if key not in self._shaped:
            result = Tensor(tensor.name, shape, tensor.dtype)
            self._shaped[key] = result
            if tensor.data is not None:
                result.data = tensor.data.reshape(shape)
            else:
                self.nodes.append(Node("reshape", [tensor], [result], layers=self._node.layers if self._node else ()))
        return self._shaped[key]
