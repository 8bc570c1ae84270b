"""The epilogue's operands as a kernel's arguments."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import KernelBuilder
from edgevit.compiler.pointwise import Operand, Pointwise

NO_EPILOGUE = Pointwise((Operand(()),))
"""The accumulator as it is."""


def float_epilogue(node: Node) -> Pointwise | None:
    """The node's epilogue, the identity if it has none; None unless input and result are float32."""
    if node.input(0).dtype != "float32" or node.output.dtype != "float32":
        return None
    epilogue: Pointwise = node.attrs.get("epilogue") or NO_EPILOGUE
    return epilogue if epilogue.dtype == "float32" else None


def operand_arguments(builder: KernelBuilder, epilogue: Pointwise) -> list[Any]:
    """Parameters for all operands but the accumulator, in their order."""
    return [
        builder.argument(f"operand{number}", prod(operand.shape), operand.dtype)
        for number, operand in enumerate(epilogue.operands[1:], start=1)
    ]


def operand_bytes(epilogue: Pointwise) -> int:
    """Bytes of all operands but the accumulator."""
    return sum(prod(operand.shape) * np.dtype(operand.dtype).itemsize for operand in epilogue.operands[1:])
