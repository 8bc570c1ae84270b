"""Every preset's figures against what LLVM makes of them."""

from __future__ import annotations

import re

import pytest

from edgevit.resources import resource_folder
from edgevit.targets import Target, get_target, validate_for_compiler

PRESETS = sorted(path.stem for path in resource_folder("targets").glob("*.toml"))


def fused_multiply_add(target: Target) -> str:
    """Assembly of d = a * b + c over vectors as wide as the target's registers."""
    import tvm
    from tvm import te

    shape = (8 * target.vector.lanes(),)
    a, b, c = (te.placeholder(shape, "float32", name=name) for name in "abc")
    d = te.compute(shape, lambda i: a[i] * b[i] + c[i], name="d")
    function = te.create_prim_func([a, b, c, d]).with_attr("global_symbol", "fma")
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"fma": function}))
    (loop,) = schedule.get_loops(schedule.get_sblock("d", func_name="fma"))
    schedule.vectorize(schedule.split(loop, [None, target.vector.lanes()])[1])
    built = tvm.tirx.build(schedule.mod, target=tvm.target.Target(target.tvm_target()))
    return str(built.inspect_source("asm"))


@pytest.mark.parametrize("name", ["host", *PRESETS])
def test_llvm_knows_every_name_and_fills_the_stated_registers(name):
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    target = get_target(name)
    validate_for_compiler(target)
    assert codegen.llvm_get_vector_width(TvmTarget(target.tvm_target())) >= target.vector.bits
    instruction = {
        ("aarch64", 128): r"fmla(\.4s\s+v|\s+v\d+\.4s)",
        ("arm", 128): r"vfma\.f32\s+q",
        ("x86_64", 512): r"vfn?madd\d+ps\s.*zmm",
        ("x86_64", 256): r"vfn?madd\d+ps\s.*ymm",
        ("x86_64", 128): r"(vfn?madd\d+ps|mulps)\s.*xmm",
    }[target.architecture, target.vector.bits]
    assert re.search(instruction, fused_multiply_add(target))


@pytest.mark.parametrize("name", ["arm64-linux", "rpi5", "graviton3", "apple-silicon"])
def test_tvm_takes_arm_targets_for_arm(name):
    from tvm.target import Target as TvmTarget

    assert "arm_cpu" in TvmTarget(get_target(name).tvm_target()).keys


@pytest.mark.parametrize("name", PRESETS)
def test_listed_features_are_those_of_the_cpu(name):
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    target = get_target(name)
    bare = TvmTarget({"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu})
    implied = {str(feature) for feature in codegen.llvm_get_cpu_features(bare)}
    implied.add("use-misched")  # no property of the CPU: it chooses LLVM's instruction scheduler
    assert {feature[1:] for feature in target.features} <= implied
