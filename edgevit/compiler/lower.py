"""From a model, at one image size or several, to machine code in object files.

Nodes that kernel families cover run in segments: functions in machine code that call their kernels in order, with
a static memory plan and all weights in one block. What no family covers goes through TVM's importer; Relax's
virtual machine calls it between segments. Every image size is a function of the virtual machine; kernels and weights
are shared by all.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edgevit.compiler.clock import clock_function
from edgevit.compiler.entry import build_module, placeholder, segment_entry
from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.prepare import Precision, prepare
from edgevit.compiler.program import KernelCall, KernelLibrary, ProgramBuilder, Segment
from edgevit.compiler.rest import REST, SEGMENT, fuse_rest, import_nodes, schedule_rest
from edgevit.compiler.roads import MULTIPLYING, Roads, operators, with_rest
from edgevit.errors import EdgevitError, ToolchainError
from edgevit.target_schema import Target
from edgevit.tuning.record import TvmRecord
from edgevit.tuning.records import Pick, TuningLog

if TYPE_CHECKING:
    import tvm

    from edgevit.compiler.gpu.launches import KernelLaunch
    from edgevit.model import Model

_LOG = logging.getLogger(__name__)

ENTRY = "main"
"""Name of the function that computes the model; at the second image size it is ``main_2``, and so on."""
PROFILE = "profile"
"""Name of the one that also returns clock readings; absent where no kernel of ours is called."""


@dataclass(frozen=True)
class Program:
    """What runs at one image size.

    Attributes:
        entry: function of the virtual machine that computes the model.
        profile: the one that also returns clock readings; None where no kernel of ours is called.
        calls: kernels in execution order.
        roads: which share of the work runs in whose code.
        workspace: bytes of memory for values between kernels.
        launches: on a GPU, the functions called and what each launches, in order.
    """

    entry: str
    profile: str | None
    calls: tuple[KernelCall, ...]
    roads: Roads
    workspace: int
    launches: tuple[tuple[str, KernelLaunch], ...] = ()


@dataclass(frozen=True)
class Lowered:
    """Compiled code, not yet linked.

    Attributes:
        executable: TVM's executable; its ``export_library`` hands object files to a linker.
        weights: constants of all kernels, which the linker takes into the library.
        programs: one for each image size, in the order asked for.
        rest_kernels: kernels of what TVM imported, by the schedule they took.
        rest_records: tuning records whose schedules those took.
        constant_bytes: of constants that the virtual machine copies to a GPU.
    """

    executable: tvm.runtime.Executable
    weights: bytes
    programs: tuple[Program, ...]
    rest_kernels: dict[str, int]
    rest_records: tuple[TvmRecord, ...] = ()
    constant_bytes: int = 0

    @property
    def kernels(self) -> dict[str, int]:
        """Number of distinct kernels by family."""
        counts: dict[str, int] = dict(self.rest_kernels)
        for family in {call.kernel: call.family for program in self.programs for call in program.calls}.values():
            counts[family] = counts.get(family, 0) + 1
        return dict(sorted(counts.items()))

    @property
    def picks(self) -> list[Pick | None]:
        """The tuning record of each distinct kernel, None for a default; without what TVM imported."""
        return list({call.kernel: call.pick for program in self.programs for call in program.calls}.values())


def lower(models: Sequence[Model], target: Target, records: TuningLog, precision: Precision | None = None) -> Lowered:
    """Rewrite the graphs, write their kernels, generate code.

    Args:
        models: one model at one image size or several.
        target: to generate code for.
        records: tuning records.
        precision: of the compiled model; None takes the model's own on a CPU, and the target's on a GPU.

    Raises:
        ModelError: TVM's importer refuses a node that no family covers.
        ToolchainError: TVM or LLVM refused.
    """
    try:
        import tvm

        if target.gpu is not None:
            from edgevit.compiler.gpu.lower import lower_gpu

            return lower_gpu(models, target, precision or target.precision)
        with tvm.target.Target(target.tvm_target()):  # elementary functions look at the current target
            return _lower([prepare(model, target, precision) for model in models], target, records)
    except EdgevitError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # TVM's own errors are RuntimeErrors
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ToolchainError(
            f"code generation failed: {last}",
            where=f"target {target.name}",
            advice="Rerun with --debug and report the traceback together with 'edgevit devices doctor --json'.",
        ) from error


def _lower(graphs: Sequence[Graph], target: Target, records: TuningLog) -> Lowered:
    from edgevit.tuning.metaschedule.schedules import TvmSchedules

    code, programs = _written(graphs, target, records)
    library = code.library
    kernels = {library.variables[name]: function for name, function in library.functions.items()}
    if kernels:
        kernels[code.clock] = clock_function(target)
    tuned = TvmSchedules(records.tvm, target.cores)
    module, rest_kernels = schedule_rest(code.builder.get(), target, tuned)
    for workload, count in Counter(tuned.refused).items():
        _LOG.warning("%s: %d tuning records do not apply and were passed over", workload, count)
    return Lowered(
        build_module(module, target, kernels, code.bodies),
        library.weights.block(),
        programs,
        rest_kernels,
        tuple(tuned.used),
    )


def imported_module(model: Model, target: Target) -> Any | None:
    """A model's Relax functions, with what no kernel family covers as fused TIR functions that nobody has scheduled.

    Returns:
        The module; None where families cover everything.

    Raises:
        ModelError: TVM's importer refuses a node that no family covers.
    """
    import tvm

    with tvm.target.Target(target.tvm_target()):
        graph = prepare(model, target)
        library = KernelLibrary(target, TuningLog())
        if all(node.op == "reshape" or library.claim(node) is not None for node in graph.nodes):
            return None
        code, _ = _written([graph], target, TuningLog())
        return fuse_rest(code.builder.get(), target)


def _written(graphs: Sequence[Graph], target: Target, records: TuningLog) -> tuple[_Code, tuple[Program, ...]]:
    """Write the functions of all image sizes."""
    from tvm import ir, relax

    code = _Code(relax.BlockBuilder(), KernelLibrary(target, records), ir.GlobalVar("clock"))
    # The largest image decides how weights are packed: there a poor layout would cost most.
    order = sorted(range(len(graphs)), key=lambda index: -sum(tensor.size for tensor in graphs[index].inputs))
    programs = {index: _Lowering(graphs[index], code, f"_{index + 1}" if index else "").run() for index in order}
    return code, tuple(programs[index] for index in range(len(graphs)))


@dataclass(frozen=True)
class _Code:
    """What the programs of all image sizes have in common.

    Attributes:
        builder: of the Relax module.
        library: kernels and weights.
        clock: variable of the function that reads the clock.
        bodies: the segments' functions by name.
    """

    builder: Any
    library: KernelLibrary
    clock: Any
    bodies: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rest:
    """Consecutive nodes that TVM imported."""

    variable: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


class _Lowering:
    """Adds one image size's functions to the Relax module.

    Args:
        graph: rewritten.
        code: to add to.
        suffix: of the functions' names.
    """

    def __init__(self, graph: Graph, code: _Code, suffix: str) -> None:
        self.graph = graph
        self.code = code
        self.suffix = suffix
        self.builder = code.builder
        self.program = ProgramBuilder(graph, code.library)
        self.values: dict[Tensor, Any] = {}
        self.rest: list[Node] = []

    def run(self) -> Program:
        parts = [(covered, list(nodes)) for covered, nodes in groupby(self.graph.nodes, self.program.covers)]
        steps = [self.program.segment(nodes) if covered else self._import(nodes) for covered, nodes in parts]
        segments = [step for step in steps if isinstance(step, Segment) and step.calls]
        self._function(ENTRY + self.suffix, steps)
        if segments:
            self._function(PROFILE + self.suffix, steps, profile=True)
        calls = tuple(call.info for segment in segments for call in segment.calls)
        return Program(
            ENTRY + self.suffix,
            PROFILE + self.suffix if segments else None,
            calls,
            self._roads(calls),
            max((segment.workspace for segment in segments), default=0),
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

    def _roads(self, calls: Sequence[KernelCall]) -> Roads:
        macs: Counter[str] = Counter()
        for call in calls:
            if call.family in MULTIPLYING:
                macs[call.family] += call.flops // 2
        return Roads(with_rest(macs, self.rest, self.graph), operators(self.rest))

    def _import(self, nodes: Sequence[Node]) -> _Rest:
        name = f"{REST}{self.suffix}_{len(self.rest)}"
        variable, inputs, outputs = import_nodes(nodes, self.graph, self.builder, name)
        self.rest += nodes
        return _Rest(variable, inputs, outputs)

    def _call_segment(self, segment: Segment, profile: bool) -> list[Any]:
        """Emit a call of a segment's own function; returns its clock readings, if it takes any."""
        from tvm import relax

        bodies = self.code.bodies
        name = f"{SEGMENT}{len(bodies)}"
        bodies[name] = segment_entry(segment, self.code.library, self.code.clock if profile else None)
        # Relax merges functions that look alike, and placeholders do.
        variable = self.builder.add_func(placeholder(bodies[name]).with_attr("segment", name), name)
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
