"""What is read from a library's bytes, and damage to them."""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
import pytest

from edgevit.emulate.library import library_blob, parse_blob
from edgevit.emulate.plan import Launch, check_launches
from edgevit.errors import ArtifactError
from tests.emulate.made import library, made


@cache
def _blob() -> bytes:
    return library_blob(library("opencl", "float32"))


@pytest.mark.parametrize("api", ["opencl", "metal"])
def test_kernels_and_program_are_found(api: str) -> None:
    shipped = made(api, "float16").shipped
    assert shipped.api == api
    kernel = shipped.kernels["turn_kernel"]
    assert (kernel.arguments, kernel.tags) == (2, ("blockIdx.x", "threadIdx.x"))
    assert "turn_kernel(" in kernel.text
    assert b"vm.builtin.alloc_tensor" in shipped.machine


def test_an_archive_of_objects_is_read() -> None:
    shared = library("opencl", "float32")
    header = b"model.o/".ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8)
    archive = b"!<arch>\n" + header + str(len(shared)).encode().ljust(10) + b"`\n" + shared
    assert library_blob(archive) == _blob()
    with pytest.raises(ArtifactError, match="member of the archive"):
        library_blob(archive[:-1])


def test_a_truncated_library_is_an_error_or_lacks_nothing_that_is_read() -> None:
    shared = library("opencl", "float32")
    found = [_blob_or_none(shared[:length]) for length in range(0, len(shared), 211)]
    assert set(found) <= {None, _blob()}
    assert found.count(None) > 50


def _blob_or_none(data: bytes) -> bytes | None:
    try:
        return library_blob(data)
    except ArtifactError:
        return None


def test_every_truncation_of_the_blob_is_noticed() -> None:
    blob = _blob()
    for length in range(len(blob)):
        with pytest.raises(ArtifactError):
            parse_blob(blob[:length])


def test_a_blob_with_more_than_it_says() -> None:
    with pytest.raises(ArtifactError, match="more than its lengths say"):
        parse_blob(_blob() + b"\0")


def test_damaged_blobs_are_errors_or_harmless() -> None:
    draw = np.random.default_rng(0)
    blob = _blob()
    for _ in range(2000):
        damaged = bytearray(blob)
        at = int(draw.integers(len(blob) - 8))
        if draw.random() < 0.5:
            damaged[at : at + 8] = struct.pack("<Q", int(draw.integers(2**63)))
        else:
            damaged[at] ^= 1 << int(draw.integers(8))
        try:
            parse_blob(bytes(damaged))
        except ArtifactError:
            continue


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"!<arch>\n", b"MZ", b"\xcf\xfa\xed\xfe" + bytes(200), bytes(4096)]
)
def test_what_is_no_library(content: bytes) -> None:
    with pytest.raises(ArtifactError):
        library_blob(content)


def test_a_library_for_a_cpu_has_no_kernels() -> None:
    kind = b"opencl"
    at = _blob().index(struct.pack("<Q", len(kind)) + kind)
    blob = _blob()[: at + 8] + b"openxx" + _blob()[at + 8 + len(kind) :]
    with pytest.raises(ArtifactError, match="no kernels for OpenCL or Metal"):
        parse_blob(blob)


def test_a_kernel_whose_name_would_leave_its_folder() -> None:
    blob = _blob().replace(b"turn_kernel", b"../../x/y/z")
    with pytest.raises(ArtifactError, match="no name of a kernel"):
        parse_blob(blob)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "other_kernel"}, "does not hold"),
        ({"arguments": (0, 1, 1)}, "takes 2 arguments, the manifest passes 3"),
    ],
)
def test_launches_that_the_kernels_cannot_answer(change: dict[str, object], message: str) -> None:
    kernel = made("opencl", "float32")
    launch = Launch.model_validate({**kernel.launch.model_dump(), **change})
    with pytest.raises(ArtifactError, match=message):
        check_launches((launch,), kernel.shipped)
