"""A device that only OpenSSH reaches: a real sshd on loopback."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgevit.artifact import Artifact
from edgevit.device.connect import connect
from edgevit.errors import DeviceError, DeviceLost, DeviceMismatch, DeviceUnreachable, ToolchainError
from edgevit.model import Model
from tests.conftest import missing
from tests.device.processes import client_that_times, free_port, later, marked, wait_until
from tests.device.reference import LONG, assert_same, expected, small_input

pytestmark = pytest.mark.usefixtures("server_binary")


@dataclass
class Host:
    """A host called ``board``.

    Attributes:
        config: of the client.
        sessions: folder that is the host's temporary folder.
        environment: file of environment variables that logins get.
    """

    config: Path
    sessions: Path
    environment: Path

    def set(self, **variables: str) -> None:
        text = "".join(f"{name}={value}\n" for name, value in variables.items())
        self.environment.write_text(text)

    def empty(self) -> bool:
        return not list(self.sessions.iterdir())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str) -> Iterator[Host]:
    """Sshd with keys of its own, for the user who runs the test."""
    sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not (sshd and shutil.which("ssh") and shutil.which("ssh-keygen")):
        missing("OpenSSH's server is not installed")
    assert sshd
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        Path("/run/sshd").mkdir(mode=0o755)  # sshd's privilege separation wants it when root starts it
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host_key", "user_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    port = free_port()
    login = folder / "login"
    environment = folder / "environment"
    # The login's own shell, with the test's variables: what an account's start-up files would do.
    login.write_text(
        f'#!/bin/sh\nset -a; . {environment}; set +a\ntest -n "$BANNER" && echo "$BANNER"\n'
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    login.chmod(0o700)
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nForceCommand {login}\n"
    )
    client = folder / "config"
    client.write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentitiesOnly yes\n"
        f" IdentityFile {folder}/user_key\n UserKnownHostsFile {folder}/known_hosts\n"
        " StrictHostKeyChecking accept-new\n LogLevel ERROR\n"
    )
    with open(folder / "log", "wb") as log:  # noqa: PTH123
        server = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    made = Host(client, sessions, environment)
    made.set(TMPDIR=str(sessions), MARK=mark)
    monkeypatch.setenv("EDGEVIT_SSH", f"ssh -F {client}")
    try:
        assert wait_until(lambda: b"listening" in (folder / "log").read_bytes()), (folder / "log").read_text()
        yield made
        assert wait_until(made.empty)
    finally:
        server.terminate()
        server.wait()


def test_computes_the_same(host: Host, small_model: Model, small_artifact: Artifact) -> None:
    with connect(ssh="board") as session:
        info = session.describe()
        assert (info.kind, info.emulated) == ("ssh", False)
        assert info.address == "ssh board"
        with session.load(small_artifact) as loaded:
            for seed in (0, 1):
                assert_same(loaded.run(small_input(seed)), expected(small_model, small_input(seed)))
            loaded.set_inputs(small_input(0))
            assert len(loaded.time(3)) == 3
            assert loaded.set_threads(1) == 1
            assert loaded.usage().threads == 1
        assert not host.empty()
    assert wait_until(host.empty)


def test_a_login_that_prints(host: Host, small_artifact: Artifact) -> None:
    host.set(TMPDIR=str(host.sessions), BANNER='Welcome to {"board": 1}')
    with connect(ssh="board") as session, session.load(small_artifact) as loaded:
        loaded.run(small_input(0))


def test_a_temporary_folder_with_a_space(host: Host, small_artifact: Artifact) -> None:
    folder = host.sessions / "a b"
    folder.mkdir()
    host.set(TMPDIR=f"'{folder}'")
    with connect(ssh="board") as session, session.load(small_artifact) as loaded:
        loaded.run(small_input(0))
    assert wait_until(lambda: not list(folder.iterdir()))
    folder.rmdir()


def test_wrong_key(host: Host) -> None:
    config = host.config.read_text().replace("user_key", "other_key")
    host.config.write_text(config)
    begun = time.monotonic()
    with pytest.raises(DeviceUnreachable, match=r"cannot log in.*Permission denied"):
        connect(ssh="board")
    assert time.monotonic() - begun < 30


def test_unknown_host(host: Host) -> None:
    with pytest.raises(DeviceUnreachable, match="cannot log in"):
        connect(ssh="no-such-host.invalid", timeout=5)


def test_no_temporary_folder(host: Host) -> None:
    host.set(TMPDIR=str(host.sessions / "absent"))
    with pytest.raises(DeviceError, match=r"ended before it listened.*No such file"):
        connect(ssh="board")


def test_disk_full(host: Host) -> None:
    host.environment.write_text(f"TMPDIR={host.sessions}\nulimit -f 1000\n")
    with pytest.raises(DeviceError, match="ended before it listened"):
        connect(ssh="board")
    assert wait_until(host.empty)


def test_another_kind_of_machine(host: Host) -> None:
    tools = host.config.parent / "bin"
    tools.mkdir()
    (tools / "uname").write_text("#!/bin/sh\necho Plan9\n")
    (tools / "uname").chmod(0o700)
    host.set(PATH=f"{tools}:{os.environ['PATH']}")
    with pytest.raises(DeviceMismatch, match="no server for 'Plan9"):
        connect(ssh="board")


def test_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_SSH", "/no/such/ssh")
    with pytest.raises(ToolchainError, match="not installed"):
        connect(ssh="board")


@pytest.mark.parametrize("what", ["-W", "--exit-with-stdin"])
def test_ssh_killed_in_the_middle_of_a_call(what: str, host: Host, mark: str, small_artifact: Artifact) -> None:
    def kill() -> None:
        for process in marked(mark, containing=what):
            if process.name() == "ssh":
                process.kill()

    with connect(ssh="board") as session, session.load(small_artifact) as loaded:
        loaded.set_inputs(small_input(0))
        with later(0.5, kill), pytest.raises(DeviceLost):
            loaded.time(LONG)
    assert wait_until(host.empty)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_client_ends(number: signal.Signals, host: Host, mark: str, small_artifact: Artifact, tmp_path: Path) -> None:
    path = small_artifact.save(tmp_path / "small.edgevit").path
    assert path is not None
    client = client_that_times('ssh="board"', path)
    with contextlib.ExitStack() as stack:
        stack.callback(client.communicate)
        stack.callback(client.kill)
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline() == b"ready\n"
        assert not host.empty()
        client.send_signal(number)
        client.wait(timeout=30)
        if number == signal.SIGINT:
            assert client.stderr.read() == b""
        assert wait_until(lambda: not marked(mark, containing="ssh") and host.empty())
