"""Elementary functions over the whole float range, against numpy and scipy in double precision."""

import re
from typing import Any

import numpy as np
import pytest
import scipy.special
import tvm
from numpy.typing import NDArray
from tvm import tirx

from edgevit.compiler.kernels import functions
from edgevit.targets import get_target

LEAST_NORMAL = 1.7e-38  # just above float32's, where scaling by powers of two may have flushed
FUNCTIONS = {
    "exp": np.exp,
    "sigmoid": scipy.special.expit,
    "silu": lambda x: x * scipy.special.expit(x),
    "tanh": np.tanh,
    "erf": scipy.special.erf,
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "gelu_tanh": lambda x: x * scipy.special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "softplus": lambda x: np.logaddexp(0, x),
    "log": np.log,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}
RELATIVE = {
    "exp": functions.EXP_ERROR,
    "sigmoid": functions.SIGMOID_ERROR,
    "silu": functions.SIGMOID_ERROR,
    "mish": functions.SIGMOID_ERROR,
    "tanh": functions.TANH_ERROR,
    "erf": functions.ERF_ERROR,
    "softplus": functions.SOFTPLUS_ERROR,
    "log": functions.LOG_ERROR,
    "elu": 3e-7,
    "leaky_relu": 1.5e-7,
    "relu": 0.0,
    "sqrt": 6e-8,
    "rsqrt": 1.2e-7,
    "reciprocal": 6e-8,
}
DIVIDING = ("sigmoid", "silu", "tanh", "erf", "gelu", "gelu_tanh", "mish")
IN_SINGLE = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflow and NaN are what is tested


@pytest.fixture(scope="module")
def arguments() -> NDArray[np.float32]:
    """Every exponent with many mantissas, the interesting intervals densely, and the special numbers."""
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 20, dtype=np.uint64).astype(np.uint32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.72, 88.73, -87.3, -103.9, 1.0, -1.0, 3.4e38]
    near = np.linspace(-20, 20, 1 << 19)
    far = np.linspace(-110, 110, 1 << 18)
    small = np.geomspace(1e-38, 1, 1 << 16)
    values = np.concatenate([bits.view(np.float32), near, far, small, -small, 1 - small, special]).astype(np.float32)
    return np.resize(values, -(-len(values) // 256) * 256)  # whole vectors, also of every 16th


@IN_SINGLE
@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_stays_within_its_bound(name: str, lanes: int, arguments: NDArray[np.float32]) -> None:
    x = arguments if lanes == 16 else arguments[::16]
    check(name, x, run(getattr(functions, name), x, lanes))


@IN_SINGLE
@pytest.mark.parametrize("name", DIVIDING)
def test_error_stays_within_its_bound_where_division_is_approximated(name: str, arguments: NDArray[np.float32]) -> None:
    check(name, arguments, run(getattr(functions, name), arguments, 16, scope="armv7-linux"))


@IN_SINGLE
@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_and_nan(name: str) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0], np.float32), 16)
    nan, up, down, zero = run(getattr(functions, name), x, 16)[:4]
    expected = FUNCTIONS[name](np.array([np.inf, -np.inf, 0.0]))
    if name in ("silu", "gelu", "gelu_tanh", "mish"):
        expected[1] = 0.0  # the limit; the reference is -inf * 0
    assert np.isnan(nan)
    np.testing.assert_allclose([up, down, zero], expected, rtol=1e-6, atol=1e-30)


@IN_SINGLE
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float16_is_rounded_once(name: str) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    y = run(getattr(functions, name), x, 16)
    expected = FUNCTIONS[name](x.astype(np.float64))
    finite = np.isfinite(expected) & (np.abs(expected) < 65504)
    spacing = np.spacing(np.maximum(np.abs(expected[finite]), 2**-14).astype(np.float16)).astype(np.float64)
    inherent = functions.GELU_ERROR * np.abs(x[finite].astype(np.float64)) if name == "gelu" else 0.0
    assert np.max((np.abs(y[finite] - expected[finite]) - inherent) / spacing) < 0.52
    assert np.all(np.isnan(y[np.isnan(x)]))


