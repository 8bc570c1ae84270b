"""Products of two activations on emulated GPUs against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.compiler.gpu import matmul
from tests.compiler.single_node import scale_and_add
from tests.gpu.gpu_kernels import DEVICES, check, draw, make_case

SHAPES = [
    ((7, 5), (5, 9), False),
    ((2, 3, 49, 32), (2, 3, 32, 49), False),
    ((2, 3, 49, 32), (2, 3, 49, 32), True),
    ((4, 64, 20), (20, 30), False),
    ((1, 3, 17, 16), (5, 1, 16, 8), False),
    ((1, 100), (100, 1), False),
    ((65, 33), (70, 33), True),
    ((2, 1, 1, 1), (1, 4, 1, 1), False),
    ((3, 128, 64), (3, 64, 128), False),
]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_products(device: tuple[str, str]) -> None:
    cases = []
    for first, second, transposed in SHAPES:
        # Scaled, so that sums are about 1.
        a, b = draw(*first), draw(*second) / np.float32(8)
        product = a @ (b.swapaxes(-1, -2) if transposed else b)
        cases.append(make_case("matmul", [a, b], product, transpose_b=transposed))
        factor, addend = draw(product.shape[-1]), draw(*product.shape)
        program = scale_and_add(product.shape, factor.shape, addend.shape)
        expected = np.maximum(product * factor + addend, 0)
        arrays = [a, b, factor, addend]
        cases.append(make_case("matmul", arrays, expected, transpose_b=transposed, epilogue=program))
    check(matmul, cases, device)
