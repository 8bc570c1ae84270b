"""Execute one GPU kernel's text with every access to memory checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.compiler.gpu import GpuFamily, claim
from edgevit.compiler.gpu.build import gpu_target, kernel_text
from edgevit.compiler.graph import Node, Tensor
from edgevit.emulate.build import build
from edgevit.emulate.executor import Executor, Memory
from edgevit.emulate.library import Kernel, Shipped
from edgevit.emulate.plan import Launch, limits_of
from edgevit.target_schema import Target
from edgevit.targets import get_target

Array = NDArray[Any]

DEVICES = (("android-opencl-adreno", "float32"), ("android-opencl-mali", "float16"), ("metal-ios", "float16"))
"""Both languages, both storages of floats, with local memory on chip and without."""
PHONES = tuple(name for name, _ in DEVICES)
ERRORS = {"float32": 2e-5, "float16": 4e-3}
"""Largest error that storing inputs, weights and the result in a type explains, for results of order one."""


def tensor(shape: Sequence[int], dtype: str = "float32") -> Tensor:
    """A value of a graph."""
    return Tensor("t", tuple(shape), dtype)


def run_node(node: Node, arrays: Sequence[Array], target_name: str, stored: str = "float32") -> list[Array]:
    """Outputs of a node by the family that claims it for a target.

    Args:
        node: of a rewritten graph; its constants need no data.
        arrays: its inputs in order, constants in the layout of the graph.
        target_name: with a GPU.
        stored: how floats are stored.
    """
    target = get_target(target_name)
    found = claim(node)
    assert found is not None
    family, workload = found
    constants = [place for place, t in enumerate(node.inputs) if t is not None and t.is_constant]
    packed = _packed(family, workload, target, arrays, constants)
    kinds = [stored if str(a.dtype) == "float32" else str(a.dtype) for a in packed]
    results = [stored if t.dtype == "float32" else t.dtype for t in node.outputs]
    function = _emitted(family, workload, target, (*kinds, *results))
    inputs = [np.ascontiguousarray(a).astype(kind).reshape(-1) for a, kind in zip(packed, kinds, strict=True)]
    outputs = [np.zeros(t.size, kind) for t, kind in zip(node.outputs, results, strict=True)]
    execute(function, target, inputs, outputs)
    return [
        (o.astype(np.float32) if t.dtype == "float32" else o).reshape(t.shape)
        for o, t in zip(outputs, node.outputs, strict=True)
    ]


def execute(function: Any, target: Target, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Run the one kernel that a function launches; what it reads of the outputs counts as undefined."""
    text, launch = kernel_text(function, target)
    assert target.gpu is not None
    axes = [f"{kind}Idx.{axis}" for kind in ("block", "thread") for axis in "xyz"]
    kernel = Kernel(launch.kernel, text, len(launch.arguments), tuple(axes))
    library = build(Shipped(target.gpu.api, {launch.kernel: kernel}, b""))
    buffers = [Memory(a.ctypes.data, a.nbytes, a.itemsize) for a in inputs]
    buffers += [Memory(a.ctypes.data, a.nbytes, a.itemsize, np.zeros(a.nbytes, np.uint8)) for a in outputs]
    planned = Launch(
        function=launch.kernel, kernel=launch.kernel, grid=launch.grid, block=launch.block, arguments=launch.arguments
    )
    Executor(library, limits_of(target.gpu), checked=True).launch(planned, [buffers[i] for i in launch.arguments])
    for memory in buffers[len(inputs) :]:
        assert memory.defined is not None
        assert memory.defined.all(), "some of the output was never written"


def _emitted(family: GpuFamily, workload: Any, target: Target, storage: tuple[str, ...]) -> Any:
    import tvm

    with tvm.target.Target(gpu_target(target)):
        return family.emit(workload, target, "kernel", storage)


def _packed(
    family: GpuFamily, workload: Any, target: Target, arrays: Sequence[Array], constants: Sequence[int]
) -> list[Array]:
    pack, result = getattr(family, "pack", None), list(arrays)
    if pack and constants:
        for place, data in zip(constants, pack(workload, target, [arrays[i] for i in constants]), strict=True):
            result[place] = data
    return result
