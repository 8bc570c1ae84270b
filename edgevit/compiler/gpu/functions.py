"""Elementwise programs on a GPU: the operations of CPU kernels, with the device's own elementary functions.

Only what OpenCL C and the Metal language both have, as TVM spells it, is used. Limits are chosen so that nothing
overflows to NaN where devices compute elementary functions quickly rather than exactly. Minima, maxima and clipping
are selections, which keep NaN. Programs compute in float32 whatever their operands' floats are stored as, and in
int32 what is stored in fewer bits: sums of bytes wrap when they are narrowed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor
from typing import Any

from tvm import tirx

from edgevit.compiler.kernels import pointwise_ops
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.function_parts import constant, polynomial
from edgevit.compiler.kernels.functions import (
    ERF,
    ERF_LIMIT,
    EXPM1,
    LOG1P,
    NORMAL,
    NORMAL_LIMIT,
    TANH,
    TANH_LIMIT,
)
from edgevit.compiler.kernels.pointwise_ops import OPERATIONS, Operation, typed
from edgevit.compiler.pointwise import Pointwise, Term

_LOWEST_EXPONENT = -87.3
"""exp is a normal number above."""
_SMALL = -0.3466
"""Minus half of ln(2): down to here the polynomial for exp(x) - 1 is good."""
_NARROW = ("int8", "uint8")
_MOVES = ("identity", "cast", "where", "constant")


def apply_program(builder: KernelBuilder, program: Pointwise, values: Sequence[Expr], lanes: int) -> Expr:
    """Result of a program, as :func:`edgevit.compiler.kernels.pointwise_ops.apply_program`, in a GPU's operations."""
    return pointwise_ops.apply_program(builder, program, values, lanes, _compute)


def _compute(builder: KernelBuilder, term: Term, args: list[Expr], lanes: int) -> Expr:
    operation = GPU_OPERATIONS.get(term.op) or OPERATIONS[term.op]
    dtype = typed("float32" if term.dtype == "float16" else term.dtype, lanes)
    if term.op in _MOVES or not args or not str(args[0].ty).startswith(_NARROW):
        return operation.emit(builder, args, term.params, dtype)
    wide = [arg.astype(typed("int32", lanes)) for arg in args]
    result = operation.emit(builder, wide, term.params, dtype)
    return result if _is_bool(result) else result.astype(dtype)


def at_least(x: Expr, bound: float) -> Expr:
    """The larger of x and a number; NaN for NaN."""
    limit = constant(x, bound)
    return tirx.Select(x < limit, limit, x)


def at_most(x: Expr, bound: float) -> Expr:
    """The smaller of x and a number; NaN for NaN."""
    limit = constant(x, bound)
    return tirx.Select(x > limit, limit, x)


def between(builder: KernelBuilder, x: Expr, low: float, high: float) -> Expr:
    """x held between two numbers; an infinite bound costs nothing."""
    x = builder.bind(at_least(builder.bind(x), low)) if low != float("-inf") else builder.bind(x)
    return at_most(x, high) if high != float("inf") else x


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)): 0 where the exponential is infinite."""
    one = constant(x, 1.0)
    return one / (one + tirx.exp(-x))


def tanh(builder: KernelBuilder, x: Expr) -> Expr:
    """Hyperbolic tangent, a rational function: no exponential that could become infinite."""
    return _odd_rational(builder, between(builder, x, -TANH_LIMIT, TANH_LIMIT), TANH)


def erf(builder: KernelBuilder, x: Expr) -> Expr:
    """Error function, which neither language has."""
    return _odd_rational(builder, between(builder, x, -ERF_LIMIT, ERF_LIMIT), ERF)


def gelu(builder: KernelBuilder, x: Expr) -> Expr:
    """x times the normal distribution function (erf form)."""
    # What multiplies is held as well, or the rounding of 1/2 - 1/2 would grow with x.
    low = builder.bind(at_least(x, -NORMAL_LIMIT))
    share = _odd_rational(builder, at_most(low, NORMAL_LIMIT), NORMAL)
    return low * (share + constant(x, 0.5))


def gelu_tanh(builder: KernelBuilder, x: Expr) -> Expr:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) as x * sigmoid(...)."""
    held = builder.bind(between(builder, x, -10.0, 10.0))
    cubic = held * held * constant(x, 0.07135481627) + constant(x, 1.5957691216)
    return x * sigmoid(builder.bind(held * cubic))


