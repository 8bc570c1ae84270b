"""Nodes that no kernel family covers: imported by TVM, scheduled by the family of last resort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.errors import ModelError
from edgevit.target_schema import Target

if TYPE_CHECKING:
    from edgevit.tuning.metaschedule.schedules import TvmSchedules

REST = "rest"
"""What the names of imported functions begin with."""
SEGMENT = "segment"
"""What the names of functions begin with that call kernels of ours."""


def import_nodes(
    nodes: Sequence[Node], graph: Graph, builder: Any, name: str
) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Add a Relax function that computes some consecutive nodes to a module under construction.

    Returns:
        Its global variable, the values it takes and those it returns.

    Raises:
        ModelError: TVM's importer refuses them.
    """
    from tvm.relax.frontend.onnx import from_onnx

    proto, inputs, outputs = to_onnx(nodes, graph)
    try:
        module = from_onnx(proto, keep_params_in_input=False, sanitize_input_names=True)
    except Exception as error:  # the importer raises whatever its operator converters raise
        raise ModelError(
            f"TVM cannot import this model: {_last_line(error)}.",
            where=", ".join(layer for node in nodes for layer in node.layers)[:200],
            advice="Run 'edgevit info' on it; exporting with a lower opset or simpler operators often helps.",
        ) from error
    return _join(module, builder, name), inputs, outputs


def _join(module: Any, builder: Any, name: str) -> Any:
    """Add the importer's ``main`` as ``name``, and the loops that it calls under names of their own."""
    from tvm import relax

    loops = {
        variable.name_hint: builder.add_func(function.without_attr("global_symbol"), f"{name}_{variable.name_hint}")
        for variable, function in module.functions_items()
        if variable.name_hint != "main"
    }

    @relax.expr_functor.mutator
    class Rename(relax.PyExprMutator):  # type: ignore[misc]
        def visit_global_var_(self, variable: Any) -> Any:
            return loops.get(variable.name_hint, variable)

    main = module["main"].without_attr("global_symbol")
    return builder.add_func(Rename(builder.get()).visit_expr(main) if loops else main, name)


def to_onnx(nodes: Sequence[Node], graph: Graph) -> tuple[Any, list[Tensor], list[Tensor]]:
    """ONNX model of some nodes, the values it takes and those it returns."""
    from onnx import helper, numpy_helper

    inside = {tensor for node in nodes for tensor in node.outputs}
    members = {id(node) for node in nodes}
    reads = dict.fromkeys(tensor for node in nodes for tensor in node.inputs if tensor is not None)
    inputs = [tensor for tensor in reads if not tensor.is_constant and tensor not in inside]
    outputs = [
        tensor
        for tensor in dict.fromkeys(t for node in nodes for t in node.outputs)
        if graph.is_output(tensor) or any(id(user) not in members for user in graph.users(tensor))
    ]
    names = {tensor: f"value{index}" for index, tensor in enumerate([*reads, *(inside - reads.keys())])}
    proto_nodes = [
        helper.make_node(
            node.op,
            [names[tensor] if tensor is not None else "" for tensor in node.inputs],
            [names[tensor] for tensor in node.outputs],
            domain=node.domain,
            **node.attrs,
        )
        for node in nodes
    ]
    constants = [numpy_helper.from_array(t.data, names[t]) for t in reads if t.data is not None]
    graph_proto = helper.make_graph(
        proto_nodes, "rest", [_info(t, names) for t in inputs], [_info(t, names) for t in outputs], constants
    )
    opsets = [helper.make_opsetid("", graph.opset)]
    return helper.make_model(graph_proto, opset_imports=opsets), inputs, outputs


def fuse_rest(module: Any, target: Target) -> Any | None:
    """What TVM imported as fused TIR functions that nobody has scheduled; None for a module without such operators."""
    import tvm
    from tvm import relax

    if not any(name.name_hint.startswith(REST) for name in module.get_global_vars()):
        return None
    fuse = tvm.transform.Sequential(
        [
            relax.transform.InlinePrivateFunctions(),
            relax.transform.DecomposeOpsForInference(),
            relax.transform.FoldConstant(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    if target.gpu is not None:
        from edgevit.compiler.gpu.build import gpu_target

        described = gpu_target(target)
    else:
        described = target.tvm_target()
    with tvm.target.Target(described):
        return fuse(module)


def schedule_rest(module: Any, target: Target, tuned: TvmSchedules) -> tuple[Any, dict[str, int]]:
    """Turn what TVM imported into scheduled loops; a module without such operators stays as it is.

    Args:
        module: of Relax functions.
        target: to schedule for.
        tuned: what MetaSchedule found; the rest takes the schedule of last resort.

    Returns:
        The module, and how many kernels each schedule took.
    """
    import tvm

    from edgevit.compiler.kernels.default import schedule_kernels

    ours = {name.name_hint for name in module.get_global_vars() if name.name_hint.startswith(SEGMENT)}
    fused = fuse_rest(module, target)
    if fused is None:
        return module, {}
    with tvm.target.Target(target.tvm_target()):
        return schedule_kernels(fused, target, skip=ours, tuned=tuned)


def _info(tensor: Tensor, names: dict[Tensor, str]) -> Any:
    import numpy as np
    from onnx import helper

    return helper.make_tensor_value_info(
        names[tensor], helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
