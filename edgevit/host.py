"""The machine edgevit runs on, as a target.

Nothing that changes from one minute to the next (load, frequency, free memory) enters: two runs on one
machine with the same CPU allowance describe the same target.
"""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from edgevit.errors import TargetError
from edgevit.target_schema import Caches, Linking, Target, Vector

# The kernel's name of a CPU flag -> LLVM's, for all that LLVM may emit on its own or a kernel may ask for.
_X86_FLAGS = {
    "pni": "sse3", "ssse3": "ssse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "sse4a": "sse4a", "cx16": "cx16",
    "popcnt": "popcnt", "movbe": "movbe", "abm": "lzcnt", "bmi1": "bmi", "bmi2": "bmi2", "adx": "adx",
    "f16c": "f16c", "fma": "fma", "fma4": "fma4", "xop": "xop", "tbm": "tbm", "avx": "avx", "avx2": "avx2",
    "avx_vnni": "avxvnni", "avx_ifma": "avxifma", "avx_vnni_int8": "avxvnniint8",
    "avx_ne_convert": "avxneconvert", "aes": "aes", "pclmulqdq": "pclmul", "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq", "gfni": "gfni", "sha_ni": "sha", "avx512f": "avx512f", "avx512cd": "avx512cd",
    "avx512bw": "avx512bw", "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi", "avx512_vbmi2": "avx512vbmi2", "avx512_vnni": "avx512vnni",
    "avx512_bitalg": "avx512bitalg", "avx512_vpopcntdq": "avx512vpopcntdq", "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16", "avx512_vp2intersect": "avx512vp2intersect", "amx_tile": "amx-tile",
    "amx_int8": "amx-int8", "amx_bf16": "amx-bf16",
}  # fmt: skip
_AARCH64_FLAGS = {
    "asimd": "neon", "asimddp": "dotprod", "asimdhp": "fullfp16", "asimdfhm": "fp16fml", "i8mm": "i8mm",
    "bf16": "bf16", "atomics": "lse", "asimdrdm": "rdm", "lrcpc": "rcpc", "fcma": "complxnum", "sve": "sve",
    "sve2": "sve2", "sme": "sme",
}  # fmt: skip
_MACOS_FEATURES = {
    "FEAT_DotProd": "dotprod",
    "FEAT_FP16": "fullfp16",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
}

# https://gitlab.com/x86-psABIs/x86-64-ABI, table "Micro-Architecture Levels"
_X86_LEVELS = (
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe"),
    ("x86-64-v2", "cx16 popcnt pni sse4_1 sse4_2 ssse3"),
)

_BASELINE_GLIBC = (2, 28)


def detect_host(*, exact: bool = True) -> Target:
    """Describe this machine.

    Args:
        exact: ask TVM's LLVM for the CPU's name (imports TVM); otherwise the level or family that the
            operating system's flags prove.

    Raises:
        TargetError: this system or architecture is not one edgevit compiles for.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Darwin", "arm64"):
        return _macos(exact)
    if system == "Linux" and machine in ("x86_64", "aarch64") and sys.maxsize > 2**32:
        return _linux(machine, exact)
    raise TargetError(
        f"edgevit cannot compile for its own machine when that is {system} on {machine}.",
        where="host",
        advice="Name another target; 'edgevit targets' lists them.",
    )


def _linux(machine: str, exact: bool) -> Target:
    x86 = machine == "x86_64"
    triple = f"{machine}-linux-gnu"
    flags = _cpu_flags(Path("/proc/cpuinfo"), "flags" if x86 else "Features")
    table = _X86_FLAGS if x86 else _AARCH64_FLAGS
    present = {llvm for kernel, llvm in table.items() if kernel in flags}
    if not x86:
        present.add("neon")  # armv8-a has no processor without it that runs Linux
    cpu = _x86_level(flags) if x86 else "generic"
    masked: set[str] = set()
    # Without flags (some sandboxes hide them) nothing proves that the named CPU's features are there.
    if exact and flags:
        cpu, implied = _llvm_cpu(triple, fallback=cpu)
        masked = (implied & set(table.values())) - present
    caches, notes = _linux_caches(Path("/sys/devices/system/cpu"))
    return Target(
        name="host",
        description=f"This machine: {cpu}, Linux",
        aliases=("native",),
        triple=triple,
        cpu=cpu,
        features=_feature_list(present, masked),
        cores=_linux_cores(),
        caches=caches,
        vector=_x86_vector(present) if x86 else Vector(bits=128, registers=32),
        fma="fma" in present if x86 else True,
        linking=Linking(zig_target=f"{machine}-linux-gnu.{_glibc()}", zig_static_target=f"{machine}-linux-musl"),
        notes=notes,
    )


def _macos(exact: bool) -> Target:
    triple = "aarch64-apple-macos"
    present = {"neon"} | {llvm for name, llvm in _MACOS_FEATURES.items() if _sysctl(f"hw.optional.arm.{name}") == 1}
    cpu = _llvm_cpu(triple, fallback="apple-m1")[0] if exact else "apple-m1"
    # perflevel0 is the performance cluster.
    return Target(
        name="host",
        description=f"This machine: {cpu}, macOS",
        aliases=("native",),
        triple=triple,
        cpu=cpu,
        features=_feature_list(present, set()),
        cores=_sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or os.cpu_count() or 1,
        caches=Caches(
            l1d=_sysctl("hw.perflevel0.l1dcachesize") or 64 << 10,
            l2=_sysctl("hw.perflevel0.l2cachesize") or 4 << 20,
            l2_shared_by=_sysctl("hw.perflevel0.cpusperl2") or 4,
        ),
        vector=Vector(bits=128, registers=32),
        fma=True,
        linking=Linking(zig_target="aarch64-macos.11.0"),
        notes="The performance cores; sizes as sysctl reports them.",
    )


def _feature_list(present: set[str], masked: set[str]) -> tuple[str, ...]:
    return tuple(f"+{name}" for name in sorted(present)) + tuple(f"-{name}" for name in sorted(masked))


def _llvm_cpu(triple: str, *, fallback: str) -> tuple[str, set[str]]:
    """LLVM's name for this CPU and the features that LLVM takes it to have.

    Hypervisors pass the model on and hide some of its instructions, so the second is compared with what the
    operating system reports.
    """
    import tvm
    from tvm.target import codegen

    cpu = str(codegen.llvm_get_system_cpu())
    if cpu in ("", "generic") or not codegen.llvm_is_valid_cpu(cpu, triple):
        cpu = fallback
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
    return cpu, {str(name) for name in codegen.llvm_get_cpu_features(target)}


def _cpu_flags(cpuinfo: Path, key: str) -> set[str]:
    """Flags that every processor in ``/proc/cpuinfo`` has (cores of one chip may differ)."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = [set(flags.split()) for flags in re.findall(rf"^{key}\s*:(.*)$", text, flags=re.MULTILINE)]
    return set.intersection(*found) if found else set()


