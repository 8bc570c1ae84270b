"""Many runs in one call: how a batch travels to a device and back.

TVM's protocol has an answer for every request, and one run is a handful of requests: make tensors, copy to them, call,
fetch, free. The function ``edgevit.server.run_batch`` of edgevit's servers takes the inputs of many runs as bytes and
returns their outputs as bytes, so a batch is one request, however slow the way to the device is. Run after run, and
in each run tensor after tensor in the model's order, the elements follow each other in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.device.vm import as_list
from edgevit.manifest import Resolution, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

FUNCTION = "edgevit.server.run_batch"

BATCH_BYTES = 16 << 20
"""Most bytes of inputs and outputs that one call carries, unless a single run has more: servers hold them twice."""


def most_runs(resolution: Resolution) -> int:
    """How many runs one call may carry."""
    return max(1, BATCH_BYTES // max(1, run_bytes((*resolution.inputs, *resolution.outputs))))


def run_bytes(infos: Sequence[TensorInfo]) -> int:
    """Size of these tensors together."""
    return sum(math.prod(info.shape) * np.dtype(info.dtype).itemsize for info in infos)


def forms(infos: Sequence[TensorInfo]) -> str:
    """The tensors of one run as the function is told of them, such as ``float32[1,3,256,256] bool[]``."""
    return " ".join(f"{info.dtype}[{','.join(map(str, info.shape))}]" for info in infos)


def pack(runs: Sequence[Sequence[NDArray[np.generic]]]) -> bytes:
    """The tensors of all runs; each must be C-contiguous."""
    return b"".join(array.data for arrays in runs for array in arrays)


def unpack(data: bytes, infos: Sequence[TensorInfo], count: int) -> list[dict[str, NDArray[np.generic]]]:
    """The tensors of ``count`` runs by name, as arrays that own their memory.

    Raises:
        ValueError: there are more bytes, or less.
    """
    if len(data) != count * run_bytes(infos):
        raise ValueError(f"{count} x {forms(infos)} are {count * run_bytes(infos)} bytes, not {len(data)}")
    runs, offset = [], 0
    for _ in range(count):
        run = {}
        for info in infos:
            size = math.prod(info.shape)
            flat = np.frombuffer(data, info.dtype, size, offset)
            run[info.name] = flat.reshape(info.shape).copy()
            offset += flat.nbytes
        runs.append(run)
    return runs


def serve_batch(machine: Any, entry: str, count: int, inputs: str, outputs: str, data: bytes) -> bytes:
    """What ``runtime/server/batch.cc`` does, for the server that is a Python process.

    Args:
        machine: TVM's virtual machine, as a module.
        entry: its function.
        count: runs.
        inputs: :func:`forms` of what it takes.
        outputs: :func:`forms` of what it returns.
        data: inputs of all runs.

    Raises:
        ValueError: the bytes are not those of ``count`` runs, or the program returns something else.
    """
    import tvm

    taken, given = _parsed(inputs), _parsed(outputs)
    if count < 1:
        raise ValueError(f"a batch of {count} runs cannot be run")
    if len(data) != count * run_bytes(taken):
        raise ValueError(f"{count} x {inputs} are {count * run_bytes(taken)} bytes, not {len(data)}")
    function = machine[entry]
    tensors = [tvm.runtime.empty(info.shape, info.dtype) for info in taken]
    filled = bytearray()
    for run in unpack(data, taken, count):
        for info, tensor in zip(taken, tensors, strict=True):
            tensor.copyfrom(run[info.name])
        arrays = [tensor.numpy() for tensor in as_list(function(*tensors))]
        returned = " ".join(f"{array.dtype}[{','.join(map(str, array.shape))}]" for array in arrays)
        if returned != forms(given):
            raise ValueError(f"{entry!r} returns {returned}, not {outputs}")
        filled += pack([arrays])
    return bytes(filled)


def _parsed(text: str) -> list[TensorInfo]:
    """The reverse of :func:`forms`; names are places."""
    infos = []
    for place, word in enumerate(text.split()):
        dtype, _, dims = word.rstrip("]").partition("[")
        shape = dims.split(",") if dims else []
        for dim in shape:
            if not dim.isdecimal():
                raise ValueError(f"{dim!r} in {word!r} is no size of a tensor")
        infos.append(TensorInfo(name=str(place), shape=tuple(map(int, shape)), dtype=dtype))
    return infos
