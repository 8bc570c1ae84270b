"""Where the axes of a logical shape lie physically, for values whose reordering is still pending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import NamedTuple

from edgevit.compiler.graph import Tensor
from edgevit.compiler.views import Atom, View, grouped, merged, row_major


@dataclass(frozen=True)
class Lazy:
    """A value that has not been brought into its logical order.

    Attributes:
        root: the tensor that holds its elements.
        view: how they are arranged logically; its axes are the value's.
    """

    root: Tensor
    view: View

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.root.size


class Factor(NamedTuple):
    """A part of a logical axis that is one loop physically.

    Attributes:
        axis: the logical axis.
        level: which part of that axis, 0 being the outermost.
        extent: number of steps.
    """

    axis: int
    level: int
    extent: int


Groups = tuple[tuple[Factor, ...], ...]
"""Factors in physical order, grouped into the axes of a physical shape."""


def factors(view: View, shape: Sequence[int]) -> Groups | None:
    """Factors of a dense view, grouped into the axes of its root's shape; None where those cut unevenly."""
    fine = view.cut(row_major(shape))
    ordered = sorted(
        (
            (atom.stride, Factor(axis, level, atom.extent))
            for axis, dim in enumerate(fine.dims)
            for level, atom in enumerate(dim)
        ),
        key=lambda pair: -pair[0],
    )
    rest = [factor for _, factor in reversed(ordered)]
    groups = []
    for extent in shape:
        group: list[Factor] = []
        while prod(factor.extent for factor in group) < extent:
            group.append(rest.pop())
        if prod(factor.extent for factor in group) != extent:
            return None
        groups.append(tuple(group))
    return tuple(groups)


def ungrouped(view: View, kind: Callable[[Factor], object]) -> Groups:
    """Factors of a dense view in as few physical axes as keep factors of different kind apart."""
    size = prod(view.shape)
    whole = factors(view, (size,))
    assert whole is not None
    return tuple(tuple(group) for _, group in groupby(whole[0], kind))


def uniform(groups: Groups, kind: Callable[[Factor], object]) -> bool:
    """Whether no physical axis mixes factors of different kind."""
    return all(len({kind(factor) for factor in group}) < 2 for group in groups)


def physical(lazy: Lazy, kind: Callable[[Factor], object]) -> Groups:
    """Physical axes that do not mix kinds: the root's own if possible."""
    groups = factors(lazy.view, lazy.root.shape)
    return groups if groups is not None and uniform(groups, kind) else ungrouped(lazy.view, kind)


def extents(groups: Groups) -> tuple[int, ...]:
    """The physical shape."""
    return tuple(prod(factor.extent for factor in group) for group in groups)


def view_of(groups: Groups, rank: int) -> View:
    """Logical view of a tensor whose physical axes are these."""
    flat = [factor for group in groups for factor in group]
    strides = row_major([factor.extent for factor in flat])
    dims: list[list[tuple[int, Atom]]] = [[] for _ in range(rank)]
    for factor, stride in zip(flat, strides, strict=True):
        dims[factor.axis].append((factor.level, Atom(factor.extent, stride)))
    return View(tuple(merged(atom for _, atom in sorted(dim)) for dim in dims))


def fit(view: View, groups: Groups, present: Iterable[int]) -> View | None:
    """An operand in the physical order ``groups``: one axis per group, without the axes that are not ``present``.

    Args:
        view: the operand, with as many axes as the layout; those not present have extent 1.
        groups: physical axes of the value that the operand is to meet.
        present: logical axes along which the operand extends.

    Returns:
        None if an atom of the operand is cut unevenly.
    """
    parts: dict[tuple[int, int], tuple[Atom, ...]] = {}
    flat = [factor for group in groups for factor in group]
    for axis in present:
        levels = sorted(factor for factor in flat if factor.axis == axis)
        split = grouped(merged(view.dims[axis]), [factor.extent for factor in levels])
        if split is None:
            return None
        parts.update({(axis, factor.level): atoms for factor, atoms in zip(levels, split, strict=True)})
    return View(
        tuple(
            merged(atom for factor in group for atom in parts.get((factor.axis, factor.level), ())) for group in groups
        )
    )


def with_extents(groups: Groups, new: dict[tuple[int, int], int]) -> Groups:
    """The same physical order with other extents for some (axis, level)."""
    return tuple(
        tuple(factor._replace(extent=new.get((factor.axis, factor.level), factor.extent)) for factor in group)
        for group in groups
    )


def cost(lazy: Lazy, fitted: View | None) -> int:
    """Elements that move where a value takes the arrangement ``fitted``; None stands for its logical order first."""
    return 0 if lazy.root.is_constant or (fitted is not None and fitted.is_identity) else lazy.size


def bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape without leading ones."""
    first = next((index for index, extent in enumerate(shape) if extent != 1), len(shape))
    return tuple(shape[first:])
