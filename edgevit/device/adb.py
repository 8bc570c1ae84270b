"""A session with a phone on which nothing is installed: adb brings the server, reaches it, and takes it away."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

from edgevit.device.adb_client import Adb, choose_phone
from edgevit.device.adb_server import START_TIMEOUT, Forward, Owned, PhoneServer, triple_for
from edgevit.device.guard import dial
from edgevit.device.phone import PhoneFacts, PhoneState
from edgevit.device.phone_probe import FACTS, STATE, parse_facts, parse_state
from edgevit.device.rpc import RpcSession
from edgevit.device.server_build import build_server
from edgevit.device.session import DeviceInfo
from edgevit.errors import DeviceError


class AdbSession(RpcSession):
    """A session with edgevit's server on a phone.

    Attributes:
        phone: what Android says of it.
    """

    lost_advice = (
        "Is the cable in, and the phone on? If so, the server crashed or the phone ran out of memory: 'adb logcat' "
        "may say more."
    )

    def __init__(self, channel: socket.socket, adb: Adb, phone: PhoneFacts, key: str, owned: Owned) -> None:
        """Shake hands; ``owned`` ends with the session."""
        self._adb = adb
        self.phone = phone
        super().__init__(
            channel,
            adb.where,
            kind="adb",
            key=key,
            emulated=phone.emulator,
            handshake_timeout=START_TIMEOUT,
            on_close=owned.stop,
        )

    def describe(self) -> DeviceInfo:
        """What the server says, and what Android says of the phone."""
        return super().describe().model_copy(update={"phone": self.phone})

    def condition(self) -> PhoneState | None:
        """How warm and how fast the phone is; None where it does not tell."""
        try:
            return parse_state(self._adb.shell(STATE))
        except DeviceError:
            return None  # if it has gone, the next call on the session says so


def phone_facts(adb: Adb) -> PhoneFacts:
    """What Android says of a phone.

    Raises:
        DeviceError: it cannot be reached.
    """
    return parse_facts(adb.shell(FACTS))


def connect_adb(
    serial: str = "",
    *,
    triple: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = START_TIMEOUT,
) -> AdbSession:
    """A session with a phone, board or emulator that adb reaches.

    The server is pushed into a folder of its own under ``/data/local/tmp``, listens on the phone's loopback, and is
    removed with its folder when the session ends or this process does.

    Args:
        serial: as ``adb devices`` lists it. Empty: what ``ANDROID_SERIAL`` says, else the only device there is.
        triple: the server to push; by default the one for the phone's preferred ABI.
        progress: told of the server's build.
        timeout: seconds to reach the phone and for the server to start.

    Raises:
        UserError: several phones are attached and none was named.
        DeviceUnreachable: there is no such phone, or it does not allow debugging.
        DeviceMismatch: there is no server for its processor.
        DeviceError: it has no room for the server.
        ToolchainError: adb is not installed.
    """
    adb = Adb(choose_phone(serial, timeout=timeout).serial)
    phone = phone_facts(adb)
    binary = build_server(triple or triple_for(phone.abis, adb.where), progress=progress)
    # Every app on a phone reaches its loopback: the server takes nobody who does not know this word.
    key = secrets.token_hex(16)
    owned = Owned()
    try:
        server = PhoneServer(adb, binary, ["--port", "0", "--once", "--key", key], timeout=timeout)
        owned.add(server)
        forward = Forward(adb, server.wait_for_port(timeout), timeout=timeout)
        owned.add(forward)
        channel = dial("127.0.0.1", forward.port, timeout=timeout)
    except BaseException:
        owned.stop()
        raise
    return AdbSession(channel, adb, phone, key, owned)
