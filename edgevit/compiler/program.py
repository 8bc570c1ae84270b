"""From rewritten graphs to kernels, packed weights and the order of calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm.ir import GlobalVar

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.kernels import KernelFamily, claim, enough_tasks, in_space, workload_key
from edgevit.compiler.memory import Lifetime, aligned, plan
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice, Pick, TuningLog


@dataclass(frozen=True)
class KernelCall:
    """One call of the finished program, as profiles and summaries show it.

    Attributes:
        kernel: its function.
        family: that wrote it.
        workload: key under which tuning records know it.
        flops: two per multiply-accumulate.
        bytes: inputs, weights and outputs, each moved once.
        layers: the model's nodes that it computes.
        pick: the tuning record that chose its shape; None for the family's default.
    """

    kernel: str
    family: str
    workload: str
    flops: int
    bytes: int
    layers: tuple[str, ...]
    pick: Pick | None = None


@dataclass
class Place:
    """Where a tensor lies: in one of a segment's buffers, at a byte offset."""

    buffer: str | Tensor
    offset: int


@dataclass
class Call:
    """A kernel and its arguments' places, outputs last."""

    function: str
    arguments: list[Place]
    info: KernelCall


@dataclass
class Segment:
    """Consecutive kernel calls that run without leaving machine code.

    Attributes:
        inputs: values that come from outside.
        outputs: values that others need; those that only reshape one of them are not listed.
        calls: in order.
        workspace: bytes for the values in between.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    calls: list[Call] = field(default_factory=list)
    workspace: int = 0


WORKSPACE, WEIGHTS = "workspace", "weights"


class Weights:
    """All constants of a program in one block of bytes; equal ones are kept once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._offsets: dict[bytes, int] = {}
        self.size = 0

    def add(self, data: np.ndarray[Any, Any]) -> int:
        """Byte offset of ``data``, aligned to cache lines."""
        content = np.ascontiguousarray(data).tobytes()
        if content not in self._offsets:
            self._offsets[content] = self.size
            padding = aligned(max(len(content), 1)) - len(content)
            self._parts.append(content + bytes(padding))
            self.size += len(content) + padding
        return self._offsets[content]

    def block(self) -> bytes:
        """Everything."""
        return b"".join(self._parts)


class KernelLibrary:
    """The kernels and packed weights of all programs of an artifact; equal ones are kept once.

    Args:
        target: to compile for.
        records: tuning records, consulted for each workload.
    """

    def __init__(self, target: Target, records: TuningLog) -> None:
        self.target = target
        self.records = records
        self.functions: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        self.weights = Weights()
        self._known: dict[tuple[Any, ...], str] = {}
        self._layouts: dict[bytes, tuple[KernelFamily, Choice]] = {}

    def claim(self, node: Node) -> tuple[KernelFamily, Any] | None:
        """The family that computes a node, and the node's workload.

        A layer whose weights are packed for another image size already stays with the family they are packed for.
        """
        found = claim(node)
        packed = self._layouts.get(_weight_digest(node)) if found and self._layouts else None
        if found is None or packed is None or packed[0] is found[0]:
            return found
        family = packed[0]
        workload = getattr(family, "accept", family.claim)(node)
        return (family, workload) if workload is not None else found

    def choose(self, node: Node, family: KernelFamily, workload: Any) -> tuple[Choice, Pick | None]:
        """The kernel's shape, and the tuning record that chose it.

        Weights packed for another image size already decide what of the shape their layout depends on. A record whose
        choice is not in the family's space is passed over: only choices of the space are valid.
        """
        keys = getattr(family, "LAYOUT", ())
        digest = _weight_digest(node) if keys else b""
        packed = self._layouts.get(digest)
        layout = packed[1] if packed and packed[0] is family else {}

        def usable(choice: Choice, threads: int) -> bool:
            fits = layout.items() <= choice.items() and in_space(choice, family, workload, self.target)
            return fits and enough_tasks(choice, family, workload, self.target, threads)

        pick = self.records.find(workload_key(family, workload), usable)
        if pick is not None:
            choice = pick.choice
        elif layout:
            choice = family.analytic_default(workload, self.target, layout)  # type: ignore[call-arg]
        else:
            choice = family.analytic_default(workload, self.target)
        if keys:
            self._layouts.setdefault(digest, (family, {key: choice[key] for key in keys}))
        return choice, pick

    def function(self, family: KernelFamily, workload: Any, choice: Choice) -> str:
        """Name of the function that computes a workload, written when first asked for."""
        identity = (family.NAME, workload, tuple(sorted(choice.items())))
        if identity not in self._known:
            name = f"{family.NAME}_{len(self._known)}"
            self.functions[name] = family.emit(workload, self.target, choice, name)
            self.variables[name] = GlobalVar(name)
            self._known[identity] = name
        return self._known[identity]

    def pack(self, node: Node, family: KernelFamily, workload: Any, choice: Choice) -> list[int]:
        """Byte offsets of a node's constants in the block of weights, in the node's order."""
        constants = [tensor.data for tensor in node.inputs if tensor is not None and tensor.data is not None]
        pack = getattr(family, "pack", None)
        packed = pack(workload, self.target, choice, constants) if pack and constants else constants
        return [self.weights.add(data) for data in packed]


