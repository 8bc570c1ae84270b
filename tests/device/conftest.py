"""Sessions of every kind, and the check that none of them leaves anything behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device.connect import connect
from edgevit.device.session import Session
from edgevit.model import Model, from_proto
from tests.conftest import missing
from tests.device.processes import nothing_left, own, stock, tracker_knows, wait_until

HOST_KINDS = ("in-process", "process", "stock", "own", "tracker-stock", "tracker-own")


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every process that the test causes carries this mark; it fails if one, or a temporary file, remains."""
    with nothing_left(tmp_path, monkeypatch) as text:
        yield text


@pytest.fixture(scope="session")
def typed_model() -> Model:
    """Inputs of four dtypes, a scalar among them; outputs of three."""
    inputs = [
        helper.make_tensor_value_info("real", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("index", TensorProto.INT64, [2, 3]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, [2, 3]),
        helper.make_tensor_value_info("pixel", TensorProto.UINT8, [2, 3]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
    ]
    outputs = [
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("double", TensorProto.INT64, [2, 3]),
        helper.make_tensor_value_info("inverse", TensorProto.BOOL, [2, 3]),
    ]
    nodes = [
        helper.make_node("Cast", ["pixel"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["p", "scale"], ["scaled"]),
        helper.make_node("Where", ["mask", "real", "scaled"], ["sum"]),
        helper.make_node("Add", ["index", "index"], ["double"]),
        helper.make_node("Not", ["mask"], ["inverse"]),
    ]
    graph = helper.make_graph(nodes, "typed", inputs, outputs)
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.fixture(scope="session")
def typed_artifact(typed_model: Model) -> Artifact:
    """``typed_model`` for this machine."""
    return compile_model(typed_model, "host", verify=False)


@pytest.fixture(scope="session")
def server_binary() -> str:
    """Edgevit's C++ server for this machine."""
    from edgevit.device.server_build import build_server
    from edgevit.errors import ToolchainError
    from edgevit.targets import get_target

    try:
        return str(build_server(get_target("host").triple))
    except ToolchainError as error:
        missing(f"the C++ server cannot be built here: {error}")
        raise


@pytest.fixture(params=HOST_KINDS)
def host_session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session of every kind that needs nothing but this machine."""
    with open_session(request.param, lambda: str(request.getfixturevalue("server_binary"))) as session:
        yield session


@pytest.fixture(params=[kind for kind in HOST_KINDS if kind != "in-process"])
def remote_session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session of every kind that can be interrupted."""
    with open_session(request.param, lambda: str(request.getfixturevalue("server_binary"))) as session:
        yield session


@contextlib.contextmanager
def open_session(kind: str, binary: Callable[[], str]) -> Iterator[Session]:
    """Start what a kind of session needs, connect, and end both."""
    with contextlib.ExitStack() as stack:
        if kind == "in-process":
            session = connect(in_process=True)
        elif kind == "process":
            session = connect()
        elif kind in ("stock", "own"):
            server = stock("rpc_server") if kind == "stock" else own(binary())
            _, port = stack.enter_context(server)
            session = connect(rpc=f"127.0.0.1:{port}")
        else:
            _, tracker = stack.enter_context(stock("rpc_tracker"))
            offer = ("--tracker", f"127.0.0.1:{tracker}", "--key", "board")
            stack.enter_context(stock("rpc_server", *offer) if kind == "tracker-stock" else own(binary(), *offer))
            assert wait_until(lambda: tracker_knows(tracker, "board"), 60)
            session = connect(tracker=f"127.0.0.1:{tracker}", key="board")
        with session:
            yield session
