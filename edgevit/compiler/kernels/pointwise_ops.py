"""The operations of elementwise programs, on scalars and vectors.

Arithmetic is numpy's: minima and maxima keep NaN, integers wrap, comparisons give ``bool``, ``round`` goes to the
even neighbour. Integer ``div`` truncates as ONNX's does; integer ``mod`` takes the divisor's sign and ``fmod`` the
dividend's. Operations without vector instructions (a general ``pow``, ``sin``, ``cos``) call the C library
lane by lane: slow, but exact to its accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, floor
from typing import Any, NamedTuple

from tvm import tirx

from edgevit.compiler.kernels import functions
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.pointwise import Operand, Pointwise, Term

Emitter = Callable[[KernelBuilder, Sequence[Expr], Sequence[float], str], Expr]
"""Result from arguments (each cheap to repeat), parameters and the result's type, lanes included."""

Loader = Callable[[tuple[Expr, ...], int], Expr]


class Operation(NamedTuple):
    """What a term computes: its number of arguments, and the expression."""

    arity: int
    emit: Emitter


def compute_term(builder: KernelBuilder, term: Term, args: list[Expr], lanes: int) -> Expr:
    """Value of one term on a CPU."""
    return OPERATIONS[term.op].emit(builder, args, term.params, typed(term.dtype, lanes))


def apply_program(
    builder: KernelBuilder,
    program: Pointwise,
    values: Sequence[Expr],
    lanes: int,
    compute: Callable[[KernelBuilder, Term, list[Expr], int], Expr] = compute_term,
) -> Expr:
    """Result of a program; every intermediate value is computed once.

    Args:
        builder: kernel under construction; intermediate values are bound there.
        program: what to compute.
        values: one per operand, all of ``lanes`` lanes.
        lanes: of the result.
        compute: value of a term from its arguments.
    """
    uses = Counter(index for term in program.terms for index in term.args)
    known = [bind(builder, value) if uses[index] else value for index, value in enumerate(values)]
    for position, term in enumerate(program.terms):
        value = compute(builder, term, [known[index] for index in term.args], lanes)
        last = position == len(program.terms) - 1
        known.append(value if last or term.op == "constant" else bind(builder, value))
    return known[-1] if program.terms else known[0]


