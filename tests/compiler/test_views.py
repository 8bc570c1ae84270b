"""Views against numpy: what they say of an arrangement is what numpy does."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from edgevit.compiler.views import Atom, View


def elements(view: View) -> np.ndarray:
    """The elements a view names, from its definition."""
    index = np.full((), view.offset)
    for dim in view.dims:
        steps = np.zeros(1, int)
        for extent, stride in dim:
            steps = (steps[:, None] + np.arange(extent) * stride).reshape(-1)
        index = index[..., None] + steps
    return index


def contents(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(prod(shape)).reshape(shape)


@pytest.mark.parametrize("seed", range(40))
def test_chains_of_reshapes_and_transposes_compose(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shape = (2, 6, 4, 1, 6)
    view, array = View.of(shape), contents(shape)
    for _ in range(6):
        if draw.random() < 0.5:
            perm = draw.permutation(array.ndim)
            view, array = view.transpose(perm), array.transpose(perm)
        else:
            parts = [int(factor) for factor in draw.permutation([2, 2, 2, 2, 2, 3, 3])]
            cuts = sorted(draw.choice(range(1, 7), size=int(draw.integers(0, 5)), replace=False))
            target = tuple(prod(part) for part in np.split(parts, cuts))
            reshaped = view.reshape(target)
            if reshaped is None:
                continue
            view, array = reshaped, array.reshape(target)
    assert view.shape == array.shape
    np.testing.assert_array_equal(elements(view), array)
    assert view.is_dense
    assert view.is_identity == bool(np.all(array.reshape(-1) == np.arange(array.size)))
    factors, perm = view.permutation
    np.testing.assert_array_equal(contents(factors).transpose(perm).reshape(-1), array.reshape(-1))
    np.testing.assert_array_equal(view.apply(contents(shape)), array)


def test_a_permutation_has_no_axis_that_is_not_needed() -> None:
    view = View.of((1, 3, 256, 256)).transpose((0, 2, 3, 1))
    assert view.permutation == ((3, 65536), (1, 0))
    assert View.of((7, 1, 5)).transpose((1, 0, 2)).permutation == ((35,), (0,))


def test_reshapes_that_cut_unevenly_fail() -> None:
    swapped = View.of((4, 3)).transpose((1, 0))
    assert swapped.reshape((2, 6)) is None
    assert swapped.reshape((3, 2, 2)) is not None
    assert swapped.reshape((5, 2)) is None
    assert View.of((4, 3)).reshape((2, 6)) == View.of((2, 6))


def test_opposite_reorderings_cancel() -> None:
    there = View.of((2, 3, 5, 7)).transpose((0, 2, 3, 1))
    back = there.transpose((0, 3, 1, 2))
    assert not there.is_identity
    assert back == View.of((2, 3, 5, 7))
    assert back.is_identity


def test_an_inverse_leads_back() -> None:
    view = View.of((2, 3, 5, 7)).transpose((2, 0, 3, 1))
    array = contents((2, 3, 5, 7))
    back = view.inverse()
    np.testing.assert_array_equal(back.apply(view.apply(array)).reshape(-1), array.reshape(-1))


def test_mobilevit_unfolding_is_one_permutation_of_rows() -> None:
    batch, channels, height, width, patch = 1, 8, 6, 4, 2
    rows, columns = height // patch, width // patch
    view = View.of((batch, height, width, channels)).transpose((0, 3, 1, 2))
    steps = [
        ("reshape", (batch * channels * rows, patch, columns, patch)),
        ("transpose", (0, 2, 1, 3)),
        ("reshape", (batch, channels, rows * columns, patch * patch)),
        ("transpose", (0, 3, 2, 1)),
        ("reshape", (batch * patch * patch, rows * columns, channels)),
    ]
    for step, argument in steps:
        following = view.reshape(argument) if step == "reshape" else view.transpose(argument)
        assert following is not None
        view = following
    assert view.permutation == ((rows, patch, columns, patch, channels), (1, 3, 0, 2, 4))
    tokens = elements(view)
    assert (tokens[..., 0] % channels == 0).all()
    image = contents((height, width, channels))
    np.testing.assert_array_equal(tokens[1], image[0::2, 1::2].reshape(-1, channels))
    np.testing.assert_array_equal(tokens[2], image[1::2, 0::2].reshape(-1, channels))


def test_windows() -> None:
    view = View.of((5, 3, 4)).transpose((1, 0, 2))
    array = contents((5, 3, 4)).transpose(1, 0, 2)
    cut = view.window(1, 1, 2, 2)
    assert cut is not None
    np.testing.assert_array_equal(elements(cut), array[:, 1:4:2])
    pair = View.of((6, 4)).reshape((24,))
    assert pair is not None
    np.testing.assert_array_equal(elements(pair.window(0, 5, 7) or pair), np.arange(5, 12))
    uneven = View.of((4, 3)).transpose((1, 0)).reshape((12,))
    assert uneven is not None
    assert uneven.window(0, 2, 4) is None
    whole = uneven.window(0, 4, 8)
    assert whole is not None
    np.testing.assert_array_equal(elements(whole), contents((4, 3)).T.reshape(-1)[4:])


def test_atoms_are_cut_only_evenly() -> None:
    assert View(((Atom(12, 2),),)).cut([8]).dims == ((Atom(3, 8), Atom(4, 2)),)
    assert View(((Atom(12, 2),),)).cut([10, 3, 48]).dims == ((Atom(12, 2),),)
