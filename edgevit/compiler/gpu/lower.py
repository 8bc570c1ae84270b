"""From a model to kernels, the order of their launches, and object files.

Every kernel is a function of TVM's virtual machine, which plans the memory between kernels and launches them one by
one. Weights are constants of the virtual machine, which it copies to the device when a model is loaded. Where a
model has an operator that no family writes, TVM's importer and its schedules for GPUs take it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.compiler.entry import placeholder
from edgevit.compiler.frontend import to_graph
from edgevit.compiler.gpu import GpuFamily, claim
from edgevit.compiler.gpu.build import Built, build_gpu, gpu_target
from edgevit.compiler.gpu.merge import merge
from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.half import widen
from edgevit.compiler.program import KernelCall
from edgevit.compiler.rest import REST, import_nodes
from edgevit.compiler.rewrite import rewrite
from edgevit.compiler.roads import Roads, operators, with_rest
from edgevit.target_schema import Target

if TYPE_CHECKING:
    from edgevit.compiler.lower import Lowered, Program
    from edgevit.compiler.prepare import Precision
    from edgevit.model import Model

MULTIPLYING = frozenset({"product", "separable", "depthwise", "attention", "matmul"})
"""Families whose operations are multiply-accumulates."""

_HALF, _FLOAT = "float16", "float32"


def lower_gpu(models: Sequence[Model], target: Target, precision: Precision) -> Lowered:
    """Rewrite the graphs, write their kernels, generate code.

    Args:
        models: one model at one image size or several.
        target: with a GPU.
        precision: how values between kernels, and weights, are stored; sums are float32 in any case.

    Raises:
        ModelError: TVM's importer refuses a node that no family covers.
        ToolchainError: TVM refused, or a kernel breaks the GPU's limits.
    """
    import tvm

    from edgevit.compiler.lower import Lowered

    with tvm.target.Target(gpu_target(target)):
        library = _Library(target)
        parts = [
            _Program(
                _prepare(model, target), library, _HALF if precision == "fp16" else _FLOAT, f"_{i + 1}" if i else ""
            )
            for i, model in enumerate(models)
        ]
        for part in parts:
            part.write()
        built = build_gpu(library.builder.get(), target, library.bodies)
    programs = tuple(part.program(built) for part in parts)
    return Lowered(built.executable, b"", programs, built.rest_kernels, constant_bytes=library.constant_bytes)


def _prepare(model: Model, target: Target) -> Graph:
    """Rewritten graph in float32; as the model has it, where rewriting introduces what no family writes."""
    assert target.gpu is not None
    graph = to_graph(model)
    widen(graph)
    rewrite(graph)
    merge(graph, target.gpu)
    written = all(not n.op.islower() or n.op == "reshape" or claim(n) is not None for n in graph.nodes)
    return graph if written else to_graph(model)


class _Library:
    """What the programs of all image sizes share: the module under construction, kernels, constants."""

    def __init__(self, target: Target) -> None:
        from tvm import relax

        self.target = target
        self.builder = relax.BlockBuilder()
        self.bodies: dict[str, Any] = {}
        self._variables: dict[tuple[Any, ...], Any] = {}
        self._constants: dict[bytes, Any] = {}
        self.constant_bytes = 0

    def function(self, family: GpuFamily, workload: Any, storage: tuple[str, ...]) -> Any:
        """Variable of the function that computes a workload, written when first asked for."""
        key = (family.NAME, workload, storage)
        if key not in self._variables:
            name = f"{family.NAME}_{len(self._variables)}"
            body = family.emit(workload, self.target, name, storage)
            self.bodies[name] = body
            # Relax merges functions that look alike, and placeholders do.
            opaque = placeholder(body).with_attr("segment", name).with_attr("tirx.is_scheduled", True)
            self._variables[key] = self.builder.add_func(opaque, name)
        return self._variables[key]

    def constant(self, data: np.ndarray[Any, Any], dtype: str) -> Any:
        """A constant, flat; equal ones are kept once."""
        from tvm import relax

        flat = np.ascontiguousarray(data).reshape(-1)
        if data.dtype == np.float32:
            flat = flat.astype(dtype)
        key = hashlib.blake2b(f"{flat.dtype}".encode() + flat.tobytes()).digest()
        if key not in self._constants:
            self._constants[key] = relax.const(flat)
            self.constant_bytes += flat.nbytes
        return self._constants[key]


class _Program:
    """Adds one image size's function to the module.

    Between kernels, tensors have one axis: kernels compute their own indices, and reshaping costs nothing.
    """

    def __init__(self, graph: Graph, library: _Library, stored: str, suffix: str) -> None:
        self.graph, self.library, self.suffix = graph, library, suffix
        self.builder = library.builder
        self.claims = {node: found for node in graph.nodes if (found := claim(node)) is not None}
        self.rest = [n for n in graph.nodes if n not in self.claims and n.op != "reshape"]
        self.stored = stored
        self.aliases = {n.output: n.input(0) for n in graph.nodes if n.op == "reshape"}
        self.precise = self._precise()
        self.values: dict[Tensor, Any] = {}
        self.calls: list[KernelCall] = []

    @property
    def entry(self) -> str:
        """Name of the program's function."""
        from edgevit.compiler.lower import ENTRY

        return ENTRY + self.suffix

    def write(self) -> None:
        """Write the function."""
        from tvm import relax

        inputs = [relax.Var(f"input{i}", relax.TensorType(t.shape, t.dtype)) for i, t in enumerate(self.graph.inputs)]
        rest = {id(node) for node in self.rest}
        with self.builder.function(self.entry, inputs):
            with self.builder.dataflow():
                for tensor, value in zip(self.graph.inputs, inputs, strict=True):
                    self.values[tensor] = self.builder.emit(relax.op.reshape(value, (tensor.size,)))
                for imported, nodes in groupby(self.graph.nodes, lambda node: id(node) in rest):
                    if imported:
                        self._import(list(nodes))
                    else:
                        for node in nodes:
                            self._node(node)
                # Only what the dataflow block keeps to itself is reshaped for nothing.
                shaped = [self.builder.emit(relax.op.reshape(self._value(t), t.shape)) for t in self.graph.outputs]
                results = [self.builder.emit_output(value) for value in shaped]
            self.builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))

    def program(self, built: Built) -> Program:
        """What the finished function runs."""
        from edgevit.compiler.lower import Program

        macs: Counter[str] = Counter()
        for call in self.calls:
            if call.family in MULTIPLYING:
                macs[call.family] += call.flops // 2
        roads = Roads(with_rest(macs, self.rest, self.graph), operators(self.rest))
        workspace = built.storage_bytes[self.entry]
        return Program(self.entry, None, tuple(self.calls), roads, workspace, built.launches_of(self.entry))

    def _precise(self) -> set[Tensor]:
        """Values that stay in float32, whatever is stored otherwise; of those that share memory, the first.

        They are those that others read or write as the model has them, and those that lead to outputs only, with no
        product between: softmax and decoding enlarge errors.
        """
        tensors = {*self.graph.inputs, *self.graph.outputs}
        tensors |= {t for n in self.rest for t in (*n.inputs, *n.outputs) if t is not None}
        precise = {self._root(tensor) for tensor in tensors}
        users: dict[Tensor, list[Node]] = {}
        for node in self.claims:
            for tensor in node.inputs:
                if tensor is not None and not tensor.is_constant:
                    users.setdefault(self._root(tensor), []).append(node)
        for node in reversed(self.graph.nodes):
            for root in {self._root(tensor) for tensor in node.outputs} if node in self.claims else ():
                readers = users.get(root, [])
                if readers and all(self._keeps(reader, precise) for reader in readers):
                    precise.add(root)
        return precise

    def _keeps(self, node: Node, precise: set[Tensor]) -> bool:
        """Whether a node only passes on, in float32, what it reads."""
        multiplies = self.claims[node][0].NAME in MULTIPLYING
        return not multiplies and all(self._root(tensor) in precise for tensor in node.outputs)

    def _root(self, tensor: Tensor) -> Tensor:
        """The value whose memory a tensor shares."""
        while tensor in self.aliases:
            tensor = self.aliases[tensor]
        return tensor

    def _node(self, node: Node) -> None:
        from tvm import relax

        if node.op == "reshape":
            self.values[node.output] = self._value(node.input(0))
            return
        family, workload = self.claims[node]
        given = [tensor for tensor in node.inputs if tensor is not None]
        storage = tuple(self._type(tensor) for tensor in (*given, *node.outputs))
        variable = self.library.function(family, workload, storage)
        constants = [tensor.data for tensor in given if tensor.data is not None]
        pack = getattr(family, "pack", None)
        packed = iter(pack(workload, self.library.target, constants) if pack and constants else constants)
        arguments = [
            self.library.constant(next(packed), kind) if tensor.is_constant else self._value(tensor)
            for tensor, kind in zip(given, storage, strict=False)
        ]
        types = [relax.TensorType((t.size,), self._type(t)) for t in node.outputs]
        result = self.builder.emit(relax.call_tir(variable, arguments, types if len(types) > 1 else types[0]))
        for index, tensor in enumerate(node.outputs):
            self.values[tensor] = self.builder.emit(result[index]) if len(types) > 1 else result
        moved = sum(t.size * np.dtype(kind).itemsize for t, kind in zip((*given, *node.outputs), storage, strict=True))
        name = variable.name_hint
        self.calls.append(
            KernelCall(name, family.NAME, _key(family, workload, storage), workload.flops, moved, node.layers)
        )

    def _import(self, nodes: Sequence[Node]) -> None:
        from tvm import ir, relax

        name = f"{REST}{self.suffix}_{self.rest.index(nodes[0])}"
        variable, inputs, outputs = import_nodes(nodes, self.graph, self.builder, name)
        shaped = [self.builder.emit(relax.op.reshape(self._value(t), t.shape)) for t in inputs]
        result = self.builder.emit(ir.Call(variable, shaped))
        for index, tensor in enumerate(outputs):
            value = self.builder.emit(result[index]) if len(outputs) > 1 else result
            self.values[tensor] = self.builder.emit(relax.op.reshape(value, (prod(tensor.shape),)))

    def _type(self, tensor: Tensor) -> str:
        """How a tensor is stored."""
        if tensor.dtype != _FLOAT or self._root(tensor) in self.precise:
            return tensor.dtype
        return self.stored

    def _value(self, tensor: Tensor) -> Any:
        """A tensor's value, flat."""
        if tensor.data is not None:
            return self.library.constant(tensor.data, self._type(tensor))
        return self.values[tensor]


def _key(family: GpuFamily, workload: Any, storage: tuple[str, ...]) -> str:
    """Name of what a kernel computes, the same in every model that holds the same kernel."""
    return f"{family.NAME}/gpu/{hashlib.sha256(repr((workload, storage)).encode()).hexdigest()[:16]}"