def _x86_level(flags: set[str]) -> str:
    """The highest x86-64 micro-architecture level whose own flags and all lower ones' are there."""
    level = "x86-64"
    for name, needed in reversed(_X86_LEVELS):
        if not flags.issuperset(needed.split()):
            break
        level = name
    return level


def _x86_vector(present: set[str]) -> Vector:
    if {"avx512f", "avx512vl"} <= present:
        return Vector(bits=512, registers=32)
    return Vector(bits=256 if "avx2" in present else 128, registers=16)


def _linux_cores() -> int:
    """Physical cores this process may run on: its affinity, then the control group's quota.

    Two hardware threads share one core's FMA units, so they count once.
    """
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in allowed}
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(len(cores), math.ceil(quota) if quota else len(cores)))


def _siblings(cpu: int) -> str:
    listing = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return listing.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _cgroup_quota(root: Path) -> float | None:
    """CPUs that the control group grants, from version 2's ``cpu.max`` or version 1's CFS files."""
    version1 = root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"
    for files in ((root / "cpu.max",), version1):
        try:
            quota, period = " ".join(_read(file) for file in files).split()
            granted = float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue  # absent, or "max": no limit
        if granted > 0:
            return granted
    return None


def _linux_caches(root: Path) -> tuple[Caches, str]:
    """Data caches of the first allowed CPU from sysfs; conservative figures where it has none."""
    folder = root / f"cpu{min(os.sched_getaffinity(0))}" / "cache"
    sizes: dict[int, int] = {}
    shared: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            if _read(index / "type") == "Instruction":
                continue
            level = int(_read(index / "level"))
            sizes[level] = _bytes(_read(index / "size"))
            shared[level] = _count_cpus(_read(index / "shared_cpu_list"))
        except (OSError, ValueError):
            continue
    if 1 not in sizes or 2 not in sizes:
        return Caches(l1d=32 << 10, l2=256 << 10), "Cache sizes are assumed: the system does not report them."
    threads = max(1, shared[1])
    # Hardware threads of one core share its L1, so dividing by them turns CPUs into cores.
    caches = Caches(l1d=sizes[1], l2=sizes[2], l2_shared_by=max(1, shared[2] // threads), l3=sizes.get(3))
    return caches, "Cache sizes as the system reports them."


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _bytes(size: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(size[:-1]) * units[size[-1]] if size[-1:] in units else int(size)


def _count_cpus(listing: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names."""
    ends = [part.split("-") for part in listing.split(",") if part]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def _glibc() -> str:
    """glibc that a library for this machine may ask for: the common baseline, or older if this is older."""
    name, version = platform.libc_ver()
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    chosen = min(parts, _BASELINE_GLIBC) if name == "glibc" and len(parts) == 2 else _BASELINE_GLIBC
    return ".".join(map(str, chosen))


def _sysctl(name: str) -> int | None:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=True)
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
