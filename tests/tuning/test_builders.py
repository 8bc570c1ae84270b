"""Several batches are built at the same time, and closing ends everything at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from edgevit.errors import ToolchainError, UserError
from edgevit.targets import get_target
from edgevit.tuning.building.build import Builder, Built, Limits
from edgevit.tuning.building.builders import LocalBuilders, open_builders
from tests.device.processes import marked, wait_until
from tests.tuning import faulty_family as faulty
from tests.tuning import gated_family as gated
from tests.tuning.batches import functions, ways

HOST = get_target("host")


pytestmark = pytest.mark.usefixtures("mark")


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder where compilers of the gated family wait."""
    folder = tmp_path / "gate"
    folder.mkdir()
    monkeypatch.setenv(gated.FOLDER, str(folder))
    return folder


def test_builders_together_build_what_one_builds() -> None:
    batches = [
        ways(faulty.SAME_CODE, faulty.OTHER_CODE),
        ways(faulty.OTHER_CODE, faulty.REFUSED, faulty.WRONG),
        ways(faulty.HALF, faulty.KILLS_COMPILER),
        [],
    ]
    task = faulty.task(HOST)
    with Builder() as builder:
        alone = [functions(builder.build(task, batch)) for batch in batches]
    with open_builders("2") as builders:
        assert (builders.slots, builders.here) == (2, True)
        together = [functions(future.result()) for future in [builders.submit(task, batch) for batch in batches]]
    assert together == alone


def test_batches_are_built_at_the_same_time(gate: Path) -> None:
    with LocalBuilders(2) as builders:
        futures = [builders.submit(gated.task(HOST), ways(way)) for way in (100, 101, 102)]
        assert wait_until(lambda: len(gated.waiting(gate)) == 2, 60)  # each in the middle of its build
        assert gated.waiting(gate).keys() == {100, 101}
        assert len(set(gated.waiting(gate).values())) == 2
        gated.open_gate(gate)
        assert [functions(future.result())[0][0].keys() for future in futures] == [{100}, {101}, {102}]


def test_time_limits_hold() -> None:
    with LocalBuilders(1, Limits(library_seconds=5, kernel_seconds=1)) as builders:
        libraries, (failure,) = builders.submit(faulty.task(HOST), ways(faulty.COMPILES_FOREVER)).result()
    assert libraries == []
    assert (failure.choice, failure.failure) == ({"way": faulty.COMPILES_FOREVER}, "timeout")


def test_a_default_that_does_not_build_is_the_futures_error() -> None:
    with open_builders(None) as builders:
        assert builders.slots == 1
        future = builders.submit(faulty.task(HOST, faulty.REFUSED), ways(faulty.OTHER_CODE))
        assert isinstance(future.exception(), ToolchainError)
        assert functions(builders.submit(faulty.task(HOST), ways(faulty.WRONG)).result())[0] != []


def test_closing_ends_builds_in_the_middle(mark: str, gate: Path) -> None:
    done: list[Future[Built]] = []
    builders = LocalBuilders(2)
    futures = [builders.submit(gated.task(HOST), ways(way)) for way in (100, 101, 102, 103)]
    for future in futures:
        future.add_done_callback(done.append)
    assert wait_until(lambda: len(gated.waiting(gate)) == 2, 60)
    assert futures[3].cancel()
    builders.close()
    assert marked(mark) == []
    assert wait(futures, timeout=0).not_done == set()
    assert all(future.cancelled() for future in futures)
    assert len(done) == 4
    builders.close()
    late = builders.submit(gated.task(HOST), ways(104))
    assert late.cancelled()
    assert len(gated.waiting(gate)) == 2  # nothing was begun after that


def test_closing_while_compilers_start(mark: str) -> None:
    with LocalBuilders(2) as builders:
        futures = [builders.submit(faulty.task(HOST), ways(faulty.OTHER_CODE)) for _ in range(3)]
        assert wait_until(lambda: marked(mark))
    assert all(future.cancelled() for future in futures)
    assert marked(mark) == []


def test_a_cancelled_batch_is_not_built(gate: Path) -> None:
    with LocalBuilders(1) as builders:
        first, second, third = (builders.submit(gated.task(HOST), ways(way)) for way in (100, 101, 102))
        assert wait_until(lambda: gated.waiting(gate), 60)
        assert second.cancel()
        gated.open_gate(gate)
        assert functions(first.result())[1] == functions(third.result())[1] == []
    assert gated.waiting(gate).keys() == {100, 102}


PROGRAM = """
from edgevit.targets import get_target
from edgevit.tuning.building.builders import open_builders
from tests.tuning import gated_family as gated
from tests.tuning.batches import functions, ways
builders = open_builders(2)
futures = [builders.submit(gated.task(get_target("host")), [{"way": way}]) for way in (100, 101, 102)]
futures[0].result()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_program_that_ends_waits_for_no_builder(mark: str, gate: Path, end: signal.Signals) -> None:
    """Also one that closes nothing: fixtures look for what is left."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{PROGRAM}"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(gated.waiting(gate)) == 2, 60)
    process.send_signal(end)
    assert process.wait(timeout=30) != 0
    assert wait_until(lambda: not marked(mark))


@pytest.mark.parametrize(
    "workers",
    [
        "0",
        0,
        -1,
        "two",
        "",
        "1.5",
        "host",
        "host:",
        "host:0",
        "host:70000",
        ":8786",
        "http://host:1",
        "tcp://host",
        "a b:1",
    ],
)
def test_text_that_names_no_workers(workers: str | int) -> None:
    with pytest.raises(UserError, match="names no workers") as caught:
        open_builders(workers)
    assert caught.value.where == "--workers"
    assert "tcp://" in str(caught.value.advice)
