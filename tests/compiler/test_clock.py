"""The clock reading in machine code, against C libraries that fill their struct in different ways."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import tvm

from edgevit.compiler.clock import clock_function
from edgevit.compiler.entry import build_module, kernel_entry
from edgevit.targets import get_target

SECONDS, NANOSECONDS = 86_400, 999_999_999
# What clock_gettime writes, as C; padding stays unwritten.
LAYOUTS = {
    "seconds of 32 bits": "w[0] = 86400; w[1] = 999999999;",
    "both of 64 bits": "((long long *)w)[0] = 86400; ((long long *)w)[1] = 999999999;",
    "64-bit seconds, 32-bit nanoseconds": "((long long *)w)[0] = 86400; w[2] = 999999999;",
    "64-bit seconds, no nanoseconds": "((long long *)w)[0] = 86400; w[2] = 0;",
}


def read_clock(folder: Path, source: str | None) -> int:
    """Nanoseconds that the clock function stores; with ``source`` as the body of ``clock_gettime``."""
    target = get_target("host")

    def link(output: str, objects: Sequence[str], options: object = None) -> None:
        extra: list[str] = []
        if source is not None:
            # Hidden: else the C library's own would come first.
            head = '__attribute__((visibility("hidden"))) int clock_gettime(int clock, int *w)'
            (folder / "fake.c").write_text(f"{head} {{ {source} return 0; }}\n", encoding="utf-8")
            extra = ["-fno-sanitize=undefined", "-fno-strict-aliasing", str(folder / "fake.c")]
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", target.linking.zig_target]
        subprocess.run([*zig, "-shared", "-fPIC", "-o", output, *objects, *extra], check=True)

    link.output_format = "so"  # type: ignore[attr-defined]
    link.get_target_triple = None  # type: ignore[attr-defined]
    executable = build_module(kernel_entry(clock_function(target), [(1, "int64")]), target)
    executable.export_library(str(folder / "clock.so"), fcompile=link)
    reading = tvm.runtime.empty((1,), "int64")
    tvm.runtime.load_module(str(folder / "clock.so"))["entry"](reading)
    return int(reading.numpy()[0])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_the_struct_is_understood(name: str, tmp_path: Path) -> None:
    nanoseconds = 0 if "no nanoseconds" in name else NANOSECONDS
    assert read_clock(tmp_path, LAYOUTS[name]) == SECONDS * 10**9 + nanoseconds


def test_it_is_this_machines_monotonic_clock(tmp_path: Path) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert before <= read_clock(tmp_path, None) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