@IN_SINGLE
def test_exponential_of_softmax(arguments: NDArray[np.float32]) -> None:
    x = np.where(np.isnan(arguments), np.float32(0), -np.abs(arguments))
    check("exp", x, run(lambda v: functions.exp(v, nonpositive=True), x, 16))


def test_clip() -> None:
    x = np.array([-2, 0, 3, np.nan, 7, np.inf, -np.inf, 6], np.float32)
    expected = {(0.0, 6.0): np.clip(x, 0, 6), (-1.0, np.inf): np.maximum(x, -1), (-np.inf, 0.0): np.minimum(x, 0)}
    for (low, high), clipped in expected.items():
        np.testing.assert_array_equal(run(lambda v, a=low, b=high: functions.clip(v, a, b), x, 4), clipped)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, 8, 16, -1, -2, -3, 0.5, -0.5, 1.5, 2.5])
def test_power(exponent: float) -> None:
    x = np.linspace(0.1, 5, 64, dtype=np.float32)
    y = run(lambda v: functions.power(v, exponent), x, 4)
    np.testing.assert_allclose(y, x.astype(np.float64) ** exponent, rtol=6e-8 * (2 + 2 * abs(exponent)))


@pytest.mark.parametrize("exponent", [0.3, 17, -20])
def test_power_refuses_other_exponents(exponent: float) -> None:
    with pytest.raises(ValueError, match="multiple of one half"):
        functions.power(tirx.Var("x", "float32"), exponent)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="float32 or float16, not int32"):
        functions.exp(tirx.Var("x", "int32"))


def test_functions_of_functions_survive_unrolling() -> None:
    def nested(v: Any) -> Any:
        for _ in range(3):
            v = functions.silu(v)
        return v

    x = np.linspace(-3, 30, 64, dtype=np.float32)
    expected = x.astype(np.float64)
    for _ in range(3):
        expected = FUNCTIONS["silu"](expected)
    for kind in (tirx.ForKind.UNROLLED, tirx.ForKind.SERIAL):
        np.testing.assert_allclose(run(nested, x, 16, kind=kind), expected, rtol=2e-6, atol=1e-7)


def test_scalar_expressions_vectorise() -> None:
    x = np.linspace(-9, 9, 64, dtype=np.float32)
    for name in ("silu", "gelu", "exp", "hard_swish"):
        vectorised = run(getattr(functions, name), x, 16, vectorise=True)
        np.testing.assert_array_equal(vectorised, run(getattr(functions, name), x, 16))


@pytest.mark.parametrize(
    ("target", "lanes", "register"),
    [("rpi5", 4, r"\.4s"), ("armv7-linux", 4, r"\bq\d"), ("x86-64-v3", 8, "ymm"), ("x86-64-v4", 16, "zmm")],
)
def test_code_has_no_call_and_no_lane_by_lane_work(target: str, lanes: int, register: str) -> None:
    for name in FUNCTIONS:
        buffers = [tirx.decl_buffer((1024 * lanes,), name=buffer) for buffer in "xy"]
        code = kernel(getattr(functions, name), buffers, lanes, scope=target).inspect_source("asm")
        calls = re.findall(r"^\s+(?:blx?|callq?|b)\s+([a-z]\w+)", code, re.MULTILINE)
        math = [
            call for call in calls if re.fullmatch(r"(exp|log|tanh|erf|round|nearbyint|rint|floor|fm\w*)\d?f?", call)
        ]
        assert not math, f"{name} calls {math}"
        assert re.search(register, code), name
        if target == "armv7-linux" and name not in ("sqrt", "rsqrt", "reciprocal"):
            assert "vdiv" not in code, name


