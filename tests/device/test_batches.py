"""Many runs in one request: the results of single runs, whatever the server, and few waits for the network."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device import batches
from edgevit.device.connect import connect
from edgevit.device.session import LoadedModel, Session
from edgevit.errors import DeviceLost, DeviceTimeout, UserError
from edgevit.model import Model, load
from edgevit.targets import get_target
from tests.device.conftest import open_session
from tests.device.processes import later, own, stock, worker_of
from tests.device.reference import Arrays, assert_same, expected, small_input, typed_input
from tests.device.turns import slow_line


def assert_identical(got: list[Arrays], wanted: list[Arrays]) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert list(one) == list(other)
        for name, array in other.items():
            assert (one[name].dtype, one[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(one[name], array)


def assert_batches_right(loaded: LoadedModel, model: Model, draws: list[Arrays]) -> None:
    single = [loaded.run(inputs) for inputs in draws]
    together = loaded.run_batch(draws)
    assert_identical(together, single)
    for inputs, got in zip(draws, together, strict=True):
        assert_same(got, expected(model, inputs))
    # Results are the caller's.
    for got in together:
        for array in got.values():
            array.fill(0)
    assert_identical(loaded.run_batch(draws[:1]), single[:1])
    assert loaded.run_batch([]) == []


def test_a_batch_computes_what_single_runs_do(
    host_session: Session,
    small_model: Model,
    small_artifact: Artifact,
    typed_model: Model,
    typed_artifact: Artifact,
) -> None:
    for model, artifact, draw in (
        (small_model, small_artifact, small_input),
        (typed_model, typed_artifact, typed_input),
    ):
        with host_session.load(artifact) as loaded:
            assert_batches_right(loaded, model, [draw(seed) for seed in range(7)])
            # And single runs go on.
            loaded.set_inputs(draw(9))
            assert_same(loaded.invoke(), expected(model, draw(9)))
    # Servers that are not edgevit's lack the function; in this process there is nothing to spare.
    assert loaded.artifact is typed_artifact
    with host_session.load(small_artifact) as loaded:
        own_server = (host_session.describe().runtime or "").startswith("edgevit server")
        assert loaded.batches == (own_server and host_session.kind != "in-process")


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux"])
def test_other_processors_compute_the_same(target: str, typed_model: Model, small_model: Model) -> None:
    with connect(emulate=get_target(target)) as session:
        for model, draw in ((small_model, small_input), (typed_model, typed_input)):
            with session.load(compile_model(model, target, verify=False)) as loaded:
                assert loaded.batches
                assert_batches_right(loaded, model, [draw(seed) for seed in range(3)])


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Serves images of 8 × 8 and 8 × 16."""
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info("tops", TensorProto.FLOAT, [1, 3, "h", "w"])]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["tops"])], "tops", inputs, outputs)
    path = tmp_path_factory.mktemp("sizes") / "tops.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(path)
    return compile_model([load(path, shapes=(1, 3, 8, wide)) for wide in (8, 16)], "host", verify=False)


@pytest.mark.parametrize("kind", ["in-process", "process", "own"])
def test_shapes_may_change_within_a_batch(kind: str, two_sizes: Artifact, server_binary: str) -> None:
    draw = np.random.default_rng(2)
    batch = [{"image": draw.standard_normal((1, 3, 8, wide), np.float32)} for wide in (8, 8, 16, 8, 16, 16)]
    with open_session(kind, lambda: server_binary) as session, session.load(two_sizes) as loaded:
        got = loaded.run_batch(batch)
    assert_identical(got, [{"tops": np.maximum(inputs["image"], 0)} for inputs in batch])


def test_a_batch_waits_for_the_network_once(small_artifact: Artifact, server_binary: str) -> None:
    draws = [small_input(seed) for seed in range(12)]
    with own(server_binary) as (_, port), slow_line(port, 0.01) as line:
        with connect(rpc=f"127.0.0.1:{line.port}") as session, session.load(small_artifact) as loaded:
            loaded.run(draws[0])
            before = line.turns
            single = [loaded.run(inputs) for inputs in draws]
            one_by_one = line.turns - before
            assert loaded.batches
            loaded.run_batch(draws[:1])  # frees what single runs left on the device
            before = line.turns
            together = loaded.run_batch(draws)
            assert line.turns - before == 1
        assert_identical(together, single)
    assert one_by_one >= 4 * len(draws)


