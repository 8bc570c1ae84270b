"""Copies of every kind on emulated GPUs against numpy: nothing may change on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevit.compiler.gpu import gather, movement
from edgevit.compiler.graph import Node, Tensor
from tests.gpu.gpu_kernels import DEVICES, LANGUAGES, Case, check, draw, make_case

PERMUTATIONS = [
    ((2, 24, 49), (0, 2, 1)),
    ((7, 11), (1, 0)),
    ((33, 65), (1, 0)),
    ((2, 3, 40, 8), (0, 2, 1, 3)),
    ((2, 3, 20, 7), (0, 2, 1, 3)),
    ((3, 5, 7), (2, 1, 0)),
    ((16, 32, 3), (2, 0, 1)),
    ((1, 5), (1, 0)),
    ((2, 9, 16, 10), (0, 3, 1, 2)),
]
CONCATENATIONS = [
    (((2, 3, 8), (2, 5, 8)), 1),
    (((2, 7), (2, 3), (2, 1)), 1),
    (((1, 4, 4, 16), (1, 4, 4, 6)), 3),
    (((3, 5), (1, 5)), 0),
]
SLICES = [
    ((4, 10, 8), np.s_[:, 2:7, :]),
    ((4, 10, 8), np.s_[1:3, ::-1, ::2]),
    ((9, 12), np.s_[:, 4:12]),
    ((9, 12), np.s_[:, 1:4]),
    ((9, 12), np.s_[::2, ::-3]),
    ((5, 8), np.s_[2:3, :]),
]
PADDINGS = [
    ((1, 5, 6, 8), ((0, 0), (1, 2), (0, 3), (0, 0))),
    ((3, 7), ((0, 0), (2, 1))),
    ((5, 8), ((1, 1), (4, 4))),
    ((2, 3, 4), ((0, 0), (0, 0), (0, 0))),
]


def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "float32":
        return draw(*shape)
    return np.random.default_rng().integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_permutations(device: tuple[str, str]) -> None:
    cases = []
    for view, perm in PERMUTATIONS:
        for dtype in ("float32", "int64" if len(view) == 3 else "bool"):
            x = numbers(view, dtype)
            cases.append(make_case("permute", [x], x.transpose(perm), view=view, perm=perm))
    check(movement, cases, device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_concatenations_and_slices(device: tuple[str, str]) -> None:
    cases = []
    for shapes, axis in CONCATENATIONS:
        for dtype in ("float32", "uint8"):
            parts = [numbers(shape, dtype) for shape in shapes]
            cases.append(make_case("concat", parts, np.concatenate(parts, axis), axis=axis))
    for shape, part in SLICES:
        for dtype in ("float32", "bool"):
            x = numbers(shape, dtype)
            ranges = [along.indices(extent) for along, extent in zip(part, shape, strict=True)]
            attrs: dict[str, Any] = {"starts": [r[0] for r in ranges], "steps": [r[2] for r in ranges]}
            cases.append(make_case("slice", [x], x[part], **attrs))
    check(movement, cases, device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_padding(device: tuple[str, str]) -> None:
    cases = [
        padding(shape, pads, mode, dtype)
        for shape, pads in PADDINGS
        for mode, dtype in (("constant", "float32"), ("constant", "bool"), ("reflect", "float32"), ("edge", "int64"))
    ]
    check(movement, cases, device)


def padding(shape: tuple[int, ...], pads: tuple[tuple[int, int], ...], mode: str, dtype: str) -> Case:
    x = numbers(shape, dtype)
    margin = {"constant_values": np.array(1.5).astype(dtype)} if mode == "constant" else {}
    expected = np.pad(x, pads, mode, **margin)  # type: ignore[call-overload]
    return make_case("pad", [x], expected, before=[before for before, _ in pads], mode=mode, value=1.5)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_gather(device: tuple[str, str]) -> None:
    cases = []
    for shape, axis, chosen in [((10, 8), 0, (5,)), ((3, 10, 7), 1, (2, 3)), ((10,), 0, ()), ((2, 5, 4), 2, (3,))]:
        for dtype, kind in (("float32", "int64"), ("int64", "int32")):
            x, extent = numbers(shape, dtype), shape[axis]
            indices = np.asarray(np.random.default_rng().integers(-extent, extent, chosen)).astype(kind)
            cases.append(make_case("gather", [x, indices], np.take(x, indices, axis), axis=axis))
    check(gather, cases, device)


def test_what_the_languages_lack_is_refused() -> None:
    x, y = Tensor("x", (2, 3), "float64"), Tensor("y", (3, 2), "float64")
    assert movement.claim(Node("permute", [x], [y], {"view": (2, 3), "perm": (1, 0)})) is None
    indices = Tensor("i", (2,), "int64")
    assert gather.claim(Node("gather", [x, indices], [Tensor("y", (2, 3), "float64")], {"axis": 0})) is None
    # Metal has 31 buffers.
    parts: list[Tensor | None] = [Tensor(f"x{i}", (1, 4)) for i in range(32)]
    assert movement.claim(Node("concat", parts, [Tensor("y", (32, 4))], {"axis": 0})) is None
