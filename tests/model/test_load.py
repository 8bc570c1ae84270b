"""What loading keeps, what it changes, and that it is reproducible."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import conv_model, model, node, run, save, value

from edgevit.model import TensorSpec, from_proto, load


def test_a_model_loads(tmp_path: Path) -> None:
    path = save(conv_model(), tmp_path)
    loaded = load(path)
    assert loaded.inputs == (TensorSpec("x", (1, 3, 8, 8), "float32"),)
    assert loaded.outputs == (TensorSpec("y", (1, 5), "float32"),)
    assert loaded.opset == 17
    assert loaded.source == path
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(run(loaded.proto, x=x)[0], run(conv_model(), x=x)[0], rtol=1e-5, atol=1e-6)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(conv_model(), tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    load(path)
    assert sorted(tmp_path.rglob("*")) == [path, scratch]


def test_modules_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('wrong module')")
    path = save(conv_model(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load(path.name).inputs


def test_dynamic_shapes_are_settled_by_the_caller() -> None:
    proto = model(
        [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "f"], ["y"])],
        [value("x", ["n", 3, "h", "w"])],
        [value("y", [None, None])],
        {"f": np.array([0, -1], np.int64)},
    )
    for shapes in ((2, 3, 4, 5), {"x": (2, 3, 4, 5)}, np.array([2, 3, 4, 5])):
        assert from_proto(proto, shapes=shapes).outputs[0].shape == (2, 60)


def test_shape_arithmetic_is_folded() -> None:
    proto = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "axis"], ["nu"]),
            node("Concat", ["nu", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
        ],
        [value("x", [2, 3, 4])],
        [value("y", [None, None])],
        {"zero": np.int64(0), "axis": np.array([0], np.int64), "rest": np.array([-1], np.int64)},
    )
    loaded = from_proto(proto)
    assert [n.op_type for n in loaded.proto.graph.node] == ["Reshape"]
    assert loaded.outputs[0].shape == (2, 12)


def test_metadata_is_kept_and_traces_of_the_exporter_are_not() -> None:
    proto = conv_model()
    helper.set_model_props(proto, {"labels": "cat,dog"})
    plain = from_proto(conv_model())
    proto.producer_name, proto.doc_string = "pytorch", "/home/someone/model.py"
    proto.graph.name = "torch_jit"
    proto.graph.doc_string = proto.graph.node[0].doc_string = "/home/someone/model.py"
    entry = proto.graph.node[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "/home/someone/model.py"
    loaded = from_proto(proto)
    assert loaded.metadata == {"labels": "cat,dog"}
    assert loaded.proto.SerializeToString() == plain.proto.SerializeToString()


def test_same_input_same_bytes_in_every_process(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "elsewhere"]
    script = (
        "import hashlib, sys; from edgevit.model import load;"
        "data = load(sys.argv[1]).proto.SerializeToString(deterministic=True);"
        "print(hashlib.sha256(data).hexdigest())"
    )
    digests = set()
    for seed, folder in enumerate(folders):
        folder.mkdir()
        from edgevit.zoo import build_mobilevit

        path = save(build_mobilevit("xxs", image_size=64), folder)
        environment = {**os.environ, "PYTHONHASHSEED": str(seed + 1)}
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_loading_a_loaded_model_changes_nothing() -> None:
    once = from_proto(conv_model())
    twice = from_proto(once.proto)
    assert twice.proto.SerializeToString() == once.proto.SerializeToString()
    assert twice.notes == ()


def test_unnamed_nodes() -> None:
    proto = model([node("Relu", ["x"], ["a"], name=""), node("Neg", ["a"], ["y"], name="")])
    assert len(from_proto(proto).proto.graph.node) == 2


def test_initializers_listed_as_inputs() -> None:
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", [1, 4]), value("w", [4])],
        constants={"w": np.ones(4, np.float32)},
        opset=8,
        ir_version=3,
    )
    loaded = from_proto(proto)
    assert [spec.name for spec in loaded.inputs] == ["x"]
    assert [v.name for v in loaded.proto.graph.input] == ["x"]


def test_unused_initializers_are_dropped() -> None:
    proto = model([node("Relu", ["x"], ["y"])], constants={"unused": np.ones(100, np.float32)})
    assert not from_proto(proto).proto.graph.initializer


def test_an_input_nobody_reads_stays() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [value("x", [1, 4]), value("idle", [2])])
    assert [spec.name for spec in from_proto(proto).inputs] == ["x", "idle"]


def test_several_inputs_and_outputs_keep_their_order() -> None:
    proto = model(
        [node("Add", ["b", "a"], ["z"]), node("Sub", ["b", "a"], ["y"])],
        [value("b", [2, 2]), value("a", [2, 2])],
        [value("z", [2, 2]), value("y", [2, 2])],
    )
    loaded = from_proto(proto)
    assert [spec.name for spec in loaded.inputs] == ["b", "a"]
    assert [spec.name for spec in loaded.outputs] == ["z", "y"]


def test_scalar_input() -> None:
    proto = model([node("Mul", ["x", "s"], ["y"])], [value("x", [1, 4]), value("s", [])])
    assert from_proto(proto).inputs[1] == TensorSpec("s", (), "float32")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT32, "int32"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_input_dtypes(code: int, name: str) -> None:
    proto = model(
        [node("Reshape", ["x", "s"], ["y"])],
        [value("x", [1, 4], code)],
        [value("y", [4], code)],
        {"s": np.array([4], np.int64)},
    )
    loaded = from_proto(proto)
    assert loaded.inputs[0].dtype == loaded.outputs[0].dtype == name


def test_constant_nodes_become_initializers() -> None:
    # The importer knows Constant nodes with a tensor only, not those with a plain number.
    proto = model(
        [
            helper.make_node("Constant", [], ["c"], value_float=2.0),
            helper.make_node("Constant", [], ["d"], value_floats=[1.0, 2.0, 3.0, 4.0]),
            node("Mul", ["x", "c"], ["m"]),
            node("Add", ["m", "d"], ["y"]),
        ]
    )
    loaded = from_proto(proto)
    assert [n.op_type for n in loaded.proto.graph.node] == ["Mul", "Add"]
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    np.testing.assert_array_equal(run(loaded.proto, x=x)[0], x * 2 + [[1, 2, 3, 4]])


def test_batch_norm_is_folded_into_the_convolution() -> None:
    rng = np.random.default_rng(0)
    stats = {name: rng.uniform(0.5, 1.5, 6).astype(np.float32) for name in ("g", "o", "m", "v")}
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "g", "o", "m", "v"], ["y"])],
        [value("x", [1, 3, 8, 8])],
        [value("y", [1, 6, 6, 6])],
        {"w": rng.standard_normal((6, 3, 3, 3), np.float32), **stats},
    )
    loaded = from_proto(proto)
    assert [n.op_type for n in loaded.proto.graph.node] == ["Conv"]
    x = rng.standard_normal((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(run(loaded.proto, x=x)[0], run(proto, x=x)[0], rtol=1e-4, atol=1e-5)


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "local",
        "Silu",
        ["a"],
        ["b"],
        [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    proto = model([node("Silu", ["x"], ["y"], domain="local")], domains={"local": 1})
    proto.functions.append(function)
    loaded = from_proto(proto)
    assert [n.op_type for n in loaded.proto.graph.node] == ["Sigmoid", "Mul"]
    assert "inlined 1 local functions" in loaded.notes


def test_branches_are_kept() -> None:
    branches = {
        name: helper.make_graph([node(kind, ["x"], [kind])], name, [], [value(kind, [1, 4])])
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    proto = model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Greater", ["s", "zero"], ["c"]),
            node("If", ["c"], ["y"], **branches),
        ],
        constants={"zero": np.float32(0)},
    )
    loaded = from_proto(proto)
    for x in (np.ones((1, 4), np.float32), -np.ones((1, 4), np.float32)):
        np.testing.assert_array_equal(run(loaded.proto, x=x)[0], np.ones((1, 4)))


def test_audit_can_be_left_to_the_caller() -> None:
    proto = model([node("Frobnicate", ["x"], ["a"]), node("Relu", ["a"], ["y"])])
    assert from_proto(proto, audit=False).outputs[0].shape == (1, 4)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "n"
    assert from_proto(proto, audit=False).outputs[0].shape in {(), (1, -1)}


def test_public_exports_load(shared_models: Path) -> None:
    path = shared_models / "mobilevit_xxs.onnx"
    loaded = load(path)
    assert len(loaded.proto.graph.node) < len(onnx.load(path).graph.node) / 2
    x = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    want = run(onnx.load(path), pixel_values=x)[0]
    np.testing.assert_allclose(run(loaded.proto, pixel_values=x)[0], want, atol=1e-5 * np.abs(want).max())
