"""From a model to machine code in object files.

Nodes that kernel families cover run in segments: functions in machine code that call their kernels in order, with
a static memory plan and all weights in one block. What no family covers goes through TVM's importer; Relax's
virtual machine calls it between segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edgevit.compiler.clock import clock_function
from edgevit.compiler.entry import build_module, placeholder, segment_entry
from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.prepare import prepare
from edgevit.compiler.program import KernelCall, ProgramBuilder, Segment
from edgevit.compiler.rest import REST, import_nodes, schedule_rest
from edgevit.compiler.roads import MULTIPLYING, Roads, operators, with_rest
from edgevit.errors import EdgevitError, ToolchainError
from edgevit.target_schema import Target
from edgevit.tuning.records import TuningLog

if TYPE_CHECKING:
    import tvm

    from edgevit.model import Model

ENTRY = "main"
"""Name of the function that computes the model."""
PROFILE = "profile"
"""Name of the one that also returns clock readings; absent where no kernel of ours is called."""


@dataclass(frozen=True)
class Lowered:
    """Compiled code, not yet linked.

    Attributes:
        executable: TVM's executable; its ``export_library`` hands object files to a linker.
        weights: constants of all kernels, which the linker takes into the library.
        calls: kernels in execution order.
        roads: which share of the work runs in whose code.
        rest_kernels: kernels of what TVM imported, by the schedule they took.
        workspace: bytes of memory for values between kernels.
    """

    executable: tvm.runtime.Executable
    weights: bytes
    calls: tuple[KernelCall, ...]
    roads: Roads
    rest_kernels: dict[str, int]
    workspace: int

    @property
    def kernels(self) -> dict[str, int]:
        """Number of distinct kernels by family."""
        counts: dict[str, int] = dict(self.rest_kernels)
        for family in {call.kernel: call.family for call in self.calls}.values():
            counts[family] = counts.get(family, 0) + 1
        return dict(sorted(counts.items()))


def lower(model: Model, target: Target, records: TuningLog) -> Lowered:
    """Rewrite the graph, write its kernels, generate code.

    Raises:
        ModelError: TVM's importer refuses a node that no family covers.
        ToolchainError: TVM or LLVM refused.
    """
    try:
        import tvm

        graph = prepare(model, target)
        with tvm.target.Target(target.tvm_target()):  # elementary functions look at the current target
            return _Lowering(graph, target, records).run()
    except EdgevitError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # TVM's own errors are RuntimeErrors
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ToolchainError(
            f"code generation failed: {last}",
            where=f"target {target.name}",
            advice="Rerun with --debug and report the traceback together with 'edgevit devices doctor --json'.",
        ) from error


@dataclass(frozen=True)
class _Rest:
    """Consecutive nodes that TVM imported."""

    variable: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


class _Lowering:
    """Builds the Relax module around segments."""

    def __init__(self, graph: Graph, target: Target, records: TuningLog) -> None:
        from tvm import ir, relax

        self.graph = graph
        self.target = target
        self.program = ProgramBuilder(graph, target, records)
        self.builder = relax.BlockBuilder()
        self.clock = ir.GlobalVar("clock")
        self.values: dict[Tensor, Any] = {}
        self.segments: list[Segment] = []
        self.rest: list[Node] = []
        self.bodies: dict[str, Any] = {}

    def run(self) -> Lowered:
        parts = [(covered, list(nodes)) for covered, nodes in groupby(self.graph.nodes, self.program.covers)]
        steps = [self.program.segment(nodes) if covered else self._import(nodes) for covered, nodes in parts]
        self.segments = [step for step in steps if isinstance(step, Segment) and step.calls]
        self._function(ENTRY, steps)
        kernels = {self.program.variables[name]: function for name, function in self.program.functions.items()}
        if self.segments:
            self._function(PROFILE, steps, profile=True)
            kernels[self.clock] = clock_function(self.target)
        module, rest_kernels = schedule_rest(self.builder.get(), self.target)
        return Lowered(
            build_module(module, self.target, kernels, self.bodies),
            self.program.weights.block(),
            tuple(call.info for segment in self.segments for call in segment.calls),
            self._roads(),
            rest_kernels,
            max((segment.workspace for segment in self.segments), default=0),
        )

    def _function(self, name: str, steps: Sequence[Segment | _Rest], *, profile: bool = False) -> None:
        """Add a function that computes the model; a profile also returns each segment's clock readings."""
        from tvm import relax

        inputs = [relax.Var(f"input{i}", _type(tensor)) for i, tensor in enumerate(self.graph.inputs)]
        self.values = dict(zip(self.graph.inputs, inputs, strict=True))
        times = []
        with self.builder.function(name, inputs):
            with self.builder.dataflow():
                for step in steps:
                    if isinstance(step, _Rest):
                        self._call_rest(step)
                    elif step.calls:
                        times += self._call_segment(step, profile)
                results = [self.builder.emit_output(self._value(tensor)) for tensor in self.graph.outputs]
                results += [self.builder.emit_output(readings) for readings in times]
            self.builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))

    def _roads(self) -> Roads:
        macs: Counter[str] = Counter()
        for call in (call for segment in self.segments for call in segment.calls):
            if call.info.family in MULTIPLYING:
                macs[call.info.family] += call.info.flops // 2
        return Roads(with_rest(macs, self.rest, self.graph), operators(self.rest))

    def _import(self, nodes: Sequence[Node]) -> _Rest:
        variable, inputs, outputs = import_nodes(nodes, self.graph, self.builder, f"{REST}{len(self.rest)}")
        self.rest += nodes
        return _Rest(variable, inputs, outputs)

    def _call_segment(self, segment: Segment, profile: bool) -> list[Any]:
        """Emit a call of a segment's own function; returns its clock readings, if it takes any."""
        from tvm import relax

        name = f"segment{len(self.bodies)}"
        self.bodies[name] = segment_entry(segment, self.program, self.clock if profile else None)
        # Relax merges functions that look alike, and placeholders do.
        variable = self.builder.add_func(placeholder(self.bodies[name]).with_attr("segment", name), name)
        arguments = [self._value(tensor) for tensor in segment.inputs]
        types = [_type(tensor) for tensor in segment.outputs]
        if profile:
            types.append(relax.TensorType((len(segment.calls) + 1,), "int64"))
        if segment.workspace:
            types.append(relax.TensorType((segment.workspace // 4,), "float32"))
        result = self.builder.emit(relax.call_tir(variable, arguments, types if len(types) > 1 else types[0]))
        for index, tensor in enumerate(segment.outputs):
            self.values[tensor] = self.builder.emit(result[index]) if len(types) > 1 else result
        return [self.builder.emit(result[len(segment.outputs)])] if profile else []

    def _call_rest(self, rest: _Rest) -> None:
        from tvm import ir

        result = self.builder.emit(ir.Call(rest.variable, [self._value(tensor) for tensor in rest.inputs]))
        for index, tensor in enumerate(rest.outputs):
            self.values[tensor] = self.builder.emit(result[index]) if len(rest.outputs) > 1 else result

    def _value(self, tensor: Tensor) -> Any:
        from tvm import relax

        if tensor.data is not None:
            return relax.const(tensor.data)
        if tensor in self.values:
            return self.values[tensor]
        root = self.program.root(tensor)
        value = self._value(root)
        self.values[tensor] = (
            value if root.shape == tensor.shape else self.builder.emit(relax.op.reshape(value, tensor.shape))
        )
        return self.values[tensor]


def _type(tensor: Tensor) -> Any:
    from tvm import relax

    return relax.TensorType(tensor.shape, tensor.dtype)
