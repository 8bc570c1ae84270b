"""Detection of the machine itself, on this one and on described ones."""

from __future__ import annotations

import os
import platform
import subprocess

import pytest

from edgevit import host
from edgevit.errors import TargetError
from edgevit.targets import get_target, list_targets, validate_for_compiler

# Flags as Linux names them; the levels are those of the x86-64 psABI.
V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


def test_host_runs_the_code_it_asks_for():
    import numpy as np
    import tvm
    from tvm import te

    target = get_target("host")
    validate_for_compiler(target)
    a = te.placeholder((64,), "float32", name="a")
    b = te.compute((64,), lambda i: a[i] * 2.0 + 1.0, name="b")
    module = tvm.IRModule({"main": te.create_prim_func([a, b])})
    built = tvm.compile(module, target=tvm.target.Target(target.tvm_target()))
    values = np.arange(64, dtype="float32")
    result = tvm.runtime.tensor(np.zeros(64, "float32"))
    built(tvm.runtime.tensor(values), result)
    np.testing.assert_allclose(result.numpy(), values * 2 + 1)


def test_host_is_the_same_every_time_and_within_the_allowance():
    first, second = get_target("host"), get_target("host")
    assert first == second
    assert first.fingerprint() == second.fingerprint()
    assert 1 <= first.cores <= (os.cpu_count() or 1)


def test_the_listed_host_differs_from_the_exact_one_in_the_cpu_name_only():
    listed, exact = list_targets()[0], get_target("host")
    assert listed.name == exact.name == "host"
    for field in ("triple", "cores", "caches", "vector", "fma", "linking"):
        assert getattr(listed, field) == getattr(exact, field)


@pytest.mark.parametrize(
    ("flags", "level"),
    [("fpu sse sse2", "x86-64"), (V2, "x86-64-v2"), (V3, "x86-64-v3"), (V4, "x86-64-v4")],
)
def test_x86_levels(flags, level):
    assert host._x86_level(set(flags.split())) == level


def test_a_level_needs_all_lower_ones():
    assert host._x86_level(set(V4.split()) - {"fma"}) == "x86-64-v2"


def _describe(monkeypatch, tmp_path, machine: str, cpuinfo: str, llvm: tuple[str, set[str]]):
    """The target of a Linux machine with that /proc/cpuinfo, which LLVM takes for ``llvm``."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    described = tmp_path / "cpuinfo"
    described.write_text(cpuinfo)
    read = host._cpu_flags
    monkeypatch.setattr(host, "_cpu_flags", lambda _path, key: read(described, key))
    monkeypatch.setattr(host, "_llvm_cpu", lambda _triple, fallback: llvm)
    return host.detect_host()


def test_features_that_a_hypervisor_masks_are_switched_off(monkeypatch, tmp_path):
    zen4 = {"avx", "avx2", "fma", "f16c", "bmi", "bmi2", "avx512f", "avx512vl", "avx512vnni", "shstk"}
    target = _describe(monkeypatch, tmp_path, "x86_64", f"flags\t\t: {V3}\n", ("znver4", zen4))
    assert target.cpu == "znver4"
    assert {"-avx512f", "-avx512vl", "-avx512vnni", "+avx2", "+fma"} <= set(target.features)
    assert "-shstk" not in target.features  # no code generator emits it unasked
    assert (target.vector.bits, target.vector.registers, target.fma) == (256, 16, True)


def test_masked_features_reach_llvm():
    from tvm.target import Target, codegen

    masked = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4", "mattr": ["-avx512f"]}
    assert not {name for name in codegen.llvm_get_cpu_features(Target(masked)) if name.startswith("avx512")}


def test_without_flags_nothing_is_assumed(monkeypatch, tmp_path):
    target = _describe(monkeypatch, tmp_path, "x86_64", "processor : 0\n", ("znver4", {"avx512f"}))
    assert (target.cpu, target.features) == ("x86-64", ())
    assert (target.vector.bits, target.fma) == (128, False)


def test_arm_cores_of_two_kinds_share_what_both_have(monkeypatch, tmp_path):
    text = "Features : fp asimd asimddp asimdhp atomics\n\nFeatures : fp asimd atomics\n"
    target = _describe(monkeypatch, tmp_path, "aarch64", text, ("cortex-a76", {"neon", "dotprod", "lse"}))
    assert target.features == ("+lse", "+neon", "-dotprod")
    assert (target.vector.bits, target.vector.registers) == (128, 32)
    assert target.linking.zig_static_target == "aarch64-linux-musl"


def test_caches_from_sysfs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3}, raising=False)
    levels = [
        ("1", "Data", "48K", "2-3"),
        ("1", "Instruction", "32K", "2-3"),
        ("2", "Unified", "2048K", "0-7"),
        ("3", "Unified", "36M", "0-15"),
    ]
    for index, entry in enumerate(levels):
        folder = tmp_path / "cpu2" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for file, value in zip(("level", "type", "size", "shared_cpu_list"), entry, strict=True):
            (folder / file).write_text(value + "\n")
    caches, _ = host._linux_caches(tmp_path)
    # Eight threads share the L2, two of them a core.
    assert caches.model_dump() == {"l1d": 49152, "l2": 2097152, "l2_shared_by": 4, "l3": 37748736}


def test_caches_are_assumed_where_sysfs_has_none(tmp_path):
    caches, note = host._linux_caches(tmp_path)
    assert caches.l1d == 32768
    assert "assumed" in note


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_control_group_quota(tmp_path, files, granted):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert host._cgroup_quota(tmp_path) == granted


def test_hardware_threads_of_one_core_count_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(host, "_siblings", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    monkeypatch.setattr(host, "_cgroup_quota", lambda _: None)
    assert host._linux_cores() == 2
    monkeypatch.setattr(host, "_cgroup_quota", lambda _: 0.5)
    assert host._linux_cores() == 1


@pytest.mark.parametrize(("libc", "wanted"), [(("glibc", "2.36"), "2.28"), (("glibc", "2.17"), "2.17")])
def test_host_libraries_ask_for_an_old_glibc(monkeypatch, libc, wanted):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    assert host._glibc() == wanted


def test_macos_host(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(host, "_llvm_cpu", lambda _triple, fallback: ("apple-m2", set()))
    answers = {
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_BF16": "0",
        "hw.perflevel0.physicalcpu": "4",
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.perflevel0.l2cachesize": "16777216",
        "hw.perflevel0.cpusperl2": "4",
    }

    def run(command, **_):
        if command[-1] not in answers:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0, stdout=answers[command[-1]] + "\n")

    monkeypatch.setattr(subprocess, "run", run)
    target = host.detect_host()
    assert (target.triple, target.cpu, target.cores) == ("aarch64-apple-macos", "apple-m2", 4)
    assert target.features == ("+dotprod", "+neon")
    assert (target.caches.l1d, target.caches.l2, target.caches.l2_shared_by) == (131072, 16777216, 4)


def test_a_machine_that_cannot_be_a_target_can_still_list_the_others(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with pytest.raises(TargetError, match="Windows"):
        get_target("host")
    names = [target.name for target in list_targets()]
    assert "host" not in names
    assert "rpi4" in names
