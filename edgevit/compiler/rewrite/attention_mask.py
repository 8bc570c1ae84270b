"""What is added to attention's scores, brought to the shape (batches, heads, queries, keys)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand as PointwiseOperand
from edgevit.compiler.pointwise import Pointwise, Term
from edgevit.compiler.rewrite.attention_operand import Operand
from edgevit.compiler.rewrite.movement import arrange
from edgevit.compiler.views import View

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Mask:
    """A summand of the scores.

    Attributes:
        tensor: a relative position bias, or a mask of large negative numbers.
        factor: what it is multiplied by.
        shape: of the scores where it is added: any batch axes, queries, keys.
    """

    tensor: Tensor
    factor: float
    shape: tuple[int, ...]


def masked_rows(masks: tuple[Mask, ...]) -> bool:
    """Whether some query may have no key at all (then softmax's NaN would matter)."""
    import numpy as np

    if any(mask.tensor.data is None for mask in masks):
        return True
    total = sum(np.asarray(mask.tensor.data, np.float64) * mask.factor for mask in masks)
    return bool(np.any(np.all(np.isneginf(total), axis=-1))) if masks else False


def merge(
    graph: Graph, masks: tuple[Mask, ...], queries: Operand, nodes: list[Node], layers: tuple[str, ...]
) -> list[Tensor] | None:
    """All masks as one tensor, in a list that is empty if there are none; None if they do not fit.

    Args:
        graph: gets the new values.
        masks: the summands.
        queries: how the batch axes of the scores come apart into batches and heads.
        nodes: those that compute the tensor are added here.
        layers: names for these nodes.
    """
    import numpy as np

    constant: np.ndarray[Any, Any] | None = None
    dynamic: list[Tensor] = []
    for mask in masks:
        form = _form(mask, queries)
        if form is None:
            return None
        if mask.tensor.data is not None:
            value = form.view.apply(mask.tensor.data.reshape(form.split))
            value = np.broadcast_to(value, form.repeated).reshape(form.shape)
            value = np.ascontiguousarray(value) * np.asarray(mask.factor, value.dtype)
            constant = value if constant is None else constant + value
        elif mask.factor != 1 or form.view.shape != form.repeated:
            return None
        else:
            dynamic.append(graph.tensor(mask.tensor, form.shape))
            nodes.append(arrange(mask.tensor, form.view, dynamic[-1], layers))
    total = dynamic if constant is None else [*dynamic, graph.constant("mask", constant)]
    while len(total) > 1:
        total = [_added(graph, total[0], total[1], nodes, layers), *total[2:]]
    return total


@dataclass(frozen=True)
class _Form:
    """How a mask becomes (batches, heads, queries, keys).

    Attributes:
        split: its shape with one axis for each part of a batch axis.
        view: that reordered: parts of batches, parts of heads, queries, keys.
        repeated: the view's shape where the mask is repeated along all parts of batches, or along none.
        shape: the result's.
    """

    split: tuple[int, ...]
    view: View
    repeated: tuple[int, ...]
    shape: tuple[int, ...]


def _form(mask: Mask, queries: Operand) -> _Form | None:
    heads, inside = queries.head_place
    # Strides in the flattened batch axes, where heads step by ``inside``.
    whole = View.of(mask.shape[:-2]).cut([inside, inside * heads])
    sizes = (1,) * (len(mask.shape) - len(mask.tensor.shape)) + mask.tensor.shape
    parts = [(atom, size > 1) for dim, size in zip(whole.dims, sizes[:-2], strict=True) for atom in dim]
    split = [atom.extent if there else 1 for atom, there in parts]
    is_head = [heads > 1 and inside <= atom.stride < inside * heads for atom, _ in parts]
    batches = [index for index, head in enumerate(is_head) if not head]
    columns = [index for index, head in enumerate(is_head) if head]
    if len({parts[index][1] for index in columns}) > 1:
        return None
    view = View.of((*split, *sizes[-2:])).transpose((*batches, *columns, len(split), len(split) + 1))
    full = [parts[index][0].extent if any(parts[b][1] for b in batches) else 1 for index in batches]
    repeated = (*full, *view.shape[len(batches) :])
    shape = (prod(full), prod(split[index] for index in columns), *sizes[-2:])
    return _Form((*split, *sizes[-2:]), view, repeated, shape)


def _added(graph: Graph, left: Tensor, right: Tensor, nodes: list[Node], layers: tuple[str, ...]) -> Tensor:
    """Sum of two masks."""
    total = graph.tensor(left, [max(a, b) for a, b in zip(left.shape, right.shape, strict=True)])
    program = Pointwise(
        tuple(PointwiseOperand(tensor.shape, tensor.dtype) for tensor in (left, right)),
        (Term("add", (0, 1), dtype=left.dtype),),
    )
    nodes.append(Node("pointwise", [left, right], [total], {"program": program}, layers))
    return total
