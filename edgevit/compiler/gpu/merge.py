"""What GPUs merge beyond the rewrites: each merge spares a launch, and a tensor written and read again."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.compiler.gpu import product, separable
from edgevit.compiler.gpu.normalised import fits
from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.target_schema import Gpu

_FEW_CHANNELS = 4


def merge(graph: Graph, gpu: Gpu) -> None:
    """Change a rewritten graph.

    Products read NCHW images as they come, normalise their input on their own, or compute the depthwise convolution
    before them; attention whose queries, keys and values are one matrix takes it once.
    """
    for node in list(graph.nodes):
        if node.op == "permute":
            _read_planes(graph, node)
        elif node.op in ("layer_norm", "rms_norm"):
            _normalise_in_product(graph, node, gpu)
        elif node.op == "depthwise":
            _join_product(graph, node, gpu)
        elif node.op == "attention" and node.input(0) is node.input(1) is node.input(2):
            node.inputs = [node.input(0), *node.inputs[3:]]
            node.attrs["single"] = True
            graph.changed()
    graph.prune()


def _read_planes(graph: Graph, permute: Node) -> None:
    """A convolution reads an image of few channels where it lies, in planes."""
    image, output = permute.input(0), permute.output
    users = graph.users(output)
    if len(image.shape) != 4 or len(output.shape) != 4 or graph.is_output(output) or len(users) != 1:
        return
    batch, channels, height, width = image.shape
    (conv,) = users
    turns = tuple(permute.attrs["view"]) == (channels, height * width) and tuple(permute.attrs["perm"]) == (1, 0)
    reads_it_alone = conv.op == "conv" and conv.attrs.get("sources", 1) == 1 and conv.input(0) is output
    if batch != 1 or channels > _FEW_CHANNELS or not turns or output.shape != (batch, height, width, channels):
        return
    if reads_it_alone and conv.attrs.get("groups", 1) == 1 and output not in conv.inputs[1:]:
        conv.inputs[0] = image
        conv.attrs["planar"] = True
        conv.layers = (*permute.layers, *conv.layers)
        graph.changed()


def _normalise_in_product(graph: Graph, norm: Node, gpu: Gpu) -> None:
    """A product with constant weights takes in the normalisation before it; factors and addends join its constants."""
    x, output = norm.input(0), norm.output
    users = graph.users(output)
    program = norm.attrs.get("epilogue")
    if len(users) != 1 or graph.is_output(output) or (program is not None and program.terms):
        return
    (user,) = users
    constants = [norm.input(index) for index in (1, 2) if norm.has(index)]
    if not _multiplies_rows(user, output) or not all(t.is_constant for t in constants):
        return
    weight = user.input(1)
    if weight.data is None or not fits(x.shape[-1], gpu) or _operand_is(user, output):
        return
    data = weight.data.astype(np.float64)
    columns = data if user.op == "linear" else data[:, :, 0, 0].T
    if norm.has(2):
        _add_bias(graph, user, _values(norm.input(2)) @ columns)
    if norm.has(1):
        columns = _values(norm.input(1))[:, None] * columns
    folded = (columns if user.op == "linear" else columns.T[:, :, None, None]).astype(np.float32)
    user.inputs[0] = x
    user.inputs[1] = graph.constant(weight.name, np.ascontiguousarray(folded))
    user.attrs |= {"norm": float(norm.attrs["epsilon"]), "centred": norm.op == "layer_norm"}
    user.layers = (*norm.layers, *user.layers)
    graph.changed()


def _join_product(graph: Graph, first: Node, gpu: Gpu) -> None:
    """A product with constant weights computes the depthwise convolution whose result it alone reads."""
    output = first.output
    users = graph.users(output)
    if len(users) != 1 or graph.is_output(output) or output in users[0].inputs[1:]:
        return
    (second,) = users
    if second.op in ("conv", "linear") and second.input(1).is_constant and separable.fits(first, second, gpu):
        graph.nodes[graph.nodes.index(second)] = separable.join(first, second)
        graph.nodes.remove(first)
        graph.changed()


def _values(tensor: Tensor) -> np.ndarray[Any, Any]:
    assert tensor.data is not None
    return tensor.data.reshape(-1).astype(np.float64)


def _multiplies_rows(node: Node, x: Tensor) -> bool:
    """Whether a node multiplies each row of ``x`` with one constant matrix, whatever its shape looks like."""
    if node.input(0) is not x or "norm" in node.attrs:
        return False
    workload = product.claim(node)
    return workload is not None and workload.conv.flat


def _operand_is(node: Node, tensor: Tensor) -> bool:
    return tensor in node.inputs[1:]


def _add_bias(graph: Graph, node: Node, addend: np.ndarray[Any, Any]) -> None:
    """Add a constant per output channel before anything else in the epilogue."""
    shape = node.output.shape
    program: Pointwise = node.attrs.get("epilogue") or Pointwise((Operand(shape),))
    bias = graph.constant("bias", addend.astype(np.float32))
    added = Pointwise((Operand(program.operands[0].shape), Operand(bias.shape)), (Term("add", (0, 1)),))
    node.attrs["epilogue"] = added.then(program)
    node.inputs.insert(2, bias)
