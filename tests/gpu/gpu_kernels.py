"""Kernels as GPU artifacts ship them, executed by emulation and compared with references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.compiler.gpu import GpuFamily
from edgevit.compiler.gpu.build import kernel_text
from edgevit.compiler.graph import Node, Tensor
from edgevit.emulate.build import build
from edgevit.emulate.executor import Executor, Memory
from edgevit.emulate.library import Kernel, Shipped
from edgevit.emulate.plan import Launch, limits_of
from edgevit.targets import get_target

DEVICES = (("android-opencl-adreno", "float32"), ("android-opencl-mali", "float16"), ("metal-ios", "float16"))
"""Both languages, both storages of floats, with local memory on chip and without."""
LANGUAGES = (DEVICES[0], DEVICES[2])
"""For kernels that make nothing of local memory."""
_HALF_TOLERANCE = 1.5e-3
_RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """A node with its inputs and what it should compute.

    Attributes:
        node: to be claimed by the family under test.
        arrays: its inputs; floats are such that float16 holds them.
        expected: reference, computed in float32 or better.
        tolerance: relative above 1, else absolute, for results in float32.
    """

    node: Node
    arrays: Sequence[np.ndarray]
    expected: np.ndarray
    tolerance: float = 2e-5


def make_case(
    op: str, arrays: Sequence[np.ndarray], expected: np.ndarray, tolerance: float = 2e-5, **attrs: Any
) -> Case:
    """Case for a node whose inputs are all computed."""
    inputs: list[Tensor | None] = [Tensor(f"x{i}", a.shape, str(a.dtype)) for i, a in enumerate(arrays)]
    node = Node(op, inputs, [Tensor("y", expected.shape, str(expected.dtype))], attrs)
    return Case(node, arrays, expected, tolerance)


def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal numbers that float16 holds, different in every call."""
    values = _RANDOM.standard_normal(shape) * scale
    return np.asarray(values, np.float16).astype(np.float32)


def check(family: GpuFamily, cases: Sequence[Case], device: tuple[str, str]) -> None:
    """Compile all cases for a device, execute them with every access checked, and compare.

    Outputs start undefined; an element that is not written, or written twice with different values, differs.
    """
    name, storage = device
    target = get_target(name)
    assert target.gpu is not None
    kernels, launches = {}, []
    for number, case in enumerate(cases):
        workload = family.claim(case.node)
        assert workload is not None, case.node
        arguments = len(case.arrays) + 1
        function = family.emit(workload, target, f"kernel{number}", [storage] * arguments)
        text, launch = kernel_text(function, target)
        kernels[launch.kernel] = Kernel(launch.kernel, text, arguments, ())
        launches.append(launch)
    library = build(Shipped(target.gpu.api, kernels, b""))
    executor = Executor(library, limits_of(target.gpu), checked=True)
    for case, launch in zip(cases, launches, strict=True):
        output = _stored(np.full(case.expected.shape, 77, case.expected.dtype), storage)
        arrays = [*(_stored(array, storage) for array in case.arrays), output]
        memories = [_memory(array, defined=array is not output) for array in arrays]
        asked = Launch(
            function="f", kernel=launch.kernel, grid=launch.grid, block=launch.block, arguments=launch.arguments
        )
        executor.launch(asked, [memories[place] for place in launch.arguments])
        assert memories[-1].defined is not None
        assert memories[-1].defined.all(), f"{case.node}: parts of the output are not written"
        _compare(case, output)


def _stored(array: np.ndarray, storage: str) -> np.ndarray:
    """A copy, flat, as the device stores it."""
    dtype = storage if array.dtype == np.float32 else array.dtype
    return np.array(array, dtype).reshape(-1)


def _memory(array: np.ndarray, *, defined: bool) -> Memory:
    known = None if defined else np.zeros(array.nbytes, np.uint8)
    return Memory(array.ctypes.data, array.nbytes, array.itemsize, known)


def _compare(case: Case, output: np.ndarray) -> None:
    result = output.reshape(case.expected.shape)
    if result.dtype not in (np.float16, np.float32):
        np.testing.assert_array_equal(result, case.expected, err_msg=str(case.node))
        return
    tolerance = max(case.tolerance, _HALF_TOLERANCE if result.dtype == np.float16 else 0.0)
    with np.errstate(over="ignore"):
        expected = case.expected.astype(result.dtype).astype(np.float64)
    np.testing.assert_allclose(result.astype(np.float64), expected, tolerance, tolerance, err_msg=str(case.node))
