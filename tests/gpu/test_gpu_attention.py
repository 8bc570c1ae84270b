"""Attention over MobileViT's patches and plain tokens, against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevit.compiler.graph import Node
from tests.gpu.executing import DEVICES, ERRORS, PHONES, run_node, tensor

Array = NDArray[Any]


def attend(queries: Array, keys: Array, values: Array, mask: Array | float = 0.0) -> Array:
    """Softmax of scaled scores times values; the last two axes are tokens and dimensions."""
    scores = queries @ keys.swapaxes(-1, -2) / np.sqrt(queries.shape[-1]) + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Array = weights / weights.sum(axis=-1, keepdims=True) @ values
    return result


@pytest.mark.parametrize("single", [True, False], ids=["one matrix", "three"])
@pytest.mark.parametrize(
    ("height", "width", "heads", "dim"), [(16, 16, 4, 16), (8, 8, 4, 60), (16, 12, 2, 30), (6, 4, 3, 5)]
)
@pytest.mark.parametrize(("target", "stored"), DEVICES)
def test_attention_among_pixels_of_one_place_in_patches(
    target: str, height: int, width: int, heads: int, dim: int, single: bool, stored: str
) -> None:
    columns = heads * dim
    x = np.random.default_rng(0).standard_normal((height * width, 3 * columns), np.float32)
    # (which, row in patch, column in patch, head, patches, dim)
    parts = x.astype(stored).astype(np.float64).reshape(height // 2, 2, width // 2, 2, 3, heads, dim)
    parts = parts.transpose(4, 1, 3, 5, 0, 2, 6).reshape(3, 2, 2, heads, -1, dim)
    result = attend(*parts).reshape(2, 2, heads, height // 2, width // 2, dim)
    expected = result.transpose(3, 0, 4, 1, 2, 5).reshape(1, height, width, columns)
    places = (((2, width), (2, 1)), ((height // 2, 2 * width), (width // 2, 2)))
    attributes = {
        "heads": heads,
        "dim": dim,
        "value_dim": dim,
        "scale": dim**-0.5,
        "columns": (0, columns, 2 * columns),
        "head_strides": (dim, dim, dim),
        "query_map": places,
        "key_map": places,
        "single": single,
    }
    inputs = [tensor((1, height, width, 3 * columns))] * (1 if single else 3)
    node = Node("attention", inputs, [tensor((1, height, width, columns))], attributes)
    (actual,) = run_node(node, [x] * len(inputs), target, stored)
    assert np.abs(actual - expected).max() < ERRORS[stored]


@pytest.mark.parametrize("mask_shape", [(1, 1, 1, 7), (2, 1, 9, 7), (1, 3, 9, 7)])
@pytest.mark.parametrize("target", PHONES)
def test_attention_to_other_tokens_under_a_mask(target: str, mask_shape: tuple[int, ...]) -> None:
    batch, heads, queries, keys, dim, value_dim = 2, 3, 9, 7, 8, 4
    draw = np.random.default_rng(1)
    q = draw.standard_normal((batch, queries, heads, dim), np.float32)
    k = draw.standard_normal((batch, keys, heads, dim), np.float32)
    v = draw.standard_normal((batch, keys, heads, value_dim), np.float32)
    mask = np.where(draw.random(mask_shape) < 0.3, np.float32(-1e30), draw.standard_normal(mask_shape, np.float32))
    expected = attend(*(part.astype(np.float64).swapaxes(1, 2) for part in (q, k, v)), mask).swapaxes(1, 2)
    attributes = {
        "heads": heads,
        "dim": dim,
        "value_dim": value_dim,
        "scale": dim**-0.5,
        "columns": (0, 0, 0),
        "head_strides": (dim, dim, value_dim),
        "query_map": (((batch, queries),), ((queries, 1),)),
        "key_map": (((batch, keys),), ((keys, 1),)),
    }
    arrays = [part.reshape(part.shape[0], part.shape[1], -1) for part in (q, k, v)]
    inputs = [*(tensor(part.shape) for part in arrays), tensor(mask_shape)]
    node = Node("attention", inputs, [tensor((batch, queries, heads * value_dim))], attributes)
    (actual,) = run_node(node, [*arrays, mask], target)
    assert np.abs(actual - expected.reshape(actual.shape)).max() < ERRORS["float32"]
