"""Right kernels give right results, and are counted."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulate.made import LIMITS, SIZE, expected, made, memory, written

BOTH = pytest.mark.parametrize("api", ["opencl", "metal"])


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
@pytest.mark.parametrize("checked", [True, False])
def test_results_are_numpys(api: str, dtype: str, tolerance: float, checked: bool) -> None:
    source = np.random.default_rng(0).standard_normal(SIZE).astype(dtype)
    out, traffic = made(api, dtype).run(source, checked=checked)
    np.testing.assert_allclose(out.astype(np.float32), expected(source), rtol=tolerance)
    assert traffic.launches == 1
    assert traffic.barriers == 4  # one in each group


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_are_counted(api: str, dtype: str) -> None:
    source = np.zeros(SIZE, dtype)
    _, traffic = made(api, dtype).run(source)
    assert (traffic.bytes_read, traffic.bytes_written) == (source.nbytes, source.nbytes)
    assert (traffic.distinct_read, traffic.distinct_written) == (source.nbytes, source.nbytes)
    assert traffic.local_bytes == 64 * 4 * 4


def test_bytes_read_twice_are_issued_twice() -> None:
    text = "__kernel void turn_kernel(__global float* a, __global float* b) { b[get_local_id(0)] = a[0] + a[1]; }"
    _, traffic = written("opencl", text, 2).run(np.ones(64, np.float32))
    assert traffic.bytes_read == 64 * 8
    assert traffic.distinct_read == 8


SIMD = """#include <metal_stdlib>
using namespace metal;
kernel void turn_kernel(device float* a [[ buffer(0) ]], device float* b [[ buffer(1) ]],
                        uint i [[ thread_position_in_threadgroup ]]) {
  b[i] = BODY;
}
"""


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("simd_sum(a[i])", [32 * sum(range(32)) / 32] * 32 + [sum(range(32, 64))] * 32),
        ("simd_max(a[i])", [31] * 32 + [63] * 32),
        ("simd_shuffle_xor(a[i], 1)", [i ^ 1 for i in range(64)]),
        ("simd_broadcast(a[i], 3)", [3] * 32 + [35] * 32),
        # Threads at the end keep their own value.
        ("simd_shuffle_down(a[i], 16)", [i + 16 if i % 32 < 16 else i for i in range(64)]),
        ("simd_shuffle_up(a[i], 1)", [i - 1 if i % 32 else i for i in range(64)]),
    ],
)
def test_metal_simd_operations(body: str, want: list[float]) -> None:
    out, _ = written("metal", SIMD.replace("BODY", body), 2).run(np.arange(64, dtype=np.float32))
    np.testing.assert_array_equal(out, np.array(want, np.float32))


VECTORS = """#include <metal_stdlib>
using namespace metal;
kernel void turn_kernel(device half4* a [[buffer(0)]], device half4* b [[buffer(1)]],
                        uint i [[thread_position_in_threadgroup]]) {
  half4 v = a[i];
  float4 w = float4(v) * 2.0f + float4(float2(v.xy), v.z, v.w);
  w.zw = float2(max(w.z, 0.5f), as_type<float>(as_type<int>(w.w)));
  bool4 big = w > float4(3.0f);
  b[i] = select(half4(w), half4(1.0h), big);
}
"""


def test_metal_vectors() -> None:
    source = np.random.default_rng(1).standard_normal(256).astype(np.float16)
    out, _ = written("metal", VECTORS, 2).run(source)
    wide = (source.astype(np.float32) * 3).reshape(64, 4)
    wide[:, 2] = np.maximum(wide[:, 2], 0.5)
    want = np.where(wide > 3, 1, wide).astype(np.float16).reshape(-1)
    np.testing.assert_array_equal(out, want)


def test_halves_are_rounded_after_every_operation() -> None:
    """An executor that kept sums of halves in float would hide that a kernel loses small addends."""
    text = """#pragma OPENCL EXTENSION cl_khr_fp16 : enable
    __kernel void turn_kernel(__global half* a, __global half* b) {
      half sum = 2048.0h;
      for (int i = 0; i < 8; ++i) sum = sum + a[i];
      b[get_local_id(0)] = sum - 2048.0h;
    }"""
    out, _ = written("opencl", text.replace("2048.0h", "(half)2048.0f"), 2).run(np.ones(64, np.float16))
    np.testing.assert_array_equal(out, np.zeros(64, np.float16))


def test_pocl_and_the_checking_executor_agree(pocl: None) -> None:
    from edgevit.emulate.pocl import PoclExecutor

    kernel = made("opencl", "float32")
    source = np.random.default_rng(2).standard_normal(SIZE).astype(np.float32)
    ours, _ = kernel.run(source)
    theirs = np.zeros_like(source)
    PoclExecutor({"turn_kernel": kernel.text}).launch(kernel.launch, [memory(source), memory(theirs)])
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)


def test_a_group_may_use_all_it_is_allowed() -> None:
    limits = LIMITS.model_copy(update={"max_threads": 64, "local_bytes": 1024})
    source = np.zeros(SIZE, np.float32)
    out, _ = made("opencl", "float32").run(source, limits=limits)
    np.testing.assert_array_equal(out, np.full(SIZE, 2, np.float32))
