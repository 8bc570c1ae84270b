"""The compiler's ideas, and simpler functions that take their place: what ``docs/ablate.py`` measures.

Patches replace attributes of the compiler's modules. They are made where a model is compiled, and nowhere else: the
compiler itself has no switches. Whoever compiles with one gets slower code that computes the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from edgevit.compiler.graph import Graph, Node, Tensor

Patch = tuple[Any, str, Any]
"""A module or class, the name of one of its attributes, and what takes its place."""


@dataclass(frozen=True)
class Idea:
    """Something that the compiler does to make code faster, and can do without.

    Attributes:
        name: short and unique.
        group: of the table.
        off: what happens instead.
        patches: what to replace. Called in the process that compiles: it imports the compiler.
    """

    name: str
    group: str
    off: str
    patches: Callable[[], Sequence[Patch]]


@contextlib.contextmanager
def without(idea: Idea) -> Iterator[None]:
    """Compile without an idea while the block runs."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in idea.patches():
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


# Rewrites: how the graph is changed.


def _no_rewrites(*names: str) -> Callable[[], Sequence[Patch]]:
    def patches() -> Sequence[Patch]:
        from edgevit.compiler import rewrite

        return [(rewrite, "REWRITES", tuple(step for step in rewrite.REWRITES if step.name not in names))]

    return patches


def _no_fusion(*names: str) -> Callable[[], Sequence[Patch]]:
    def patches() -> Sequence[Patch]:
        from edgevit.compiler.rewrite import fuse

        return [(fuse, name, lambda *_: False) for name in names]

    return patches


def _spelled_out_norms() -> Sequence[Patch]:
    from edgevit.compiler import rewrite
    from edgevit.compiler.rewrite import Rewrite

    def apply(graph: Graph) -> None:
        for node in list(graph.nodes):
            last = node.attrs.get("axis", -1) in (-1, len(node.output.shape) - 1)
            if node.op == "LayerNormalization" and last and len(node.outputs) == 1:
                _spell_out(graph, node)

    spelled = Rewrite("layer_norm", apply)
    steps = (spelled if step.name == "layer_norm" else step for step in rewrite.REWRITES)
    return [(rewrite, "REWRITES", tuple(steps))]


def _spell_out(graph: Graph, norm: Node) -> None:
    """Layer normalization of the last axis in the steps of ONNX's definition."""
    import numpy as np

    from edgevit.compiler.graph import Node

    x = norm.input(0)
    number = graph.constant("two", np.asarray(2, x.dtype))
    epsilon = graph.constant("epsilon", np.asarray(norm.attrs.get("epsilon", 1e-5), x.dtype))

    def step(op: str, *inputs: Tensor) -> Tensor:
        reduces = op == "ReduceMean"
        output = graph.tensor(x, (*x.shape[:-1], 1) if reduces or inputs[0].shape[-1] == 1 else x.shape)
        attrs = {"axes": (-1,), "keepdims": 1} if reduces else {}
        graph.insert_before(norm, Node(op, list(inputs), [output], attrs, norm.layers))
        return output

    centred = step("Sub", x, step("ReduceMean", x))
    variance = step("ReduceMean", step("Pow", centred, number))
    normal = step("Div", centred, step("Sqrt", step("Add", variance, epsilon)))
    scaled = step("Mul", normal, norm.input(1))
    norm.op, norm.attrs = ("Add", {}) if norm.has(2) else ("Identity", {})
    norm.inputs = [scaled, norm.input(2)] if norm.has(2) else [scaled]
    graph.changed()


def _first_walk() -> Sequence[Patch]:
    from edgevit.compiler import rewrite
    from edgevit.compiler.rewrite import Rewrite, sink

    first = Rewrite("sink", lambda graph: sink.apply(graph, trials=0))
    return [(rewrite, "REWRITES", tuple(first if step.name == "sink" else step for step in rewrite.REWRITES))]


def _importer() -> Sequence[Patch]:
    from edgevit.compiler import prepare

    return [(prepare, "rewrite", lambda _: None)]


def _plain_loops() -> Sequence[Patch]:
    from edgevit.compiler.kernels import default

    return [*_importer(), (default, "schedule", lambda *_: None)]


# Kernels: how one operation is written.


def _tile(rows: int, vectors: int) -> Callable[[], Sequence[Patch]]:
    def patches() -> Sequence[Patch]:
        from edgevit.compiler.kernels import families

        return [
            (family, "best_tile", lambda *_, **__: (rows, vectors))
            for family in families()
            if hasattr(family, "best_tile")
        ]

    return patches


def _no_winograd() -> Sequence[Patch]:
    from edgevit.compiler.kernels import winograd

    return [(winograd, "claim", lambda _: None)]


def _attention_tile() -> Sequence[Patch]:
    from edgevit.compiler.kernels import attention

    default, one = attention.analytic_default, {"vectors": 1, "key_rows": 1, "value_rows": 1}
    return [(attention, "analytic_default", lambda workload, target: {**default(workload, target), **one})]


def _window_tile() -> Sequence[Patch]:
    from edgevit.compiler.kernels import depthwise, pool

    one = {"columns": 1, "rows": 1, "unroll": 0, "inner": 1}
    return [(family, "window_default", lambda *_, **__: dict(one)) for family in (depthwise, pool)]


