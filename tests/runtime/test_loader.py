"""The ELF loader: what it must load, and what it must refuse without falling over."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import HOST, Launch, MakeProbe
from tests.runtime.server_process import Server

FOREIGN = "aarch64" if HOST == "x86_64" else "x86_64"


class Loader:
    """One session in which libraries are loaded; it fails a test that broke it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = server.connect()

    def load(self, data: bytes) -> Any:
        self.session.upload(bytearray(data), "lib.so")
        return self.session.load_module("lib.so")

    def refusal(self, data: bytes) -> str:
        """The last line of the error that loading ``data`` raises."""
        with pytest.raises(RuntimeError) as error:
            self.load(data)
        text = str(error.value)
        assert "cannot load lib.so: " in text
        return text.split("cannot load lib.so: ")[1].splitlines()[0]

    def survives(self, data: bytes) -> bool:
        """Whether ``data`` could be loaded; the session must go on either way."""
        try:
            module = self.load(data)
        except RuntimeError as error:
            assert "cannot load lib.so: " in str(error), error  # noqa: PT017  # either outcome is right
            return False
        del module
        return True


@pytest.fixture
def loader(launch: Launch) -> Iterator[Loader]:
    loader = Loader(launch())
    yield loader
    loader.session.upload(bytearray(b"alive"), "sign")
    assert bytes(loader.session.download("sign")) == b"alive"
    assert len(loader.server.log("session_start")) == 1


@pytest.mark.parametrize("link", [(), ("--pack-dyn-relocs=relr",), ("--hash-style=gnu",), ("--hash-style=sysv",)])
def test_functions_of_a_loaded_library_work(loader: Loader, make_probe: MakeProbe, link: tuple[str, ...]) -> None:
    module = loader.load(make_probe("-DWITH_INITIALISER", link=link).read_bytes())
    assert module["add"](40, 2) == 42
    assert module["exponential"](1.0) == pytest.approx(math.e, rel=1e-6)
    assert [module["table"](i) for i in range(5)] == [1, 10, 100, 10, 1]
    assert module["sum_of_zeroed"]() == 41
    assert module["weak_is_null"]() == 1
    assert module["initialised"]() == 7
    with pytest.raises(AttributeError):
        module["absent"]


def test_kernels_run_on_as_many_threads_as_asked(launch: Launch, probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a device with four cores.
    monkeypatch.setenv("TVM_NUM_THREADS", "4")
    session = launch().connect()
    session.upload(bytearray(probe.read_bytes()), "probe.so")
    module = session.load_module("probe.so")
    configure = session.get_function("runtime.config_threadpool")
    for threads in (1, 2, 4):
        configure(1, threads)
        # Task i of n returns i + 1 + 100 n.
        assert module["parallel"]() == sum(i + 1 + 100 * threads for i in range(threads))


def test_truncated_libraries_are_refused(loader: Loader, probe: Path) -> None:
    data = probe.read_bytes()
    assert loader.survives(data)
    cuts = {0, 1, 3, 4, 15, 16, 18, 19, 20, 40, 63, 64, 65, 120, *range(200, len(data), len(data) // 60)}
    refused = [cut for cut in sorted(cuts) if not loader.survives(data[:cut])]
    # Only what follows the last segment (section headers, names of symbols) may be missing.
    segments_end = last_loaded_byte(data)
    assert refused == sorted(cut for cut in cuts if cut < segments_end)
    assert "truncated" in loader.refusal(data[: segments_end - 1])


def last_loaded_byte(data: bytes) -> int:
    """Where in the file its last PT_LOAD segment ends (64-bit little-endian ELF)."""
    table, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    ends = []
    for index in range(count):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, table + 56 * index)
        if kind == 1:
            ends.append(offset + size)
    return max(ends)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"not a library" * 100, b"\x7fELF" + bytes(1000)])
def test_files_that_are_no_library_are_refused(loader: Loader, data: bytes) -> None:
    loader.refusal(data)


def test_a_library_for_another_machine_is_named(loader: Loader, make_probe: MakeProbe) -> None:
    foreign = make_probe(triple=f"{FOREIGN}-linux-musl").read_bytes()
    assert loader.refusal(foreign) == f"library is for {FOREIGN}, this device is {HOST}"
    arm = make_probe(triple="arm-linux-musleabihf").read_bytes()
    assert loader.refusal(arm) == f"library is for armv7, this device is {HOST}"


def test_an_executable_is_refused(loader: Loader, make_probe: MakeProbe) -> None:
    data = bytearray(make_probe().read_bytes())
    struct.pack_into("<H", data, 16, 2)  # e_type = ET_EXEC
    assert "not a shared library" in loader.refusal(bytes(data))


def test_all_missing_symbols_are_listed(loader: Loader, make_probe: MakeProbe) -> None:
    refusal = loader.refusal(make_probe("-DWITH_MISSING").read_bytes())
    assert refusal == "this server lacks symbols it needs: missing_one, missing_two"


def test_thread_local_storage_is_refused(loader: Loader, make_probe: MakeProbe) -> None:
    assert "thread-local" in loader.refusal(make_probe("-DWITH_THREAD_LOCAL").read_bytes())


def test_extreme_values_in_any_header_do_no_harm(loader: Loader, probe: Path) -> None:
    data = probe.read_bytes()
    headers = 64 + 56 * struct.unpack_from("<H", data, 56)[0]
    dynamic = dynamic_range(data)
    for offset in [*range(16, headers, 8), *range(*dynamic, 8)]:
        for value in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 8):
            damaged = bytearray(data)
            struct.pack_into("<Q", damaged, offset, value)
            loader.survives(bytes(damaged))


def test_random_damage_to_the_tables_does_no_harm(loader: Loader, probe: Path) -> None:
    data = probe.read_bytes()
    # Headers, hash tables, symbols and relocations lie before the code, the dynamic section behind it.
    tables = [*range(16, first_code_byte(data)), *range(*dynamic_range(data))]
    dice = random.Random(20)
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 2, 8))):
            damaged[dice.choice(tables)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        loader.survives(bytes(damaged))


def segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(type, flags, offset, size) of each segment."""
    table, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for index in range(count):
        kind, flags, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, table + 56 * index)
        yield kind, flags, offset, size


def dynamic_range(data: bytes) -> tuple[int, int]:
    return next((offset, offset + size) for kind, _, offset, size in segments(data) if kind == 2)


def first_code_byte(data: bytes) -> int:
    return min(offset for kind, flags, offset, _ in segments(data) if kind == 1 and flags & 1)
