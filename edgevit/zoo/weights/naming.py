"""How other code calls the parameters of the zoo's models: rules that turn our names into theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Source = Literal["cvnets", "transformers", "timm"]

Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]
"""A pattern that is searched in a name, and what takes its place."""

STATISTICS: tuple[Rule, ...] = ((r"\.mean$", ".running_mean"), (r"\.var$", ".running_var"))
"""Every source calls the running statistics of batch norms like this."""

FUSED = tuple((rf"\.attention\.{role}\.(\w+)$", rf".attention.qkv.\1#{index}/3") for index, role in enumerate("qkv"))
"""Query, key and value as thirds of one layer's outputs."""


@dataclass(frozen=True)
class Origin:
    """Where a parameter is found.

    Attributes:
        name: of the tensor.
        part: which of ``parts`` equal slices of its first axis.
        parts: 1 where it is the whole tensor.
    """

    name: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Naming:
    """The names one source uses for one architecture.

    Attributes:
        architecture: as the graphs of the zoo's models are called, without variant and task.
        source: whose names they are.
        title: the model's name, for messages.
        marker: pattern that the full name of some tensor matches, and none of another naming.
        rules: applied one after the other to our names; ``#i/n`` at the end of the result stands for a slice.
        unused: pattern of tensors that inference does not need.
        padding: the model was trained with TensorFlow's padding and batch norm.
    """

    architecture: str
    source: Source
    title: str
    marker: str
    rules: tuple[Rule, ...]
    unused: str = r".*\.num_batches_tracked"
    padding: Literal["tensorflow"] | None = None

    def origin(self, name: str) -> Origin:
        """Where the parameter we call ``name`` is found."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        name, _, slices = name.partition("#")
        if not slices:
            return Origin(name)
        part, parts = slices.split("/")
        return Origin(name, int(part), int(parts))

    def matches(self, names: Iterable[str]) -> bool:
        """Whether tensors of these names are named like this."""
        return any(re.fullmatch(self.marker, name) for name in names)

    def needless(self, name: str) -> bool:
        """Whether inference does without the tensor."""
        return re.fullmatch(self.unused, name) is not None


def unit(ours: str, theirs: str, conv: str, norm: str) -> tuple[Rule, ...]:
    """Rules of a convolution followed by a batch norm."""
    start = rf"(^|\.){ours}"
    return ((rf"{start}\.conv\.", rf"\1{theirs}.{conv}."), (rf"{start}\.norm\.", rf"\1{theirs}.{norm}."))
