"""Elementary functions as TIR expressions that vectorise: no library call, no table, no branch.

Every function takes a float32 or float16 expression, a scalar or a vector, and returns an expression of the same
type made of multiply-adds, minima and maxima, selections, integer shifts and, in some, one division. What is used
twice is bound by ``Let`` and computed once.

TVM's analysis, however, sees through ``Let`` and ``Bind`` alike: compiling a function of a function of a function takes
some twelve times longer for each. Longer chains should pass through a local buffer, which costs nothing in the code.

Build them inside ``with tvm.target.Target(...)``: 32-bit ARM has no vector division and gets an approximate reciprocal
instead, and ARM's maximum with zero is cheaper. Without a target, results are as good, and slower there.

Multiplications followed by additions are written to become fused multiply-adds where the target has them; error
bounds assume that. They hold over all finite float32 numbers; results below the least normal number (1.2e-38) may be
flushed to zero. NaN gives NaN, also through ``relu`` and ``clip``. float16 is computed in float32 and rounded once.

Coefficients are minimax fits made for this file (Lawson's reweighted least squares in double precision), rounded to
float32; the fit's error is stated with each.
"""

from __future__ import annotations

import functools

from tvm import tirx

from edgevit.compiler.kernels.function_parts import (
    EXP_HIGHEST,
    EXP_LOWEST,
    Expr,
    Scope,
    at_least,
    at_most,
    between,
    constant,
    divide,
    elementwise,
    exp_parts,
    highest_exponent,
    integer_type,
    odd_rational,
    one_plus_exp_of_negative,
    polynomial,
    reduce_argument,
)

EXP_ERROR = 2.5e-7
"""Relative error of ``exp`` where the result is normal."""
SIGMOID_ERROR = 5e-7
"""Relative error of ``sigmoid``, ``silu`` and ``mish`` for x above -86.9; 4e-7 above -20."""
TANH_ERROR = 4e-7
"""Relative error of ``tanh``, so that up to 1.0000004 can come out; exactly 1 for large arguments."""
ERF_ERROR = 4.5e-7
"""Relative error of ``erf``, so that up to 1.0000005 can come out; exactly 1 for large arguments."""
GELU_ERROR = 2.5e-7
"""Error of ``gelu`` and ``gelu_tanh`` as a multiple of ``|x|``, and of 10 where x is below -10."""
LOG_ERROR = 2e-7
"""Relative error of ``log``."""
SOFTPLUS_ERROR = 5e-7
"""Relative error of ``softplus`` where the result is normal."""

# fmt: off
# (exp(r) - 1) / r for |r| <= ln(2) / 2, lowest power first; relative error 1.1e-8.
EXPM1 = (
    1.0, 0.4999999701976776, 0.16666506230831146,
    0.041667137295007706, 0.008369104005396366, 0.0013888872927054763
)
# tanh(x) / x in x**2 for |x| <= 9.02: numerator, denominator; relative error 2.1e-8. All positive: no cancellation.
# At the exact limit, as at those below, the quotient rounds to what it tends to: 1, 1 and 1/2.
TANH_LIMIT = 9.020000457763672
TANH = (
    (1.0, 0.13379718363285065, 0.003494034521281719, 2.0583482182701118e-05, 1.3319072955653155e-08),
    (1.0, 0.4671303331851959, 0.025871073827147484, 0.0003283092810306698, 7.762019436086121e-07),
)
# erf(x) / x in x**2 for |x| <= 3.93; relative error 1.9e-8.
ERF_LIMIT = 3.929999351501465
ERF = (
    (1.1283791065216064, 0.19078388810157776, 0.05279029160737991,
     0.003779611550271511, 0.0002848086878657341, 2.041970674326876e-06),
    (1.0, 0.5024105310440063, 0.11425754427909851,
     0.014997442252933979, 0.0011652132961899042, 3.800408012466505e-05),
)
# (normal distribution function - 1/2) / x in x**2 for |x| <= 5.45; relative error 1.5e-8.
NORMAL_LIMIT = 5.4499993324279785
NORMAL = (
    (0.3989422619342804, 0.03323901444673538, 0.004639808088541031,
     0.00016257521929219365, 6.3114384829532355e-06, 2.325825221305422e-08),
    (1.0, 0.24998429417610168, 0.028294933959841728,
     0.0018492959206923842, 7.164759881561622e-05, 1.209266770274553e-06),
)
# (log(1 + f) - f) / f**2 for 1 + f from sqrt(1/2) to sqrt(2); error 4.1e-9 of log(1 + f).
_LOG = (
    -0.49999988079071045, 0.33333325386047363, -0.25001582503318787, 0.2000197470188141, -0.16609081625938416,
    0.14181813597679138, -0.13242985308170319, 0.12904493510723114, -0.07621856033802032
)
# log(1 + u) / u for u from 0 to 1; relative error 3.0e-8.
LOG1P = (
    0.9999999403953552, -0.4999949336051941, 0.3331909775733948, -0.2484298199415207, 0.19106006622314453,
    -0.13663244247436523, 0.07822593301534653, -0.029505226761102676, 0.005232691299170256
)
# fmt: on

