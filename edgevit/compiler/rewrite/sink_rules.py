"""How each operator works on values whose reordering is pending.

A rule rebuilds one node in a :class:`~edgevit.compiler.rewrite.sink.Walk` and hands on what is still to be
reordered; it returns False, having done nothing, where the node needs its inputs in logical order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise
from edgevit.compiler.rewrite.layout import Factor, Groups, Lazy, extents, fit, physical, view_of, with_extents
from edgevit.compiler.views import Atom, View, merged

if TYPE_CHECKING:
    from edgevit.compiler.rewrite.sink import Walk

_ELEMENTWISE = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu
Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu
Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign
Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""ONNX operators that treat all elements alike, for those that are still there."""


def _movement(walk: Walk, node: Node) -> bool:
    x, output = node.input(0), node.output
    lazy = walk.lazy(x)
    view, perm = node.attrs.get("view", x.shape), node.attrs.get("perm", range(len(x.shape)))
    moved = None
    # The alternative is to reorder here, once, where several consumers would each hand it on.
    if node.op == "reshape" or walk.choose(2) == 0:
        moved = lazy.view.permute(view, perm, output.shape)
        if moved is not None:
            walk.hand_on(output, Lazy(lazy.root, moved))
            return True
    root, composed = lazy.root, lazy.view.permute(view, perm, (output.size,))
    if composed is None:
        root, composed = walk.settle(x), View.of(view).transpose(perm)
    walk.hand_on(output, Lazy(walk.place(root, composed, output.shape), View.of(output.shape)))
    return True


def _pointwise(walk: Walk, node: Node) -> bool:
    rank, shape = len(node.output.shape), node.output.shape
    present = [tensor for tensor in node.inputs if tensor is not None]
    operands = [_widened(walk.lazy(tensor), rank) for tensor in present]
    full = [lazy for lazy in operands if lazy.size == node.output.size and not lazy.root.is_constant]
    if not full:
        return False
    layouts = {lazy.view.atoms: lazy for lazy in full}

    def cost(driver: Lazy) -> tuple[int, bool]:
        groups = _operand_groups(driver, operands)
        return sum(map(_cost, operands, (_fitted(lazy, groups) for lazy in operands))), driver.view.is_identity

    ranked = sorted(layouts.values(), key=cost)
    driver = ranked[walk.choose(len(ranked))]
    groups = _operand_groups(driver, operands)
    tensors = [_placed(walk, lazy, old, groups, shape) for lazy, old in zip(operands, present, strict=True)]
    attrs = dict(node.attrs)
    if "program" in attrs:
        program: Pointwise = attrs["program"]
        attrs["program"] = replace(program, operands=tuple(Operand(t.shape, t.dtype) for t in tensors))
    rest = iter(tensors)
    inputs = [None if tensor is None else next(rest) for tensor in node.inputs]
    walk.emit(node, inputs, attrs, extents(groups), view_of(groups, rank))
    return True


def _widened(lazy: Lazy, rank: int) -> Lazy:
    missing = rank - len(lazy.view.dims)
    return Lazy(lazy.root, View(((),) * missing + lazy.view.dims)) if missing else lazy


def _present(lazy: Lazy) -> frozenset[int]:
    return frozenset(axis for axis, dim in enumerate(lazy.view.dims) if dim)


def _operand_groups(driver: Lazy, operands: Sequence[Lazy]) -> Groups:
    """Physical axes of ``driver`` along each of which an operand extends or is repeated, never in part."""
    patterns = [_present(lazy) for lazy in operands]
    return physical(driver, lambda factor: tuple(factor.axis in pattern for pattern in patterns))


def _fitted(lazy: Lazy, groups: Groups) -> View | None:
    return fit(lazy.view, groups, _present(lazy))


def _cost(lazy: Lazy, fitted: View | None) -> int:
    return 0 if lazy.root.is_constant or (fitted is not None and fitted.is_identity) else lazy.size