def _weight_digest(node: Node) -> bytes:
    """Identity of a node's first constant, which is its weight if it has one."""
    data = next((tensor.data for tensor in node.inputs if tensor is not None and tensor.data is not None), None)
    if data is None:
        return b""
    return hashlib.blake2b(f"{data.shape}{data.dtype}".encode() + np.ascontiguousarray(data).tobytes()).digest()


class ProgramBuilder:
    """Chooses a kernel for every node of a graph and lays out what they need.

    Args:
        graph: rewritten.
        library: takes the kernels and weights.
    """

    def __init__(self, graph: Graph, library: KernelLibrary) -> None:
        self.graph = graph
        self.library = library
        self._claims: dict[Node, tuple[KernelFamily, Any]] = {}
        self._aliases: dict[Tensor, Tensor] = {}
        self._claim_all()

    def covers(self, node: Node) -> bool:
        """Whether a family has claimed the node, or it moves nothing."""
        return node.op == "reshape" or node in self._claims

    def segment(self, nodes: Sequence[Node]) -> Segment:
        """Lay out consecutive nodes that are all covered."""
        work = [node for node in nodes if node.op != "reshape"]
        defined = {tensor: step for step, node in enumerate(work) for tensor in node.outputs}
        read = dict.fromkeys(self.root(t) for n in work for t in n.inputs if t is not None and not t.is_constant)
        needed = {self.root(t) for node in nodes for t in node.outputs if self._needed_outside(t, nodes)}
        segment = Segment([t for t in read if t not in defined], sorted(needed & set(defined), key=defined.__getitem__))
        places = self._places(segment, work)
        for node in work:
            segment.calls.append(self._call(node, places))
        return segment

    def root(self, tensor: Tensor) -> Tensor:
        """The value whose memory ``tensor`` shares."""
        while tensor in self._aliases:
            tensor = self._aliases[tensor]
        return tensor

    def _claim_all(self) -> None:
        for node in self.graph.nodes:
            if node.op == "reshape":
                source = node.input(0)
                self._aliases[node.output] = source
            else:
                found = self.library.claim(node)
                if found is not None:
                    self._claims[node] = found

    def _needed_outside(self, tensor: Tensor, nodes: Sequence[Node]) -> bool:
        inside = {id(node) for node in nodes}
        return self.graph.is_output(tensor) or any(id(user) not in inside for user in self.graph.users(tensor))

    def _places(self, segment: Segment, work: Sequence[Node]) -> dict[Tensor, Place]:
        places = {tensor: Place(tensor, 0) for tensor in (*segment.inputs, *segment.outputs)}
        last = {self.root(t): step for step, node in enumerate(work) for t in node.inputs if t is not None}
        inner = [(t, step) for step, n in enumerate(work) for t in n.outputs if t not in places]
        blocks = [Lifetime(byte_size(t), step, last.get(t, step)) for t, step in inner]
        offsets, segment.workspace = plan(blocks)
        for (tensor, _), offset in zip(inner, offsets, strict=True):
            places[tensor] = Place(WORKSPACE, offset)
        return places

    def _call(self, node: Node, places: dict[Tensor, Place]) -> Call:
        family, workload = self._claims[node]
        choice, pick = self.library.choose(node, family, workload)
        function = self.library.function(family, workload, choice)
        offsets = iter(self.library.pack(node, family, workload, choice))
        arguments = [
            Place(WEIGHTS, next(offsets)) if tensor.is_constant else places[self.root(tensor)]
            for tensor in node.inputs
            if tensor is not None
        ]
        arguments += [places[tensor] for tensor in node.outputs]
        key = workload_key(family, workload)
        info = KernelCall(function, family.NAME, key, workload.flops, workload.bytes, node.layers, pick)
        return Call(function, arguments, info)


def byte_size(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.size * np.dtype(tensor.dtype).itemsize
