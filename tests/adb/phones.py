"""Fake phones and a private adb server, as tests use them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adb.fake_services import STORAGE
from tests.device.processes import wait_until

_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class FakePhone:
    """A phone that adb can reach.

    Attributes:
        serial: as adb lists it.
        root: the folder that is the phone.
    """

    serial: str
    root: Path
    process: subprocess.Popen[str]

    def tell(self, what: str) -> None:
        """``unplug``, or ``full``; returns when it is so."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline()) == {"done": what}

    def left(self) -> list[str]:
        """Names of what is in its storage."""
        return sorted(path.name for path in (self.root / STORAGE.lstrip("/")).iterdir())

    def empty(self) -> bool:
        """Whether nothing is left on it."""
        return not self.left()


@contextlib.contextmanager
def fake_phone(root: Path, *, attach: bool = True, **options: Any) -> Iterator[FakePhone]:
    """A phone in the folder ``root``, known to adb; options as for ``FakeDevice``, ``phone`` and ``properties``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.adb.fake_device", str(root), json.dumps(options)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        serial = f"127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        phone = FakePhone(serial, root, process)
        if attach:
            adb("connect", serial)
            wanted = "device" if options.get("authorised", True) else "unauthorized"
            assert wait_until(lambda: f"{serial}\t{wanted}" in adb("devices"))
        yield phone
    finally:
        if attach:
            with contextlib.suppress(subprocess.SubprocessError):
                adb("disconnect", serial)
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def adb(*arguments: str) -> str:
    """A command of the real client's; what it printed."""
    done = subprocess.run(
        ["adb", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


@contextlib.contextmanager
def private_server(folder: Path, port: int) -> Iterator[None]:
    """An adb server of one's own, with keys of its own; ``ANDROID_ADB_SERVER_PORT`` must name its port already."""
    assert os.environ["ANDROID_ADB_SERVER_PORT"] == str(port)
    environment = {**os.environ, "HOME": str(folder), "ANDROID_SDK_HOME": str(folder)}
    subprocess.run(["adb", "start-server"], env=environment, capture_output=True, timeout=60, check=True)
    try:
        yield
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, timeout=30, check=True)
