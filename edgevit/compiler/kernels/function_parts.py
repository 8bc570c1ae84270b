"""What elementary functions are made of: bindings, range reduction, polynomials, division, bounds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

from tvm import target, tirx

Expr = Any
"""A TIR expression; TVM's Python classes carry no types."""

_P = ParamSpec("_P")

# exp(r) = 1 + r * (...) for |r| <= ln(2) / 2, lowest power first; relative error 9.2e-8.
_EXP = (0.9999997019767761, 0.4999914765357971, 0.1666763871908188, 0.04189816117286682, 0.008290272206068039)
_LOG2_E = 1.4426950408889634
# ln(2) rounded to float32 (the error is only 2.7e-9 of it), and what is missing.
_LN2 = 0.6931471824645996
_LN2_REST = -1.9046542121259336e-09

_ROUNDER = 12582912.0  # 1.5 * 2**23: a float32 this large has no fraction, and its low bits are the integer added
# exp's argument is held where the exponent bits are not out of range: below, 2**n is 0 and above it is infinity.
EXP_LOWEST = -87.3
EXP_HIGHEST = 89.4
# Where quotients come from an approximate reciprocal, denominators have to stay below 2**126.
_FINITE_HIGHEST = 87.0


class Scope:
    """Values that are used more than once, each computed once."""

    def __init__(self) -> None:
        self._bound: list[tuple[Expr, Expr]] = []

    def bind(self, value: Expr) -> Expr:
        """A variable that stands for the value."""
        variable = tirx.Var("t", value.ty)
        self._bound.append((variable, value))
        return variable

    def close(self, result: Expr) -> Expr:
        """The result with what it refers to."""
        for variable, value in reversed(self._bound):
            result = tirx.Let(variable, value, result)
        return result


_Body = Callable[Concatenate[Scope, Expr, _P], Expr]
_Function = Callable[Concatenate[Expr, _P], Expr]


def elementwise(body: _Body[_P]) -> _Function[_P]:
    """Bind the argument and what the body binds; compute float16 in float32."""

    @functools.wraps(body)
    def function(x: Expr, /, *args: _P.args, **kwargs: _P.kwargs) -> Expr:
        scope = Scope()
        given = str(x.ty)
        wide = given.replace("float16", "float32")
        if not wide.startswith("float32"):
            raise ValueError(f"{body.__name__} takes float32 or float16, not {given}")
        result = body(scope, scope.bind(x if wide == given else x.astype(wide)), *args, **kwargs)
        return scope.close(result if wide == given else result.astype(given))

    # Help and editors would follow this to a signature that has a scope.
    vars(function).pop("__wrapped__")
    return function


def reduce_argument(
    scope: Scope, x: Expr, *, negate: bool = False, bias: int = 127, exact: bool = False
) -> tuple[Expr, Expr]:
    """(r, 2**(n + bias - 127)) with x = n * ln(2) + r, or with -x = n * ln(2) - r, and |r| <= ln(2) / 2.

    ``x`` is such that n + bias is from 0 (the scale is 0) to 255 (infinity). Not ``exact``, r is off by
    2e-9 * n, which multiplies the exponential's relative error at its ends only.
    """
    x = scope.bind(x)
    sign = -1.0 if negate else 1.0
    rounder = _ROUNDER + bias
    # As an integer in between: TVM's simplifier would take the rounder off again.
    shifted = scope.bind(tirx.reinterpret(integer_type(x), x * constant(x, sign * _LOG2_E) + constant(x, rounder)))
    n = scope.bind(tirx.reinterpret(str(x.ty), shifted) - constant(x, rounder))
    reduced = n * constant(x, -sign * _LN2) + x
    if exact:
        reduced = n * constant(x, -sign * _LN2_REST) + reduced
    scale = tirx.reinterpret(str(x.ty), shifted << constant(shifted, 23))
    return scope.bind(reduced), scope.bind(scale)


