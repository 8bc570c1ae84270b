"""Powers of two of numbers that are not positive, in as few instructions as possible, for softmax in attention."""

from __future__ import annotations

from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.functions import clip

LOG2_E = 1.4426950408889634

# 2**f for |f| <= 1/2, highest power first: the polynomial through (0, 1) of least relative error (1e-7), found by
# linear programming over Chebyshev points; 1.7e-7 with float32's rounding.
_POWERS = (1.326472036630037e-3, 9.671513022335586e-3, 5.550733777650721e-2, 0.2402224207698363, 0.6931469775578205)
_LOWEST = -126.0
_ROUNDER = 12582912.0  # 1.5 * 2**23: a float32 this large has no fraction, and its low bits are the integer added


def exp2_nonpositive(builder: KernelBuilder, value: Expr, lanes: int) -> Expr:
    """2 to the power of float32 ``value`` <= 0; 2**-126 below -126, NaN for NaN.

    The integer part goes into the exponent bits, the rest through a polynomial of degree five.
    """
    rounder = builder.constant(_ROUNDER, lanes=lanes)
    value = builder.bind(clip(value, low=_LOWEST), "clamped")
    # As integers in between: TVM's simplifier would take the rounder off again.
    whole = "int32" if lanes == 1 else f"int32x{lanes}"
    real = whole.replace("int", "float")
    shifted = builder.bind(tirx.reinterpret(whole, value + rounder), "shifted")
    fraction = builder.bind(value - (tirx.reinterpret(real, shifted) - rounder), "fraction")
    power = builder.constant(_POWERS[0], lanes=lanes)
    for coefficient in (*_POWERS[1:], 1.0):
        power = power * fraction + builder.constant(coefficient, lanes=lanes)
    exponent = shifted << builder.constant(23, "int32", lanes)
    return tirx.reinterpret(real, tirx.reinterpret(whole, power) + exponent)