def test_what_is_too_much_for_one_request_takes_several(
    small_artifact: Artifact, server_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = [small_input(seed) for seed in range(8)]
    each = batches.run_bytes((*small_artifact.resolution.inputs, *small_artifact.resolution.outputs))
    monkeypatch.setattr(batches, "BATCH_BYTES", 3 * each)
    with own(server_binary) as (_, port), slow_line(port, 0.0) as line:
        with connect(rpc=f"127.0.0.1:{line.port}") as session, session.load(small_artifact) as loaded:
            single = [loaded.run(inputs) for inputs in draws]
            loaded.run_batch(draws[:1])
            before = line.turns
            together = loaded.run_batch(draws)
            assert line.turns - before == 3
            monkeypatch.setattr(batches, "BATCH_BYTES", 1)
            assert_identical(loaded.run_batch(draws[:2]), single[:2])
        assert_identical(together, single)


def test_a_stock_server_is_asked_run_by_run(small_artifact: Artifact) -> None:
    draws = [small_input(seed) for seed in range(4)]
    with (
        stock("rpc_server") as (_, port),
        slow_line(port, 0.0) as line,
        connect(rpc=f"127.0.0.1:{line.port}") as session,
        session.load(small_artifact) as loaded,
    ):
        assert not loaded.batches
        single = [loaded.run(inputs) for inputs in draws]
        before = line.turns
        assert not loaded.batches
        assert line.turns == before
        assert_identical(loaded.run_batch(draws), single)


def test_one_wrong_input_stops_the_batch_before_it_runs(remote_session: Session, small_artifact: Artifact) -> None:
    batch = [small_input(0), {"image": np.zeros((1, 3, 32, 31), np.float32)}, small_input(1)]
    with remote_session.load(small_artifact) as loaded:
        with pytest.raises(UserError, match="takes float32"):
            loaded.run_batch(batch)
        assert len(loaded.run_batch(batch[::2])) == 2


def test_misuse(host_session: Session, small_artifact: Artifact) -> None:
    loaded = host_session.load(small_artifact)
    loaded.close()
    with pytest.raises(UserError, match="not loaded"):
        loaded.run_batch([small_input(0)])


def test_dies_in_the_middle_of_a_batch(mark: str, small_artifact: Artifact) -> None:
    with connect() as session, session.load(small_artifact) as loaded:
        loaded.run_batch([small_input(0)])
        worker = worker_of(mark)
        worker.suspend()
        with later(0.3, worker.kill), pytest.raises(DeviceLost, match="batch"):
            loaded.run_batch([small_input(seed) for seed in range(5)])
        with pytest.raises(DeviceLost):
            loaded.run_batch([small_input(0)])


def test_the_limit_grows_with_the_batch(mark: str, small_artifact: Artifact) -> None:
    with connect() as session, session.load(small_artifact) as loaded:
        loaded.run_batch([small_input(0)])
        worker = worker_of(mark)
        worker.suspend()
        with pytest.raises(DeviceTimeout, match=r"within 0\.5 s"):
            loaded.run_batch([small_input(0)] * 5, timeout=0.1)
        worker.kill()


def test_a_server_that_is_killed_in_the_middle(mark: str, small_artifact: Artifact, server_binary: str) -> None:
    with own(server_binary) as (process, port), connect(rpc=f"127.0.0.1:{port}") as session:
        loaded = session.load(small_artifact)
        loaded.run_batch([small_input(0)])

        def go_on() -> None:
            while True:
                loaded.run_batch([small_input(0)] * 1000)

        with later(0.3, process.kill), pytest.raises(DeviceLost, match="running a batch"):
            go_on()


ONE = b"".join(array.data for array in small_input(0).values())
TAKES = "float32[1,3,32,32]"


NO_BATCHES = [
    ({"data": ONE[:-1]}, r"1 x float32\[1,3,32,32\] are 12288 bytes, not 12287"),
    ({"data": b""}, "not 0"),
    ({"count": 2}, "2 x .* are 24576 bytes, not 12288"),
    ({"count": 0}, "a batch of 0 runs"),
    ({"count": -1}, "a batch of -1 runs"),
    ({"inputs": "float32[1,32,3,32]"}, "mismatch"),
    ({"inputs": "int32[1,3,32,32]"}, "expect Tensor with dtype float32"),
    ({"inputs": "float32[3072]"}, "expect Tensor with ndim 4"),
    ({"inputs": "float32[1,3,16,32] float32[1,3,16,32]"}, "argument|takes 1 tensors, not 2"),
    ({"inputs": ""}, "0 bytes, not 12288"),
    ({"inputs": "float32[1,3,-32,-32]"}, "'-32' in .* is no size"),
    ({"inputs": "float32[1,x]"}, "'x' in .* is no size"),
    ({"inputs": "float32"}, "no tensor|not 12288"),
    ({"inputs": "float99x[1]"}, "float99x"),
    ({"inputs": "float32[99999999,99999999,99999999]"}, "more than 2 GiB|not 12288"),
    ({"outputs": "float32[1,9]"}, "returns|output 0 of the program is"),
    ({"outputs": ""}, "returns"),
    ({"entry": "nothing"}, "no function 'nothing'"),
]
"""What is asked otherwise, and what the server says."""


@pytest.mark.parametrize("kind", ["process", "own"])
def test_the_server_refuses_what_is_no_batch(kind: str, small_artifact: Artifact, server_binary: str) -> None:
    resolution = small_artifact.resolution
    outputs = batches.forms(resolution.outputs)
    asked = {"entry": resolution.entry, "count": 1, "inputs": TAKES, "outputs": outputs, "data": ONE}
    with open_session(kind, lambda: server_binary) as session, session.load(small_artifact) as loaded:
        for change, says in NO_BATCHES:
            with pytest.raises(Exception, match=says):
                session.call(batches.FUNCTION, loaded._vm.module, *{**asked, **change}.values())
            # And the session goes on.
            answer = session.call(batches.FUNCTION, loaded._vm.module, *asked.values())
            assert len(answer) == batches.run_bytes(resolution.outputs)