def exp_parts(scope: Scope, x: Expr, *, negate: bool = False, exact: bool = False) -> tuple[Expr, Expr]:
    """Two factors of exp(x), or of exp(-x), for x (or -x) from ``EXP_LOWEST`` to ``EXP_HIGHEST``.

    The first is 2 * exp(r) and the second half the power of two, which so reaches infinity only where the product
    does, and 0 just above the least normal number.
    """
    reduced, scale = reduce_argument(scope, x, negate=negate, bias=126, exact=exact)
    signs = (1, -1) if negate else (1, 1)
    coefficients = [2.0 * c * signs[place % 2] for place, c in enumerate((1.0, *_EXP))]
    return polynomial(reduced, coefficients), scale


def one_plus_exp_of_negative(scope: Scope, x: Expr) -> Expr:
    """1 + exp(-x), under the conditions of ``exp_parts``."""
    power, scale = exp_parts(scope, x, negate=True)
    return power * scale + constant(x, 1.0)


def odd_rational(scope: Scope, x: Expr, coefficients: tuple[Sequence[float], Sequence[float]]) -> Expr:
    """x * P(x**2) / Q(x**2) for the coefficients of P and Q, lowest power first."""
    x = scope.bind(x)
    square = scope.bind(x * x)
    numerator, denominator = (polynomial(square, part) for part in coefficients)
    return divide(scope, x * numerator, denominator)


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, lowest power first."""
    result = constant(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + constant(x, coefficient)
    return result


def divide(scope: Scope, numerator: Expr, denominator: Expr) -> Expr:
    """The quotient, for denominators from 1 to 2**126 where division is slow (relative error 1.5e-7 there).

    There the reciprocal starts from the bits (error 0.0505) and takes a cubic and a quadratic Newton step.
    """
    if not _division_is_slow():
        return numerator / denominator
    one, d = constant(denominator, 1.0), scope.bind(denominator)
    bits = tirx.reinterpret(integer_type(d), d)
    guess = scope.bind(tirx.reinterpret(str(d.ty), constant(bits, 0x7EF31000) - bits))
    error = scope.bind(one - d * guess)
    guess = scope.bind(guess * (error * error + error) + guess)
    quotient = scope.bind(numerator * guess)
    return quotient * (one - d * guess) + quotient


def _division_is_slow() -> bool:
    """Whether the target has no vector division: 32-bit ARM."""
    return _triple().startswith("arm")


def highest_exponent() -> float:
    """The largest x whose 1 + exp(x) ``divide`` takes."""
    return _FINITE_HIGHEST if _division_is_slow() else EXP_HIGHEST


def between(x: Expr, low: float, high: float) -> Expr:
    """min(high, max(low, x)); NaN stays NaN."""
    return at_most(at_least(x, low), high)


def at_least(x: Expr, bound: float) -> Expr:
    """max(bound, x); NaN stays NaN."""
    return _extreme(x, bound, "llvm.maximum", tirx.Max) if bound != float("-inf") else x


def at_most(x: Expr, bound: float) -> Expr:
    """min(bound, x); NaN stays NaN."""
    return _extreme(x, bound, "llvm.minimum", tirx.Min) if bound != float("inf") else x


def _extreme(x: Expr, bound: float, intrinsic: str, plain: Callable[[Expr, Expr], Expr]) -> Expr:
    """Minimum or maximum with a constant that keeps NaN, in one instruction.

    LLVM's own are one instruction on ARM and, for bounds other than zero, on x86. There, zero's sign would cost two
    more; a comparison with the constant first is one, and keeps NaN, but takes two on ARM.
    """
    limit = constant(x, bound)
    if bound == 0.0 and not _triple().startswith(("arm", "aarch64")):
        return plain(limit, x)
    return tirx.call_llvm_pure_intrin(x.ty, intrinsic, x, limit)


def _triple() -> str:
    current = target.Target.current(allow_none=True)
    return "" if current is None else str(current.attrs.get("mtriple", ""))


def constant(like: Expr, value: float) -> Expr:
    """A number in every lane of the type of ``like``."""
    return tirx.const(value, str(like.ty))


def integer_type(x: Expr) -> str:
    """The type of integers as wide and as many as ``x`` has."""
    return str(x.ty).replace("float", "int")
