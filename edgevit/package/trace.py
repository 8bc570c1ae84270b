"""From a program of TVM's virtual machine to buffers and launches.

The programs of GPU artifacts are straight lines: memory is asked for, tensors are laid into it, kernels are called.
Following one with places in the registers instead of tensors gives every buffer of every launch. What the program does
beside that, no app could do, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgevit.emulate.library import Shipped
from edgevit.emulate.plan import Launch, artifact_launches
from edgevit.errors import ArtifactError
from edgevit.package.bytecode import MACHINE, VOID, Argument, Call, DType, Executable, Return, Weights, read_executable
from edgevit.package.plan import ALIGNMENT, LaunchPlan, Place, TensorPlan

if TYPE_CHECKING:
    from edgevit.artifact import Artifact

_ADVICE = "Compile the model again; if that does not help, report it together with the model."
_IDENTITIES = frozenset({"vm.builtin.copy", "vm.builtin.to_device"})
_CHECKS = frozenset({"vm.builtin.check_tensor_info", "vm.builtin.match_shape", "vm.builtin.check_shape_info"})

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Traced:
    """What a program does.

    Attributes:
        launches: in order.
        inputs, outputs: of the model, in order.
        storages: bytes of the buffers between kernels; workspaces of single functions are the first.
        weights: all constants that kernels read, each at a multiple of ``ALIGNMENT``.
    """

    launches: tuple[LaunchPlan, ...]
    inputs: tuple[TensorPlan, ...]
    outputs: tuple[TensorPlan, ...]
    storages: tuple[int, ...]
    weights: bytes


@dataclass(frozen=True)
class _Tensor:
    place: Place
    shape: tuple[int, ...]
    dtype: DType


@dataclass(frozen=True)
class _Storage:
    index: int


@dataclass
class _Room:
    """Bytes one after the other, each part at a multiple of ``ALIGNMENT``."""

    data: bytearray = field(default_factory=bytearray)

    def add(self, part: bytes) -> int:
        """Where the part begins."""
        self.data.extend(bytes(-len(self.data) % ALIGNMENT))
        begin = len(self.data)
        self.data.extend(part)
        return begin


def trace(artifact: Artifact, shipped: Shipped) -> Traced:
    """Follow the program of an artifact's selected resolution.

    Raises:
        ArtifactError: the program is damaged, does something that launches of kernels cannot do, or does not agree
            with the manifest.
    """
    tracer = _Tracer(artifact, shipped)
    traced = tracer.run()
    _compare(artifact, traced, tracer.private_bytes)
    return traced


class _Tracer:
    """The state of the virtual machine while a program is followed."""

    def __init__(self, artifact: Artifact, shipped: Shipped) -> None:
        self._program: Executable = read_executable(shipped.machine)
        self._resolution = artifact.resolution
        self._functions: dict[str, list[Launch]] = {}
        for launch in artifact_launches(artifact, shipped):
            self._functions.setdefault(launch.function, []).append(launch)
        self._registers: dict[int, Any] = {}
        self._launches: list[LaunchPlan] = []
        # Kernels run one after the other, so functions may share their workspaces.
        called = {launch.function for launch in self._resolution.launches}
        private = [ls[0].workspaces for name, ls in self._functions.items() if name in called]
        self._storages = [max(sizes) for sizes in zip_longest(*private, fillvalue=0)]
        self.private_bytes = sum(self._storages)
        self._weights = _Room()
        self._placed: dict[int, Place] = {}
        self._builtins: dict[str, Callable[[Sequence[Argument]], Any]] = {
            "vm.builtin.alloc_storage": self._alloc_storage,
            "vm.builtin.alloc_tensor": self._alloc_tensor,
            "vm.builtin.reshape": self._reshape,
            "vm.builtin.make_tuple": lambda given: tuple(self._value(argument) for argument in given),
            "vm.builtin.tuple_getitem": self._item,
            "vm.builtin.null_value": lambda _: None,
            **dict.fromkeys(_CHECKS, lambda _: None),
            **dict.fromkeys(_IDENTITIES, lambda given: self._value(given[0])),
        }

    def run(self) -> Traced:
        """Follow the whole program."""
        inputs = self._inputs()
        entry = self._resolution.entry
        function = next((f for f in self._program.functions if f.name == entry), None)
        if function is None or function.arguments != len(inputs):
            raise _refused(f"it has no function {entry!r} with {len(inputs)} arguments")
        result: Any = None
        for index in function.instructions:
            instruction = self._program.instructions[index]
            if isinstance(instruction, Return):
                result = self._registers.get(instruction.result)
                break
            if not isinstance(instruction, Call):
                raise _refused("it branches")
            self._call(instruction)
        outputs = self._outputs(result)
        return Traced(tuple(self._launches), inputs, outputs, tuple(self._storages), bytes(self._weights.data))

    def _inputs(self) -> tuple[TensorPlan, ...]:
        plans = []
        for index, info in enumerate(self._resolution.inputs):
            dtype = DType(info.dtype, np.dtype(info.dtype).itemsize)
            place = Place(buffer="input", index=index, offset=0, bytes=prod(info.shape) * dtype.bytes)
            self._registers[index] = _Tensor(place, info.shape, dtype)
            plans.append(TensorPlan(name=info.name, shape=info.shape, dtype=info.dtype, place=place))
        return tuple(plans)

    def _outputs(self, result: Any) -> tuple[TensorPlan, ...]:
        tensors = result if isinstance(result, tuple) else (result,)
        infos = self._resolution.outputs
        if len(tensors) != len(infos):
            raise _refused(f"it returns {len(tensors)} values, where the manifest names {len(infos)}")
        plans = []
        for tensor, info in zip(tensors, infos, strict=True):
            found = self._as(tensor, _Tensor, "a result")
            if (found.shape, found.dtype.name) != (info.shape, info.dtype):
                raise _refused(f"its output {info.name} has another shape or type than the manifest says")
            plans.append(TensorPlan(name=info.name, shape=info.shape, dtype=info.dtype, place=found.place))
        return tuple(plans)

    def _call(self, call: Call) -> None:
        if not 0 <= call.function < len(self._program.functions):
            raise _refused("it calls a function that is not there")
        name = self._program.functions[call.function].name
        if name in self._functions:
            self._launch(name, [self._as(self._value(a), _Tensor, f"an argument of {name}") for a in call.arguments])
            return
        if name not in self._builtins:
            raise _refused(f"it calls {name}, which launches no kernel")
        try:
            value = self._builtins[name](call.arguments)
        except (IndexError, TypeError, ValueError):
            raise _refused(f"it passes {name} what that does not take") from None
        if call.result != VOID:
            self._registers[call.result] = value

    def _launch(self, name: str, given: Sequence[_Tensor]) -> None:
        for launch in self._functions[name]:
            if launch.workspaces != self._functions[name][0].workspaces:
                raise _refused(f"the launches of {name} have different workspaces")
            places = tuple(self._passed(name, launch, given, position) for position in launch.arguments)
            self._launches.append(
                LaunchPlan(kernel=launch.kernel, grid=launch.grid, block=launch.block, buffers=places)
            )

    def _passed(self, name: str, launch: Launch, given: Sequence[_Tensor], position: int) -> Place:
        """What a kernel's parameter gets; see ``LaunchInfo.arguments``."""
        if not -len(launch.workspaces) <= position < len(given):
            raise _refused(f"it passes {name} fewer arguments than its kernel takes")
        if position >= 0:
            return given[position].place
        number = -1 - position
        return Place(buffer="storage", index=number, offset=0, bytes=launch.workspaces[number])

    def _value(self, argument: Argument) -> Any:
        if argument.kind == "immediate":
            return argument.value
        if argument.kind == "constant":
            if not 0 <= argument.value < len(self._program.constants):
                raise _refused("it uses a constant that is not there")
            constant = self._program.constants[argument.value]
            return self._weight(argument.value, constant) if isinstance(constant, Weights) else constant
        if argument.kind == "function" or argument.value == MACHINE:
            return None
        return self._registers.get(argument.value)

    def _weight(self, index: int, weights: Weights) -> _Tensor:
        if index not in self._placed:
            offset = self._weights.add(weights.data)
            self._placed[index] = Place(buffer="weights", index=0, offset=offset, bytes=len(weights.data))
        return _Tensor(self._placed[index], weights.shape, weights.dtype)

    def _alloc_storage(self, given: Sequence[Argument]) -> _Storage:
        _, shape, device, dtype, scope = (self._value(argument) for argument in given)
        sizes, kind = self._as(shape, tuple, "a size"), self._as(dtype, DType, "a type")
        if device != 0 or scope != "global" or min(sizes, default=0) < 0:
            raise _refused("it asks for memory that is not the GPU's")
        self._storages.append(prod(sizes) * kind.bytes)
        return _Storage(len(self._storages) - 1)

    def _alloc_tensor(self, given: Sequence[Argument]) -> _Tensor:
        storage, offset, shape, dtype = (self._value(argument) for argument in given[:4])
        index = self._as(storage, _Storage, "memory").index
        sizes, kind = self._as(shape, tuple, "a shape"), self._as(dtype, DType, "a type")
        size = prod(sizes) * kind.bytes
        if min(sizes, default=0) < 0 or not 0 <= offset <= self._storages[index] - size:
            raise _refused("a tensor is larger than the memory it lies in")
        return _Tensor(Place(buffer="storage", index=index, offset=offset, bytes=size), sizes, kind)

    def _reshape(self, given: Sequence[Argument]) -> _Tensor:
        value, shape = (self._value(argument) for argument in given)
        tensor, sizes = self._as(value, _Tensor, "a reshaped value"), self._as(shape, tuple, "a shape")
        if prod(sizes) * tensor.dtype.bytes != tensor.place.bytes:
            raise _refused("it reshapes a tensor to another size")
        return _Tensor(tensor.place, sizes, tensor.dtype)

    def _item(self, given: Sequence[Argument]) -> Any:
        values, index = (self._value(argument) for argument in given)
        return self._as(values, tuple, "a tuple")[index]

    def _as(self, value: Any, kind: type[Kind], what: str) -> Kind:
        if not isinstance(value, kind):
            raise _refused(f"{what} is none")
        return value


def _compare(artifact: Artifact, traced: Traced, private_bytes: int) -> None:
    """Refuse a program that does something else than its manifest says."""
    resolution = artifact.resolution
    stated = [(launch.kernel, launch.grid, launch.block) for launch in resolution.launches]
    if stated != [(launch.kernel, launch.grid, launch.block) for launch in traced.launches]:
        raise _refused("it makes other launches than the manifest says")
    if sum(traced.storages) - private_bytes != resolution.workspace_bytes:
        raise _refused("it asks for other memory than the manifest says")
    for launch, info in zip(traced.launches, resolution.launches, strict=True):
        if sum(place.bytes for place in launch.buffers) != info.bytes:
            raise _refused(f"it passes kernel {launch.kernel} buffers of another size than the kernel takes")


def _refused(what: str) -> ArtifactError:
    return ArtifactError(f"the artifact's program cannot be packaged: {what}.", advice=_ADVICE)