def operand_strides(operand: Operand, out_shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index of each output axis to the next, 0 along axes that the operand repeats."""
    shape = (1,) * (len(out_shape) - len(operand.shape)) + operand.shape[max(0, len(operand.shape) - len(out_shape)) :]
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(0 if extent == 1 else step)
        step *= extent
    return tuple(reversed(strides))


def operand_loader(builder: KernelBuilder, operand: Operand, buffer: Any, out_shape: Sequence[int]) -> Loader:
    """Reader of an operand by position in the output.

    Returns:
        Function of the coordinates of the first lane, one per output axis, and the number of lanes, which run along
        the last axis. It reads a vector, or one element for all lanes where the last axis is repeated.
    """
    strides = operand_strides(operand, out_shape)

    def load(coordinates: tuple[Expr, ...], lanes: int) -> Expr:
        index: Expr = 0
        for coordinate, stride in zip(coordinates, strides, strict=True):
            if stride:
                index = index + (coordinate if stride == 1 else coordinate * stride)
        if strides and strides[-1]:
            return builder.load(buffer, index, lanes)
        return builder.splat(builder.load(buffer, index), lanes)

    return load


def bind(builder: KernelBuilder, value: Expr) -> Expr:
    """Name for a value, except for vectors of truth values, which TVM cannot name: they are cheap to repeat."""
    return value if str(value.ty).startswith("boolx") else builder.bind(value)


def call(builder: KernelBuilder, function: Callable[..., Expr], x: Expr, *params: float) -> Expr:
    """Elementary function of a float, with what it names inside as statements."""
    return builder.flatten(function(x, *params))


def typed(dtype: str, lanes: int) -> str:
    """TVM's name for a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def convert(value: Expr, dtype: str) -> Expr:
    """``value`` in another type: floats are truncated to integers, what is not zero becomes true."""
    given = str(value.ty)
    if given == dtype:
        return value
    if dtype.startswith("bool"):
        return tirx.NE(value, tirx.const(0, given))
    if given.startswith("bool") and dtype.startswith("float"):
        return tirx.Select(value, tirx.const(1.0, dtype), tirx.const(0.0, dtype))
    return value.astype(dtype)


def _is_float(value: Expr) -> bool:
    return str(value.ty).startswith(("float", "bfloat"))


def _is_bool(value: Expr) -> bool:
    return str(value.ty).startswith("bool")


def _number(value: Expr) -> float | None:
    """The number that is in every lane, if it is known now."""
    scalar = value.value if isinstance(value, tirx.Broadcast) else value
    return float(scalar.value) if isinstance(scalar, (tirx.FloatImm, tirx.IntImm)) else None


def _const(like: Expr, value: float) -> Expr:
    kind = str(like.ty)
    return tirx.const(float(value) if _is_float(like) else int(value), kind)


def _widened(emit: Callable[..., Expr], args: Sequence[Expr]) -> Expr:
    """Computed in float32 where the arguments are float16."""
    given = str(args[0].ty)
    if not given.startswith("float16"):
        return emit(*args)
    return emit(*(arg.astype(given.replace("float16", "float32")) for arg in args)).astype(given)


def _unary(emit: Callable[[Expr], Expr]) -> Operation:
    return Operation(1, lambda _builder, args, _params, _dtype: emit(args[0]))


def _binary(emit: Callable[[Expr, Expr], Expr]) -> Operation:
    return Operation(2, lambda _builder, args, _params, _dtype: emit(*args))


def _function(function: Callable[..., Expr]) -> Operation:
    """Elementary function of floats; the term's parameters follow its argument."""
    return Operation(1, lambda builder, args, params, _dtype: call(builder, function, args[0], *params))


def _library(function: Callable[..., Expr], arity: int) -> Operation:
    return Operation(arity, lambda _builder, args, _params, _dtype: _widened(function, args))


def _constant(_builder: KernelBuilder, _args: Sequence[Expr], params: Sequence[float], dtype: str) -> Expr:
    value = params[0] if dtype.startswith("float") else int(params[0])
    return tirx.const(bool(value) if dtype.startswith("bool") else value, dtype)


def _extreme(name: str) -> Operation:
    """Minimum or maximum that is NaN if either argument is."""
    plain = tirx.min if name == "minimum" else tirx.max

    def emit(builder: KernelBuilder, args: Sequence[Expr], _params: Sequence[float], _dtype: str) -> Expr:
        a, b = args
        if not _is_float(a):
            return plain(a, b)
        if _number(a) is not None:
            a, b = b, a
        bound = _number(b)
        if bound is not None:
            low, high = (bound, float("inf")) if name == "maximum" else (float("-inf"), bound)
            return call(builder, functions.clip, a, low, high)
        return _widened(lambda x, y: tirx.call_llvm_pure_intrin(x.ty, f"llvm.{name}", x, y), [a, b])

    return Operation(2, emit)


def _divide(a: Expr, b: Expr) -> Expr:
    return a / b if _is_float(a) else tirx.truncdiv(a, b)


def _modulo(a: Expr, b: Expr) -> Expr:
    remainder = tirx.truncmod(a, b)
    if str(a.ty).startswith("uint"):
        return remainder
    zero = _const(a, 0)
    wrong_sign = tirx.Select(b < zero, remainder > zero, remainder < zero)
    return tirx.Select(wrong_sign, remainder + b, remainder)


def _power(builder: KernelBuilder, args: Sequence[Expr], _params: Sequence[float], _dtype: str) -> Expr:
    a, b = args
    exponent = _number(b)
    if exponent is not None and abs(exponent) <= 16 and exponent * 2 == int(exponent * 2):
        if _is_float(a):
            return call(builder, functions.power, a, exponent)
        if exponent in (1, 2, 3):
            return a if exponent == 1 else a * a if exponent == 2 else a * a * a
    if _is_float(a):
        return _widened(tirx.pow, [a, b])
    wide = str(a.ty).replace("int64", "float64").replace("int32", "float64")
    return tirx.pow(a.astype(wide), b.astype(wide)).astype(str(a.ty))


def _equal(a: Expr, b: Expr) -> Expr:
    return tirx.Select(a, b, tirx.Not(b)) if _is_bool(a) else tirx.EQ(a, b)


def _sign(x: Expr) -> Expr:
    # Zero and NaN are their own sign.
    negative = x if str(x.ty).startswith("uint") else tirx.Select(x < _const(x, 0), _const(x, -1), x)
    return tirx.Select(x > _const(x, 0), _const(x, 1), negative)


def _negative(x: Expr) -> Expr:
    return x * _const(x, -1.0) if _is_float(x) else _const(x, 0) - x


def _rounding(function: Callable[[Expr], Expr]) -> Operation:
    return _unary(lambda x: _widened(function, [x]) if _is_float(x) else x)


def _relu(builder: KernelBuilder, args: Sequence[Expr], _params: Sequence[float], _dtype: str) -> Expr:
    (x,) = args
    return call(builder, functions.relu, x) if _is_float(x) else tirx.max(x, _const(x, 0))


def _clip(builder: KernelBuilder, args: Sequence[Expr], params: Sequence[float], _dtype: str) -> Expr:
    (x,), (low, high) = args, params
    if _is_float(x):
        return call(builder, functions.clip, x, low, high)
    # Bounds that the type cannot hold do not bound it.
    lowest, highest = (_limit(function, x) for function in (tirx.min_value, tirx.max_value))
    if low > lowest:
        x = tirx.max(x, _const(x, highest if low >= highest else ceil(low)))
    return x if high >= highest else tirx.min(x, _const(x, lowest if high <= lowest else floor(high)))


def _limit(function: Callable[[str], Expr], x: Expr) -> int:
    return int(function(str(x.ty).partition("x")[0]).value)


def _prelu(x: Expr, slope: Expr) -> Expr:
    return tirx.Select(x < _const(x, 0), x * slope, x)


def _celu(builder: KernelBuilder, args: Sequence[Expr], params: Sequence[float], _dtype: str) -> Expr:
    (x,), alpha = args, params[0]
    below = call(builder, functions.elu, builder.bind(x * _const(x, 1 / alpha))) * _const(x, alpha)
    return tirx.Select(x > _const(x, 0), x, below)


def _selu(builder: KernelBuilder, args: Sequence[Expr], params: Sequence[float], _dtype: str) -> Expr:
    alpha, gamma = params
    return call(builder, functions.elu, args[0], alpha) * _const(args[0], gamma)


def _thresholded_relu(_builder: KernelBuilder, args: Sequence[Expr], params: Sequence[float], _dtype: str) -> Expr:
    (x,) = args
    return tirx.Select(x > _const(x, params[0]), x, _const(x, 0))


OPERATIONS: dict[str, Operation] = {
    "constant": Operation(0, _constant),
    "identity": _unary(lambda x: x),
    "cast": Operation(1, lambda _builder, args, _params, dtype: convert(args[0], dtype)),
    "add": _binary(lambda a, b: a + b),
    "sub": _binary(lambda a, b: a - b),
    "mul": _binary(lambda a, b: a * b),
    "div": _binary(_divide),
    "mod": _binary(_modulo),
    "fmod": _binary(tirx.truncmod),
    "pow": Operation(2, _power),
    "min": _extreme("minimum"),
    "max": _extreme("maximum"),
    "neg": _unary(_negative),
    "abs": _unary(lambda x: x if str(x.ty).startswith("uint") else tirx.abs(x)),
    "sign": _unary(_sign),
    "square": _unary(lambda x: x * x),
    "floor": _rounding(tirx.floor),
    "ceil": _rounding(tirx.ceil),
    "round": _rounding(tirx.nearbyint),
    "sqrt": _function(functions.sqrt),
    "rsqrt": _function(functions.rsqrt),
    "reciprocal": _function(functions.reciprocal),
    "exp": _function(functions.exp),
    "log": _function(functions.log),
    "sin": _library(tirx.sin, 1),
    "cos": _library(tirx.cos, 1),
    "tanh": _function(functions.tanh),
    "erf": _function(functions.erf),
    "sigmoid": _function(functions.sigmoid),
    "silu": _function(functions.silu),
    "gelu": _function(functions.gelu),
    "gelu_tanh": _function(functions.gelu_tanh),
    "hard_sigmoid": _function(functions.hard_sigmoid),
    "hard_swish": _function(functions.hard_swish),
    "softplus": _function(functions.softplus),
    "softsign": _unary(lambda x: x / (tirx.abs(x) + _const(x, 1))),
    "mish": _function(functions.mish),
    "relu": Operation(1, _relu),
    "leaky_relu": _function(functions.leaky_relu),
    "prelu": _binary(_prelu),
    "thresholded_relu": Operation(1, _thresholded_relu),
    "clip": Operation(1, _clip),
    "elu": _function(functions.elu),
    "celu": Operation(1, _celu),
    "selu": Operation(1, _selu),
    "where": Operation(3, lambda _builder, args, _params, _dtype: tirx.Select(*args)),
    "equal": _binary(_equal),
    "less": _binary(lambda a, b: a < b),
    "less_equal": _binary(lambda a, b: a <= b),
    "greater": _binary(lambda a, b: a > b),
    "greater_equal": _binary(lambda a, b: a >= b),
    "not": _unary(tirx.Not),
    "and": _binary(tirx.And),
    "or": _binary(tirx.Or),
    "xor": _binary(lambda a, b: tirx.Select(a, tirx.Not(b), b)),
}
"""Operations by name.

Parameters: ``constant`` (value), ``clip`` (low, high), ``leaky_relu``, ``elu``, ``celu`` and ``thresholded_relu``
(alpha), ``selu`` (alpha, gamma), ``hard_sigmoid`` (alpha, beta). ``where`` takes condition, then, otherwise. The
result of ``cast`` has the term's type.
"""

_ANY = frozenset(
    {
        "constant",
        "identity",
        "cast",
        "add",
        "sub",
        "mul",
        "div",
        "mod",
        "fmod",
        "pow",
        "min",
        "max",
        "neg",
        "abs",
        "sign",
    }
    | {"square", "floor", "ceil", "round", "relu", "clip", "where"}
    | {"equal", "less", "less_equal", "greater", "greater_equal"}
)
_LOGICAL = frozenset({"not", "and", "or", "xor"})
_ON_BOOL = _LOGICAL | {"constant", "identity", "cast", "where", "equal"}
_TYPES = frozenset({"float32", "float16", "int32", "int64", "int8", "uint8", "bool"})


def is_supported(program: Pointwise) -> bool:
    """Whether every term is a known operation on types it can compute."""
    types = [operand.dtype for operand in program.operands]
    for term in program.terms:
        operation = OPERATIONS.get(term.op)
        if operation is None or len(term.args) != operation.arity or not _types_fit(term.op, term.args, types):
            return False
        types.append(term.dtype)
    return set(types) <= _TYPES


def _types_fit(op: str, args: Sequence[int], types: Sequence[str]) -> bool:
    given = [types[index] for index in args]
    if op == "where":
        return given[0] == "bool" and given[1] == given[2]
    if len(set(given)) > 1:
        return False
    if "bool" in given:
        return op in _ON_BOOL
    if op in ("mod", "fmod"):
        return not given[0].startswith("float")
    if op == "pow" and given[0] in ("int8", "uint8"):
        return False
    return op not in _LOGICAL and (op in _ANY or given[0].startswith("float"))