def _half_vectors() -> Sequence[Patch]:
    from edgevit.target_schema import Vector

    return [
        (Vector, "lanes", lambda vector, element_bits=32: max(1, vector.bits // element_bits // 2)),
        (Vector, "bytes", property(lambda vector: vector.bits // 16)),
    ]


def _bias_last() -> Sequence[Patch]:
    from edgevit.compiler.kernels import epilogue

    return [(epilogue, "bias_operand", lambda *_: None)]


def _library_exp() -> Sequence[Patch]:
    from tvm import tirx

    from edgevit.compiler.kernels import attention_nest, function_parts, functions

    def exp_parts(_scope: object, x: Any, *, negate: bool = False, exact: bool = False) -> tuple[Any, Any]:
        del exact  # the library always is
        return tirx.exp(-x if negate else x), function_parts.constant(x, 1.0)

    return [
        (functions, "exp_parts", exp_parts),
        (function_parts, "exp_parts", exp_parts),
        (attention_nest, "exp2_nonpositive", lambda _builder, value, _lanes: tirx.exp2(value)),
    ]


def _one_strip() -> Sequence[Patch]:
    from edgevit.compiler.kernels import conv

    default = conv.analytic_default

    def whole(workload: conv.Workload, target: Any) -> dict[str, int]:
        _, height, width, _ = workload.output
        return {**default(workload, target), "block": width if workload.flat else height, "panels": 1}

    return [(conv, "analytic_default", whole)]


def _serial() -> Sequence[Patch]:
    from edgevit.compiler.kernels.builder import KernelBuilder

    return [(KernelBuilder, "parallel", lambda builder, extent, name="task": builder.loop(extent, name))]


# Program: how kernels are put together.


def _no_reuse() -> Sequence[Patch]:
    from itertools import accumulate

    from edgevit.compiler import program
    from edgevit.compiler.memory import Lifetime, aligned

    def side_by_side(blocks: Sequence[Lifetime]) -> tuple[list[int], int]:
        *offsets, total = accumulate((aligned(block.size) for block in blocks), initial=0)
        return offsets, total

    return [(program, "plan", side_by_side)]


def _one_by_one() -> Sequence[Patch]:
    from itertools import groupby

    from edgevit.compiler import lower

    def parts(nodes: Sequence[Any], covers: Callable[[Any], bool]) -> Iterator[tuple[bool, list[Any]]]:
        for covered, run in groupby(nodes, covers):
            together = list(run)
            yield from ((True, [node]) for node in together) if covered else [(False, together)]

    return [(lower, "groupby", parts)]


IDEAS = {
    idea.name: idea
    for idea in (
        Idea("merge-linear", "rewrites", "queries, keys and values as three products", _no_rewrites("merge_linear")),
        Idea(
            "epilogues",
            "rewrites",
            "elementwise work behind a kernel, but for a convolution's own bias, is a kernel of its own",
            _no_fusion("_into_anchor"),
        ),
        Idea(
            "fusion",
            "rewrites",
            "every elementwise operator is a kernel of its own, but for a convolution's own bias",
            _no_fusion("_into_anchor", "_merge_producer"),
        ),
        Idea("concat", "rewrites", "concatenations are copied before a convolution", _no_fusion("_absorb_concat")),
        Idea("activations", "rewrites", "activations as spelled: SiLU is x × sigmoid(x)", _no_rewrites("activations")),
        Idea(
            "layer-norm",
            "rewrites",
            "layer normalisation in the steps of its definition: reductions and elementwise work",
            _spelled_out_norms,
        ),
        Idea(
            "attention",
            "rewrites",
            "products, softmax and permutations",
            _no_rewrites("attention", "attention_of_images"),
        ),
        Idea(
            "sink",
            "rewrites",
            "images permuted to NHWC and back at every operator, which also keeps elementwise work apart",
            _no_rewrites("sink"),
        ),
        Idea("sink-trials", "rewrites", "the first way found to move permutations, no alternatives", _first_walk),
        Idea("all", "rewrites", "TVM's importer and fusion, with edgevit's schedule of last resort", _importer),
        Idea("plain", "rewrites", "the same in TVM's loops, without a schedule", _plain_loops),
        Idea("tile-1x1", "kernels", "products: register tiles of 1 row × 1 vector", _tile(1, 1)),
        Idea("tile-4x1", "kernels", "products: 4 rows × 1 vector", _tile(4, 1)),
        Idea("tile-8x2", "kernels", "products: 8 rows × 2 vectors, whatever the shape", _tile(8, 2)),
        Idea("winograd", "kernels", "3 × 3 convolutions computed directly", _no_winograd),
        Idea("attention-tile", "kernels", "attention: 1 row × 1 vector of queries", _attention_tile),
        Idea("window-tile", "kernels", "depthwise and pools: one pixel at a time, taps in a loop", _window_tile),
        Idea("vectors", "kernels", "vectors half as wide", _half_vectors),
        Idea("bias", "kernels", "accumulators start from zero, the bias is added at the end", _bias_last),
        Idea("exp", "kernels", "the C library's exponential in SiLU, sigmoid and softmax", _library_exp),
        Idea(
            "strips",
            "kernels",
            "convolutions: the whole image is one task, on one thread, not strips for the L2 cache",
            _one_strip,
        ),
        Idea("parallel", "kernels", "every kernel on one thread", _serial),
        Idea("memory", "program", "every value in memory of its own", _no_reuse),
        Idea("segments", "program", "Relax's virtual machine calls the kernels one by one", _one_by_one),
    )
}
