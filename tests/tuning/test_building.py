"""Candidates become a library in a process of their own; what does not build is found and costs the rest nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.errors import ToolchainError
from edgevit.targets import get_target
from edgevit.tuning.building.build import Builder, Library
from tests.device.processes import marked, wait_until
from tests.tuning import faulty_family as faulty

HOST = get_target("host")


pytestmark = pytest.mark.usefixtures("mark")


def ways(*numbers: int) -> list[dict[str, int]]:
    return [{"way": number} for number in numbers]


def names(library: Library) -> dict[int, str]:
    return {choice["way"]: name for choice, name in library.functions}


def test_one_library_and_one_function_for_equal_code() -> None:
    with Builder() as builder:
        (library,), failures = builder.build(faulty.task(HOST), ways(faulty.SAME_CODE, faulty.OTHER_CODE, faulty.WRONG))
        assert failures == []
        assert builder.build(faulty.task(HOST), []) == ([], [])
    assert list(names(library)) == [faulty.SAME_CODE, faulty.OTHER_CODE, faulty.WRONG]
    assert names(library)[faulty.SAME_CODE] == library.reference
    assert len({*names(library).values()}) == 3
    assert library.forms[library.reference] == ((64, "float32"), (64, "float32"))
    assert library.data.startswith(b"\x7fELF")


def test_what_the_family_refuses_is_left_out() -> None:
    with Builder() as builder:
        (library,), (failure,) = builder.build(faulty.task(HOST), ways(faulty.REFUSED, faulty.OTHER_CODE))
    assert (failure.choice, failure.failure) == ({"way": faulty.REFUSED}, "build")
    assert failure.detail == "ValueError: this way is refused"
    assert list(names(library)) == [faulty.OTHER_CODE]


def test_what_ends_the_compiler_is_found_by_halving() -> None:
    order = ways(faulty.SAME_CODE, faulty.OTHER_CODE, faulty.KILLS_COMPILER, faulty.WRONG, faulty.HALF)
    with Builder() as builder:
        libraries, (failure,) = builder.build(faulty.task(HOST), order)
        assert (failure.choice, failure.failure) == ({"way": faulty.KILLS_COMPILER}, "build")
        assert "compiler ended" in failure.detail
        assert builder.build(faulty.task(HOST), ways(faulty.WRONG))[1] == []
    built = [way for library in libraries for way in names(library)]
    assert built == [faulty.SAME_CODE, faulty.OTHER_CODE, faulty.WRONG, faulty.HALF]


def test_what_takes_too_long_is_a_timeout() -> None:
    with Builder(library_seconds=5, kernel_seconds=1) as builder:
        (library,), (failure,) = builder.build(faulty.task(HOST), ways(faulty.OTHER_CODE, faulty.COMPILES_FOREVER))
    assert (failure.choice, failure.failure) == ({"way": faulty.COMPILES_FOREVER}, "timeout")
    assert list(names(library)) == [faulty.OTHER_CODE]


@pytest.mark.parametrize("default", [faulty.REFUSED, faulty.KILLS_COMPILER])
def test_a_default_that_does_not_build_is_the_toolchains_failure(default: int) -> None:
    with Builder() as builder, pytest.raises(ToolchainError, match="default kernel does not build"):
        builder.build(faulty.task(HOST, default), ways(faulty.OTHER_CODE))


PROGRAM = """
from edgevit.targets import get_target
from edgevit.tuning.building.build import Builder
from tests.tuning import faulty_family as faulty
with Builder() as builder:
    task = faulty.task(get_target("host"))
    builder.build(task, [{"way": faulty.OTHER_CODE}])
    print("built", flush=True)
    builder.build(task, [{"way": faulty.COMPILES_FOREVER}])
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_its_starter(mark: str, end: signal.Signals) -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{PROGRAM}"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"built\n"
    assert len(marked(mark)) > 1
    os.kill(process.pid, end)
    process.wait(timeout=30)
    process.stdout.close()
    assert wait_until(lambda: not marked(mark))
