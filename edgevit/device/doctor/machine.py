"""Probes of this machine: room, memory, and what would make measurements on it lie."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

from edgevit.device.doctor.finding import Finding, error, ok, warning

_GIB = 1 << 30
_LOW_BYTES = _GIB
_BUSY_SHARE = 0.25
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")


def load() -> list[Finding]:
    """Whether something else keeps the cores busy."""
    from edgevit.device.usage import usable_cores

    average, cores = os.getloadavg()[0], usable_cores()
    detail = f"{average:.1f} running on {cores} usable core{'s' * (cores > 1)}, over the last minute"
    if average > _BUSY_SHARE * cores:
        return [warning("CPU load", detail, "Stop other work before measuring: times would be too long.")]
    return [ok("CPU load", detail)]


def processor() -> list[Finding]:
    """Cores this process may use, frequency governor, virtualisation."""
    from edgevit.device.usage import cpu_model, usable_cores

    usable, present = usable_cores(), os.cpu_count() or 1
    cores = f"{usable} of {present} cores usable" if usable != present else f"{present} cores"
    findings = [ok("CPU", f"{cpu_model() or platform.machine()}, {cores}{_virtual()}")]
    governor = _read(_GOVERNOR)
    if governor in ("powersave", "conservative") and not _is_pstate():
        advice = "sudo cpupower frequency-set -g performance, for the time of a measurement."
        findings.append(warning("CPU governor", f"{governor}: the clock follows the load", advice))
    elif governor:
        findings.append(ok("CPU governor", governor))
    return findings


def memory() -> list[Finding]:
    """Whether there is memory to compile in."""
    import psutil

    state = psutil.virtual_memory()
    detail = f"{state.available / _GIB:.1f} GiB available of {state.total / _GIB:.1f} GiB"
    if state.available < _LOW_BYTES:
        return [warning("memory", detail, "Close other programs: compiling a model takes about 1 GiB.")]
    return [ok("memory", detail)]


def folders() -> list[Finding]:
    """Whether the folders edgevit writes to can be written and have room."""
    from edgevit.sources import cache_folder

    return [
        _folder("temporary folder", Path(tempfile.gettempdir()), "TMPDIR"),
        _folder("cache folder", cache_folder(), "EDGEVIT_CACHE_DIR"),
    ]


def _folder(name: str, folder: Path, variable: str) -> Finding:
    import psutil

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"edgevit")
            probe.flush()
        free = psutil.disk_usage(str(folder)).free
    except OSError as fault:
        advice = f"Make it writable, or set {variable} to a folder that is."
        return error(name, f"{folder} cannot be written: {fault.strerror or fault}", advice)
    detail = f"{folder}, {free / _GIB:.1f} GiB free"
    if free < _LOW_BYTES:
        return warning(name, detail, f"Make room, or set {variable} to a folder on a larger disk.")
    return ok(name, detail)


def _virtual() -> str:
    flags = next((line for line in _read(_CPUINFO).splitlines() if line.startswith("flags")), "")
    return ", virtual machine: its times vary with its neighbours" if " hypervisor" in flags else ""


def _is_pstate() -> bool:
    # There "powersave" is the ordinary governor, which clocks up under load.
    return "pstate" in _read(_GOVERNOR.with_name("scaling_driver"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