def softplus(builder: KernelBuilder, x: Expr) -> Expr:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|))."""
    small = builder.bind(tirx.exp(-tirx.abs(x)))
    return small * polynomial(small, LOG1P) + at_least(x, 0.0)


def mish(builder: KernelBuilder, x: Expr) -> Expr:
    """x * tanh(softplus(x)): with e = exp(x), tanh(log(1 + e)) is n / (n + 2) for n = e * (e + 2)."""
    low = builder.bind(at_least(x, _LOWEST_EXPONENT))
    e = builder.bind(tirx.exp(at_most(low, 20.0)))
    n = builder.bind(e * (e + constant(x, 2.0)))
    return low * (n / (n + constant(x, 2.0)))


def elu(builder: KernelBuilder, x: Expr, alpha: float = 1.0) -> Expr:
    """x above 0, else alpha * (exp(x) - 1), without cancellation near 0."""
    # No selections within selections: TVM decides what it can, and has no spelling for constant truth in vectors.
    zero = constant(x, 0.0)
    near = builder.bind(tirx.max(tirx.min(x, zero), constant(x, _SMALL)))
    beyond = builder.bind(tirx.exp(tirx.min(x, zero)) - constant(x, 1.0))
    below = builder.bind(tirx.Select(x < constant(x, _SMALL), beyond, x * polynomial(near, EXPM1)))
    return tirx.Select(x > zero, x, below * constant(x, alpha))


def power(builder: KernelBuilder, x: Expr, y: Expr) -> Expr:
    """x to the power of y, also where the device computes it as exp2(y * log2(x)) without looking at signs."""
    size = builder.bind(tirx.pow(tirx.abs(x), y), "size")
    one, nan = constant(x, 1.0), constant(x, float("nan"))
    exponent = _number(y)
    if exponent is not None:
        of_negative = nan if exponent % 1 else -size if exponent % 2 else size
        return tirx.Select(x < constant(x, 0.0), of_negative, size) if exponent else one
    half = builder.bind(y * constant(x, 0.5), "half")
    of_whole = builder.bind(tirx.Select(tirx.EQ(tirx.floor(half), half), size, -size))
    of_negative = builder.bind(tirx.Select(tirx.EQ(tirx.floor(y), y), of_whole, nan))
    signed = builder.bind(tirx.Select(x < constant(x, 0.0), of_negative, size))
    return tirx.Select(tirx.EQ(y, constant(x, 0.0)), one, signed)


def _odd_rational(builder: KernelBuilder, x: Expr, coefficients: tuple[Sequence[float], Sequence[float]]) -> Expr:
    x = builder.bind(x)
    square = builder.bind(x * x)
    numerator, denominator = (polynomial(square, part) for part in coefficients)
    return x * numerator / denominator


def _is_float(value: Expr) -> bool:
    return str(value.ty).startswith("float")


def _is_bool(value: Expr) -> bool:
    return str(value.ty).startswith("bool")


def _unary(function: Callable[[Expr], Expr]) -> Operation:
    return Operation(1, lambda _builder, args, _params, _dtype: function(args[0]))


def _function(function: Callable[..., Expr]) -> Operation:
    """Elementary function of a builder and a float; the term's parameters follow."""
    return Operation(1, lambda builder, args, params, _dtype: function(builder, args[0], *params))


def _power(builder: KernelBuilder, args: Sequence[Expr], params: Sequence[float], dtype: str) -> Expr:
    x, y = args
    exponent = _number(y)
    products = exponent is not None and abs(exponent) <= 16 and exponent * 2 == int(exponent * 2)
    if products or not _is_float(x):
        return OPERATIONS["pow"].emit(builder, args, params, dtype)
    return power(builder, x, y)


def _number(value: Expr) -> float | None:
    """The number that is in every lane, if it is known now."""
    scalar = value.value if isinstance(value, tirx.Broadcast) else value
    return float(scalar.value) if isinstance(scalar, (tirx.FloatImm, tirx.IntImm)) else None


def _extreme(*, least: bool) -> Operation:
    """Minimum or maximum that is NaN if either argument is."""

    def emit(builder: KernelBuilder, args: Sequence[Expr], _params: Sequence[float], _dtype: str) -> Expr:
        a, b = args
        chosen = tirx.Select(a < b if least else a > b, a, b)
        # Where the comparison fails, that is b, unless only a is NaN.
        if not _is_float(a) or _number(a) is not None:
            return chosen
        return tirx.Select(tirx.isnan(a), a, builder.bind(chosen))

    return Operation(2, emit)