@pytest.mark.parametrize(
    ("name", "most"), [("silu", 13), ("exp", 13), ("tanh", 13), ("erf", 15), ("gelu", 17), ("gelu_tanh", 16)]
)
def test_instructions_per_vector(name: str, most: int) -> None:
    # Long enough that LLVM does not unroll the loop whole; it unrolls by some factor, which stores count.
    buffers = [tirx.decl_buffer((1021 * 16,), name=buffer) for buffer in "xy"]
    code = kernel(getattr(functions, name), buffers, 16, scope="x86-64-v4").inspect_source("asm")
    vectors = [line.strip() for line in code.splitlines() if "zmm" in line]
    stores = sum(bool(re.match(r"vmov[au]ps\s+%zmm\d+, .*\(", line)) for line in vectors)
    work = [line for line in vectors if not re.match(r"vmov|vbroadcast|vpbroadcast", line)]
    assert stores > 0
    assert len(work) <= most * stores


def check(name: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    """Assert the documented bound of a function for its results ``y``."""
    wide = x.astype(np.float64)
    expected = FUNCTIONS[name](wide)
    finite = np.isfinite(expected) & (np.abs(expected) < 3.4028235e38) & (np.abs(expected) > LEAST_NORMAL)
    if name in ("silu", "mish"):
        finite &= x > -86.9
    if name in RELATIVE:
        assert np.all(np.abs(y - expected)[finite] <= RELATIVE[name] * np.abs(expected[finite]))
        # Subnormal factors may be flushed.
        lost = np.isfinite(expected) & ~finite & (np.abs(expected) < 1)
        assert np.all(np.abs(y - expected)[lost] <= (2e-36 if name in ("silu", "mish") else LEAST_NORMAL))
    elif name in ("gelu", "gelu_tanh"):
        size = np.where(x < -10, 10, np.abs(wide))[finite]
        assert np.all(np.abs(y - expected)[finite] <= functions.GELU_ERROR * size)
    elif name == "hard_swish":
        assert np.all(np.abs(y - expected)[finite] <= 2e-7 * np.abs(wide[finite]))
    else:
        assert np.all(np.abs(y - expected)[finite] <= 2e-7)
    assert np.array_equal(np.isnan(y), np.isnan(x) | (np.isnan(expected) & np.isnan(y)))


def run(
    function: Any,
    x: NDArray[Any],
    lanes: int,
    *,
    scope: str = "host",
    kind: Any = tirx.ForKind.SERIAL,
    vectorise: bool = False,
) -> NDArray[Any]:
    """``function`` of ``x`` on this machine, as built for the target ``scope``."""
    buffers = [tirx.decl_buffer(x.shape, str(x.dtype), name=name) for name in "xy"]
    compiled = kernel(function, buffers, lanes, scope=scope, machine="host", kind=kind, vectorise=vectorise)
    result = tvm.runtime.empty(x.shape, str(x.dtype))
    compiled["main"](tvm.runtime.tensor(x), result)
    return np.asarray(result.numpy())


def kernel(
    function: Any,
    buffers: list[Any],
    lanes: int,
    *,
    scope: str,
    machine: str | None = None,
    kind: Any = tirx.ForKind.SERIAL,
    vectorise: bool = False,
) -> Any:
    """A loop that stores ``function`` of the first buffer in the second, compiled for ``machine``."""
    source, result = buffers
    loop, lane = tirx.Var("i", "int32"), tirx.Var("j", "int32")
    start = loop * lanes
    index = start + lane if vectorise else start if lanes == 1 else tirx.Ramp(start, 1, lanes)
    with tvm.target.Target(get_target(scope).tvm_target()):
        body = tirx.BufferStore(result, function(tirx.BufferLoad(source, [index])), [index])
    if vectorise:
        body = tirx.For(lane, 0, lanes, tirx.ForKind.VECTORIZED, body)
    body = tirx.For(loop, 0, source.shape[0] // lanes, kind, body)
    main = tirx.PrimFunc(buffers, body).with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
    target = tvm.target.Target(get_target(machine or scope).tvm_target())
    return tvm.tirx.build(tvm.IRModule({"main": main}), target=target)
