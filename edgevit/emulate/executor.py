"""Launch kernels from a library that ``build.py`` made; used inside the worker process."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevit.emulate.plan import Launch, Limits
from edgevit.emulate.texts import ENTRY

_FAULT_BYTES = 1024


class KernelFaultError(RuntimeError):
    """A kernel did what no kernel may do."""


class _Buffer(ctypes.Structure):
    """``EvBuffer`` in native/launch.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("element", ctypes.c_uint32),
        ("same_as", ctypes.c_int32),
        ("constant", ctypes.c_int32),
        ("defined", ctypes.c_void_p),
        ("bytes_read", ctypes.c_uint64),
        ("bytes_written", ctypes.c_uint64),
        ("distinct_read", ctypes.c_uint64),
        ("distinct_written", ctypes.c_uint64),
    )


class _Launch(ctypes.Structure):
    """``EvLaunch`` in native/launch.h."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("groups", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("simd", ctypes.c_uint32),
        ("max_threads", ctypes.c_uint32),
        ("local_limit", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("checked", ctypes.c_int32),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("fault", ctypes.c_char_p),
        ("fault_size", ctypes.c_uint64),
        ("local_bytes", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Memory:
    """A range of this process's memory that a kernel gets.

    Attributes:
        address: of the first byte.
        bytes: how many.
        element: bytes of a scalar.
        defined: one byte for each, 0 where nobody has written; None where all is defined.
        constant: whether no kernel may write it.
    """

    address: int
    bytes: int
    element: int
    defined: NDArray[np.uint8] | None = None
    constant: bool = False


@dataclass
class Traffic:
    """What all launches of one kernel did.

    Attributes:
        launches: how many.
        bytes_read, bytes_written: asked of buffers by all threads.
        distinct_read, distinct_written: different bytes of buffers touched, launch by launch.
        local_bytes: shared memory of a group, at most.
        barriers: times a group waited for all its threads.
    """

    launches: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    distinct_read: int = 0
    distinct_written: int = 0
    local_bytes: int = 0
    barriers: int = 0


@dataclass
class Executor:
    """Kernels of one library.

    Attributes:
        path: from :func:`edgevit.emulate.build.build`.
        limits: of the target.
        checked: whether the library was built with checks.
        traffic: by kernel.
    """

    path: Path
    limits: Limits
    checked: bool
    traffic: dict[str, Traffic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._library = ctypes.CDLL(str(self.path))
        self._library.ev_launch.argtypes = [ctypes.POINTER(_Launch)]

    def launch(self, launch: Launch, buffers: Sequence[Memory]) -> None:
        """Run one launch to its end.

        Raises:
            KernelFaultError: a check failed; names kernel, thread and buffer.
        """
        fault = ctypes.create_string_buffer(_FAULT_BYTES)
        passed = (_Buffer * len(buffers))(*_described(buffers))
        entry = ctypes.cast(getattr(self._library, ENTRY + launch.kernel), ctypes.c_void_p)
        asked = _Launch(
            entry=entry,
            groups=launch.grid,
            threads=launch.block,
            simd=self.limits.simd,
            max_threads=self.limits.max_threads,
            local_limit=self.limits.local_bytes,
            count=len(buffers),
            checked=self.checked,
            buffers=passed,
            fault=ctypes.cast(fault, ctypes.c_char_p),
            fault_size=_FAULT_BYTES,
        )
        if self._library.ev_launch(ctypes.byref(asked)):
            raise KernelFaultError(f"{fault.value.decode(errors='replace')} in kernel {launch.kernel}")
        self._count(launch.kernel, passed, asked)

    def _count(self, kernel: str, buffers: ctypes.Array[_Buffer], launch: _Launch) -> None:
        traffic = self.traffic.setdefault(kernel, Traffic())
        traffic.launches += 1
        traffic.barriers += launch.barriers
        traffic.local_bytes = max(traffic.local_bytes, launch.local_bytes)
        for buffer in buffers:
            traffic.bytes_read += buffer.bytes_read
            traffic.bytes_written += buffer.bytes_written
            traffic.distinct_read += buffer.distinct_read
            traffic.distinct_written += buffer.distinct_written


def _described(buffers: Sequence[Memory]) -> list[_Buffer]:
    described: list[_Buffer] = []
    for memory in buffers:
        same = next((i for i, other in enumerate(buffers[: len(described)]) if _same(memory, other)), -1)
        defined = memory.defined.ctypes.data if memory.defined is not None else None
        described.append(_Buffer(memory.address, memory.bytes, memory.element, same, memory.constant, defined))
    return described


def _same(memory: Memory, other: Memory) -> bool:
    """Whether two arguments are one buffer.

    Raises:
        KernelFaultError: they share a part of it only.
    """
    if memory.address >= other.address + other.bytes or other.address >= memory.address + memory.bytes:
        return False
    if (memory.address, memory.bytes) != (other.address, other.bytes):
        raise KernelFaultError("two arguments of a launch overlap")
    return True
