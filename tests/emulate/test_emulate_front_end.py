"""What a device's OpenCL compiler would refuse."""

from __future__ import annotations

import pytest

from edgevit.emulate.frontend import check_front_end
from edgevit.errors import CheckFailed
from edgevit.target_schema import Gpu
from tests.emulate.made import made

GPU = Gpu(
    api="opencl",
    language="CL2.0",
    extensions=("cl_khr_fp16",),
    max_threads=256,
    local_bytes=32768,
    simd=64,
    cores=1,
)


@pytest.mark.parametrize("language", ["CL1.2", "CL2.0", "CL3.0"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_tvm_writes_is_accepted(language: str, dtype: str) -> None:
    said = check_front_end(made("opencl", dtype).shipped, GPU.model_copy(update={"language": language}))
    assert f"{language}, cl_khr_fp16" in said


def test_fp16_is_refused_where_the_device_has_none() -> None:
    gpu = GPU.model_copy(update={"extensions": ()})
    check_front_end(made("opencl", "float32").shipped, gpu)
    with pytest.raises(CheckFailed, match="Half precision") as caught:
        check_front_end(made("opencl", "float16").shipped, gpu)
    assert caught.value.where == "kernel turn_kernel"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("barrier(CLK_LOCAL_MEM_FENCE);", "work_group_barrier(CLK_LOCAL_MEM_FENCE, memory_scope_work_group);", "error"),
        ("barrier(CLK_LOCAL_MEM_FENCE);", "nonsense();", "nonsense"),
        ("__local float s_ptr[256];", "int n = get_local_size(0); __local float s_ptr[n];", "array"),
        ("int cse_v1 =", "int none; int cse_v0 = none; int cse_v1 =", "uninitialized"),
    ],
)
def test_texts_that_a_compiler_refuses(old: str, new: str, said: str) -> None:
    gpu = GPU.model_copy(update={"language": "CL1.2"})
    with pytest.raises(CheckFailed, match=said):
        check_front_end(made("opencl", "float32").edited(old, new).shipped, gpu)
