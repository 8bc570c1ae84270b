"""``edgevit bench``, ``check``, ``tune`` and ``devices`` with phones behind the real adb client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgevit.cli.main import run
from edgevit.cli.where import spell_out_adb
from edgevit.device import doctor
from edgevit.device.adb_fleet import phone_key
from edgevit.device.doctor import phones
from edgevit.device.rpc import RpcSession
from edgevit.device.tracker import tracker_summary
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import KernelRecord
from tests.adb.conftest import Attach
from tests.adb.phones import FakePhone, adb
from tests.device.processes import tracker_knows, wait_until
from tests.models import small_proto
from tests.tuning.calm_command import calm

pytestmark = pytest.mark.emulated


class Command:
    """The command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it prints on stdout; of one that fails, on stderr."""
        self._monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
        self._capfd.readouterr()
        ended: object = 0
        try:
            run()
        except SystemExit as leaving:
            ended = leaving.code or 0
        out, err = self._capfd.readouterr()
        assert ended == code, out + err
        return err if code == 3 or code == 2 else out


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)
    yield Command(monkeypatch, capfd)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("--adb", "--adb="),
        ("x.edgevit --adb", "x.edgevit --adb="),
        ("--adb --json", "--adb= --json"),
        ("x.edgevit --adb R58M --json", "x.edgevit --adb=R58M --json"),
        ("--adb=R58M", "--adb=R58M"),
        ("--adb A --adb B", "--adb=A --adb=B"),
        ("-- --adb", "-- --adb"),
        ("--adb tests x", "--adb= tests x"),
        ("--adb missing.edgevit", "--adb= missing.edgevit"),
    ],
)
def test_adb_needs_no_value(given: str, spelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    assert spell_out_adb(given.split()) == spelled.split()


def test_bench_and_check(phone: FakePhone, arm64_file: Path, command: Command) -> None:
    report = command("bench", str(arm64_file), "--adb")
    assert "Google Pixel 8" in report
    assert "emulated: the path works" in report
    assert "p50" not in report
    result = json.loads(command("bench", str(arm64_file), "--adb", phone.serial, "--json"))
    assert (result["emulated"], result["edgevit"]["latency"]) == (True, None)
    assert result["device"]["phone"]["model"] == "Pixel 8"
    assert result["phone"]["before"]["clusters"][2]["top_khz"] == 2914000
    assert result["phone"]["after"]["thermal_status"] == 0
    checked = json.loads(command("check", "--adb", str(arm64_file), "--seeds", "1", "--json"))
    assert (checked["passed"], checked["emulated"], checked["phone"]["android"]) == (True, True, "14")
    assert checked["ran_on"] == f"adb: adb {phone.serial}"


def test_a_real_phone_that_slows_down_shows_it(
    attach: Attach, qemu: None, arm64_file: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the fake phone a real one: the times are an emulator's, what is told around them is a warm Galaxy's."""
    monkeypatch.setattr(RpcSession, "emulated", property(lambda _: False, lambda *_: None), raising=False)
    attach(phone="samsung")
    short = ("--samples", "3", "--seconds", "0")
    report = command("bench", str(arm64_file), "--adb", *short)
    assert "phone: samsung SM-S911B, QTI SM8550, Android 13" in report
    assert "throttled: the battery saver is on: it lowers clocks" in report
    assert "temperature: processor 62 → 62 °C" in report
    result = json.loads(command("bench", str(arm64_file), "--adb", *short, "--json"))
    assert result["phone"]["throttled"]
    assert len(result["phone"]["reasons"]) == 3


def test_failures_have_an_exit_code(attach: Attach, arm64_file: Path, command: Command) -> None:
    assert "no phone is attached" in command("bench", str(arm64_file), "--adb", code=3)
    attach()
    attach()
    assert "2 phones are attached" in command("bench", str(arm64_file), "--adb", code=2)
    assert "more than one way" in command("bench", str(arm64_file), "--adb", "--local", code=2)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    onnx.save(small_proto(), tmp_path / "small.onnx")
    monkeypatch.chdir(tmp_path)
    calm(monkeypatch.setattr)
    return "small.onnx"


EDGEVIT = (sys.executable, "-c", "from edgevit.cli.main import run; run()")
_SMALL = ("--target", "android-arm64", "--threads", "1", "--tuning-log", "logs", "--batch", "1")


def test_tune(phone: FakePhone, model: str, command: Command) -> None:
    found = json.loads(command("tune", model, "--adb", *_SMALL, "--trials", "2", "--json"))
    assert (found["reason"], found["trials"], found["failures"]) == ("trials", 2, {})
    assert found["devices"][0]["phone"]["model"] == "Pixel 8"
    assert found["devices"][0]["emulated"]


