"""How each operator works on values whose reordering is pending.

A rule rebuilds one node in a :class:`~edgevit.compiler.rewrite.sink.Walk` and hands on what is still to be
reordered; it returns False, having done nothing, where the node needs its inputs in logical order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.pointwise import Pointwise
from edgevit.compiler.rewrite.layout import Lazy, bare, extents, physical, view_of
from edgevit.compiler.rewrite.sink_elementwise import ELEMENTWISE, pointwise
from edgevit.compiler.rewrite.sink_windows import concat, cut, gather, pad
from edgevit.compiler.views import Atom, View, merged

if TYPE_CHECKING:
    from edgevit.compiler.rewrite.sink import Walk


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


def _rows(walk: Walk, node: Node) -> bool:
    """Operators on the last axis: any order of rows will do."""
    x, output = node.input(0), node.output
    first = 2 if node.op == "linear" else 3
    program: Pointwise | None = node.attrs.get("epilogue")
    if program is not None:
        first = len(node.inputs) - len(program.operands) + 1
    width, size = output.shape[-1], x.shape[-1]
    if any(t is None or bare(t.shape) not in ((), (width,)) for t in node.inputs[first:]):
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
    "pointwise": pointwise,
    "linear": _rows,
    "layer_norm": _rows,
    "rms_norm": _rows,
    "softmax": _rows,
    "reduce": _reduce,
    "slice": cut,
    "pad": pad,
    "gather": gather,
    "concat": concat,
    "MatMul": _matmul,
    "matmul": _matmul,
    "attention": _attention,
    **dict.fromkeys(ELEMENTWISE, pointwise),
}
