"""Find the first operator whose compiled output leaves the tolerance.

The model is cut after its first k operators, everything alive at the cut becomes an output, and that prefix is
compiled for the artifact's target and compared with ONNX Runtime on the same device. An error, once made,
flows on, so a binary search over k finds where it begins in about log2(operators) compilations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from edgevit.accuracy.check import RUN_TIMEOUT
from edgevit.accuracy.compare import TensorComparison, compare_tensors, fold, seeded_inputs, tolerance_for
from edgevit.accuracy.reference import OnnxRuntimeReference

if TYPE_CHECKING:
    import onnx

    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.model import Model

_CALLS = 2


class BisectResult(BaseModel):
    """Where an error begins.

    Attributes:
        found: False when the whole graph, compiled afresh, is right.
        simplification: True when the simplified graph itself differs from the file, before any compiling.
        node: the operator's name, or its output's name where it has none.
        index: its position in the simplified graph, from 0.
        operators: how many operators the graph has.
        tensor: the output compared, of largest error.
        compilations: how many prefixes were compiled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    found: bool
    simplification: bool = False
    node: str | None = None
    op_type: str | None = None
    index: int | None = None
    operators: int
    tensor: TensorComparison | None = None
    compilations: int

    def sentence(self) -> str:
        """The finding in one sentence."""
        if self.simplification:
            return "the simplified graph already differs from the file: a fault of simplification, not of code"
        if not self.found or self.tensor is None:
            return (
                "every operator is right when compiled afresh: the artifact was damaged, or made by another "
                "version or with other tuning records; compile again"
            )
        error = self.tensor.normalised_error
        amount = self.tensor.reason or (f"{error:.3g} of max |reference|" if error is not None else "unknown")
        return (
            f"the first wrong operator is {self.op_type} {self.node!r} (number {(self.index or 0) + 1} of "
            f"{self.operators}): its output {self.tensor.name!r} is off by {amount}"
        )


def bisect(
    artifact: Artifact,
    session: Session,
    model: Model,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> BisectResult:
    """Search the model for the operator that spoils an artifact's output.

    Prefixes are compiled with this edgevit and the artifact's target, so a fault of the compiler is found;
    a fault of the artifact's bytes alone is reported as such.

    Args:
        artifact: the one that failed its check.
        session: where prefixes run; it must be the artifact's kind of device.
        model: the artifact's source.
        seed: of the inputs.
        progress: told the finished share, 0 to 1.

    Raises:
        DeviceError: the device failed.
        ToolchainError: a prefix does not compile.
    """
    nodes = len(model.proto.graph.node)
    wrong: dict[int, TensorComparison] = {}

    def fails(count: int) -> bool:
        if progress:
            progress(len(tried) / (nodes.bit_length() + 1))
        tried.append(count)
        worst = _worst_of_prefix(artifact, session, model, count, seed)
        if worst is not None:
            wrong[count] = worst
        return worst is not None

    tried: list[int] = []
    if not fails(nodes):
        simplification = _simplification_differs(artifact, model, seed)
        return BisectResult(found=False, simplification=simplification, operators=nodes, compilations=1)
    right, bad = 0, nodes
    while bad - right > 1:
        middle = (right + bad) // 2
        if fails(middle):
            bad = middle
        else:
            right = middle
    node = model.proto.graph.node[bad - 1]
    return BisectResult(
        found=True,
        node=node.name or node.output[0],
        op_type=node.op_type,
        index=bad - 1,
        operators=nodes,
        tensor=wrong[bad],
        compilations=len(tried),
    )


def prefix(proto: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """The model's first ``count`` operators, with every value that the rest would use as an output."""
    from onnx import ModelProto

    cut = ModelProto()
    cut.CopyFrom(proto)
    graph = cut.graph
    kept, dropped = list(graph.node[:count]), list(graph.node[count:])
    made = {name for node in kept for name in node.output if name}
    wanted = {name for node in dropped for name in node.input} | {value.name for value in proto.graph.output}
    infos = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.extend(infos[name] for name in sorted(made & wanted) if name in infos)
    used = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return cut


def _worst_of_prefix(
    artifact: Artifact, session: Session, model: Model, count: int, seed: int
) -> TensorComparison | None:
    """The output of the prefix that fails the tolerance most, None when all pass."""
    from edgevit.compiler.compile import build
    from edgevit.link import Linker
    from edgevit.tuning.records import load_tuning_log

    target = artifact.manifest.target
    part = _as_model(prefix(model.proto, count), model)
    if not part.outputs:
        return None
    # Of an int8 model, a prefix may hold nothing that is quantised.
    precision = None if artifact.manifest.precision == "int8" else artifact.manifest.precision
    compiled = build([part], target, Linker(target), load_tuning_log(target), precision=precision)
    inputs = seeded_inputs(part.inputs, seed)
    expected = OnnxRuntimeReference(part).run(inputs)
    comparisons: dict[str, list[TensorComparison]] = {}
    with session.load(compiled) as loaded:
        loaded.set_inputs(inputs, timeout=RUN_TIMEOUT)
        for _ in range(_CALLS):
            actual = loaded.invoke(timeout=RUN_TIMEOUT)
            for name, value in expected.items():
                comparisons.setdefault(name, []).append(compare_tensors(name, value, actual[name]))
    tolerance = tolerance_for(artifact.manifest.precision)
    failing = [worst for worst in map(fold, comparisons.values()) if worst.failure(tolerance)]
    return max(failing, key=lambda tensor: tensor.normalised_error or float("inf"), default=None)


def _simplification_differs(artifact: Artifact, model: Model, seed: int) -> bool:
    inputs = seeded_inputs(model.inputs, seed)
    expected = OnnxRuntimeReference(model).run(inputs)
    simplified = OnnxRuntimeReference(dataclasses.replace(model, source=None)).run(inputs)
    tolerance = tolerance_for(artifact.manifest.precision)
    return any(compare_tensors(name, value, simplified[name]).failure(tolerance) for name, value in expected.items())


def _as_model(proto: onnx.ModelProto, model: Model) -> Model:
    from onnx import helper

    from edgevit.model import TensorSpec

    outputs = tuple(
        TensorSpec(
            value.name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in proto.graph.output
    )
    return dataclasses.replace(model, proto=proto, source=None, outputs=outputs)
