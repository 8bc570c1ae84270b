"""Planted faults, each reported by its name, with kernel, buffer and thread."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from edgevit.emulate.build import build
from edgevit.emulate.executor import Executor, KernelFaultError
from tests.emulate.made import LIMITS, SIZE, Made, expected, made, memory, written

BOTH = pytest.mark.parametrize("api", ["opencl", "metal"])

BARRIER = {
    "opencl": "barrier(CLK_LOCAL_MEM_FENCE);",
    "metal": "threadgroup_barrier(mem_flags::mem_threadgroup);",
}
THREAD = {"opencl": "(convert_int(get_local_id(0)))", "metal": "((int)threadIdx)"}
GROUP = {"opencl": "(convert_int(get_group_id(0)))", "metal": "((int)blockIdx)"}


def _fault(kernel: Made, **more: object) -> str:
    source = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    with pytest.raises(KernelFaultError) as caught:
        kernel.run(source, **more)  # type: ignore[arg-type]
    assert "turn_kernel" in str(caught.value)
    return str(caught.value)


def _stored(kernel: Made, api: str) -> Made:
    """With its last line, the store to the second buffer, shifted by a place that tests put in."""
    if api == "opencl":
        return kernel.edited(", 0, B_ptr + (", ", 0, B_ptr + SHIFT + (")
    return kernel.edited("*(device float4*)(B_ptr + (", "*(device float4*)(B_ptr + SHIFT + (")


@BOTH
def test_a_missing_barrier(api: str) -> None:
    fault = _fault(made(api, "float32").edited(BARRIER[api], ""))
    assert "uninitialised read at byte 1008 of shared array" in fault
    assert "is a barrier missing?" in fault


def test_a_missing_barrier_between_neighbours() -> None:
    text = """__kernel void turn_kernel(__global float* a, __global float* b) {
      __local float s[64];
      int i = get_local_id(0);
      s[i] = a[i];
      b[i] = s[i ? i - 1 : 0];
    }"""
    fault = _fault(written("opencl", text, 2))
    assert re.search(r"race: byte 0 of shared array s is written by thread \(0,0,0\).* read by thread \(1,0,0\)", fault)
    text = text.replace("b[i] =", "barrier(CLK_LOCAL_MEM_FENCE); b[i] =")
    out, _ = written("opencl", text, 2).run(np.arange(64, dtype=np.float32))
    np.testing.assert_array_equal(out, [max(0, i - 1) for i in range(64)])


def test_a_missing_second_barrier() -> None:
    """A tile that is filled again while others may still read it."""
    text = """__kernel void turn_kernel(__global float* a, __global float* b) {
      __local float s[64];
      int i = get_local_id(0);
      float sum = 0;
      for (int k = 0; k < 2; ++k) {
        s[i] = a[64 * k + i];
        barrier(CLK_LOCAL_MEM_FENCE);
        sum += s[63 - i];
        barrier(CLK_LOCAL_MEM_FENCE);
      }
      b[i] = sum;
    }"""
    source = np.arange(128, dtype=np.float32)
    out, _ = written("opencl", text, 2).run(source)
    np.testing.assert_array_equal(out[:64], source[:64][::-1] + source[64:][::-1])
    last = text.rindex("barrier(CLK_LOCAL_MEM_FENCE);")
    assert "race" in _fault(written("opencl", text[:last] + text[last + 29 :], 2))


def test_a_barrier_that_orders_other_memory() -> None:
    kernel = made("opencl", "float32").edited(BARRIER["opencl"], "barrier(CLK_GLOBAL_MEM_FENCE);")
    assert "race" in _fault(kernel)


@BOTH
def test_a_write_out_of_bounds(api: str) -> None:
    fault = _fault(made_with_shift(api, "4"))
    assert "out-of-bounds write of 16 bytes, 0 bytes past the end of buffer 1 (4096 bytes)" in fault
    assert "by thread (63,0,0) of group (3,0,0)" in fault


@BOTH
def test_a_write_before_a_buffer(api: str) -> None:
    fault = _fault(made_with_shift(api, "-4"))
    assert "out-of-bounds write of 16 bytes, 16 bytes before buffer 1" in fault
    assert "by thread (0,0,0) of group (0,0,0)" in fault


def test_a_write_across_the_end() -> None:
    assert "across the end of buffer 1" in _fault(made_with_shift("opencl", "1"))


def made_with_shift(api: str, shift: str) -> Made:
    return _stored(made(api, "float32"), api).edited("SHIFT", f"({shift})")


@BOTH
def test_a_read_out_of_bounds(api: str) -> None:
    kernel = made(api, "float32")
    fault = _fault(kernel.edited("A_ptr + ((", "A_ptr + 1024 + (("))
    assert "out-of-bounds read of 16 bytes, 0 bytes past the end of buffer 0" in fault


@BOTH
def test_a_read_out_of_bounds_of_shared_memory(api: str) -> None:
    kernel = made(api, "float32").edited("(252 -", "(256 -")
    assert "of shared array" in _fault(kernel)


def test_a_buffer_far_away_is_still_told_from_its_neighbours() -> None:
    text = "__kernel void turn_kernel(__global float* a, __global float* b) { b[get_local_id(0)] = a[40000000]; }"
    assert "159995904 bytes past the end of buffer 0" in _fault(written("opencl", text, 2))


@BOTH
def test_a_wrong_index_inside_bounds_gives_wrong_numbers(api: str) -> None:
    source = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    kernel = made(api, "float32")
    out, _ = kernel.edited("(252 -", "(0 + ").run(source)
    assert np.abs(out - expected(source)).max() > 0.1


@BOTH
def test_an_uninitialised_read_of_shared_memory(api: str) -> None:
    kernel = made(api, "float32")
    line = next(one for one in kernel.text.splitlines() if "A_ptr + (" in one and "B_ptr" not in one)
    assert "uninitialised read at byte" in _fault(kernel.edited(line, ""))


@BOTH
def test_an_uninitialised_read_of_a_buffer(api: str) -> None:
    """A value between kernels of which an earlier kernel wrote only a part."""
    defined = np.ones(SIZE * 4, np.uint8)
    defined[2048:2052] = 0
    fault = _fault(made(api, "float32"), defined=defined)
    assert "uninitialised read at byte 2048 of buffer 0" in fault
    assert "by thread (0,0,0) of group (2,0,0)" in fault


@BOTH
def test_a_divergent_barrier(api: str) -> None:
    kernel = made(api, "float32").edited(BARRIER[api], f"if ({THREAD[api]} < 32) {{ {BARRIER[api]} }}")
    kernel = kernel.edited("(252 -", "(0 + ")
    fault = _fault(kernel)
    assert "divergent barrier: thread (0,0,0) of group (0,0,0) waits in line" in fault
    assert "thread (32,0,0) of group (0,0,0) has ended" in fault


def test_two_barriers_that_threads_reach_apart() -> None:
    text = """__kernel void turn_kernel(__global float* a, __global float* b) {
      if (get_local_id(0) < 32) {
        barrier(CLK_LOCAL_MEM_FENCE);
      } else {
        barrier(CLK_LOCAL_MEM_FENCE);
      }
      b[get_local_id(0)] = a[0];
    }"""
    assert re.search(
        r"divergent barrier: .* waits in line 3 of the text, .* in line 5", _fault(written("opencl", text, 2))
    )


def test_a_divergent_simd_operation() -> None:
    text = """#include <metal_stdlib>
