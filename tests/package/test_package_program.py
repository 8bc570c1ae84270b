"""The reader of TVM's programs against TVM's own account of them; damaged programs; plans."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgevit.artifact import Artifact
from edgevit.emulate.library import Shipped, read_shipped
from edgevit.errors import ArtifactError
from edgevit.package.bytecode import MACHINE, VOID, Argument, Call, Executable, Return, Weights, read_executable
from edgevit.package.plan import ALIGNMENT
from edgevit.package.trace import trace
from tests.package.conftest import Compiled


def tvms_own(machine: bytes) -> Any:
    import tvm
    import tvm_ffi

    assert tvm.relax is not None
    return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.relax.VMExecutable")(machine)


def test_instructions_are_those_that_tvm_prints(vit: Compiled) -> None:
    machine = read_shipped(vit.artifact).machine
    lines = tvms_own(machine)["as_text"]().split("\n\n")[0].splitlines()
    assert lines[0] == "@main:"
    assert [re.sub(r"\s+", "", line) for line in lines[1:]] == _printed(read_executable(machine))


def test_constants_are_those_that_tvm_lists(vit: Compiled) -> None:
    machine = read_shipped(vit.artifact).machine
    listed = tvms_own(machine)["stats"]().split("Constant pool (# ")[1].splitlines()[0]
    constants = read_executable(machine).constants
    assert listed.startswith(f"{len(constants)})")
    shapes = [constant.shape for constant in constants if isinstance(constant, Weights)]
    tensors = re.findall(r"(?<![a-z])\[(\d[\d, ]*)\]", listed)
    assert shapes == [tuple(map(int, text.split(","))) for text in tensors]


def test_weights_keep_their_bytes(small: Compiled) -> None:
    # The classifier's matrix is packed as it is: 8 rows and 10 columns, rows padded to nothing.
    constants = [c for c in read_executable(read_shipped(small.artifact).machine).constants if isinstance(c, Weights)]
    matrix = next(np.frombuffer(c.data, np.float16) for c in constants if c.shape == (80,))
    import onnx

    wanted = onnx.numpy_helper.to_array(
        next(i for i in small.model.proto.graph.initializer if list(i.dims) == [8, 10])
    ).astype(np.float16)
    assert sorted(matrix.tolist()) == sorted(wanted.reshape(-1).tolist())


@pytest.mark.parametrize("part", range(1, 40))
def test_truncated_programs_are_refused(small: Compiled, part: int) -> None:
    machine = read_shipped(small.artifact).machine
    with pytest.raises(ArtifactError):
        read_executable(machine[: len(machine) * part // 40])


def test_damaged_programs_raise_nothing_else(small: Compiled) -> None:
    shipped = read_shipped(small.artifact)
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(shipped.machine)
        place = int(draw.integers(len(damaged)))
        damaged[place] = int(draw.integers(256))
        try:
            trace(small.artifact, replace(shipped, machine=bytes(damaged)))
        except ArtifactError:
            refused += 1
    assert refused > 100


def test_another_version_is_refused(small: Compiled) -> None:
    machine = read_shipped(small.artifact).machine
    with pytest.raises(ArtifactError, match="version"):
        read_executable(machine.replace(b"0.14", b"0.15", 1))


def test_a_program_that_branches_is_refused(small: Compiled) -> None:
    shipped = read_shipped(small.artifact)
    words = struct.pack("<4q", 1, VOID, 1, 4)
    assert shipped.machine.count(words) == 1
    branching = shipped.machine.replace(words, struct.pack("<4q", 3, 1, 1, 4))
    with pytest.raises(ArtifactError, match="branches"):
        trace(small.artifact, replace(shipped, machine=branching))


def test_a_program_that_calls_what_launches_nothing_is_refused(small: Compiled) -> None:
    shipped = read_shipped(small.artifact)
    other = shipped.machine.replace(b"vm.builtin.reshape", b"vm.builtin.shuffle")
    with pytest.raises(ArtifactError, match=r"calls vm\.builtin\.shuffle, which launches no kernel"):
        trace(small.artifact, replace(shipped, machine=other))


def test_a_manifest_that_says_something_else_is_refused(small: Compiled) -> None:
    shipped = read_shipped(small.artifact)
    launches = small.artifact.resolution.launches
    with pytest.raises(ArtifactError, match="other launches than the manifest"):
        trace(_edited(small.artifact, launches=(*launches, launches[-1])), shipped)
    with pytest.raises(ArtifactError, match="other memory than the manifest"):
        trace(_edited(small.artifact, workspace_bytes=1), shipped)
    larger = launches[0].model_copy(update={"bytes": launches[0].bytes + 4})
    with pytest.raises(ArtifactError, match="buffers of another size"):
        trace(_edited(small.artifact, launches=(larger, *launches[1:])), shipped)


def test_buffers_lie_apart_and_inside_of_their_memory(vit: Compiled) -> None:
    traced = trace(vit.artifact, read_shipped(vit.artifact))
    sizes = {"weights": [len(traced.weights)], "storage": list(traced.storages)}
    weights = set()
    for place in (place for launch in traced.launches for place in launch.buffers):
        if place.buffer in sizes:
            assert place.offset + place.bytes <= sizes[place.buffer][place.index]
        if place.buffer == "weights":
            weights.add((place.offset, place.bytes))
    assert all(offset % ALIGNMENT == 0 for offset, _ in weights)
    ends = sorted(weights)
    assert all(one[0] + one[1] <= other[0] for one, other in pairwise(ends))
    assert sum(size for _, size in weights) == vit.artifact.manifest.constant_bytes


def test_workspaces_of_functions_are_shared_storages(small: Compiled) -> None:
    """Their first two launches pretend to read from a private workspace."""
    first, second, *rest = small.artifact.resolution.launches
    changed = [
        launch.model_copy(
            update={
                "arguments": (*launch.arguments[:-1], -1),
                "workspaces": (size,),
                "bytes": launch.bytes - last + size,
            }
        )
        for launch, size, last in ((first, 64, 4096), (second, 96, 4096))
    ]
    traced = trace(_edited(small.artifact, launches=(*changed, *rest)), read_shipped(small.artifact))
    plain = trace(small.artifact, read_shipped(small.artifact))
    assert traced.storages == (96, *plain.storages)
    for launch, size in zip(traced.launches, (64, 96), strict=False):
        assert launch.buffers[-1].model_dump() == {"buffer": "storage", "index": 0, "offset": 0, "bytes": size}
    assert traced.outputs[0].place.index == plain.outputs[0].place.index + 1


def _edited(artifact: Artifact, **changes: object) -> Artifact:
    resolution = artifact.resolution.model_copy(update=changes)
    return replace(artifact, manifest=artifact.manifest.model_copy(update={"resolutions": (resolution,)}))


def _printed(program: Executable) -> list[str]:
    """Instructions as TVM prints them, without space."""
    lines = []
    for instruction in program.instructions:
        if isinstance(instruction, Return):
            lines.append(f"ret%{instruction.result}")
        elif isinstance(instruction, Call):
            given = ",".join(map(_argument, instruction.arguments))
            name = program.functions[instruction.function].name
            lines.append(f"call{name}in:{given}dst:{_register(instruction.result)}")
    return lines


def _argument(argument: Argument) -> str:
    if argument.kind == "register":
        return _register(argument.value)
    return {"immediate": f"i{argument.value}", "constant": f"c[{argument.value}]"}[argument.kind]


def _register(number: int) -> str:
    return {VOID: "%void", MACHINE: "%vm"}.get(number, f"%{number}")


def test_shipped_has_a_program(small: Compiled) -> None:
    shipped: Shipped = read_shipped(small.artifact)
    (main,) = [f for f in read_executable(shipped.machine).functions if f.instructions]
    assert (main.name, main.arguments) == ("main", 1)
