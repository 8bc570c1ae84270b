"""Which kernels a GPU artifact's functions launch, as the process that executes them is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from edgevit.emulate.library import Shipped
from edgevit.errors import ArtifactError

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.target_schema import Gpu

Three = tuple[int, int, int]


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Launch(_Schema):
    """One launch by a host function.

    Attributes:
        function: name under which the program calls the host function; its launches follow each other.
        kernel: name in the kernel text.
        grid: groups.
        block: threads of a group.
        arguments: for each parameter of the kernel the position of the function's parameter that it gets; -1 - k for
            the function's workspace k.
        workspaces: bytes of the function's private buffers.
    """

    function: str
    kernel: str
    grid: Three
    block: Three
    arguments: tuple[int, ...]
    workspaces: tuple[int, ...] = ()


class Limits(_Schema):
    """What a group may ask of the target's GPU.

    Attributes:
        max_threads: threads of a group.
        local_bytes: shared memory of a group.
        simd: threads that execute together.
    """

    max_threads: int
    local_bytes: int
    simd: int


class Plan(_Schema):
    """Everything that a worker needs beside the program.

    Attributes:
        executor: what runs kernels: edgevit's own library, or PoCL.
        library: the compiled kernels; for PoCL nothing.
        texts: kernel texts by name, for PoCL.
        checked: whether the library checks accesses.
        limits: of the target.
        launches: in the order in which each function makes them.
    """

    executor: Literal["edgevit", "pocl"]
    library: str = ""
    texts: dict[str, str] = {}
    checked: bool
    limits: Limits
    launches: tuple[Launch, ...]


def limits_of(gpu: Gpu) -> Limits:
    """The target's limits."""
    return Limits(max_threads=gpu.max_threads, local_bytes=gpu.local_bytes, simd=gpu.simd)


def artifact_launches(artifact: Artifact, shipped: Shipped) -> tuple[Launch, ...]:
    """The launches that the manifest names, checked against the kernels that the library holds.

    Raises:
        ArtifactError: a launch names a kernel that is not there, or passes another number of arguments.
    """
    by_function: dict[str, list[Launch]] = {}
    for resolution in artifact.manifest.resolutions:
        calls: dict[str, list[Launch]] = {}
        for info in resolution.launches:
            calls.setdefault(info.function, []).append(
                Launch.model_validate(info.model_dump(include=set(Launch.model_fields)))
            )
        by_function |= {name: _one_call(launches) for name, launches in calls.items()}
    found = tuple(launch for launches in by_function.values() for launch in launches)
    check_launches(found, shipped)
    return found


def _one_call(launches: list[Launch]) -> list[Launch]:
    """The launches of one call, from those of all calls in order: the shortest part that they repeat."""
    for length in range(1, len(launches) + 1):
        if launches == launches[:length] * (len(launches) // length):
            return launches[:length]
    return launches


def check_launches(launches: tuple[Launch, ...], shipped: Shipped) -> None:
    """Refuse launches that the library's kernels cannot answer.

    Raises:
        ArtifactError: a kernel is not there, or takes another number of arguments.
    """
    for launch in launches:
        kernel = shipped.kernels.get(launch.kernel)
        if kernel is None:
            raise ArtifactError(
                f"the manifest launches a kernel {launch.kernel!r} that the library does not hold.",
                advice="Compile the model again.",
            )
        if kernel.arguments != len(launch.arguments):
            raise ArtifactError(
                f"kernel {kernel.name} takes {kernel.arguments} arguments, the manifest passes "
                f"{len(launch.arguments)}.",
                advice="Compile the model again.",
            )