using namespace metal;
kernel void turn_kernel(device float* a [[buffer(0)]], device float* b [[buffer(1)]],
                        uint i [[thread_position_in_threadgroup]]) {
  if (i != 5) b[i] = simd_sum(a[i]);
}"""
    assert "divergent SIMD operation" in _fault(written("metal", text, 2))


@BOTH
def test_a_race_between_groups(api: str) -> None:
    kernel = _stored(made(api, "float32"), api).edited("SHIFT", f"({GROUP[api]} * -256)")
    fault = _fault(kernel)
    assert "race between groups of one launch: byte 0 of buffer 1 is written by another group" in fault


def test_a_group_that_reads_what_another_writes() -> None:
    text = """__kernel void turn_kernel(__global float* a, __global float* b) {
      int i = get_group_id(0) * 64 + get_local_id(0);
      b[i] = a[i];
      if (i > 64) a[i] = b[i - 64];
    }"""
    assert "race between groups" in _fault(written("opencl", text, 2, grid=4))


@BOTH
def test_a_group_too_large(api: str) -> None:
    fault = _fault(made(api, "float32"), limits=LIMITS.model_copy(update={"max_threads": 32}))
    assert "a group of 64 threads (64x1x1), where the target allows 32" in fault


@BOTH
def test_too_much_shared_memory(api: str) -> None:
    fault = _fault(made(api, "float32"), limits=LIMITS.model_copy(update={"local_bytes": 1023}))
    assert "shared memory takes 1024 bytes" in fault
    assert "where the target has 1023" in fault


def test_a_write_to_weights() -> None:
    kernel = made("opencl", "float32")
    source, out = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    executor = Executor(build(kernel.shipped), LIMITS, checked=True)
    weights = replace(memory(out), constant=True)
    with pytest.raises(KernelFaultError, match=r"write at byte 0 of buffer 1 .*: it holds weights or an input"):
        executor.launch(kernel.launch, [memory(source), weights])


def test_a_misaligned_vector() -> None:
    """Metal's vector pointers must be aligned to the whole vector."""
    kernel = made("metal", "float32").edited("(device float4*)(A_ptr + (", "(device float4*)(A_ptr + 1 + (")
    assert re.search(r"misaligned access in line \d+ of the text by thread \(0,0,0\)", _fault(kernel))


def test_an_index_out_of_a_threads_own_array() -> None:
    text = """__kernel void turn_kernel(__global float* a, __global float* b) {
      float own[4] = {1, 2, 3, 4};
      own[(int)a[0] + 4] = a[1];
      b[get_local_id(0)] = own[(int)a[0]];
    }"""
    assert "array index out of bounds in line 3 of the text" in _fault(written("opencl", text, 2))


def test_without_checks_only_results_tell() -> None:
    source = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    kernel = made("opencl", "float32").edited(BARRIER["opencl"], "")
    out, _ = kernel.run(source, checked=False)
    assert np.isnan(out).any()  # shared memory holds NaNs until it is written
