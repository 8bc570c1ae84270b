"""Android's code on this machine: in edgevit's server, under QEMU or, for the emulator's images, without it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device.connect import connect
from edgevit.errors import DeviceError, DeviceMismatch
from edgevit.model import Model, from_proto
from edgevit.targets import executes_here, get_target

pytestmark = [pytest.mark.emulated, pytest.mark.usefixtures("qemu")]

EMULATED = ("android-arm64", "android-armv7")
MATHEMATICS = ("Sin", "Sinh", "Asinh")
"""Operators that compiled code computes with libm."""


@pytest.fixture(scope="module")
def model() -> Model:
    """Functions of libm, and an attribute that travels as a float."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 17])
    nodes, last = [], "x"
    for name in MATHEMATICS:
        nodes.append(helper.make_node(name, [last], [name]))
        last = name
    nodes.append(helper.make_node("LeakyRelu", [last], ["y"], alpha=0.3))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 17])
    graph = helper.make_graph(nodes, "mathematics", [value], [result])
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def _expected(model: Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float32)


@pytest.mark.parametrize("target", EMULATED)
def test_a_compile_for_android_is_checked_under_qemu(target: str, small_model: Model) -> None:
    artifact = compile_model(small_model, target)
    check = artifact.resolution.check
    assert (check.status, check.where, check.hardware) == ("passed", "qemu", False)
    assert artifact.manifest.library.file == "model.so"


@pytest.mark.parametrize("target", EMULATED)
def test_floats_reach_libm_and_come_back(target: str, model: Model) -> None:
    artifact = compile_model(model, target, verify=False)
    assert {"sinf", "sinhf"} <= _undefined(artifact)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 17)).astype(np.float32)
    with connect(emulate=get_target(target)) as session, session.load(artifact) as loaded:
        assert session.emulated
        got = loaded.run({"x": x})["y"].astype(np.float32, copy=False)
        np.testing.assert_allclose(got, _expected(model, x), rtol=1e-5, atol=1e-6)


def _undefined(artifact: Artifact) -> set[str]:
    table: Any = ELFFile(io.BytesIO(artifact.library)).get_section_by_name(".dynsym")
    return {symbol.name for symbol in table.iter_symbols() if symbol.entry.st_shndx == "SHN_UNDEF"}


def test_the_emulators_image_is_checked_without_qemu(small_model: Model) -> None:
    if not executes_here(get_target("android-x86_64")):
        pytest.skip("this machine is not x86-64 Linux")
    check = compile_model(small_model, "android-x86_64").resolution.check
    # This CPU ran it, but no Android device.
    assert (check.status, check.where, check.hardware) == ("passed", "this machine", False)


@pytest.mark.parametrize(
    ("compiled", "device", "message"),
    [
        ("android-armv7", "armv7-linux", "soft-float calling convention"),
        ("armv7-linux", "android-armv7", "hard-float calling convention"),
    ],
)
def test_a_server_of_the_other_float_convention_refuses(
    small_model: Model, compiled: str, device: str, message: str
) -> None:
    artifact = compile_model(small_model, compiled, verify=False)
    with connect(emulate=get_target(device)) as session, pytest.raises(DeviceError, match=message):
        session.load(artifact)


def test_a_process_of_this_machine_refuses_androids_libraries(small_model: Model) -> None:
    artifact = compile_model(small_model, "android-x86_64", verify=False)
    for in_process in (True, False):
        with connect(in_process=in_process) as session, pytest.raises(DeviceMismatch, match="android"):
            session.load(artifact)
