"""Read the device's clock from machine code, between kernels."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from edgevit.compiler.kernels.builder import KernelBuilder
from edgevit.target_schema import Target

_MONOTONIC = {"linux": 1, "darwin": 6}
"""``CLOCK_MONOTONIC`` by kernel of the system, from ``<time.h>``."""
_UNWRITTEN = -1


def clock_function(target: Target) -> Any:
    """Private function that stores the monotonic clock's nanoseconds (int64) where its argument points.

    The struct that ``clock_gettime`` fills is not the same everywhere. As little-endian 32-bit words it is
    seconds, their upper half, nanoseconds, padding; but seconds, nanoseconds where the C library counts seconds
    in 32 bits (glibc on 32-bit ARM; musl there counts in 64). A library does not know which of the two its device has,
    so it looks at whether the third word was written. The seconds' upper half is not needed: a monotonic clock
    starts when the machine does.
    """
    builder = KernelBuilder("clock")
    reading = builder.argument("reading", 1, "int64")
    words = builder.registers(4, "int32", "timespec")
    for index in range(4):
        builder.store(words, index, builder.constant(_UNWRITTEN, "int32"))
    clock = tirx.const(_MONOTONIC[target.os_kernel], "int32")
    pointer = tirx.address_of(builder.load(words, 0))
    builder.bind(tirx.call_extern("int32", "clock_gettime", clock, pointer), "status")
    third = builder.bind(builder.load(words, 2))
    rest = tirx.Select(third != tirx.const(_UNWRITTEN, "int32"), third, builder.load(words, 1))
    seconds = builder.load(words, 0).astype("int64")
    builder.store(reading, 0, seconds * tirx.const(1_000_000_000, "int64") + rest.astype("int64"))
    return builder.finish()
