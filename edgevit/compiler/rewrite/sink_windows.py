"""Operators that cut, pad, pick or join along an axis, on values whose reordering is pending."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.rewrite.layout import Factor, Groups, Lazy, cost, extents, fit, physical, view_of, with_extents
from edgevit.compiler.views import View

if TYPE_CHECKING:
    from edgevit.compiler.rewrite.sink import Walk


def _isolated(lazy: Lazy, axes: Sequence[int]) -> tuple[Groups, dict[int, int]] | None:
    """Physical axes of which the outermost part of each of ``axes`` is one alone, and where it is.

    None if one of the axes has no extent.
    """

    def kind(factor: Factor) -> object:
        return factor[:2] if factor.axis in axes and factor.level == 0 else None

    # Parts of an axis that are neighbours physically must not have been cut apart by the root's shape.
    groups = physical(lazy, kind)
    if any(factor.level and factor.axis in axes for group in groups for factor in group):
        groups = physical(Lazy(Tensor("", (lazy.size,)), lazy.view), kind)
    places = {group[0].axis: index for index, group in enumerate(groups) if group and kind(group[0])}
    return (groups, places) if len(places) == len(axes) else None


def cut(walk: Walk, node: Node) -> bool:
    """Slice: along axes whose outermost part is one physical axis."""
    x, output = node.input(0), node.output
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    lazy = walk.lazy(x)
    axes = [a for a, extent in enumerate(x.shape) if (starts[a], steps[a], output.shape[a]) != (0, 1, extent)]
    found = _isolated(lazy, axes)
    if found is None:
        return False
    groups, places = found
    first, stride, new = [0] * len(groups), [1] * len(groups), {}
    for axis, place in places.items():
        inner = x.shape[axis] // groups[place][0].extent
        if inner > 1 and (steps[axis] != 1 or starts[axis] % inner or output.shape[axis] % inner):
            return False
        first[place], stride[place] = starts[axis] // inner, steps[axis]
        new[axis, 0] = output.shape[axis] // inner
    root = walk.place(lazy.root, View.of(lazy.root.shape), extents(groups))
    groups = with_extents(groups, new)
    attrs = {"starts": tuple(first), "steps": tuple(stride)}
    walk.emit(node, [root], attrs, extents(groups), view_of(groups, len(x.shape)))
    return True


def pad(walk: Walk, node: Node) -> bool:
    """Pad: along axes that are one physical axis."""
    x, output = node.input(0), node.output
    lazy = walk.lazy(x)
    axes = [axis for axis, extent in enumerate(x.shape) if output.shape[axis] != extent]
    found = _isolated(lazy, axes)
    if found is None or any(found[0][place][0].extent != x.shape[axis] for axis, place in found[1].items()):
        return False
    groups, places = found
    before = [0] * len(groups)
    for axis, place in places.items():
        before[place] = node.attrs["before"][axis]
    root = walk.place(lazy.root, View.of(lazy.root.shape), extents(groups))
    groups = with_extents(groups, {(axis, 0): output.shape[axis] for axis in axes})
    attrs = {**node.attrs, "before": tuple(before)}
    walk.emit(node, [root], attrs, extents(groups), view_of(groups, len(x.shape)))
    return True


def gather(walk: Walk, node: Node) -> bool:
    """Gather with a row of indices: along an axis that is one physical axis."""
    x, indices, output = node.input(0), node.input(1), node.output
    lazy, axis = walk.lazy(x), node.attrs["axis"]
    found = _isolated(lazy, [axis])
    if found is None or len(indices.shape) != 1 or found[0][found[1][axis]][0].extent != x.shape[axis]:
        return False
    groups, places = found
    root = walk.place(lazy.root, View.of(lazy.root.shape), extents(groups))
    groups = with_extents(groups, {(axis, 0): output.shape[axis]})
    inputs, attrs = [root, walk.settle(indices)], {"axis": places[axis]}
    walk.emit(node, inputs, attrs, extents(groups), view_of(groups, len(x.shape)))
    return True


def concat(walk: Walk, node: Node) -> bool:
    """Concatenate in the order of the input that moves the fewest elements."""
    axis, output = node.attrs["axis"], node.output
    tensors = [node.input(index) for index in range(len(node.inputs))]
    lazies = [walk.lazy(tensor) for tensor in tensors]
    layouts: dict[object, tuple[Groups, int]] = {}
    for tensor, lazy in zip(tensors, lazies, strict=True):
        found = None if lazy.root.is_constant else _isolated(lazy, [axis])
        if found is not None and found[0][found[1][axis]][0].extent == tensor.shape[axis]:
            order = tuple(factor[:2] for group in with_extents(found[0], {(axis, 0): 0}) for factor in group)
            layouts.setdefault(order, (found[0], found[1][axis]))
    if not layouts:
        return False

    def sized(groups: Groups, tensor: Tensor) -> Groups:
        return with_extents(groups, {(axis, 0): tensor.shape[axis]})

    def present(tensor: Tensor) -> list[int]:
        return [a for a, extent in enumerate(tensor.shape) if extent > 1]

    def price(layout: tuple[Groups, int]) -> tuple[int, bool]:
        fits = [fit(z.view, sized(layout[0], t), present(t)) for z, t in zip(lazies, tensors, strict=True)]
        flat = [factor[:2] for group in layout[0] for factor in group]
        return sum(map(cost, lazies, fits)), all(a < b for a, b in pairwise(flat))

    ranked = sorted(layouts.values(), key=price)
    groups, place = ranked[walk.choose(len(ranked))]
    parts = []
    for tensor, lazy in zip(tensors, lazies, strict=True):
        root, view = lazy.root, fit(lazy.view, sized(groups, tensor), present(tensor))
        if view is None:
            root, view = walk.settle(tensor), fit(View.of(tensor.shape), sized(groups, tensor), present(tensor))
            assert view is not None
        parts.append(walk.place(root, view, extents(sized(groups, tensor))))
    groups = sized(groups, output)
    walk.emit(node, parts, {"axis": place}, extents(groups), view_of(groups, len(output.shape)))
    return True
