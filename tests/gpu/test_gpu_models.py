"""Whole models for GPUs: what is launched, that it is right, and that bytes and manifests are what they say."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from edgevit.accuracy.check import check
from edgevit.artifact import Artifact
from edgevit.cli.main import app
from edgevit.compiler.compile import compile_model
from edgevit.compiler.gpu.stock import build_stock
from edgevit.compiler.prepare import Precision
from edgevit.device.emulate import connect_emulated
from edgevit.errors import UserError
from edgevit.model import Model, from_proto
from edgevit.targets import get_target
from edgevit.zoo import build
from tests.models import small_proto

MOST_LAUNCHES = 110
"""Of MobileViT-XXS; TVM's own pipeline makes 184."""
BOUNDS = {"fp32": 1e-4, "fp16": 5e-3}


@functools.cache
def xxs() -> Model:
    return from_proto(build("mobilevit-xxs"))


@functools.cache
def compiled(target: str, precision: Precision | None = None) -> Artifact:
    return compile_model(xxs(), target, precision=precision, verify=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("android-arm64", "fp32"),
        ("android-opencl-adreno", "fp16"),
        ("android-opencl-mali", "fp32"),
        ("metal-macos", "fp16"),
        ("metal-ios", "fp16"),
    ],
)
@pytest.mark.usefixtures("qemu")
def test_xxs_is_right_with_few_launches(target: str, precision: Precision) -> None:
    artifact = compiled(target, precision)
    assert len(artifact.resolution.launches) <= MOST_LAUNCHES
    with connect_emulated(artifact.manifest.target) as session:
        result = check(artifact, session, xxs(), seeds=(0, 1), calls=1)
    (logits,) = result.tensors
    assert logits.normalised_error is not None
    assert logits.normalised_error <= BOUNDS[precision]
    assert logits.top1_agrees


@pytest.mark.slow
def test_kernels_move_a_third_less_than_those_of_tvm() -> None:
    stock = build_stock(xxs(), get_target("android-opencl-mali"), "fp16").launches_of("main")
    ours = compiled("android-opencl-mali", "fp16").resolution.launches
    assert sum(launch.bytes for launch in ours) <= 2 / 3 * sum(launch.bytes for _, launch in stock)


def test_fp16_is_what_gpus_of_phones_get_and_halves_the_weights() -> None:
    usual, full = compiled("android-opencl-mali"), compiled("android-opencl-mali", "fp32")
    assert usual.manifest.precision == "fp16"
    assert full.manifest.precision == "fp32"
    assert usual.manifest.constant_bytes * 2 == pytest.approx(full.manifest.constant_bytes, rel=0.01)


def test_the_manifest_counts_bytes_as_the_program_does() -> None:
    resolution = compiled("metal-ios", "fp16").resolution
    assert [call.kernel for call in resolution.program] == [launch.function for launch in resolution.launches]
    assert [call.bytes for call in resolution.program] == [launch.bytes for launch in resolution.launches]


@pytest.mark.parametrize("target", ["android-opencl-adreno", "metal-ios"])
def test_what_no_family_writes_goes_through_tvm_between_kernels_of_ours(target: str) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3), np.float32) / 5
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("LRN", ["c"], ["d"], size=3),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 3, 8, 8)), ("y", None))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = from_proto(onnx.shape_inference.infer_shapes(proto))
    artifact = compile_model(model, target, verify=False)
    assert artifact.resolution.rest == {"LRN": 1}
    assert {"product", "tvm"} <= artifact.manifest.kernels.keys()
    with connect_emulated(artifact.manifest.target) as session:
        assert check(artifact, session, model, seeds=(0,), calls=2).passed


def test_the_same_model_gives_the_same_bytes() -> None:
    model = from_proto(small_proto())
    first, second = (compile_model(model, "android-opencl-adreno", verify=False) for _ in range(2))
    assert first.library == second.library
    assert first.manifest == second.manifest


def test_several_resolutions_share_weights_and_are_right() -> None:
    models = [from_proto(build("mobilevit-xxs", image_size=size)) for size in (128, 192)]
    models = [replace(model, sha256=models[0].sha256) for model in models]
    artifact = compile_model(models, "metal-macos", precision="fp32", verify=False)
    alone = compile_model(models[0], "metal-macos", precision="fp32", verify=False)
    assert artifact.manifest.constant_bytes == alone.manifest.constant_bytes
    with connect_emulated(artifact.manifest.target) as session:
        for part, model in zip(artifact.resolutions(), models, strict=True):
            assert check(part, session, model, seeds=(0,), calls=2).passed


def test_inputs_and_outputs_keep_the_types_of_the_file() -> None:
    artifact = compile_model(from_proto(small_proto()), "android-opencl-mali", precision="fp16", verify=False)
    assert {info.dtype for info in (*artifact.resolution.inputs, *artifact.resolution.outputs)} == {"float32"}
    with connect_emulated(artifact.manifest.target) as session, session.load(artifact) as loaded:
        inputs = {info.name: np.zeros(info.shape, np.float32) for info in loaded.inputs}
        assert {str(output.dtype) for output in loaded.run(inputs).values()} == {"float32"}


def test_fp16_is_refused_where_a_cpu_does_not_compute_it() -> None:
    with pytest.raises(UserError, match="does not compute in fp16"):
        compile_model(from_proto(small_proto()), "x86-64-v3", precision="fp16")


@pytest.mark.parametrize("options", [["--local"], ["--emulate"], ["--estimate"], ["--rpc", "127.0.0.1:1"]])
def test_kernels_of_gpus_are_not_tuned(options: list[str], tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(small_proto().SerializeToString())
    done = CliRunner().invoke(app, ["tune", str(path), "--target", "metal", "--minutes", "1", *options])
    assert isinstance(done.exception, UserError)
    assert "run on its GPU" in str(done.exception)
