"""What a record says of its workload: in words for people, and whether its kernel family still has that version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgevit.tuning.record import About

if TYPE_CHECKING:
    from edgevit.compiler.kernels import KernelFamily

TVM_FAMILY = "tvm"
TVM_VERSION = 1
"""Of ``tvm`` records: raised when what they hold changes."""

_LONGEST = 1000


def describe(family: KernelFamily, workload: Any) -> About:
    """A workload in words, from its fields: sizes joined by ``x``, then the operations fused behind it.

    Args:
        family: that claimed it.
        workload: its dataclass.
    """
    from edgevit.compiler.pointwise import Pointwise

    epilogue, shape = "", [] if workload.__class__.__name__ == "Workload" else [workload.__class__.__name__.lower()]
    for field in fields(workload):
        value = getattr(workload, field.name)
        if isinstance(value, Pointwise):
            epilogue = " ".join(term.op for term in value.terms)
        elif field.name != "dtype" and value is not None:
            shape.append(f"{field.name} {_text(value)}")
    dtype = getattr(getattr(workload, "windows", workload), "dtype", "float32")
    return About(family=family.NAME, shape=_cut("; ".join(shape)), dtype=dtype, epilogue=_cut(epilogue))


@cache
def family_versions() -> Mapping[str, int]:
    """The version of every kernel family, and of ``tvm`` records; imports TVM."""
    from edgevit.compiler.kernels import families

    return {TVM_FAMILY: TVM_VERSION, **{family.NAME: family.VERSION for family in families()}}


def _text(value: Any) -> str:
    if is_dataclass(value):
        named = ((field.name, getattr(value, field.name)) for field in fields(value) if field.name != "dtype")
        return " ".join(f"{name} {_text(part)}" for name, part in named)
    if isinstance(value, tuple):
        nested = any(isinstance(part, tuple) for part in value)
        return (" " if nested else "x").join(f"({_text(part)})" if nested else _text(part) for part in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