def test_tune_keeps_the_rest_when_the_phone_is_unplugged(
    attach: Attach, qemu: None, model: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are written as they come; the phone never comes back."""
    monkeypatch.setattr(RpcSession, "emulated", property(lambda _: False, lambda *_: None), raising=False)
    phone = attach(phone="samsung")
    log = tmp_path / "logs" / "android-arm64" / "records.jsonl"

    def unplug() -> None:
        if wait_until(lambda: log.exists() and log.stat().st_size > 0, 120):
            phone.tell("unplug")

    thread = threading.Thread(target=unplug)
    thread.start()
    said = command("tune", model, "--adb", *_SMALL, "--minutes", "5", code=3)
    thread.join()
    assert phone.serial in said
    kept = [record for record in read_records(log) if isinstance(record, KernelRecord)]
    assert kept
    assert kept[0].device is not None
    assert kept[0].device.phone == "samsung SM-S911B, QTI SM8550, Android 13"


def test_all_phones_at_a_tracker(
    attach: Attach, qemu: None, arm64_file: Path, model: str, command: Command, tmp_path: Path
) -> None:
    """Two are served, one goes, one comes; each under its own key."""
    first, second = attach(), attach(phone="samsung")
    first_key, second_key = (phone_key(one.serial, "lab") for one in (first, second))
    serving = subprocess.Popen(
        [*EDGEVIT, "devices", "serve", "--adb-all", "--port", "0", "--key", "lab", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert serving.stdout is not None
    try:
        port = json.loads(serving.stdout.readline())["port"]
        assert wait_until(lambda: tracker_knows(port, first_key) and tracker_knows(port, second_key), 60)
        served = [json.loads(serving.stdout.readline()) for _ in range(2)]
        assert {(one["event"], one["key"]) for one in served} == {("served", first_key), ("served", second_key)}
        tracker = ("--tracker", f"127.0.0.1:{port}", "--key")
        for _ in range(2):  # a session ends, another one begins
            result = json.loads(command("bench", str(arm64_file), *tracker, first_key, "--json"))
            assert (result["device"]["kind"], result["device"]["architecture"]) == ("tracker", "aarch64")
        found = json.loads(command("tune", model, *tracker, second_key, *_SMALL, "--trials", "1", "--json"))
        assert (found["reason"], found["trials"], found["failures"]) == ("trials", 1, {})
        second.tell("unplug")
        assert wait_until(lambda: not any(second_key in str(one) for one in servers(port)), 30)
        gone = json.loads(serving.stdout.readline())
        assert (gone["event"], gone["serial"]) == ("gone", second.serial)
        third = attach()
        assert wait_until(lambda: tracker_knows(port, phone_key(third.serial, "lab")), 60)
    finally:
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert wait_until(lambda: first.empty() and second.empty() and third.empty())
    for one in (first, third):
        assert adb("-s", one.serial, "forward", "--list").strip() == ""


def servers(port: int) -> list[Any]:
    """Devices that a tracker knows."""
    return list(tracker_summary("127.0.0.1", port)["server_info"])


def test_serving_phones_takes_no_other_places(command: Command) -> None:
    said = command("devices", "serve", "--adb-all", "--stock", "--tracker", "127.0.0.1:1", code=2)
    assert "--tracker and --stock cannot be combined with --adb-all" in said


def test_list(attach: Attach, command: Command) -> None:
    assert "adb reaches no phone" in command("devices", "list")
    first, second = attach(), attach(authorised=False)
    listed = command("devices", "list")
    assert "Pixel 8" in listed
    assert "unauthorized" in listed
    assert phone_key(first.serial) in listed
    told = json.loads(command("devices", "list", "--json"))["phones"]
    assert {(one["serial"], one["state"]) for one in told} == {
        (first.serial, "device"),
        (second.serial, "unauthorized"),
    }


def test_doctor(phone: FakePhone, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = doctor._probes
    # The others look at this machine, which takes a while.
    monkeypatch.setattr(
        doctor, "_probes", lambda *given: [one for one in whole(*given) if one[0].startswith(("adb", "phone"))]
    )
    found = json.loads(command("devices", "doctor", "--adb", "--json"))["findings"]
    by_name = {finding["name"]: finding for finding in found}
    name = f"phone {phone.serial}"
    assert by_name[name]["detail"].startswith("attached; Google Pixel 8")
    assert "MB free" in by_name[f"{name}: /data/local/tmp"]["detail"]
    assert by_name[f"{name}: server for aarch64-linux-gnu"]["detail"].startswith("free; edgevit server")
    assert "version" in by_name["adb"]["detail"]


def test_doctor_without_phone(server: None) -> None:
    (finding,) = phones.phone("")
    assert (finding.status, "no phone is attached" in finding.detail) == ("error", True)


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        (
            "Filesystem     1K-blocks     Used Available Use% Mounted on\n"
            "/dev/block/dm-47 114829292 51234567 63447189  45% /data\n",
            64969.921536,
        ),
        (
            "Filesystem\n1K-blocks Used Available Use% Mounted on\n/dev/block/by-name/userdata\n"
            "  114829292 51234567 1000  45% /data/user/0\n",
            1.024,
        ),
        ("df: /data/local/tmp: Permission denied\n", None),
        ("", None),
    ],
)
def test_room(text: str, megabytes: float | None) -> None:
    assert phones.free_megabytes(text) == megabytes


def test_two_phones_tune_together(attach: Attach, qemu: None, model: str, command: Command) -> None:
    phones = [attach(), attach()]
    places = [part for phone in phones for part in ("--adb", phone.serial)]
    found = json.loads(command("tune", model, *places, *_SMALL, "--trials", "2", "--json"))
    assert (found["reason"], found["trials"], found["failures"]) == ("trials", 2, {})
    assert {device["address"] for device in found["devices"]} == {f"adb {phone.serial}" for phone in phones}


def test_killed_while_it_serves_phones(phone: FakePhone, tmp_path: Path) -> None:
    """Nobody is left to clean up, and yet it is."""
    command = [*EDGEVIT, "devices", "serve", "--adb-all", "--port", "0", "--json"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=tmp_path) as serving:
        assert serving.stdout is not None
        assert json.loads(serving.stdout.readline())["event"] == "listening"
        assert json.loads(serving.stdout.readline())["event"] == "served"
        assert not phone.empty()
        serving.kill()
    assert wait_until(phone.empty)
    assert wait_until(lambda: not adb("forward", "--list").strip())
