"""Compiled models on the server, for this machine and under emulation, against ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.device.server_build import build_server
from tests.runtime.conftest import HOST, Launch, emulator

TARGETS = {
    "x86_64": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2", "num-cores": 2},
    "aarch64": {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a53",
        "mattr": ["+neon"],
        "num-cores": 4,
    },
    "armv7": {
        "kind": "llvm",
        "mtriple": "armv7a-linux-gnueabihf",
        "mcpu": "cortex-a53",
        "mattr": ["+neon"],
        "mfloat-abi": "hard",
        "num-cores": 4,
    },
}
# Without a C library: none is needed at link time, and zig would first have to build one.
LINK_TRIPLES = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl", "armv7": "arm-linux-musleabihf"}
EMULATORS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}


def graph() -> onnx.ModelProto:
    """Convolution, sigmoid, pooling, product, softmax: the kinds of kernels a vision transformer has."""
    dice = np.random.default_rng(3)
    weights = {
        "w": dice.normal(size=(8, 3, 3, 3)).astype("float32") * 0.3,
        "v": dice.normal(size=(8 * 8 * 8, 10)).astype("float32") * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["p"]),
        helper.make_node("Softmax", ["p"], ["y"]),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def compile_for(machine: str, path: Path) -> None:
    """Compile the graph with stock TVM passes into the library ``path``."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    def link(output: str, objects: list[str], options: object = None) -> None:
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", LINK_TRIPLES[machine]]
        subprocess.run([*zig, "-shared", "-nostdlib", "-s", "-o", output, *objects], check=True)

    link.output_format = "so"  # type: ignore[attr-defined]
    link.get_target_triple = None  # type: ignore[attr-defined]
    target = tvm.target.Target(TARGETS[machine])
    with target:
        module = relax.get_pipeline("zero")(from_onnx(graph(), keep_params_in_input=False))
    tvm.compile(module, target=target).export_library(str(path), fcompile=link)


def outputs(machine: Any, session: Any, x: np.ndarray) -> np.ndarray:
    import tvm

    machine.set_input("main", tvm.runtime.tensor(x, session.cpu(0)))
    machine.invoke_stateful("main")
    result = machine.get_outputs("main")
    return (result if hasattr(result, "numpy") else result[0]).numpy()


@pytest.mark.parametrize(
    "machine",
    [HOST, *(pytest.param(name, marks=[pytest.mark.emulated, pytest.mark.slow]) for name in EMULATORS if name != HOST)],
)
def test_a_model_computes_what_onnx_runtime_does(launch: Launch, tmp_path: Path, machine: str) -> None:
    from tvm import relax

    command = [] if machine == HOST else emulator(EMULATORS[machine])
    command.append(str(build_server(TARGETS[machine]["mtriple"])))
    library = tmp_path / "model.so"
    compile_for(machine, library)
    session = launch(command=command).connect()
    session.upload(bytearray(library.read_bytes()), library.name)
    virtual_machine = relax.VirtualMachine(session.load_module("model.so"), session.cpu(0))
    reference = onnxruntime.InferenceSession(graph().SerializeToString())
    configure = session.get_function("runtime.config_threadpool")
    for seed, threads in enumerate((1, 2, 4, 1)):
        configure(1, threads)
        x = np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype("float32")
        np.testing.assert_allclose(outputs(virtual_machine, session, x), reference.run(None, {"x": x})[0], atol=1e-6)
    timer = virtual_machine.time_evaluator("invoke_stateful", session.cpu(0), number=1, repeat=3)
    samples = timer("main").results
    assert len(samples) == 3
    assert min(samples) > 0
