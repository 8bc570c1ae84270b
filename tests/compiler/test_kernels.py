"""Every operator computes what ONNX Runtime does, on whichever road it runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgevit
from edgevit.accuracy.check import check
from edgevit.compiler.compile import compile_model
from edgevit.compiler.kernels import default
from edgevit.compiler.lower import lower
from edgevit.errors import DeviceMismatch
from edgevit.model import Model, from_proto
from edgevit.targets import get_target
from edgevit.tuning.records import Choice, Pick, TuningLog
from tests.tuning.making import pick

Shape = tuple[int, ...]


def _one(op: str, inputs: dict[str, Shape], output: Shape, **attributes: object) -> Model:
    """One operator on random weights: every input but the first is a constant."""
    names = list(inputs)
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal(inputs[name]).astype(np.float32), name) for name in names[1:]
    ]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name=op.lower(), **attributes)],
        "one",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, inputs[names[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        weights,
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


CASES: dict[str, Model] = {
    "odd channels": _one("Conv", {"x": (1, 3, 9, 9), "w": (7, 3, 3, 3)}, (1, 7, 9, 9), pads=[1, 1, 1, 1]),
    "one wide": _one("Conv", {"x": (1, 4, 9, 3), "w": (5, 4, 3, 3)}, (1, 5, 7, 1)),
    "depthwise": _one("Conv", {"x": (1, 12, 8, 8), "w": (12, 1, 3, 3)}, (1, 12, 6, 6), group=12),
    "strided": _one("Conv", {"x": (1, 6, 15, 15), "w": (11, 6, 5, 5)}, (1, 11, 6, 6), strides=[2, 2]),
    "dilated": _one("Conv", {"x": (1, 2, 12, 12), "w": (3, 2, 3, 3)}, (1, 3, 8, 8), dilations=[2, 2]),
    "1d": _one("Conv", {"x": (1, 4, 33), "w": (6, 4, 3)}, (1, 6, 31)),
    "3d": _one("Conv", {"x": (1, 2, 5, 6, 7), "w": (3, 2, 2, 2, 2)}, (1, 3, 4, 5, 6)),
    "vector by matrix": _one("MatMul", {"x": (37,), "w": (37, 10)}, (10,)),
    "batched": _one("MatMul", {"x": (3, 5, 17, 19), "w": (5, 19, 23)}, (3, 5, 17, 23)),
    "softmax": _one("Softmax", {"x": (2, 3, 37)}, (2, 3, 37), axis=-1),
    "softmax over channels": _one("Softmax", {"x": (2, 7, 5, 3)}, (2, 7, 5, 3), axis=1),
    "sum of all": _one("ReduceSum", {"x": (3, 5, 7)}, (1, 1, 1)),
    "max over the first axis": _one("ReduceMax", {"x": (6, 5, 4)}, (1, 5, 4), axes=[0]),
    "average pool": _one("AveragePool", {"x": (1, 5, 9, 9)}, (1, 5, 4, 4), kernel_shape=[3, 3], strides=[2, 2]),
    "transpose": _one("Transpose", {"x": (2, 3, 5, 7)}, (7, 2, 5, 3), perm=[3, 0, 2, 1]),
    "scalar-like": _one("Exp", {"x": (1,)}, (1,)),
}


@pytest.fixture(scope="module")
def session() -> edgevit.device.session.Session:  # type: ignore[name-defined]
    with edgevit.connect() as opened:
        yield opened


@pytest.mark.parametrize("case", CASES)
def test_a_scheduled_kernel_computes_what_onnx_runtime_does(case: str, session: object) -> None:
    artifact = compile_model(CASES[case], "host", verify=False)
    result = check(artifact, session, CASES[case], seeds=(0, 1), calls=2)  # type: ignore[arg-type]
    assert result.passed, result.failures


def test_every_node_of_the_embedded_model_has_a_kernel() -> None:
    from edgevit.zoo import embedded_model

    model = from_proto(embedded_model())
    for target in ("x86-64-v3", "arm64-linux", "armv7-linux"):
        lowered = lower([model], get_target(target), TuningLog([]))
        (program,) = lowered.programs
        assert program.roads.rest == {}
        assert "tvm" not in program.roads.macs
        assert not {"default", "plain"} & set(lowered.kernels)


def test_the_analytic_tile_fits_the_register_file_of_every_target() -> None:
    from edgevit.targets import list_targets

    for target in list_targets():
        tile = default.analytic_default(target)
        accumulators = tile["rows"] * tile["vectors"]
        assert accumulators >= 4
        assert accumulators + tile["vectors"] + 1 <= target.vector.registers


def test_a_tuning_record_changes_the_code_and_not_the_result(small_model: Model) -> None:
    from edgevit.compiler.compile import build
    from edgevit.link import Linker

    class Everything(TuningLog):
        def find(self, workload: str, usable: Callable[[Choice], bool] = lambda _: True) -> Pick | None:
            choice = {"rows": 1, "vectors": 1, "block": 1, "panels": 1, "unroll": 1}
            return pick(workload, choice) if workload.startswith("conv/1/") and usable(choice, 1) else None

    target = get_target("host")
    plain = build([small_model], target, Linker(target), TuningLog([]))
    tuned = build([small_model], target, Linker(target), Everything([]))
    assert plain.library != tuned.library
    assert any(kernel.tuned for kernel in tuned.resolution.program)
    assert not any(kernel.tuned for kernel in plain.resolution.program)
    assert plain.manifest.tuning.records_sha256 is None
    assert tuned.manifest.tuning.measured + tuned.manifest.tuning.default == plain.manifest.tuning.default
    assert tuned.manifest.tuning.measured >= 1
    with edgevit.connect() as opened:
        assert check(tuned, opened, small_model).passed


def test_what_no_family_covers_is_scheduled_and_counted() -> None:
    artifact = compile_model(CASES["3d"], "host")
    manifest, resolution = artifact.manifest, artifact.resolution
    assert resolution.rest == {"Conv": 1}
    assert resolution.macs == {"tvm": manifest.model.macs}
    assert set(manifest.kernels) & {"default", "plain"}
    assert resolution.check.status == "passed"


def test_operators_that_tvm_imports_with_loops_of_their_own() -> None:
    """TVM's importer may bring functions besides the model's own; they have to come along."""
    shapes = {"a": (2, 3, 4), "b": (2, 4, 6), "c": (2, 6, 5)}
    graph = helper.make_graph(
        [helper.make_node("Einsum", list(shapes), ["y"], equation="bij,bjk,bkl->bil")],
        "einsum",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3, 5))],
    )
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    resolution = compile_model(model, "host").resolution
    assert resolution.rest == {"Einsum": 1}
    assert resolution.check.status == "passed"


def test_segments_that_look_alike_around_operators_left_to_tvm() -> None:
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal((8, 8, 3, 3)).astype(np.float32), f"w{i}") for i in range(2)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        helper.make_node("LRN", ["a"], ["b"], size=3),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("LRN", ["c"], ["y"], size=3),
    ]
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 8, 8)) for name in "xy")
    graph = helper.make_graph(nodes, "segments", [inputs], [outputs], weights)
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    resolution = compile_model(model, "host").resolution
    assert resolution.rest == {"LRN": 2}
    assert len(resolution.program) > 1
    assert resolution.check.status == "passed"


def test_what_cannot_be_scheduled_keeps_tvms_loops_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm import s_tir

    def refuse(*_: object) -> None:
        raise s_tir.ScheduleError("this loop carries a dependence")

    monkeypatch.setattr(s_tir.Schedule, "parallel", refuse)
    artifact = compile_model(CASES["3d"], "host")
    assert set(artifact.manifest.kernels) == {"plain"}
    assert artifact.resolution.check.status == "passed"


def _topk() -> Model:
    graph = helper.make_graph(
        [helper.make_node("TopK", ["x", "k"], ["values", "indices"], name="topk")],
        "topk",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 33])],
        [
            helper.make_tensor_value_info("values", TensorProto.FLOAT, [4, 5]),
            helper.make_tensor_value_info("indices", TensorProto.INT64, [4, 5]),
        ],
        [numpy_helper.from_array(np.array([5]), "k")],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_operators_that_sort_run_on_this_machine() -> None:
    assert compile_model(_topk(), "host").resolution.check.status == "passed"


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_operators_that_sort_are_refused_by_name_where_the_server_cannot() -> None:
    with pytest.raises(DeviceMismatch, match=r"lacks tvm\.contrib\.sort\.topk"):
        compile_model(_topk(), "arm64-linux")


def test_onnx_is_the_only_thing_the_cases_need() -> None:
    for model in CASES.values():
        onnx.checker.check_model(model.proto)
