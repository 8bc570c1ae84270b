"""Plain functions on tensors that stay on the device, through every kind of session."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tvm import IRModule, tirx

from edgevit.compiler.entry import build_module
from edgevit.device.connect import connect
from edgevit.device.session import Session
from edgevit.device.workbench import Workbench
from edgevit.errors import DeviceError, DeviceLost, DeviceMismatch, DeviceTimeout, UserError
from edgevit.link import Linker
from edgevit.target_schema import Target
from edgevit.targets import get_target

SIZE = 1000


def build(target: Target) -> bytes:
    """Functions ``twice`` (out = 2 x), ``third`` (out = x / 3), ``crash`` and ``hang``, each of (x, out)."""
    bodies = {"twice": lambda v: v * tirx.const(2.0), "third": lambda v: v / tirx.const(3.0)}
    functions = {}
    for name in ("twice", "third", "crash", "hang"):
        x, out = (tirx.decl_buffer((SIZE,), "float32", name=n) for n in ("x", "out"))
        i = tirx.Var("i", "int32")
        if name in bodies:
            value = bodies[name](tirx.BufferLoad(x, [i]))
            body = tirx.For(i, 0, SIZE, tirx.ForKind.SERIAL, tirx.BufferStore(out, value, [i]))
        elif name == "crash":
            body = tirx.BufferStore(out, tirx.const(1.0), [tirx.const(2_000_000_000, "int32")])
        else:
            # A sum that LLVM may not reorder, longer than anybody waits.
            total = tirx.BufferLoad(out, [0]) + tirx.BufferLoad(x, [0])
            body = tirx.BufferStore(out, total, [0])
            for name_of_loop in "ij":
                variable = tirx.Var(name_of_loop, "int32")
                body = tirx.For(variable, 0, 2_000_000_000, tirx.ForKind.SERIAL, body)
        functions[name] = tirx.PrimFunc([x, out], body).with_attr("global_symbol", name)
    return Linker(target).link(build_module(IRModule(functions), target))


@pytest.fixture(scope="module")
def library() -> bytes:
    return build(get_target("host"))


def check(bench: Workbench, library: bytes) -> None:
    """Two libraries, one after the other, work on the same tensors."""
    array = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    x, out = bench.place([array, np.full(SIZE, np.nan, np.float32)])
    bench.load(library)
    bench.call("twice", [x, out])
    np.testing.assert_array_equal(bench.fetch(out), array * 2)
    bench.load(library)
    bench.call("third", [x, out])
    np.testing.assert_allclose(bench.fetch(out), array / 3, rtol=1e-6)
    bench.copy(out, x)
    np.testing.assert_array_equal(bench.fetch(x), bench.fetch(out))
    bench.call("twice", [x, out])
    np.testing.assert_array_equal(bench.fetch(out), bench.fetch(x) * 2)
    np.testing.assert_allclose(bench.fetch(out), array * 2 / 3, rtol=1e-6)
    seconds = bench.time("twice", [x, out], calls=3, samples=4)
    assert len(seconds) == 4
    assert min(seconds) > 0
    bench.release([x])


def test_every_session(host_session: Session, library: bytes) -> None:
    with host_session.workbench() as bench:
        check(bench, library)
        assert bench.set_threads(1) == 1
        with pytest.raises(DeviceError):
            bench.call("absent", [])
        with pytest.raises(UserError, match="one call"):
            bench.time("twice", [], calls=0)
    with pytest.raises(UserError, match="closed"):
        bench.load(library)
    second = host_session.workbench()
    with pytest.raises(UserError, match="no library"):
        second.call("twice", [])


def test_crash_ends_the_session(remote_session: Session, library: bytes) -> None:
    bench = remote_session.workbench()
    handles = bench.place([np.zeros(SIZE, np.float32)] * 2)
    bench.load(library)
    with pytest.raises(DeviceLost):
        bench.call("crash", handles)
    with pytest.raises(DeviceLost):
        bench.fetch(handles[0])
    bench.close()


@pytest.fixture
def process() -> Iterator[Session]:
    with connect() as session:
        yield session


def test_a_call_that_does_not_end(process: Session, library: bytes) -> None:
    bench = process.workbench()
    handles = bench.place([np.zeros(SIZE, np.float32)] * 2)
    bench.load(library)
    with pytest.raises(DeviceTimeout):
        bench.call("hang", handles, timeout=0.5)


def test_what_is_no_library(process: Session) -> None:
    with pytest.raises(DeviceError, match="loading failed"):
        process.workbench().load(b"no library")


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_static_server() -> None:
    target = get_target("arm64-linux")
    with connect(emulate=target) as session, session.workbench() as bench:
        x, out = bench.place([np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32)])
        with pytest.raises(DeviceMismatch):
            bench.load(build(get_target("host")))
        bench.load(build(target))
        bench.call("twice", [x, out])
        np.testing.assert_array_equal(bench.fetch(out), np.full(SIZE, 2, np.float32))
        assert bench.time("twice", [x, out]) != []