# ln(2) with nine trailing zero bits, so that products with exponents are exact, and the rest.
_LN2_HIGH = 0.693145751953125
_LN2_LOW = 1.428606765330187e-06


@elementwise
def exp(scope: Scope, x: Expr, *, nonpositive: bool = False) -> Expr:
    """Exponential, relative error ``EXP_ERROR``; 0 below -87 (results under 1.65e-38), infinity above 88.72.

    ``nonpositive`` promises that x is never above 0, as in a softmax: one instruction less.
    """
    x = at_least(x, EXP_LOWEST)
    power, scale = exp_parts(scope, x if nonpositive else at_most(x, EXP_HIGHEST), exact=True)
    return power * scale


@elementwise
def sigmoid(scope: Scope, x: Expr) -> Expr:
    """1 / (1 + exp(-x)), relative error ``SIGMOID_ERROR``; 0 below -88.72 (1.7e-38 where division is slow)."""
    x = at_most(at_least(x, -highest_exponent()), -EXP_LOWEST)
    return divide(scope, constant(x, 1.0), one_plus_exp_of_negative(scope, x))


@elementwise
def silu(scope: Scope, x: Expr) -> Expr:
    """x * sigmoid(x), relative error ``SIGMOID_ERROR``; between 0 and -1.5e-36 below -87, also for minus infinity."""
    low = scope.bind(at_least(x, -highest_exponent()))
    return divide(scope, low, one_plus_exp_of_negative(scope, at_most(low, -EXP_LOWEST)))


@elementwise
def tanh(scope: Scope, x: Expr) -> Expr:
    """Hyperbolic tangent, relative error ``TANH_ERROR``: a rational function of degree 9 / 8."""
    return odd_rational(scope, between(x, -TANH_LIMIT, TANH_LIMIT), TANH)


@elementwise
def erf(scope: Scope, x: Expr) -> Expr:
    """Error function, relative error ``ERF_ERROR``: a rational function of degree 11 / 10."""
    return odd_rational(scope, between(x, -ERF_LIMIT, ERF_LIMIT), ERF)


@elementwise
def gelu(scope: Scope, x: Expr) -> Expr:
    """x times the normal distribution function (erf form), error ``GELU_ERROR`` times |x|."""
    # What multiplies is held as well, or the rounding of 1/2 - 1/2 would grow with x.
    low = scope.bind(at_least(x, -NORMAL_LIMIT))
    return low * (odd_rational(scope, at_most(low, NORMAL_LIMIT), NORMAL) + constant(x, 0.5))


@elementwise
def gelu_tanh(scope: Scope, x: Expr) -> Expr:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) as x * sigmoid(...).

    The error is ``GELU_ERROR`` times |x|.
    """
    # 10.09 and -10.02 are where the sigmoid's argument reaches the bounds of the exponential.
    low = scope.bind(at_least(x, -10.09 if highest_exponent() == EXP_HIGHEST else -10.0))
    held = scope.bind(at_most(low, 10.0))
    cubic = held * held * constant(x, 0.07135481627) + constant(x, 1.5957691216)
    return divide(scope, low, one_plus_exp_of_negative(scope, scope.bind(held * cubic)))


@elementwise
def hard_sigmoid(scope: Scope, x: Expr, alpha: float = 0.2, beta: float = 0.5) -> Expr:
    """max(0, min(1, alpha * x + beta)), ONNX's defaults."""
    return between(scope.bind(x * constant(x, alpha) + constant(x, beta)), 0.0, 1.0)


@elementwise
def hard_swish(_: Scope, x: Expr) -> Expr:
    """x * max(0, min(1, x / 6 + 1 / 2)); NaN for minus infinity, as in ONNX's formula."""
    return x * between(x * constant(x, 1 / 6) + constant(x, 0.5), 0.0, 1.0)


@elementwise
def relu(_: Scope, x: Expr) -> Expr:
    """max(0, x), exact."""
    return at_least(x, 0.0)


@elementwise
def clip(_: Scope, x: Expr, low: float = float("-inf"), high: float = float("inf")) -> Expr:
    """min(high, max(low, x)), exact; an infinite bound costs nothing."""
    return between(x, low, high)


