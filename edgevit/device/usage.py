"""State of this process and machine, for sessions that run on the host."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64", "armv7": "arm", "armv7l": "arm", "armv8l": "arm"}


def architecture(machine: str = "") -> str:
    """An instruction set in the words of a target: ``aarch64``, ``arm``, ``x86_64``.

    Args:
        machine: as a system or a server calls it; by default this machine's.
    """
    machine = (machine or platform.machine()).lower()
    return _ARCHITECTURES.get(machine, machine)


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def claim_all_cores() -> None:
    """Let TVM's thread pool grow to every usable core.

    On x86-64 it takes half of them otherwise, assuming that the other half are hyper-threads. Only works
    before the pool's first use in the process.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(usable_cores()))


def pin(cores: int) -> None:
    """Keep this process to the last so many of its cores, where the system can: the first ones serve interrupts."""
    if cores > 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def machine_facts() -> dict[str, Any]:
    """Architecture, system, CPU model, cores and memory of this machine."""
    import psutil

    return {
        "arch": architecture(),
        "os": {"darwin": "macos"}.get(sys.platform, sys.platform),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def process_usage() -> dict[str, Any]:
    """CPU seconds and peak memory of this process, and the machine's one-minute load."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": own.ru_utime + own.ru_stime,
        "peak_rss_bytes": _peak_rss(own.ru_maxrss),
        "load_average_1m": os.getloadavg()[0],
    }


def _peak_rss(maxrss: int) -> int:
    # Linux starts a new program's ru_maxrss at the size of the process that started it; VmHWM is its own.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return maxrss * (1 if sys.platform == "darwin" else 1024)


def cpu_model() -> str | None:
    """Marketing name of the CPU where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model", "Hardware"):
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or None