def _placed(walk: Walk, lazy: Lazy, old: Tensor, groups: Groups, shape: Sequence[int]) -> Tensor:
    """An operand in the physical order ``groups`` of a value of logical ``shape``."""
    fitted = _fitted(lazy, groups)
    if fitted is None:
        lazy = _widened(Lazy(walk.settle(old), View.of(old.shape)), len(shape))
        fitted = _fitted(lazy, groups)
        assert fitted is not None
    if lazy.size == 1 and len(lazy.root.shape) <= len(groups):
        return lazy.root
    target = fitted.shape
    if lazy.size < prod(extents(groups)):
        if fitted.is_identity and len(lazy.root.shape) <= len(groups) and _bare(lazy.root.shape) == _bare(target):
            return lazy.root
        target = _bare(target)
    return walk.place(lazy.root, fitted, target)


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape without leading ones."""
    first = next((index for index, extent in enumerate(shape) if extent != 1), len(shape))
    return tuple(shape[first:])


def _rows(walk: Walk, node: Node) -> bool:
    """Operators on the last axis: any order of rows will do."""
    x, output = node.input(0), node.output
    first = 2 if node.op == "linear" else 3
    program: Pointwise | None = node.attrs.get("epilogue")
    if program is not None:
        first = len(node.inputs) - len(program.operands) + 1
    width, size = output.shape[-1], x.shape[-1]
    if any(t is None or _bare(t.shape) not in ((), (width,)) for t in node.inputs[first:]):
        return False
    lazy = walk.lazy(x)
    if lazy.view.dims[-1] != merged([Atom(size, 1)]):
        lazy = Lazy(walk.settle(x), View.of(x.shape))
    root = lazy.root
    if not root.shape or root.shape[-1] != size:
        root = walk.place(root, View.of(root.shape), x.shape if lazy.view.is_identity else (root.size // size, size))
    shape = (*root.shape[:-1], width)
    walk.emit(node, [root, *node.inputs[1:]], node.attrs, shape, _with_width(lazy.view, size, width))
    return True


def _with_width(view: View, old: int, new: int) -> View:
    """The same rows with ``new`` columns each instead of ``old``."""
    rows = tuple(tuple(Atom(atom.extent, atom.stride // old * new) for atom in dim) for dim in view.dims[:-1])
    return View((*rows, merged([Atom(new, 1)])))


def _reduce(walk: Walk, node: Node) -> bool:
    if node.attrs.get("epilogue") is not None:
        return False
    axes, keepdims = node.attrs["axes"], node.attrs["keepdims"]
    lazy = walk.lazy(node.input(0))
    rank = len(lazy.view.dims)
    groups = physical(lazy, lambda factor: factor.axis in axes)
    reduced = tuple(index for index, group in enumerate(groups) if group and group[0].axis in axes)
    if not reduced:
        return False
    root = walk.place(lazy.root, View.of(lazy.root.shape), extents(groups))
    kept = tuple(() if index in reduced else group for index, group in enumerate(groups))
    view = view_of(kept, rank)
    if not keepdims:
        kept = tuple(group for index, group in enumerate(kept) if index not in reduced)
        view = View(tuple(dim for axis, dim in enumerate(view.dims) if axis not in axes))
    walk.emit(node, [root], {**node.attrs, "axes": reduced}, extents(kept), view)
    return True


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


def _slice(walk: Walk, node: Node) -> bool:
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


def _pad(walk: Walk, node: Node) -> bool:
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


def _gather(walk: Walk, node: Node) -> bool:
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


def _concat(walk: Walk, node: Node) -> bool:
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

    def cost(layout: tuple[Groups, int]) -> tuple[int, bool]:
        fits = [fit(z.view, sized(layout[0], t), present(t)) for z, t in zip(lazies, tensors, strict=True)]
        flat = [factor[:2] for group in layout[0] for factor in group]
        return sum(map(_cost, lazies, fits)), all(a < b for a, b in pairwise(flat))

    ranked = sorted(layouts.values(), key=cost)
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


def _matmul(walk: Walk, node: Node) -> bool:
    """Both inputs in order, except that the second may be transposed for free."""
    b = node.input(1)
    if b.is_constant and len(b.shape) == 2 and node.op == "MatMul":
        return _rows(walk, node)
    if len(b.shape) < 2 or len(node.input(0).shape) < 2:
        return False
    lazy, transposed = walk.lazy(b), bool(node.attrs.get("transpose_b"))
    swapped = lazy.view.transpose((*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2))
    if _moves(swapped) < _moves(lazy.view):
        right, transposed = walk.place(lazy.root, swapped, swapped.shape), not transposed
    else:
        right = walk.settle(b)
    inputs = [walk.settle(node.input(0)), right, *(walk.settle(t) for t in node.inputs[2:] if t)]
    attrs = {key: value for key, value in node.attrs.items() if key != "transpose_b"}
    if transposed:
        attrs["transpose_b"] = True
    shape = node.output.shape
    walk.emit(replace(node, op="matmul"), inputs, attrs, shape, View.of(shape))
    return True


def _moves(view: View) -> int:
    """0 if nothing moves, 1 if rows move as a whole, 2 if single elements do."""
    return 0 if view.is_identity else 1 if view.atoms[-1].stride == 1 else 2


def _attention(walk: Walk, node: Node) -> bool:
    """Rows of queries and keys may come in any order: the maps say where they are."""
    attrs = dict(node.attrs)
    roots, views = [], []
    for tensor in (node.input(0), node.input(1), node.input(2)):
        lazy, width = walk.lazy(tensor), tensor.shape[-1]
        if lazy.view.dims[-1] != merged([Atom(width, 1)]):
            lazy = Lazy(walk.settle(tensor), View.of(tensor.shape))
        roots.append(lazy)
        views.append(_row_view(lazy.view, width))
    if views[1].atoms != views[2].atoms:
        for index in (1, 2):
            tensor = node.input(index)
            roots[index] = Lazy(walk.settle(tensor), View.of(tensor.shape))
            views[index] = _row_view(roots[index].view, tensor.shape[-1])
    queries, keys = _mapped(attrs["query_map"], views[0]), _mapped(attrs["key_map"], views[1])
    if queries is None or keys is None:
        return False
    width = attrs["heads"] * attrs["value_dim"]
    rows = tuple(tuple(Atom(a.extent, a.stride * width) for a in dim) for dim in views[0].dims)
    logical = View((*rows, merged([Atom(width, 1)]))).reshape(node.output.shape)
    if logical is None:
        return False
    inputs: list[Tensor] = []
    for index, lazy in enumerate(roots):
        tensor = node.input(index)
        size, root = tensor.shape[-1], lazy.root
        if root.shape[-1:] != (size,):
            shape = tensor.shape if lazy.view.is_identity else (root.size // size, size)
            root = walk.place(root, View.of(root.shape), shape)
        inputs.append(root)
    inputs += [walk.settle(tensor) for tensor in node.inputs[3:] if tensor]
    attrs |= {"query_map": queries, "key_map": keys}
    walk.emit(node, inputs, attrs, (*inputs[0].shape[:-1], width), logical)
    return True


def _row_view(view: View, width: int) -> View:
    """Arrangement of the rows alone."""
    return View(tuple(tuple(Atom(a.extent, a.stride // width) for a in dim) for dim in view.dims[:-1]))


def _mapped(axes: tuple[Sequence[tuple[int, int]], ...], rows: View) -> tuple[tuple[tuple[int, int], ...], ...] | None:
    """Batch and token atoms over rows that are themselves a view of other rows."""
    count = prod(rows.shape)
    result = []
    for atoms in axes:
        mapped: list[Atom] = []
        for extent, stride in atoms:
            # The atom steps through the rows' content: find the part of it that it steps along.
            split = rows.reshape((count // (extent * stride), extent, stride))
            if split is None:
                return None
            mapped += split.dims[1]
        result.append(tuple((atom.extent, atom.stride) for atom in merged(mapped)))
    return tuple(result)


Rule = Callable[["Walk", Node], bool]

RULES: dict[str, Rule] = {
    "permute": _movement,
    "reshape": _movement,
    "pointwise": _pointwise,
    "linear": _rows,
    "layer_norm": _rows,
    "rms_norm": _rows,
    "softmax": _rows,
    "reduce": _reduce,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "concat": _concat,
    "MatMul": _matmul,
    "matmul": _matmul,
    "attention": _attention,
    **dict.fromkeys(ELEMENTWISE, _pointwise),
}
