"""The linear transforms of Winograd's minimal filtering F(m × m, 3 × 3), and code for them.

A product of polynomials is determined by its values at as many points as it has coefficients. Points come in pairs
±p, at which a polynomial's even and odd parts are needed only once.

Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The customary points
0, ±1, ±2, ∞ of F(4 × 4, 3 × 3) lose more than two bits; how the choice of points rules the error is the subject of
B. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgevit.compiler.kernels.builder import Expr, KernelBuilder

Matrix = np.ndarray[Any, Any]

POINTS = {2: (1.0,), 4: (0.625, 1.5)}
"""By m: the points beside 0 and infinity, each with its negative."""


@dataclass(frozen=True)
class Transform:
    """Matrices of F(m × m, 3 × 3), each applied along both axes; they have one row or column per point.

    Attributes:
        size: m, outputs of a tile along one axis.
        inputs: (m + 2) × (m + 2).
        weights: (m + 2) × 3.
        outputs: m × (m + 2).
        groups: indices of the points, those that differ by sign only together.
    """

    size: int
    inputs: Matrix
    weights: Matrix
    outputs: Matrix
    groups: tuple[tuple[int, ...], ...]

    @property
    def reach(self) -> int:
        """Inputs of a tile along one axis, and points."""
        return self.size + 2

    def of_weights(self, weight: Matrix) -> Matrix:
        """Weights (O, I, 3, 3) at all points: (points², I, O), float64."""
        taps = weight.astype(np.float64)
        both: Matrix = np.einsum("ai,bj,ocij->abco", self.weights, self.weights, taps, optimize=True)
        return both.reshape(self.reach**2, weight.shape[1], weight.shape[0])

    def needed(self, group: Sequence[int]) -> list[int]:
        """Inputs that the values at a group of points depend on."""
        return [index for index in range(self.reach) if any(self.inputs[point, index] for point in group)]

    def at_points(
        self, builder: KernelBuilder, group: Sequence[int], inputs: Mapping[int, Expr], lanes: int
    ) -> list[Expr]:
        """Values of vectors of inputs at a group of points, along one axis."""
        first, last = self.inputs[group[0]], self.inputs[group[-1]]
        even = builder.bind(_weighted(builder, (first + last) / 2, inputs, lanes))
        if len(group) == 1:
            return [even]
        odd = builder.bind(_weighted(builder, (first - last) / 2, inputs, lanes))
        return [builder.bind(even + odd), builder.bind(even - odd)]

    def from_points(self, builder: KernelBuilder, values: Sequence[Expr], lanes: int) -> list[Expr]:
        """Outputs from the vectors at all points, along one axis."""
        terms: list[dict[int, Expr]] = [{} for _ in range(self.size)]
        for group in self.groups:
            even = odd = values[group[0]]
            if len(group) == 2:
                first, second = (values[point] for point in group)
                even, odd = builder.bind(first + second), builder.bind(first - second)
            for power, term in enumerate(terms):
                term[group[0]] = odd if power % 2 else even
        return [builder.bind(_weighted(builder, self.outputs[j], term, lanes)) for j, term in enumerate(terms)]


@cache
def transform(size: int) -> Transform:
    """F(size × size, 3 × 3) by Lagrange interpolation at the points of :data:`POINTS`."""
    points = np.array([0.0, *(sign * point for point in POINTS[size] for sign in (1, -1))])
    count = len(points) + 1
    inputs, weights, outputs = np.zeros((count, count)), np.zeros((count, 3)), np.zeros((size, count))
    for index, point in enumerate(points):
        others = np.delete(points, index)
        inputs[index, :-1] = np.poly(others)[::-1]
        weights[index] = point ** np.arange(3) / np.prod(point - others)
        outputs[:, index] = point ** np.arange(size)
    inputs[-1] = np.poly(points)[::-1]
    weights[-1, 2] = outputs[-1, -1] = 1.0
    pairs = tuple((first, first + 1) for first in range(1, count - 1, 2))
    return Transform(size, inputs, weights, outputs, ((0,), *pairs, (count - 1,)))


def _weighted(builder: KernelBuilder, factors: Matrix, vectors: Mapping[int, Expr], lanes: int) -> Expr:
    """Weighted sum of vectors; one with factor 1 goes first, so that all others are fused multiply-adds."""
    order = sorted((index for index in vectors if factors[index]), key=lambda index: factors[index] != 1)
    total = None
    for index in order:
        factor, vector = float(factors[index]), vectors[index]
        if total is not None and factor == -1:
            total = total - vector
            continue
        term = vector if factor == 1 else vector * builder.constant(factor, "float32", lanes)
        total = term if total is None else total + term
    return total
