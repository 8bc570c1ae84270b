"""Compiling: right code, the same bytes each time, one clear error when not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.compiler import rewrite
from edgevit.compiler.compile import compile_model
from edgevit.errors import CheckFailed, ModelError, ToolchainError, UserError
from edgevit.model import Model, from_proto
from tests.faults import stretch_sigmoid
from tests.models import small_proto

_COMPILE = """
import sys
from pathlib import Path
import edgevit
model = edgevit.load(sys.argv[1])
for target in sys.argv[3:]:
    edgevit.compile(model, target, verify=False).save(Path(sys.argv[2]) / f"{target}.edgevit")
"""
CROSS = ("host", "arm64-linux", "armv7-linux", "apple-silicon", "android-arm64", "metal-ios")


def _compile_elsewhere(folder: Path, model: bytes, *, seed: str, user: str, day: str) -> dict[str, bytes]:
    """Compile in a fresh process, in its own folder, with other surroundings."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    os.utime(folder / "model.onnx", (int(day), int(day)))
    (folder / "tmp").mkdir()
    surroundings = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "TMPDIR": str(folder / "tmp"),
        "USER": user,
        "LOGNAME": user,
        "SOURCE_DATE_EPOCH": day,
        "TZ": "Pacific/Auckland" if user == "rangi" else "America/Lima",
        "LC_ALL": "C",
    }
    command = [sys.executable, "-c", _COMPILE, str(folder / "model.onnx"), str(folder), *CROSS]
    subprocess.run(command, check=True, env=surroundings, cwd=folder)
    return {target: (folder / f"{target}.edgevit").read_bytes() for target in CROSS}


def test_two_compiles_in_other_processes_folders_users_and_days_are_identical(tmp_path: Path) -> None:
    model = small_proto().SerializeToString()
    first = _compile_elsewhere(tmp_path / "a", model, seed="1", user="rangi", day="1000000000")
    second = _compile_elsewhere(tmp_path / "b" / "deeper" / "folder", model, seed="2", user="luz", day="1700000000")
    for target in CROSS:
        assert first[target] == second[target], target


def test_every_output_matches_onnx_runtime_and_the_manifest_says_so(small_model: Model) -> None:
    check = compile_model(small_model, "host").resolution.check
    assert check.status == "passed"
    assert check.hardware
    assert check.where == "this machine"
    assert check.max_abs_error is not None
    assert check.max_abs_reference is not None
    assert check.tolerance == 1e-4
    assert check.max_abs_error <= check.tolerance * check.max_abs_reference


def test_wrong_code_is_never_returned(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "REWRITES", (*rewrite.REWRITES, rewrite.Rewrite("fault", stretch_sigmoid)))
    with pytest.raises(CheckFailed, match="compiled code is wrong") as caught:
        compile_model(small_model, "host")
    assert caught.value.exit_code == 1


def _volumes() -> Model:
    """A convolution over three axes, which no kernel family covers."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="volumes")],
        "volumes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 3, 3, 3])],
        [numpy_helper.from_array(np.ones((3, 2, 3, 3, 3), np.float32), "w")],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_a_model_that_tvm_refuses_is_the_models_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("while converting\nThe operator is not implemented.")

    monkeypatch.setattr("tvm.relax.frontend.onnx.from_onnx", refuse)
    with pytest.raises(ModelError, match="TVM cannot import this model: The operator is not implemented") as caught:
        compile_model(_volumes(), "host")
    assert caught.value.exit_code == 2
    assert "edgevit info" in str(caught.value.advice)


def test_a_code_generator_that_fails_is_the_toolchains_error(
    small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("LLVM gave up")

    monkeypatch.setattr("tvm.compile", fail)
    with pytest.raises(ToolchainError, match="code generation failed: LLVM gave up") as caught:
        compile_model(small_model, "arm64-linux", verify=False)
    assert caught.value.exit_code == 3
    assert caught.value.where == "target arm64-linux"


def test_an_unknown_linker_is_the_users_mistake(small_model: Model) -> None:
    with pytest.raises(UserError, match="no linker 'gold'"):
        compile_model(small_model, "host", linker="gold")


def test_a_missing_system_compiler_is_named(
    small_model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="no system compiler for aarch64-linux-gnu"):
        compile_model(small_model, "arm64-linux", linker="system", verify=False)


def test_an_ndk_is_asked_for_only_where_it_fits(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(ToolchainError, match="ANDROID_NDK_HOME is not set"):
        compile_model(small_model, "host", linker="ndk", verify=False)


def test_a_failed_link_shows_the_linkers_words(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.link import Linker

    monkeypatch.setattr("edgevit.link._flags", lambda *_: (["-Wl,--no-such-flag"], []))
    with pytest.raises(ToolchainError, match="no-such-flag") as caught:
        compile_model(small_model, "host", verify=False)
    assert caught.value.exit_code == 3
    assert Linker.output_format == "so"


def test_a_system_compiler_can_link_for_this_machine(small_model: Model) -> None:
    import shutil

    if not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("there is no system compiler")
    artifact = compile_model(small_model, "host", linker="system")
    assert artifact.resolution.check.status == "passed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_compile_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "model.onnx").write_bytes(small_proto().SerializeToString())
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", "from edgevit.cli.main import run; run()", "compile"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "model.onnx"), "-t", "host", "-o", str(tmp_path / "out" / "a.edgevit")],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    time.sleep(1.5)  # somewhere between the start and the end; every moment must do
    process.send_signal(number)
    process.communicate(timeout=60)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left in ([], ["a.edgevit"])
    if left:
        assert process.returncode == 0


def test_each_precision_is_told_from_the_weights() -> None:
    from edgevit.compiler.compile import _own_precision

    half = small_proto()
    for tensor in half.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    assert _own_precision(from_proto(small_proto())) == "fp32"
    assert _own_precision(from_proto(half)) == "fp16"
