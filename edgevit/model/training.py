"""Recognise what a training-mode export leaves in a graph, and take it out where that is exact.

Three kinds of leftovers are met:

* ``Dropout`` nodes. At inference they are the identity whatever their ``training_mode`` input says.
* Dropout and stochastic depth spelled with random operators: a random 0/1 mask times ``1 / keep``, so
  that the expected factor is one. These are recognised by following the mask through the graph; a value
  multiplied by a mask whose scale makes the expectation exactly one is replaced by that value.
* ``BatchNormalization`` that normalises by the batch's own statistics. Its result depends on the other
  images of the batch: there is nothing exact to replace it with, so the model is refused, as it is when a
  random value is used in any other way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import ModelError
from edgevit.model.graph import captured_names, constant_value, node_label, opset_of, subgraphs, value_shapes
from edgevit.model.operators import ONNX_DOMAINS, RANDOM_OPERATORS

if TYPE_CHECKING:
    import onnx

_ADVICE = "Export it in evaluation mode: call model.eval() first."
_SHAPE_ONLY = frozenset({"Identity", "Cast", "CastLike", "Reshape", "Unsqueeze", "Squeeze", "Expand"})


@dataclass(frozen=True)
class _Uniform:
    """Random numbers uniform in [0, 1), plus ``shift``."""

    shift: float = 0.0


@dataclass(frozen=True)
class _Mask:
    """Random numbers that are ``scale`` with probability ``keep``, else zero."""

    keep: float
    scale: float = 1.0


@dataclass(frozen=True)
class _Dropped:
    """``base`` times a random factor of expectation ``factor``."""

    base: str
    factor: float


_Token = _Uniform | _Mask | _Dropped


def has_random_nodes(graph: onnx.GraphProto) -> bool:
    """Whether the graph itself (not its subgraphs) holds operators that draw random numbers."""
    return any(node.op_type in RANDOM_OPERATORS and node.domain in ONNX_DOMAINS for node in graph.node)


def strip_dropout_nodes(proto: onnx.ModelProto, where: str | None) -> list[str]:
    """Replace every ``Dropout`` node by its input, in place.

    Returns:
        Notes on what was stripped.

    Raises:
        ModelError: a dropout mask is used, or batch normalization is in training mode.
    """
    graph = proto.graph
    _refuse_training_batch_norm(proto, where)
    used = _consumers(graph)
    replaced: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Dropout" or node.domain not in ONNX_DOMAINS:
            continue
        if len(node.output) > 1 and node.output[1] and used[node.output[1]]:
            raise ModelError(
                f"the mask of {node_label(node)} is used, which happens in training only.",
                where=where,
                advice=_ADVICE,
            )
        replaced[node.output[0]] = node.input[0]
    if not replaced:
        return []
    _substitute(graph, replaced)
    return [f"stripped {len(replaced)} Dropout nodes: dropout is the identity at inference"]


def strip_random_dropout(proto: onnx.ModelProto, where: str | None) -> list[str]:
    """Replace dropout that is spelled with random operators by its input, in place.

    The graph should be constant-folded and its shapes inferred: both are needed to prove exactness.

    Returns:
        Notes on what was stripped.

    Raises:
        ModelError: a random value is used in a way that has no exact counterpart at inference.
    """
    graph = proto.graph
    if not has_random_nodes(graph):
        return []
    walk = _Walk(graph)
    for node in graph.node:
        walk.visit(node)
    walk.refuse_leftovers(where)
    _substitute(graph, walk.replaced)
    return [f"stripped {len(walk.replaced)} random dropout masks: dropout is the identity at inference"]


class _Walk:
    """One pass over a graph in execution order that follows random values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.replaced: dict[str, str] = {}
        self._graph = graph
        self._tokens: dict[str, _Token] = {}
        self._origin: dict[str, onnx.NodeProto] = {}
        self._used = _consumers(graph)
        self._producer = {name: node for node in graph.node for name in node.output}
        self._shapes = value_shapes(graph)
        self._blamed: list[onnx.NodeProto] = []

    def visit(self, node: onnx.NodeProto) -> None:
        if node.op_type in RANDOM_OPERATORS and node.domain in ONNX_DOMAINS:
            token = self._draw(node)
            self._record(node, token, node)
            return
        random = [name for name in (*node.input, *captured_names(node)) if name in self._tokens]
        if not random:
            return
        understood = len(random) == 1 and random[0] in node.input
        self._record(node, self._follow(node, random[0]) if understood else None, self._origin[random[0]])

    def refuse_leftovers(self, where: str | None) -> None:
        if not self._blamed:
            return
        first = Counter(node.op_type for node in self._blamed)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(first.items()))
        raise ModelError(
            f"the result is random: {node_label(self._blamed[0])} is not a dropout that can be taken out "
            f"({kinds} in all).",
            where=where,
            advice=_ADVICE,
        )

    def _record(self, node: onnx.NodeProto, token: _Token | None, origin: onnx.NodeProto) -> None:
        output = node.output[0]
        if isinstance(token, _Dropped) and math.isclose(token.factor, 1.0, rel_tol=1e-5):
            # Whatever comes next sees the plain value. A model may still scale the result by chance:
            # x * mask / keep * 2 stops here and the factor 2 stays in the graph.
            self.replaced[output] = self.replaced.get(token.base, token.base)
            return
        if token is None or not self._used[output] or self._is_output(output):
            self._blamed.append(origin)
            return
        self._tokens[output] = token
        self._origin[output] = origin

    def _is_output(self, name: str) -> bool:
        return any(value.name == name for value in self._graph.output)

    def _draw(self, node: onnx.NodeProto) -> _Token | None:
        attributes = {attribute.name: attribute.f for attribute in node.attribute}
        if node.op_type in {"RandomUniform", "RandomUniformLike"}:
            if attributes.get("low", 0.0) == 0.0 and attributes.get("high", 1.0) == 1.0:
                return _Uniform()
        elif node.op_type == "Bernoulli":
            keep = self._constant(node.input[0])
            return None if keep is None else _Mask(keep)
        return None

    def _follow(self, node: onnx.NodeProto, name: str) -> _Token | None:
        """What a node that takes one random value makes of it; None where that is not understood."""
        token = self._tokens[name]
        position = list(node.input).index(name)
        if node.op_type in _SHAPE_ONLY and position == 0:
            return None if isinstance(token, _Dropped) else token
        if isinstance(token, _Uniform):
            return self._threshold(node, token, position)
        if node.op_type == "Where" and position == 0 and isinstance(token, _Mask):
            return self._select(node, token)
        if node.op_type == "Not" and isinstance(token, _Mask):
            return _Mask(1.0 - token.keep)
        if node.op_type not in {"Mul", "Div"} or (node.op_type == "Div" and position == 1):
            return None
        factor = self._constant(node.input[1 - position])
        if factor is None:
            return self._apply(node, token, node.input[1 - position]) if node.op_type == "Mul" else None
        if factor == 0:
            return None
        return _scaled(token, factor if node.op_type == "Mul" else 1.0 / factor)

    def _threshold(self, node: onnx.NodeProto, token: _Uniform, position: int) -> _Token | None:
        if node.op_type == "Floor" and 0.0 <= token.shift <= 1.0:
            return _Mask(keep=token.shift)
        bound = self._constant(node.input[1 - position]) if len(node.input) == 2 else None
        if bound is None:
            return None
        if node.op_type == "Add":
            return _Uniform(token.shift + bound)
        below = {"Less": True, "LessOrEqual": True, "Greater": False, "GreaterOrEqual": False}.get(node.op_type)
        if below is None or not 0.0 <= bound - token.shift <= 1.0:
            return None
        if position == 1:
            below = not below
        share = bound - token.shift
        return _Mask(keep=share if below else 1.0 - share)

    def _select(self, node: onnx.NodeProto, token: _Mask) -> _Token | None:
        if self._constant(node.input[2]) == 0.0:
            return self._dropped(node, node.input[1], token.keep)
        if self._constant(node.input[1]) == 0.0:
            return self._dropped(node, node.input[2], 1.0 - token.keep)
        return None

    def _apply(self, node: onnx.NodeProto, token: _Token, other: str) -> _Token | None:
        if not isinstance(token, _Mask):
            return None
        return self._dropped(node, other, token.keep * token.scale)

    def _dropped(self, node: onnx.NodeProto, base: str, factor: float) -> _Token | None:
        """A masked value; scaling done before the mask was applied counts too (timm's drop path)."""
        shape = self._shapes.get(node.output[0])
        if shape is None or shape != self._shapes.get(base):
            return None
        producer = self._producer.get(base)
        if producer is not None and producer.op_type == "Div" and not math.isclose(factor, 1.0, rel_tol=1e-5):
            divisor = self._constant(producer.input[1])
            if divisor and math.isclose(factor / divisor, 1.0, rel_tol=1e-5):
                return self._dropped(node, producer.input[0], 1.0)
        return _Dropped(base, factor)

    def _constant(self, name: str) -> float | None:
        """The one number a constant holds, whatever its shape; None if it is not constant or not uniform."""
        value = constant_value(self._graph, self._producer, name)
        if value is None or value.size == 0 or value.dtype.kind not in "fiub":
            return None
        first = value.flat[0]
        return float(first) if (value == first).all() else None


