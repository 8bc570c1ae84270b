"""The attention kernel against numpy in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import attention
from edgevit.compiler.kernels.attention import Workload
from edgevit.targets import get_target
from tests.compiler.kernel_runner import run_kernel

HOST = get_target("host")


def plain(queries: int, keys: int, dim: int, value_dim: int, heads: int = 2, batch: int = 1) -> Workload:
    """Attention of ``batch`` groups that lie one after the other, in three tensors."""
    sizes = ((batch * queries, heads * dim), (batch * keys, heads * dim), (batch * keys, heads * value_dim))
    query_map = (((batch, queries),), ((queries, 1),))
    key_map = (((batch, keys),), ((keys, 1),))
    return Workload(heads, dim, value_dim, dim**-0.5, sizes, (0, 0, 0), (dim, dim, value_dim), query_map, key_map)


def patches(side: int, dim: int, heads: int) -> Workload:
    """MobileViT's attention between equal positions of 2 × 2 patches, in one tensor."""
    tokens = (((2, side), (2, 1)), ((side // 2, 2 * side), (side // 2, 2)))
    width = heads * dim
    return Workload(
        heads, dim, dim, dim**-0.5, ((side**2, 3 * width),) * 3, (0, width, 2 * width), (dim,) * 3, tokens, tokens
    )


def windows(side: int, window: int, dim: int, heads: int) -> Workload:
    """Swin's attention within windows of an image in raster order."""
    count = side // window
    tokens = (((count, window * side), (count, window)), ((window, side), (window, 1)))
    return replace(patches(side, dim, heads), query_map=tokens, key_map=tokens)


def rows(atoms: attention.Atoms) -> np.ndarray:
    result = np.zeros(1, int)
    for extent, stride in atoms:
        result = (result[:, None] + np.arange(extent) * stride).reshape(-1)
    return result


def tensors(workload: Workload, amplitude: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    made = [random.normal(0, amplitude, size).astype(np.float32) for size in workload.sizes]
    return [made[0]] * 3 if len(set(workload.sizes)) == 1 else made


def reference(workload: Workload, arrays: list[np.ndarray], mask: np.ndarray | None = None) -> np.ndarray:
    w, heads = workload, []
    for which, (dim, maps) in enumerate(((w.dim, w.query_map), (w.dim, w.key_map), (w.value_dim, w.key_map))):
        index = rows(maps[0])[:, None] + rows(maps[1])
        firsts = [w.columns[which] + head * w.head_strides[which] for head in range(w.heads)]
        heads.append(np.stack([arrays[which][index, first : first + dim] for first in firsts], 1).astype(np.float64))
    scores = heads[0] @ heads[1].swapaxes(2, 3) * w.scale
    if mask is not None:
        scores = scores + mask
    power = np.exp(scores - scores.max(-1, keepdims=True))
    values = power / power.sum(-1, keepdims=True) @ heads[2]
    result = np.empty((w.sizes[0][0], w.heads * w.value_dim))
    index = rows(w.query_map[0])[:, None] + rows(w.query_map[1])
    for head in range(w.heads):
        result[index, head * w.value_dim : (head + 1) * w.value_dim] = values[:, head]
    return result


def run(
    workload: Workload, arrays: list[np.ndarray], mask: np.ndarray | None = None, choice: dict[str, int] | None = None
) -> np.ndarray:
    choice = choice or attention.analytic_default(workload, HOST)
    if mask is not None:
        workload = replace(workload, mask_shape=mask.shape)
        constants = [mask] if workload.mask_constant else []
        packed = attention.pack(workload, HOST, choice, constants)
        arrays = [*arrays, packed[0] if packed else mask]
    kernel = attention.emit(workload, HOST, choice, "attention")
    return run_kernel(kernel, arrays, (workload.sizes[0][0], workload.heads * workload.value_dim))


@pytest.mark.parametrize(
    ("queries", "keys", "dim", "value_dim"),
    [
        (64, 64, 36, 36),
        (16, 16, 60, 60),
        (256, 64, 20, 24),
        (49, 49, 32, 32),
        (197, 197, 64, 64),
        (144, 16, 30, 48),
        (5, 3, 3, 1),
        (1, 77, 1, 7),
    ],
)
def test_every_size_of_head_and_sequence(queries: int, keys: int, dim: int, value_dim: int) -> None:
    workload = plain(queries, keys, dim, value_dim)
    arrays = tensors(workload)
    np.testing.assert_allclose(run(workload, arrays), reference(workload, arrays), atol=6e-6)


@pytest.mark.parametrize(
    "workload",
    [patches(32, 16, 2), patches(16, 20, 4), patches(8, 60, 4), patches(12, 24, 2), windows(14, 7, 8, 2)],
    ids=["16x16", "8x8", "4x4", "6x6", "windows"],
)
def test_tokens_that_lie_apart(workload: Workload) -> None:
    arrays = tensors(workload)
    np.testing.assert_allclose(run(workload, arrays), reference(workload, arrays), atol=6e-6)


def test_heads_that_an_exporter_interleaved() -> None:
    heads, dim = 3, 20
    workload = replace(plain(50, 50, dim, dim, heads, batch=2), sizes=((100, 3 * heads * dim),) * 3)
    workload = replace(workload, columns=(0, dim, 2 * dim), head_strides=(3 * dim,) * 3)
    arrays = tensors(workload)
    np.testing.assert_allclose(run(workload, arrays), reference(workload, arrays), atol=6e-6)


def test_scores_of_hundreds_do_not_overflow() -> None:
    workload = plain(40, 50, 36, 36)
    arrays = tensors(workload, amplitude=12.0)
    expected = reference(workload, arrays)
    np.testing.assert_allclose(run(workload, arrays), expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 21, 19), (1, 2, 21, 19), (3, 1, 1, 19), (1, 1, 21, 19), (3, 2, 21, 1)])
def test_mask_broadcasts(shape: tuple[int, int, int, int], constant: bool) -> None:
    workload = replace(plain(21, 19, 12, 12, batch=3), mask_constant=constant)
    arrays = tensors(workload)
    mask = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    np.testing.assert_allclose(run(workload, arrays, mask), reference(workload, arrays, mask), atol=6e-6)


def test_nan_stays_in_its_query() -> None:
    workload = plain(20, 20, 12, 12, heads=1)
    arrays = tensors(workload)
    expected = reference(workload, arrays)
    arrays[0] = arrays[0].copy()
    arrays[0][3, 5] = np.nan
    result = run(workload, arrays)
    assert np.isnan(result[3]).all()
    np.testing.assert_allclose(np.delete(result, 3, 0), np.delete(expected, 3, 0), atol=6e-6)


def test_mask_of_minus_infinity() -> None:
    workload = replace(plain(33, 33, 16, 16), mask_constant=True)
    arrays = tensors(workload)
    mask = np.triu(np.full((33, 33), -np.inf, np.float32), 1)[None, None]
    np.testing.assert_allclose(run(workload, arrays, mask), reference(workload, arrays, mask), atol=6e-6)


def test_a_row_that_is_masked_throughout_is_the_mean_of_the_values() -> None:
    workload = plain(4, 9, 8, 8, heads=1)
    arrays = tensors(workload)
    mask = np.zeros((1, 1, 4, 9), np.float32)
    mask[..., 2, :] = -np.inf
    result = run(workload, arrays, mask)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result[2], arrays[2].mean(0), atol=1e-6)


@pytest.mark.parametrize(("vectors", "chunks"), [(1, 1), (1, 4), (2, 2), (3, 2)])
def test_choices_agree(vectors: int, chunks: int) -> None:
    workload = plain(90, 70, 20, 20)
    arrays = tensors(workload)
    choice = {"vectors": vectors, "key_rows": 4, "value_rows": 3, "chunks": chunks}
    np.testing.assert_allclose(run(workload, arrays, choice=choice), reference(workload, arrays), atol=6e-6)


@pytest.mark.parametrize("name", ["host", "rpi5", "armv7-linux", "x86-64-v3"])
def test_default_is_a_point_of_the_space(name: str) -> None:
    target, workload = get_target(name), patches(32, 36, 4)
    choice, space = attention.analytic_default(workload, target), attention.space(workload, target)
    assert choice.keys() == space.keys()
    assert all(choice[key] in values for key, values in space.items())


@pytest.mark.parametrize("name", ["graviton3", "x86-64-v3"])
def test_narrower_vectors_compute_the_same(name: str) -> None:
    # Another target's vector shape, in this machine's instructions.
    target = HOST.model_copy(update={"vector": get_target(name).vector})
    workload = plain(37, 41, 30, 30)
    arrays = tensors(workload)
    choice = attention.analytic_default(workload, target)
    kernel = attention.emit(workload, target, choice, "attention")
    result = run_kernel(kernel, arrays, (37, 60))
    np.testing.assert_allclose(result, reference(workload, arrays), atol=6e-6)


def node(**attrs: Any) -> Node:
    x = Tensor("x", (1, 64, 108))
    known = {
        "heads": 3,
        "dim": 12,
        "value_dim": 12,
        "scale": 0.25,
        "columns": (0, 36, 72),
        "query_map": (((1, 64),), ((64, 1),)),
        "key_map": (((1, 64),), ((64, 1),)),
    }
    return Node("attention", [x, x, x], [Tensor("y", (1, 64, 36))], known | attrs)


def test_claim_reads_the_node() -> None:
    workload = attention.claim(node())
    assert workload is not None
    assert workload.sizes == ((64, 108),) * 3
    assert workload.head_strides == (12, 12, 12)
    assert workload.flops == 2 * 3 * 64 * 64 * 24
    assert workload.bytes == 4 * 4 * 64 * 36
    arrays = tensors(workload)
    np.testing.assert_allclose(run(workload, arrays), reference(workload, arrays), atol=6e-6)


def test_claim_sees_the_mask() -> None:
    masked = node(mask_shape=(64, 64))
    masked.inputs.append(Tensor("mask", (64, 64), data=np.zeros((64, 64), np.float32)))
    workload = attention.claim(masked)
    assert workload is not None
    assert workload.mask_shape == (1, 1, 64, 64)
    assert workload.mask_constant


def test_other_types_are_not_claimed() -> None:
    half = node()
    half.inputs = [Tensor("x", (1, 64, 108), "float16")] * 3
    assert attention.claim(half) is None
