"""Every file that cannot be used ends in one clear error, and leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import FLOAT, conv_model, model, node, save, value

from edgevit.errors import ModelError
from edgevit.model import from_proto, load


def refused(proto: onnx.ModelProto, match: str, **kwargs: object) -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        from_proto(proto, **kwargs)
    assert caught.value.advice
    return caught.value


def refused_file(path: Path, match: str, **kwargs: object) -> ModelError:
    before = sorted(path.parent.rglob("*")) if path.parent.is_dir() else []
    with pytest.raises(ModelError, match=match) as caught:
        load(path, **kwargs)
    assert caught.value.where == str(path)
    assert caught.value.advice
    assert (sorted(path.parent.rglob("*")) if path.parent.is_dir() else []) == before
    return caught.value


def test_missing_file(tmp_path: Path) -> None:
    refused_file(tmp_path / "absent.onnx", "no such file")
    refused_file(tmp_path / "no" / "folder.onnx", "no such file")


def test_folder(tmp_path: Path) -> None:
    refused_file(tmp_path, "this is a folder")


def test_special_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    refused_file(pipe, "not a regular file")


def test_nul_in_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(f"{tmp_path}/a\0b.onnx")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"hello, I am text\n" * 20, "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "LiteRT"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (random.Random(0).randbytes(4096), "not an ONNX model"),
        (bytes(4096), "not an ONNX model"),
        (b"\x08\x08", "not an ONNX model"),
    ],
)
def test_not_onnx(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    refused_file(path, match)


def test_random_bytes_never_escape_the_error_class(tmp_path: Path) -> None:
    generator = random.Random(1)
    for _ in range(50):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x08\x08" + generator.randbytes(generator.randrange(200)))
        refused_file(path, "not|truncated|no |empty")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    data = conv_model().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    refused_file(path, "truncated|damaged")


def test_too_large(tmp_path: Path) -> None:
    path = save(conv_model(), tmp_path)
    refused_file(path, "over the limit", max_bytes=path.stat().st_size - 1)
    assert load(path, max_bytes=path.stat().st_size).inputs


def test_size_is_checked_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)
    refused_file(path, "over the limit")


def test_empty_graph() -> None:
    refused(model([], outputs=[value("x", [1, 4])]), "graph is empty")


def test_no_outputs() -> None:
    refused(model([node("Relu", ["x"], ["y"])], outputs=[]), "no outputs")


def test_no_inputs() -> None:
    proto = model([node("Relu", ["c"], ["y"])], inputs=[], constants={"c": np.ones((1, 4), np.float32)})
    refused(proto, "no inputs")


@pytest.mark.parametrize("opset", [1, 6, 99])
def test_opset_out_of_range(opset: int) -> None:
    refused(model([node("Relu", ["x"], ["y"])], opset=opset), f"opset {opset}")


def test_no_opset() -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    del proto.opset_import[:]
    refused(proto, "operator set")


def test_unknown_operators_are_named_the_first_few() -> None:
    names = ["x", *(f"v{index}" for index in range(7)), "y"]
    nodes = [node("Frobnicate", [a], [b], name=f"bad{index}") for index, (a, b) in enumerate(itertools.pairwise(names))]
    error = refused(model(nodes), "8 nodes have operators the compiler cannot take")
    assert "Frobnicate 'bad0'" in error.message
    assert "'bad4'" in error.message
    assert "'bad5'" not in error.message
    assert "and 3 more" in error.message


def test_known_but_unsupported_operator() -> None:
    proto = model(
        [node("STFT", ["x", "step", "", "length"], ["y"], name="spectrum")],
        [value("x", [1, 64, 1])],
        [value("y", [1, 7, 9, 2])],
        {"step": np.int64(8), "length": np.int64(16)},
    )
    refused(proto, "STFT 'spectrum'")


def test_unknown_domain() -> None:
    proto = model([node("Relu", ["x"], ["y"], domain="com.example", name="mine")], domains={"com.example": 1})
    refused(proto, "com.example::Relu 'mine'")


def test_operator_of_onnx_that_only_another_domain_supports() -> None:
    refused(model([node("FastGelu", ["x"], ["y"])]), "FastGelu")


def test_unnamed_node_is_named_by_its_output() -> None:
    refused(model([node("Frobnicate", ["x"], ["y"], name="")]), "Frobnicate 'y'")


def test_names_that_are_not_text(tmp_path: Path) -> None:
    data = model([node("Relu", ["x"], ["y"], name="abcdef")]).SerializeToString()
    for good, bad in ((b"Relu", b"Re\xd3u"), (b"abcdef", b"abc\xffef"), (b"Relu", b"R\x1b[m")):
        path = tmp_path / "model.onnx"
        path.write_bytes(data.replace(good, bad))
        refused_file(path, "not text")


def test_loop() -> None:
    body = helper.make_graph(
        [node("Add", ["state", "state"], ["next"]), node("Less", ["next", "limit"], ["small"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [1])],
        [value("small", [1], TensorProto.BOOL), value("next", [1])],
    )
    proto = model(
        [node("Loop", ["", "true", "x"], ["y"], body=body, name="again")],
        [value("x", [1])],
        [value("y", [1])],
        {"true": np.bool_(True), "limit": np.float32(100)},
    )
    refused(proto, "Loop 'again'")


@pytest.mark.parametrize(
    ("dims", "advice"),
    [
        (["batch", 3, "height", "width"], "--shape 1x3x256x256"),
        (["batch", 3, 224, 224], "--shape 1x3x224x224"),
        ([None, None, None, None], "--shape 1x3x256x256"),
        (["n", 64, 64, 3], "--shape 1x64x64x3"),
        (["batch", "length"], "--shape 1x?"),
        ([-1, 10], "--shape 1x10"),
    ],
)
def test_dynamic_dimension(dims: list[int | str | None], advice: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])], [value("x", dims)], [value("y", dims)])
    error = refused(proto, "input 'x' has no fixed dimension 0")
    assert advice in (error.advice or "")
    if isinstance(dims[0], str):
        assert f"0 ({dims[0]})" in error.message


def test_dynamic_dimensions_of_two_inputs_are_named() -> None:
    proto = model(
        [node("Add", ["a", "b"], ["y"])],
        [value("a", ["n", 4]), value("b", ["n", 4])],
        [value("y", ["n", 4])],
    )
    error = refused(proto, "input 'a'.*input 'b'")
    assert "--shape a=1x4 --shape b=1x4" in (error.advice or "")


def test_input_without_rank() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [value("x", None)], [value("y", None)])
    refused(proto, "has no shape")
    assert from_proto(proto, shapes=(2, 3)).outputs[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ((1, 3), "has 4 dimensions"),
        ((1, 3, 8, 8, 1), "has 4 dimensions"),
        ((0, 3, 8, 8), "dimension 0 of input 'x' is 0"),
        ((-1, 3, 8, 8), "dimension 0 of input 'x' is -1"),
        ((1, 4, 8, 8), "fixes dimension 1 of input 'x' at 3"),
        ((1 << 40, 3, 8, 8), "dimension 0"),
        ((1 << 30, 3, 1 << 20, 1 << 20), "over the limit"),
        ({"z": (1, 3, 8, 8)}, "no input 'z'"),
        ((1, 3, 8.5, 8), "whole numbers"),
        ("1x3x8x8", "whole numbers"),
    ],
)
def test_bad_shapes(shapes: object, match: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])], [value("x", ["n", 3, "h", "w"])], [value("y", ["n", 3, "h", "w"])])
    refused(proto, match, shapes=shapes)


def test_unnamed_shape_for_two_inputs() -> None:
    proto = model([node("Add", ["a", "b"], ["y"])], [value("a", ["n", 4]), value("b", ["n", 4])])
    refused(proto, "which of the 2 inputs", shapes=(1, 4))


def test_zero_dimension_in_the_file() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [value("x", [0, 4])], [value("y", [0, 4])])
    refused(proto, "dimension 0 of input 'x' is 0")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (TensorProto.STRING, "string"),
        (TensorProto.COMPLEX64, "complex64"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.FLOAT8E4M3FN, "float8e4m3fn"),
        (TensorProto.INT4, "int4"),
        (TensorProto.UINT16, "uint16"),
    ],
)
def test_input_dtype(dtype: int, name: str) -> None:
    proto = model([node("Identity", ["x"], ["y"])], [value("x", [1, 4], dtype)], [value("y", [1, 4], dtype)])
    refused(proto, f"input 'x' has element type {name}")


def test_sequence_input() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, [1, 4])
    proto = model([node("SequenceLength", ["x"], ["y"])], [sequence], [value("y", [], TensorProto.INT64)])
    refused(proto, "input 'x' has element type sequence")


def test_cycle() -> None:
    proto = model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])])
    refused(proto, "not valid ONNX")


def test_output_nobody_computes() -> None:
    refused(model([node("Relu", ["x"], ["z"])]), "not valid ONNX")


def test_value_computed_twice() -> None:
    refused(model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])]), "not valid ONNX")


def test_shapes_that_contradict() -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], constants={"w": np.ones((5, 4), np.float32)})
    refused(proto, "not valid ONNX")


def test_initializer_shorter_than_its_shape() -> None:
    proto = model([node("Add", ["x", "w"], ["y"])], constants={"w": np.ones(4, np.float32)})
    proto.graph.initializer[0].raw_data = b"1234"
    refused(proto, "not valid ONNX|simplif")


def test_petabytes_claimed_by_a_constant() -> None:
    side = 1 << 25
    proto = model(
        [
            node("ConstantOfShape", ["s"], ["c"]),
            node("ReduceMean", ["c"], ["m"]),
            node("Add", ["x", "m"], ["y"]),
        ],
        constants={"s": np.array([side, side], np.int64)},
        opset=17,
    )
    proto.graph.node[1].attribute.add().CopyFrom(helper.make_attribute("keepdims", 0))
    refused(proto, "over the limit|simplif|not valid")


def test_petabytes_claimed_by_expand() -> None:
    proto = model(
        [node("Expand", ["x", "s"], ["e"]), node("ReduceSum", ["e"], ["y"], keepdims=1)],
        outputs=[value("y", [1, 1, 1, 1])],
        constants={"s": np.array([1 << 20, 1 << 20, 1, 4], np.int64)},
    )
    refused(proto, "over the limit")


def test_output_of_unknown_size() -> None:
    proto = model([node("NonZero", ["x"], ["y"])], outputs=[value("y", [2, None], TensorProto.INT64)])
    refused(proto, "output 'y' is not known before the model runs")


def test_sparse_weights() -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", FLOAT, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [0]), [4]
    )
    proto.graph.sparse_initializer.append(sparse)
    refused(proto, "sparse")


def test_a_simplifier_that_hangs_is_given_up() -> None:
    from edgevit.model.isolated import prepare_isolated

    with pytest.raises(ModelError, match="did not finish"):
        prepare_isolated(conv_model(), {"x": (1, 3, 8, 8)}, None, audit=True, timeout=0.01)


def test_a_simplifier_that_crashes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.model import isolated

    monkeypatch.setattr(isolated, "_MEMORY", 1 << 20)
    with pytest.raises(ModelError, match="cannot be simplified"):
        isolated.prepare_isolated(conv_model(), {"x": (1, 3, 8, 8)}, None, audit=True)