def _scaled(token: _Token, factor: float) -> _Token | None:
    if isinstance(token, _Mask):
        return _Mask(token.keep, token.scale * factor)
    if isinstance(token, _Dropped):
        return _Dropped(token.base, token.factor * factor)
    return None


def _refuse_training_batch_norm(proto: onnx.ModelProto, where: str | None) -> None:
    for node in proto.graph.node:
        if node.op_type != "BatchNormalization" or node.domain not in ONNX_DOMAINS:
            continue
        mode = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        # Before opset 14 the extra outputs themselves meant training.
        statistics = opset_of(proto) < 14 and any(node.output[1:])
        if mode or statistics:
            raise ModelError(
                f"{node_label(node)} is in training mode: it normalises by the batch's own statistics.",
                where=where,
                advice=_ADVICE,
            )


def _consumers(graph: onnx.GraphProto) -> Counter[str]:
    """How often each value is used: by nodes, by subgraphs, as a graph output."""
    used = Counter(value.name for value in graph.output)
    for node in graph.node:
        used.update(node.input)
        used.update(captured_names(node))
    return used


def _substitute(graph: onnx.GraphProto, replaced: dict[str, str]) -> None:
    """Read ``replaced[name]`` wherever ``name`` was read; nodes that produced it are dropped."""
    from onnx import helper

    def settle(name: str) -> str:
        while name in replaced:
            name = replaced[name]
        return name

    kept = [node for node in graph.node if not any(name in replaced for name in node.output)]
    for node in kept:
        _rename_inputs(node, settle)
    # Graph outputs keep their names.
    kept += [
        helper.make_node("Identity", [settle(value.name)], [value.name])
        for value in graph.output
        if value.name in replaced
    ]
    del graph.node[:]
    graph.node.extend(kept)


def _rename_inputs(node: onnx.NodeProto, settle: Callable[[str], str]) -> None:
    for index, name in enumerate(node.input):
        node.input[index] = settle(name)
    for inner in subgraphs(node):
        for child in inner.node:
            _rename_inputs(child, settle)
        for value in inner.output:
            value.name = settle(value.name)