def _clip(builder: KernelBuilder, args: Sequence[Expr], params: Sequence[float], _dtype: str) -> Expr:
    (x,), (low, high) = args, params
    if _is_float(x):
        return between(builder, x, low, high)
    # Bounds that the type cannot hold do not bound it.
    lowest, highest = (_limit(function, x) for function in (tirx.min_value, tirx.max_value))
    if low > lowest:
        x = builder.bind(at_least(x, highest if low >= highest else ceil(low)))
    return x if high >= highest else at_most(x, lowest if high <= lowest else floor(high))


def _limit(function: Callable[[str], Any], x: Expr) -> int:
    return int(function(str(x.ty).partition("x")[0]).value)


def _celu(builder: KernelBuilder, x: Expr, alpha: float) -> Expr:
    below = elu(builder, builder.bind(x * constant(x, 1 / alpha))) * constant(x, alpha)
    return tirx.Select(x > constant(x, 0.0), x, below)


def _convert(_builder: KernelBuilder, args: Sequence[Expr], _params: Sequence[float], dtype: str) -> Expr:
    """Another type: floats are truncated to integers, what is not zero becomes true."""
    (x,) = args
    given = str(x.ty)
    if given == dtype:
        return x
    if dtype.startswith("bool"):
        return tirx.NE(x, tirx.const(0, given))
    if given.startswith("bool"):
        # As integers, OpenCL's vectors of truth values hold -1.
        return tirx.Select(x, tirx.const(1, dtype), tirx.const(0, dtype))
    return x.astype(dtype)


def _equal(_builder: KernelBuilder, args: Sequence[Expr], _params: Sequence[float], _dtype: str) -> Expr:
    a, b = args
    return tirx.EQ(_integer(a), _integer(b)) if _is_bool(a) else tirx.EQ(a, b)


def _logical(function: Callable[..., Expr], arity: int = 2) -> Operation:
    """Of truth values, as integers: not all compilers have logical operators on vectors."""
    return Operation(arity, lambda _builder, args, _params, _dtype: function(*(_integer(arg) for arg in args)))


def _integer(truth: Expr) -> Expr:
    dtype = str(truth.ty).replace("bool", "int32")
    return tirx.Select(truth, tirx.const(1, dtype), tirx.const(0, dtype))


GPU_OPERATIONS: dict[str, Operation] = {
    "cast": Operation(1, _convert),
    "equal": Operation(2, _equal),
    "not": _logical(lambda a: tirx.EQ(a, constant(a, 0)), 1),
    "and": _logical(lambda a, b: tirx.NE(a * b, constant(a, 0))),
    "or": _logical(lambda a, b: tirx.NE(a + b, constant(a, 0))),
    "xor": _logical(tirx.NE),
    "min": _extreme(least=True),
    "max": _extreme(least=False),
    "clip": Operation(1, _clip),
    "relu": _unary(lambda x: at_least(x, 0)),
    "leaky_relu": Operation(
        1,
        lambda _b, args, params, _d: tirx.Select(
            args[0] < constant(args[0], 0.0), args[0] * constant(args[0], params[0]), args[0]
        ),
    ),
    "round": _unary(lambda x: tirx.round(x) if _is_float(x) else x),
    "pow": Operation(2, _power),
    "exp": _unary(tirx.exp),
    "log": _unary(tirx.log),
    "tanh": _function(tanh),
    "erf": _function(erf),
    "sigmoid": _unary(sigmoid),
    "silu": _unary(lambda x: x * sigmoid(x)),
    "gelu": _function(gelu),
    "gelu_tanh": _function(gelu_tanh),
    "hard_sigmoid": _function(
        lambda builder, x, alpha=0.2, beta=0.5: between(builder, x * constant(x, alpha) + constant(x, beta), 0.0, 1.0)
    ),
    "hard_swish": _function(
        lambda builder, x: x * between(builder, x * constant(x, 1 / 6) + constant(x, 0.5), 0.0, 1.0)
    ),
    "softplus": _function(softplus),
    "mish": _function(mish),
    "elu": _function(elu),
    "celu": _function(_celu),
    "selu": _function(lambda builder, x, alpha, gamma: elu(builder, x, alpha) * constant(x, gamma)),
}
"""Operations whose CPU form needs instructions that GPUs lack, or is slower than their own."""
