"""Who answers at a port is told apart by the first bytes."""

from __future__ import annotations

import socket
import struct

import pytest
from doctor_peers import (
    RPC_MAGIC,
    closed_port,
    hang_up,
    peer,
    rpc_answers,
    silent,
    ssh_server,
    tracker_with,
    web_server,
)

from edgevit.device.doctor.handshake import Peer, identify

CASES = {
    "rpc, any key": (rpc_answers(RPC_MAGIC), Peer("rpc")),
    "rpc, other key": (rpc_answers(RPC_MAGIC + 2), Peer("rpc")),
    "rpc, busy": (rpc_answers(RPC_MAGIC + 1), Peer("rpc", busy=True)),
    "tracker": (tracker_with({}), Peer("tracker")),
    "silent": (silent, Peer("silent")),
    "web server": (web_server, Peer("other")),
    "ssh server": (ssh_server, Peer("other")),
    "hangs up": (hang_up, Peer("other")),
}


@pytest.mark.parametrize("expected", ["rpc", "tracker"])
@pytest.mark.parametrize("case", CASES)
def test_everybody_is_recognised_whatever_was_expected(case, expected):
    behave, who = CASES[case]
    with peer(behave) as port:
        assert identify("127.0.0.1", port, expected=expected, timeout=2) == who


def test_nobody():
    assert identify("127.0.0.1", closed_port(), expected="rpc").kind == "absent"


def test_a_name_that_does_not_exist():
    found = identify("device.invalid", 9090, expected="rpc")
    assert found.kind == "unreachable"
    assert found.reason


def test_a_server_that_checks_keys_is_not_kept_busy():
    # The key sent is nobody's, so that a server refuses it and goes on waiting for its client.
    heard = []

    def listen(connection: socket.socket) -> None:
        heard.append(connection.recv(4096))
        connection.sendall(struct.pack("<i", RPC_MAGIC + 2))

    with peer(listen) as port:
        identify("127.0.0.1", port, expected="rpc")
    magic, size = struct.unpack("<ii", heard[0][:8])
    assert magic == RPC_MAGIC
    assert heard[0][8:].decode() == "client:edgevit-doctor"
    assert size == len(heard[0]) - 8
