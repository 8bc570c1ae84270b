"""However a client ends, its worker, its relay and its temporary files end with it, and it says nothing odd."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgevit.artifact import Artifact
from edgevit.device.connect import connect
from tests.device.processes import marked, wait_until, worker_of
from tests.device.reference import small_input

_PREAMBLE = """
import os, signal, sys, time
import numpy as np
from edgevit.artifact import load_artifact
from edgevit.device.connect import connect

artifact = load_artifact(sys.argv[1])
session = connect()
model = session.load(artifact)
model.set_inputs({"image": np.zeros((1, 3, 32, 32), np.float32)})
print("ready", flush=True)
"""


@contextlib.contextmanager
def client(
    script: str, artifact: Artifact, folder: Path, *, new_session: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A Python process with a session; the block begins when it has loaded the model."""
    path = artifact.save(folder / "small.edgevit").path
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _PREAMBLE + textwrap.dedent(script), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line == "ready\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def busy(mark: str) -> bool:
    """Whether the worker computes."""
    worker = worker_of(mark)
    before = worker.cpu_times().user
    return wait_until(lambda: worker.cpu_times().user > before + 0.2)


@pytest.mark.parametrize("call", ["model.time(5_000_000)", "time.sleep(600)"])
def test_killed(call: str, mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    with client(call, small_artifact, tmp_path) as process:
        if call.startswith("model"):
            assert busy(mark)
        process.kill()
        process.wait()
        assert wait_until(lambda: not marked(mark))
        assert not list((tmp_path / "tmp").glob("edgevit*"))


def test_killed_together_with_its_worker(mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    with client("time.sleep(600)", small_artifact, tmp_path) as process:
        worker = worker_of(mark)
        process.send_signal(signal.SIGSTOP)
        worker.kill()
        process.kill()
        process.wait()
        assert wait_until(lambda: not marked(mark) and not list((tmp_path / "tmp").glob("edgevit*")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_of_a_call(
    number: signal.Signals, mark: str, small_artifact: Artifact, tmp_path: Path
) -> None:
    script = """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with session, model:
            model.time(5_000_000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    with client(script, small_artifact, tmp_path, new_session=True) as process:
        assert busy(mark)
        os.killpg(process.pid, number)  # as a terminal does: to everything in the foreground
        output, errors = process.communicate(timeout=30)
        assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
        assert not marked(mark)


def test_a_signal_that_does_not_interrupt_the_wait(mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    # TVM's client looks for signals when one cuts its wait short, not when one came just before the wait: it
    # would go on for minutes. A signal that another thread takes is the same to it, and easier to arrange.
    script = """
    import threading
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with session, model:
            model.time(5_000_000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    with client(script, small_artifact, tmp_path, new_session=True) as process:
        assert busy(mark)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
        assert not marked(mark)


def test_other_signals_do_not_end_a_call(mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    script = """
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with session, model:
        model.time(300_000)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(os.getpid(), number)
        model.time(1)
    """
    with client(script, small_artifact, tmp_path) as process:
        assert busy(mark)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            process.send_signal(number)
        output, errors = process.communicate(timeout=90)
        assert (output, errors, process.returncode) == ("", "", 0)


def test_command_line_terminated(mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    path = small_artifact.save(tmp_path / "small.edgevit").path
    command = [sys.executable, "-c", "from edgevit.cli.main import run; run()", "bench", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        worker_of(mark)
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert "Traceback" not in output
        assert not marked(mark)
    finally:
        process.kill()
        process.communicate()


def test_an_event_loop_keeps_its_signals(
    small_artifact: Artifact,
) -> None:
    import socket

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        before = signal.set_wakeup_fd(ours.fileno())
        try:
            with connect() as session, session.load(small_artifact) as loaded:
                loaded.run(small_input(0))
                assert signal.set_wakeup_fd(ours.fileno()) == ours.fileno()
        finally:
            signal.set_wakeup_fd(before)
    with connect() as session, session.load(small_artifact) as loaded:
        loaded.run(small_input(0))
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    "script",
    [
        "",
        "del session, model",
        "import gc; session.self = session; model.me = model; del session, model; gc.collect()",
        "kept = session.remote, model._vm, model._arguments; session.close()",
        "sys.exit(0)",
    ],
)
def test_ends_without_a_word(script: str, mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    with client(script, small_artifact, tmp_path) as process:
        output, errors = process.communicate(timeout=60)
        assert (output, errors, process.returncode) == ("", "", 0)
        assert not marked(mark)


@pytest.mark.parametrize("harm", [psutil.Process.suspend, psutil.Process.kill])
def test_ends_soon_when_its_worker_does_not_answer(
    harm: object, mark: str, small_artifact: Artifact, tmp_path: Path
) -> None:
    # Every remote object is freed while the interpreter ends, and each would ask the worker.
    with client("import threading; threading.Event().wait(3)", small_artifact, tmp_path) as process:
        harm(worker_of(mark))  # type: ignore[operator]
        output, errors = process.communicate(timeout=60)
        assert (output, errors, process.returncode) == ("", "", 0)
        assert not marked(mark)


def test_nothing_accumulates(mark: str, small_artifact: Artifact) -> None:
    own = psutil.Process()

    def one() -> None:
        with connect() as session, session.load(small_artifact) as loaded:
            loaded.run(small_input(0))

    for _ in range(3):
        one()
    files, threads = own.num_fds(), threading.active_count()
    gc.disable()  # nothing may wait for it: what it frees asks the device
    try:
        for _ in range(20):
            one()
        assert own.num_fds() <= files
    finally:
        gc.enable()
    assert threading.active_count() <= threads
    assert not marked(mark)
