"""``edgevit tune`` with devices elsewhere: four behind a tracker at once, one by its address, one that is emulated.

The devices are arm64 servers under QEMU, which show that the way there works; their times mean nothing.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgevit.cli.main import run
from edgevit.device.listing import list_devices
from edgevit.device.rpc import RpcSession
from edgevit.device.serve import choose_server
from edgevit.targets import get_target
from edgevit.tuning.measure import Measurer, Outcome
from edgevit.tuning.reading import read_records
from edgevit.tuning.records import choice_key
from tests.device.processes import program, stock, wait_until
from tests.models import small_proto
from tests.tuning.calm_command import calm

pytestmark = [pytest.mark.emulated, pytest.mark.usefixtures("mark", "qemu")]

ARM64 = get_target("arm64-linux")
Served = dict[str, list[tuple[str, Outcome]]]
Tune = Callable[..., dict[str, Any]]


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Tune]:
    """The command in this process: what it says for scripts."""
    onnx.save(small_proto(), tmp_path / "small.onnx")
    monkeypatch.chdir(tmp_path)
    calm(monkeypatch.setattr)
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str) -> dict[str, Any]:
        options = ("--target", "arm64-linux", "--threads", "1", "--tuning-log", "logs", "--json")
        monkeypatch.setattr(sys, "argv", ["edgevit", "tune", "small.onnx", *arguments, *options])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        out, err = capfd.readouterr()
        assert not ended.value.code, err + out
        found: dict[str, Any] = json.loads(out)
        return found

    yield command
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Outcomes by the address of the device that they come from."""
    found: Served = {}
    measure = Measurer.measure

    def noting(measurer: Measurer, task: Any, *arguments: Any) -> Iterator[Outcome]:
        for outcome in measure(measurer, task, *arguments):
            found.setdefault(str(measurer.device.address), []).append((task.key, outcome))
            yield outcome

    monkeypatch.setattr(Measurer, "measure", noting)
    return found


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers under QEMU do not know it; sessions with them are told."""
    monkeypatch.setattr(RpcSession, "emulated", property(lambda _: True, lambda *_: None), raising=False)


def server(*options: str) -> Any:
    """An arm64 server under QEMU."""
    return program([*choose_server(ARM64).command, "--port", "0", *options], r'"port": ?(\d+)')


def outcomes(served: Served) -> list[Outcome]:
    return [outcome for found in served.values() for _, outcome in found]


def tried(served: Served) -> Counter[Any]:
    return Counter((key, choice_key(outcome.choice)) for found in served.values() for key, outcome in found)


@pytest.mark.usefixtures("labelled")
def test_four_devices_behind_a_tracker_work_at_the_same_time(
    tune: Tune, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, first, noting = threading.Barrier(4, timeout=300), set[int](), Measurer.measure

    def meeting(measurer: Measurer, *arguments: Any) -> Iterator[Outcome]:
        """None begins before all four have something to do."""
        if id(measurer) not in first:
            first.add(id(measurer))
            met.wait()
        yield from noting(measurer, *arguments)

    monkeypatch.setattr(Measurer, "measure", meeting)
    with ExitStack() as stack:
        _, port = stack.enter_context(stock("rpc_tracker"))
        offer = ("--tracker", f"127.0.0.1:{port}", "--key", "board", "--custom-addr", "127.0.0.1")
        servers = {f"127.0.0.1:{stack.enter_context(server(*offer))[1]}" for _ in range(4)}
        assert wait_until(lambda: any(status.free == 4 for status in list_devices("127.0.0.1", port)), 60)
        tracker = ("--tracker", f"127.0.0.1:{port}", "--key", "board")
        found = tune(*tracker, "--devices", "4", "--workers", "2", "--batch", "1", "--trials", "6")
        # All are free again.
        assert wait_until(lambda: any(status.free == 4 for status in list_devices("127.0.0.1", port)), 60)
    assert (found["reason"], found["trials"], found["measured"], found["failures"]) == ("trials", 6, 0, {})
    assert {device["address"] for device in found["devices"]} == {f"board at {address}" for address in servers}
    assert set(served) == {f"board at {address}" for address in servers}
    assert {type(outcome).__name__ for outcome in outcomes(served)} == {"Correct"}
    assert len(tried(served)) == 6
    assert set(tried(served).values()) == {1}
    assert list(read_records(tmp_path / "logs" / "arm64-linux" / "records.jsonl")) == []


def test_a_device_by_its_address(tune: Tune, served: Served, tmp_path: Path) -> None:
    with server() as (_, port):
        found = tune("--rpc", f"127.0.0.1:{port}", "--batch", "2", "--trials", "4")
    assert (found["reason"], found["trials"], found["failures"]) == ("trials", 4, {})
    assert [device["architecture"] for device in found["devices"]] == ["aarch64"]
    assert len(tried(served)) == 4
    assert len({key for key, _ in tried(served)}) >= 2
    # What was timed is recorded, and nothing else.
    timed = {key: count for key, count in tried(served).items() if found["measured"]}
    records = list(read_records(tmp_path / "logs" / "arm64-linux" / "records.jsonl"))
    assert Counter((record.workload, choice_key(record.choice)) for record in records) == timed  # type: ignore[union-attr]


def test_an_emulated_device(tune: Tune, served: Served, tmp_path: Path) -> None:
    found = tune("--emulate", "--batch", "3", "--trials", "3")
    assert (found["reason"], found["trials"], found["measured"], found["failures"]) == ("trials", 3, 0, {})
    assert [device["emulated"] for device in found["devices"]] == [True]
    assert {type(outcome).__name__ for outcome in outcomes(served)} == {"Correct"}
    assert list(read_records(tmp_path / "logs" / "arm64-linux" / "records.jsonl")) == []
