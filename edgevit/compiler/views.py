"""Data movement, symbolically: which element of a tensor's content lies where after reshapes and transposes.

A tensor's content is its elements in row-major order. A :class:`View` describes another arrangement of them: each
of its axes is made of atoms, loops of some extent that step through the content with some stride. Reshaping splits
and regroups atoms, transposing reorders axes; a chain of both is again one view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Atom(NamedTuple):
    """A loop over elements of a tensor's content.

    Attributes:
        extent: number of steps; never 1.
        stride: elements from one step to the next.
    """

    extent: int
    stride: int


Atoms = tuple[Atom, ...]


@dataclass(frozen=True)
class View:
    """An arrangement of (some of) a tensor's elements.

    Attributes:
        dims: for every axis its atoms, outermost first; none for an axis of extent 1.
        offset: first element in the tensor's content.
    """

    dims: tuple[Atoms, ...]
    offset: int = 0

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """The arrangement a tensor of this shape has itself."""
        strides = row_major(shape)
        return cls(tuple(merged([Atom(*atom)]) for atom in zip(shape, strides, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis."""
        return tuple(prod(atom.extent for atom in dim) for dim in self.dims)

    @property
    def atoms(self) -> Atoms:
        """All atoms in order, neighbours merged: equal for two views exactly if they hold the same content."""
        return merged(atom for dim in self.dims for atom in dim)

    @property
    def is_identity(self) -> bool:
        """Whether the content is that of the tensor, from ``offset`` on."""
        return not self.atoms or (len(self.atoms) == 1 and self.atoms[0].stride == 1)

    @property
    def is_dense(self) -> bool:
        """Whether it is a reordering: every element exactly once, from the first on."""
        ordered = sorted(self.atoms, key=lambda atom: atom.stride)
        steps = [1]
        for atom in ordered:
            steps.append(steps[-1] * atom.extent)
        return self.offset == 0 and all(atom.stride == step for atom, step in zip(ordered, steps, strict=False))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The same content with other extents; None if an axis would cut an atom unevenly."""
        groups = grouped(self.atoms, shape)
        return None if groups is None else View(groups, self.offset)

    def transpose(self, perm: Sequence[int]) -> View:
        """Axes in another order."""
        return View(tuple(self.dims[axis] for axis in perm), self.offset)

    def permute(self, view: Sequence[int], perm: Sequence[int], shape: Sequence[int]) -> View | None:
        """Reshape to ``view``, transpose by ``perm``, reshape to ``shape``: what a ``permute`` node does."""
        split = self.reshape(view)
        return None if split is None else split.transpose(perm).reshape(shape)

    def window(self, axis: int, start: int, size: int, step: int = 1) -> View | None:
        """``size`` indices of an axis; None if its atoms do not allow it."""
        dim = self.dims[axis]
        if not dim:
            return self if (start, size) == (0, 1) else None
        outer, rest = dim[0], dim[1:]
        inner = prod(atom.extent for atom in rest)
        if inner > 1 and (step != 1 or start % inner or size % inner):
            return None
        chosen = merged([Atom(size // inner, outer.stride * step), *rest])
        dims = (*self.dims[:axis], chosen, *self.dims[axis + 1 :])
        return View(dims, self.offset + start // inner * outer.stride)

    def cut(self, boundaries: Iterable[int]) -> View:
        """Atoms split at these strides where they divide evenly; the arrangement stays the same."""
        cuts = sorted(set(boundaries), reverse=True)
        return View(tuple(tuple(part for atom in dim for part in _cut(atom, cuts)) for dim in self.dims), self.offset)

    def inverse(self) -> View:
        """The arrangement that leads back from this (dense) view's content; its axes are the atoms'."""
        strides = row_major([atom.extent for atom in self.atoms])
        back = sorted(zip(self.atoms, strides, strict=True), key=lambda pair: -pair[0].stride)
        return View(tuple((Atom(atom.extent, stride),) for atom, stride in back))

    @property
    def permutation(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Factors ``view`` and order ``perm`` of the fewest axes, for a dense view: a ``permute`` node's attributes."""
        atoms = self.atoms
        order = sorted(range(len(atoms)), key=lambda index: -atoms[index].stride)
        return tuple(atoms[index].extent for index in order), tuple(order.index(index) for index in range(len(atoms)))

    def apply(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The elements of ``array`` so arranged (dense views only)."""
        view, perm = self.permutation
        return array.reshape(view).transpose(perm).reshape(self.shape)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Stride of every axis."""
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.append(strides[-1] * extent)
    return tuple(strides[::-1]) if shape else ()


def merged(atoms: Iterable[Atom]) -> Atoms:
    """The same loops in fewer atoms: ones dropped, neighbours that step on evenly joined."""
    result: list[Atom] = []
    for atom in atoms:
        if atom.extent == 1:
            continue
        if result and result[-1].stride == atom.extent * atom.stride:
            result[-1] = Atom(result[-1].extent * atom.extent, atom.stride)
        else:
            result.append(atom)
    return tuple(result)


def grouped(atoms: Sequence[Atom], shape: Sequence[int]) -> tuple[Atoms, ...] | None:
    """Atoms of each axis if a sequence of atoms is seen with these extents; None if one is cut unevenly."""
    rest = list(reversed(atoms))
    groups = []
    for extent in shape:
        group = []
        while extent > 1:
            if not rest:
                return None
            atom = rest.pop()
            if extent % atom.extent == 0:
                group.append(atom)
                extent //= atom.extent
            elif atom.extent % extent == 0:
                inner = atom.extent // extent
                group.append(Atom(extent, atom.stride * inner))
                rest.append(Atom(inner, atom.stride))
                extent = 1
            else:
                return None
        groups.append(merged(group))
    return None if rest else tuple(groups)


def _cut(atom: Atom, cuts: Sequence[int]) -> list[Atom]:
    """One atom split at strides in falling order."""
    parts = []
    for stride in cuts:
        whole = atom.extent * atom.stride
        if atom.stride < stride < whole and stride % atom.stride == 0 and whole % stride == 0:
            parts.append(Atom(whole // stride, stride))
            atom = Atom(stride // atom.stride, atom.stride)
    return [*parts, atom]