@elementwise
def softplus(scope: Scope, x: Expr) -> Expr:
    """log(1 + exp(x)), relative error ``SOFTPLUS_ERROR``; 0 below -87."""
    power, scale = exp_parts(scope, at_least(-tirx.abs(x), EXP_LOWEST), exact=True)
    small = scope.bind(power * scale)
    return small * polynomial(small, LOG1P) + at_least(x, 0.0)


@elementwise
def log(scope: Scope, x: Expr) -> Expr:
    """Natural logarithm, relative error ``LOG_ERROR``; minus infinity for 0, NaN for negative numbers.

    Subnormal arguments count as they are where the target does not flush them.
    """
    tiny = x < constant(x, 1.1754943508222875e-38)
    normal = scope.bind(tirx.Select(tiny, x * constant(x, 2.0**23), x))
    whole = integer_type(x)
    bits = scope.bind(tirx.reinterpret(whole, normal))
    # 0x3f3504f3 is sqrt(1/2): the mantissa lands between that and sqrt(2).
    exponent = scope.bind((bits - constant(bits, 0x3F3504F3)) >> constant(bits, 23))
    mantissa = tirx.reinterpret(str(x.ty), bits - (exponent << constant(bits, 23)))
    scale = scope.bind(exponent.astype(str(x.ty)) - tirx.Select(tiny, constant(x, 23.0), constant(x, 0.0)))
    f = scope.bind(mantissa - constant(x, 1.0))
    result = f * f * polynomial(f, _LOG) + scale * constant(x, _LN2_LOW)
    result = scale * constant(x, _LN2_HIGH) + (result + f)
    infinity = constant(x, float("inf"))
    edge = tirx.Select(tirx.EQ(x, constant(x, 0.0)), -infinity, constant(x, float("nan")))
    return tirx.Select(x > constant(x, 0.0), tirx.Select(x < infinity, result, x), edge)


@elementwise
def sqrt(_: Scope, x: Expr) -> Expr:
    """Square root, correctly rounded: one instruction (one per lane on 32-bit ARM)."""
    return tirx.sqrt(x)


@elementwise
def rsqrt(_: Scope, x: Expr) -> Expr:
    """1 / sqrt(x), two roundings."""
    return constant(x, 1.0) / tirx.sqrt(x)


@elementwise
def reciprocal(_: Scope, x: Expr) -> Expr:
    """1 / x, correctly rounded: one instruction (one per lane on 32-bit ARM)."""
    return constant(x, 1.0) / x


@elementwise
def mish(scope: Scope, x: Expr) -> Expr:
    """x * tanh(softplus(x)), relative error ``SIGMOID_ERROR``; one exponential, one division; 0 below -87."""
    # With e = exp(x), tanh(log(1 + e)) = n / (n + 2) for n = e * (e + 2); above 20 that is 1.
    low = scope.bind(at_least(x, EXP_LOWEST))
    power, scale = exp_parts(scope, at_most(low, 20.0))
    e = scope.bind(power * scale)
    n = scope.bind(e * (e + constant(x, 2.0)))
    return low * divide(scope, n, n + constant(x, 2.0))


@elementwise
def elu(scope: Scope, x: Expr, alpha: float = 1.0) -> Expr:
    """x above 0, else alpha * (exp(x) - 1), relative error 3e-7 without cancellation near 0."""
    reduced, scale = reduce_argument(scope, between(x, EXP_LOWEST, 1.0), exact=True)
    small = reduced * polynomial(reduced, EXPM1)
    negative = small * scale + (scale - constant(x, 1.0))
    return tirx.Select(x > constant(x, 0.0), x, negative * constant(x, alpha))


@elementwise
def leaky_relu(_: Scope, x: Expr, alpha: float = 0.01) -> Expr:
    """x above 0, else alpha * x."""
    scaled = x * constant(x, alpha)
    return tirx.Max(x, scaled) if 0.0 < alpha <= 1.0 else tirx.Select(x > constant(x, 0.0), x, scaled)


@elementwise
def power(scope: Scope, x: Expr, exponent: float) -> Expr:
    """x to a constant power that is a multiple of one half from -16 to 16, by multiplications and a square root.

    Half powers are NaN for negative x. The relative error grows by 6e-8 with every multiplication.

    Raises:
        ValueError: the exponent is another.
    """
    if abs(exponent) > 16 or exponent * 2 != int(exponent * 2):
        raise ValueError(f"{exponent} is not a multiple of one half from -16 to 16")
    factors = [tirx.sqrt(x)] if exponent % 1 else []
    square, whole = x, int(abs(exponent))
    while whole:
        if whole & 1:
            factors.append(square)
        whole >>= 1
        if whole:
            square = scope.bind(square * square)
    product = functools.reduce(lambda a, b: a * b, factors) if factors else constant(x, 1.0)
    return product if exponent >= 0 else constant(x, 1.0) / product
