"""Queries, keys or values as they lie in the tensor at the root of a chain of reshapes, transposes and slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.affine import combination, shift
from edgevit.compiler.views import Atoms, View, merged

Map = tuple[tuple[int, int], ...]
"""(extent, row stride) atoms, outermost first."""


@dataclass(frozen=True)
class Operand:
    """Heads in a matrix.

    Attributes:
        root: tensor that is read as a matrix of rows.
        width: columns of the matrix.
        heads: number of heads; 1 if none were found among the columns.
        head_stride: columns from one head to the next.
        head_index: how many of the batch atoms lie outside of the heads.
        dim: columns of a head.
        column: first column of the first head.
        batch: rows of the batches, the axis of heads left out.
        tokens: rows of the tokens.
        factor: what the elements are multiplied by on the way.
    """

    root: Tensor
    width: int
    heads: int
    head_stride: int
    head_index: int
    dim: int
    column: int
    batch: Map
    tokens: Map
    factor: float

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the root with rows of ``width`` elements."""
        shape = self.root.shape
        if shape[-1:] == (self.width,):
            return shape
        if prod(shape[-2:]) == self.width:
            return (*shape[:-2], self.width)
        return self.root.size // self.width, self.width

    @property
    def batch_size(self) -> int:
        """Number of batches."""
        return prod(extent for extent, _ in self.batch)

    @property
    def head_place(self) -> tuple[int, int]:
        """Number of heads, and of batches inside of each."""
        inside = prod(extent for extent, _ in self.batch[self.head_index :])
        return self.heads, inside if self.heads > 1 else 1

    @property
    def covers_rows(self) -> bool:
        """Whether every row is exactly one token of one batch."""
        rows = sorted((stride, extent) for extent, stride in (*self.batch, *self.tokens))
        step = 1
        for stride, extent in rows:
            if stride != step:
                return False
            step *= extent
        return step * self.width == self.root.size


def operands(graph: Graph, tensor: Tensor, *, swapped: bool, scaled: bool = True) -> Iterator[Operand]:
    """Ways to read ``tensor`` (..., tokens, dim) as heads in a matrix, from the farthest root to the nearest.

    Args:
        graph: where the chain of data movement behind ``tensor`` is looked up.
        tensor: an input of a batched matrix product.
        swapped: the last two axes are (dim, tokens) instead.
        scaled: also look behind multiplications by a number.
    """
    chain: list[Node] = []
    roots = [tensor]
    while (node := graph.producer(roots[-1])) is not None:
        source = _source(node, scaled)
        if source is None:
            break
        chain.append(node)
        roots.append(source)
    for depth in range(len(chain), -1, -1):
        found = _view(roots[depth], chain[:depth][::-1])
        if found is None:
            continue
        view, factor = found
        rank = len(tensor.shape)
        if swapped:
            view = view.transpose((*range(rank - 2), rank - 1, rank - 2))
        for width in _widths(roots[depth].shape, view.shape[-1]):
            operand = _operand(roots[depth], view, width, factor)
            if operand is not None:
                yield operand


def _widths(shape: tuple[int, ...], size: int) -> list[int]:
    """Numbers of columns to try: all heads side by side first, then one head alone."""
    last = shape[-1] if shape else 1
    return list(dict.fromkeys((prod(shape[-2:]) if last == size else last, size)))


def _source(node: Node, scaled: bool) -> Tensor | None:
    """What a node moves or scales; None for other nodes."""
    if node.op in ("reshape", "permute", "slice"):
        return node.input(0)
    terms = combination(node) if scaled else None
    if terms and len(terms) == 1 and terms[0][0].shape == node.output.shape and shift(node) == 0:
        return terms[0][0]
    return None


def _view(root: Tensor, chain: list[Node]) -> tuple[View, float] | None:
    """Where the last node's output lies in ``root``, and its factor."""
    view: View | None = View.of(root.shape)
    factor = 1.0
    for node in chain:
        if view is None:
            return None
        if node.op == "reshape":
            view = view.reshape(node.output.shape)
        elif node.op == "permute":
            view = view.permute(node.attrs["view"], node.attrs["perm"], node.output.shape)
        elif node.op == "slice":
            view = _sliced(view, node)
        else:
            factor *= (combination(node) or [])[0][1]
    return None if view is None else (view, factor)


def _sliced(view: View | None, node: Node) -> View | None:
    shape = node.input(0).shape
    for axis, size in enumerate(node.output.shape):
        start, step = node.attrs["starts"][axis], node.attrs["steps"][axis]
        if view is not None and (start, step, size) != (0, 1, shape[axis]):
            view = view.window(axis, start, size, step) if step > 0 else None
    return view


def _operand(root: Tensor, view: View, width: int, factor: float) -> Operand | None:
    """A view (..., tokens, dim) by rows and columns of a matrix; None where they do not come apart."""
    size = view.shape[-1]
    if view.offset // width or root.size % width or view.dims[-1] != merged(View.of((size,)).dims[0]):
        return None
    fine = view.cut([width])
    tokens = fine.dims[-2]
    batch = [atom for dim in fine.dims[:-2] for atom in dim]
    columns = merged(atom for atom in batch if atom.stride % width)
    rows = [atom for atom in batch if atom.stride % width == 0]
    if any(atom.stride % width for atom in tokens) or len(columns) > 1:
        return None
    head_index = next((index for index, atom in enumerate(batch) if atom.stride % width), len(batch))
    (heads, stride), column = columns[0] if columns else (1, size), view.offset % width
    if column + (heads - 1) * stride + size > width or (heads > 1 and stride < size):
        return None
    outer, inner = rows[:head_index], rows[head_index:]
    outside = _row_map(tuple(outer), width)
    return Operand(
        root,
        width,
        heads,
        stride,
        len(outside),
        size,
        column,
        outside + _row_map(tuple(inner), width),
        _row_map(tokens, width),
        factor,
    )


def _row_map(atoms: Atoms, width: int) -> Map:
    return tuple((atom.extent, atom.stride // width) for atom in merged(atoms))
