"""What a fake phone does for adb: a shell, files, ports; and the folder that is its storage."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.adb.phone_texts import PIXEL, PhoneTexts

if TYPE_CHECKING:
    from tests.adb.fake_device import Connection, Stream

STORAGE = "/data/local/tmp"

_PATHS = (STORAGE, "/sys/devices/system/cpu", "/sys/class/thermal")
_MACHINES = {183: "qemu-aarch64", 40: "qemu-arm"}  # e_machine of ELF
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)


class Phone:
    """A folder that is a phone: its storage, what its commands print, its sysfs.

    Attributes:
        root: the folder.
        properties: as ``getprop`` tells them.
        full: whether nothing more can be pushed.
    """

    def __init__(self, root: Path, texts: PhoneTexts = PIXEL, properties: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.properties = {**texts.properties, **(properties or {})}
        self.full = False
        self._running: list[subprocess.Popen[bytes]] = []
        self.storage.mkdir(parents=True)
        self._write_commands(texts)
        for path, text in texts.files.items():
            self._write(path.lstrip("/"), text)

    @property
    def storage(self) -> Path:
        """The folder that is ``/data/local/tmp``."""
        return self.root / STORAGE.lstrip("/")

    def left(self) -> list[str]:
        """Names of what is in its storage."""
        return sorted(path.name for path in self.storage.iterdir())

    def path(self, text: str) -> Path:
        """The file that is a phone's."""
        return Path(text) if text.startswith(str(self.root)) else self.root / text.lstrip("/")

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Run a command in the phone's shell."""
        for path in _PATHS:
            command = command.replace(path, str(self.root) + path)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.root,
            env={**os.environ, "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def install(self, path: Path, data: bytes, mode: int) -> None:
        """Store a pushed file; a program of another processor becomes a call of its emulator."""
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = struct.unpack_from("<H", data, 18)[0] if data[:4] == b"\x7fELF" else None
        emulator = _MACHINES.get(machine or 0)
        if emulator is not None:
            program = self.root / f"program-{len(list(self.root.glob('program-*')))}"
            program.write_bytes(data)
            program.chmod(0o700)
            found = shutil.which(f"{emulator}-static") or shutil.which(emulator)
            data = f'#!/bin/sh\nexec {found} "{program}" "$@"\n'.encode()
        path.write_bytes(data)
        path.chmod(mode)

    def close(self) -> None:
        """End what still runs."""
        for process in self._running:
            with contextlib.suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _write_commands(self, texts: PhoneTexts) -> None:
        listed = "".join(f"[{name}]: [{value}]\n" for name, value in self.properties.items())
        self._write("properties", listed)
        for name, text in texts.dumpsys.items():
            self._write(f"dumpsys/{name}", text)
        for name, script in {
            "getprop": f"cat {self.root}/properties",
            "dumpsys": f'cat "{self.root}/dumpsys/$1"',
            "settings": f"echo {texts.low_power}",
        }.items():
            self._write(f"bin/{name}", f"#!/bin/sh\n{script}\n")
            (self.root / "bin" / name).chmod(0o755)

    def _write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def shell_service(stream: Stream, phone: Phone, command: str, *, protocol: bool) -> None:
    """``shell:`` and ``exec:``, and with ``protocol`` ``shell,v2:``, which keeps stdout, stderr and status apart."""
    process = phone.start(command)
    lock = threading.Lock()

    def send(kind: int, data: bytes) -> None:
        with lock:
            stream.write(struct.pack("<BI", kind, len(data)) + data if protocol else data)

    def copy(source: int, kind: int) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := os.read(source, 1 << 16):
                send(kind, data)

    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    feeder = threading.Thread(target=_feed_shell, args=(stream, process, protocol), daemon=True)
    feeder.start()
    copies = [
        threading.Thread(target=copy, args=(pipe.fileno(), kind), daemon=True)
        for pipe, kind in ((process.stdout, _STDOUT), (process.stderr, _STDERR))
    ]
    for thread in copies:
        thread.start()
    for thread in copies:
        thread.join()
    status = process.wait()
    process.stdout.close()
    process.stderr.close()
    if protocol:
        send(_EXIT, bytes([status & 0xFF if status >= 0 else 128 - status]))


def _feed_shell(stream: Stream, process: subprocess.Popen[bytes], protocol: bool) -> None:
    """Adb's bytes to the shell; its standard input ends when adb says so, or has gone."""
    assert process.stdin is not None
    try:
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                if protocol:
                    kind, size = struct.unpack("<BI", stream.read(5))
                    data = stream.read(size)
                    if kind == _CLOSE_STDIN:
                        return
                    if kind != _STDIN:
                        continue
                elif not (data := stream.read_some()):
                    return
                process.stdin.write(data)
                process.stdin.flush()
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()


def sync_service(stream: Stream, phone: Phone) -> None:
    """Files: what ``adb push`` and ``adb pull`` ask."""
    while True:
        name, size = stream.read(4).decode(), struct.unpack("<I", stream.read(4))[0]
        if name == "QUIT":
            return
        argument = stream.read(size).decode()
        if name == "STAT":
            stream.write(b"STAT" + _stat1(phone.path(argument)))
        elif name in ("STA2", "LST2"):
            stream.write(name.encode() + _stat2(phone.path(argument)))
        elif name == "SEND":
            _receive_file(stream, phone, argument)
        elif name == "RECV":
            _send_file(stream, phone.path(argument))
        else:
            _fail(stream, f"unknown command {name}")
            return


def _stat1(path: Path) -> bytes:
    try:
        found = path.lstat()
    except OSError:
        return bytes(12)
    return struct.pack("<3I", found.st_mode, found.st_size, int(found.st_mtime))


def _stat2(path: Path) -> bytes:
    try:
        found = path.lstat()
    except OSError as error:
        return struct.pack("<I", error.errno or 1) + bytes(64)
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
    return struct.pack("<IQQ4IQ3q", 0, found.st_dev, found.st_ino, *owner, found.st_size, *times)


def _receive_file(stream: Stream, phone: Phone, argument: str) -> None:
    name, _, mode = argument.rpartition(",")
    data = bytearray()
    while (kind := stream.read(4)) == b"DATA":
        data += stream.read(struct.unpack("<I", stream.read(4))[0])
    stream.read(4)  # DONE carries the time of the file
    assert kind == b"DONE"
    if phone.full:
        _fail(stream, "write failed: No space left on device")
        return
    try:
        phone.install(phone.path(name), bytes(data), stat.S_IMODE(int(mode)))
    except OSError as error:
        _fail(stream, f"couldn't create file: {error.strerror}")
        return
    stream.write(b"OKAY" + bytes(4))


def _send_file(stream: Stream, path: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        _fail(stream, f"open failed: {error.strerror}")
        return
    for begin in range(0, len(data), 1 << 16):
        block = data[begin : begin + (1 << 16)]
        stream.write(b"DATA" + struct.pack("<I", len(block)) + block)
    stream.write(b"DONE" + bytes(4))


def _fail(stream: Stream, reason: str) -> None:
    stream.write(b"FAIL" + struct.pack("<I", len(reason)) + reason.encode())


def forward_service(stream: Stream, port: int) -> None:
    """``tcp:``: a connection to a port of the phone's loopback, which is this machine's."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.settimeout(None)
        _join(stream, peer)


def reverse_service(stream: Stream, connection: Connection, argument: str) -> None:
    """``reverse:``: a port of the phone that leads to one of adb's machine, as long as the connection lives."""
    command, _, rest = argument.partition(":")
    if command != "forward":
        stream.write(b"OKAY")
        return
    local, _, remote = rest.removeprefix("norebind:").partition(";")
    listener = socket.create_server(("127.0.0.1", int(local.removeprefix("tcp:"))))
    connection.keep(listener)
    threading.Thread(target=_accept_reverse, args=(listener, connection, remote), daemon=True).start()
    stream.write(b"OKAY")
    port = str(listener.getsockname()[1])
    if local == "tcp:0":
        stream.write(f"{len(port):04x}{port}".encode())


def _accept_reverse(listener: socket.socket, connection: Connection, remote: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer, _ = listener.accept()
            stream = connection.open(remote)
            threading.Thread(target=_join, args=(stream, peer), daemon=True).start()


def _join(stream: Stream, peer: socket.socket) -> None:
    """Copy both ways until either side ends."""

    def upward() -> None:
        with contextlib.suppress(OSError):
            while data := stream.read_some():
                peer.sendall(data)
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=upward, daemon=True)
    thread.start()
    with contextlib.suppress(OSError, EOFError):
        while data := peer.recv(1 << 16):
            stream.write(data)
    stream.close()
    thread.join(timeout=5)
    peer.close()
