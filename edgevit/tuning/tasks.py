"""What there is to tune: the distinct kernels of models, and what a call of each gets.

A kernel is tuned once however many calls and models have its workload. What it is called with comes from the first
node that has it: tensors of the node's shapes, and the node's own constants, packed as a program packs them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgevit.compiler.kernels import least_tasks
from edgevit.target_schema import Target
from edgevit.targets import require_cpu
from edgevit.tuning.alike import Signature, signature
from edgevit.tuning.records import Choice, TuningLog
from edgevit.tuning.space import Space
from edgevit.tuning.workloads import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgevit.compiler.graph import Node, Tensor
    from edgevit.compiler.kernels import KernelFamily
    from edgevit.model import Model


@dataclass(frozen=True, eq=False)
class Task:
    """A kernel to tune.

    Attributes:
        key: of the workload.
        family: that writes the kernel.
        workload: of the family.
        target: to generate code for.
        calls: of the kernel in one inference, by model.
        inputs: of the node, without absent ones; those that are constants hold their data.
        outputs: of the node.
        leader: key of the task that decides how this one's weights are packed, where one artifact serves several image
            sizes; None where this one decides.
        pinned: choices that are made already.
        threads: that the kernel will be timed with; fewer than the target's cores leave no say in how work is cut.
    """

    key: str
    family: KernelFamily
    workload: Any
    target: Target
    calls: Mapping[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    leader: str | None = None
    pinned: Mapping[str, int] = field(default_factory=dict)
    threads: int | None = None

    @property
    def module(self) -> str:
        """Name of the family's module, by which another process finds it."""
        return cast("ModuleType", self.family).__name__

    @property
    def layout(self) -> tuple[str, ...]:
        """Names of the choices that the packed weights depend on."""
        return tuple(getattr(self.family, "LAYOUT", ()))

    @cached_property
    def signature(self) -> Signature:
        """What tells which other tasks are alike."""
        return signature(describe(self.family, self.workload))

    @cached_property
    def default(self) -> Choice:
        """The family's own choice."""
        if self.pinned:
            return self.family.analytic_default(self.workload, self.target, self.pinned)  # type: ignore[call-arg]
        return self.family.analytic_default(self.workload, self.target)

    @cached_property
    def space(self) -> Space:
        """What may be chosen."""
        return Space.of(self.family.space(self.workload, self.target), self.default, self.pinned, self._accept)

    @cached_property
    def _accept(self) -> Callable[[Choice], bool] | None:
        """What tells choices with enough tasks, where measurements cannot."""
        family, workload, target = self.family, self.workload, self.target
        count = getattr(family, "tasks", None)
        if count is None or self.threads is None or self.threads >= target.cores:
            return None
        least = least_tasks(family, workload, target)
        return lambda choice: count(workload, target, choice) >= least

    def pin(self, choice: Mapping[str, int]) -> Task:
        """This task after its leader took ``choice``: only what packs the weights alike is left."""
        pinned = {name: choice[name] for name in self.layout}
        return Task(
            self.key,
            self.family,
            self.workload,
            self.target,
            self.calls,
            self.inputs,
            self.outputs,
            self.leader,
            pinned,
            self.threads,
        )

    def arguments(self, choice: Choice, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What the kernel of a choice is called with, without its outputs.

        An input that the node takes twice is the same array twice, as it is the same memory in a program.

        Args:
            choice: decides how weights are packed.
            values: of the inputs that are not constants, such as :meth:`draw` makes.
        """
        constants = [tensor.data for tensor in self.inputs if tensor.data is not None]
        pack = getattr(self.family, "pack", None)
        packed = iter(pack(self.workload, self.target, choice, constants) if pack and constants else constants)
        given = iter(values)
        return [next(packed if tensor.is_constant else given) for tensor in self.inputs]

    def draw(self, seed: int = 0) -> list[NDArray[Any]]:
        """Values for the inputs that are not constants: normal numbers, or integers that index anything."""
        draw = np.random.default_rng(seed)
        taken = [tensor for tensor in self.inputs if not tensor.is_constant]
        values = {tensor: _values(draw, tensor) for tensor in dict.fromkeys(taken)}
        return [values[tensor] for tensor in taken]

    def layout_of(self, choice: Mapping[str, int]) -> tuple[int, ...]:
        """Equal for choices whose weights are packed alike."""
        return tuple(choice[name] for name in self.layout)


def extract_tasks(models: Mapping[str, Model], target: Target, threads: int | None = None) -> list[Task]:
    """The distinct kernels of models, in the order in which they are first called.

    The same file at several image sizes is taken for one artifact, as ``edgevit compile`` does: the largest image
    decides how weights are packed, and which family computes a layer.

    Args:
        models: by a name of each, which tells whose calls are counted.
        target: to tune for.
        threads: that kernels will be timed with; None for the target's cores.

    Raises:
        ModelError: a shape is not known before the model runs.
        UserError: the target's kernels run on a GPU.
    """
    require_cpu(target, "Tuning")
    found: dict[str, _Found] = {}
    order = sorted(models, key=lambda name: models[name].sha256)
    for _, names in groupby(order, key=lambda name: models[name].sha256):
        _extract_artifact({name: models[name] for name in names}, target, found)
    return [entry.task(target, threads) for entry in found.values()]


@dataclass
class _Found:
    """A workload while models are read."""

    key: str
    family: KernelFamily
    workload: Any
    node: Node
    calls: Counter[str] = field(default_factory=Counter)
    leaders: set[str | None] = field(default_factory=set)

    def task(self, target: Target, threads: int | None) -> Task:
        # Where any artifact leaves it free, it is tuned freely.
        leader = None if None in self.leaders else min(filter(None, self.leaders))
        inputs = tuple(tensor for tensor in self.node.inputs if tensor is not None)
        outputs = tuple(self.node.outputs)
        calls = dict(self.calls)
        return Task(self.key, self.family, self.workload, target, calls, inputs, outputs, leader, threads=threads)


def _extract_artifact(models: Mapping[str, Model], target: Target, found: dict[str, _Found]) -> None:
    import tvm

    from edgevit.compiler.kernels import workload_key
    from edgevit.compiler.prepare import prepare
    from edgevit.compiler.program import KernelLibrary

    library = KernelLibrary(target, TuningLog())
    leaders: dict[bytes, tuple[KernelFamily, str]] = {}
    with tvm.target.Target(target.tvm_target()):
        graphs = {name: prepare(model, target) for name, model in models.items()}
        for name in sorted(graphs, key=lambda name: -sum(tensor.size for tensor in graphs[name].inputs)):
            for node in graphs[name].nodes:
                claimed = library.claim(node) if node.op != "reshape" else None
                if claimed is None:
                    continue
                family, workload = claimed
                library.choose(node, family, workload)  # notes how the weights are packed
                key = workload_key(family, workload)
                entry = found.setdefault(key, _Found(key, family, workload, node))
                entry.calls[name] += 1
                entry.leaders.add(_leader(node, family, key, leaders))


def _leader(node: Node, family: KernelFamily, key: str, leaders: dict[bytes, tuple[KernelFamily, str]]) -> str | None:
    """The workload that packed a node's weights before; None where this one does."""
    data = next((tensor.data for tensor in node.inputs if tensor is not None and tensor.data is not None), None)
    if data is None or not getattr(family, "LAYOUT", ()):
        return None
    digest = hashlib.blake2b(f"{data.shape}{data.dtype}".encode() + np.ascontiguousarray(data).tobytes()).digest()
    packer, first = leaders.setdefault(digest, (family, key))
    return None if first == key or packer is not family else first


def _values(draw: np.random.Generator, tensor: Tensor) -> NDArray[Any]:
    # 0 and 1 are valid as truth values, as pixels and as indices of any axis but those of one element.
    kind = np.dtype(tensor.dtype)
    if np.issubdtype(kind, np.floating):
        return draw.standard_normal(tensor.shape).astype(kind)
    return draw.integers(0, 2, tensor.shape).astype(kind)
