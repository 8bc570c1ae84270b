"""Elementwise kernels against numpy and scipy in double precision."""

from typing import Any

import numpy as np
import pytest
from scipy import special

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import pointwise
from edgevit.compiler.kernels.pointwise_ops import OPERATIONS
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.target_schema import Target, Vector
from edgevit.targets import get_target
from tests.compiler.kernel_runner import run_kernel

SELU = (1.6732632423543772, 1.0507009873554805)
FLOAT: dict[str, tuple[tuple[float, ...], Any]] = {
    "add": ((), np.add),
    "sub": ((), np.subtract),
    "mul": ((), np.multiply),
    "div": ((), np.divide),
    "pow": ((), lambda a, b: np.abs(a) ** b),
    "min": ((), np.minimum),
    "max": ((), np.maximum),
    "neg": ((), np.negative),
    "abs": ((), np.abs),
    "sign": ((), np.sign),
    "square": ((), np.square),
    "floor": ((), np.floor),
    "ceil": ((), np.ceil),
    "round": ((), np.round),
    "sqrt": ((), lambda a: np.sqrt(np.abs(a))),
    "rsqrt": ((), lambda a: 1 / np.sqrt(np.abs(a))),
    "reciprocal": ((), lambda a: 1 / a),
    "exp": ((), np.exp),
    "log": ((), lambda a: np.log(np.abs(a))),
    "sin": ((), np.sin),
    "cos": ((), np.cos),
    "tanh": ((), np.tanh),
    "erf": ((), special.erf),
    "sigmoid": ((), special.expit),
    "silu": ((), lambda a: a * special.expit(a)),
    "gelu": ((), lambda a: a * special.ndtr(a)),
    "gelu_tanh": ((), lambda a: a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))),
    "hard_sigmoid": ((0.2, 0.5), lambda a: np.clip(0.2 * a + 0.5, 0, 1)),
    "hard_swish": ((), lambda a: a * np.clip(a / 6 + 0.5, 0, 1)),
    "softplus": ((), lambda a: np.logaddexp(0, a)),
    "softsign": ((), lambda a: a / (1 + np.abs(a))),
    "mish": ((), lambda a: a * np.tanh(np.logaddexp(0, a))),
    "relu": ((), lambda a: np.maximum(a, 0)),
    "leaky_relu": ((0.1,), lambda a: np.where(a > 0, a, 0.1 * a)),
    "prelu": ((), lambda a, b: np.where(a > 0, a, a * b)),
    "thresholded_relu": ((1.0,), lambda a: np.where(a > 1, a, 0)),
    "clip": ((-1.0, 2.0), lambda a: np.clip(a, -1, 2)),
    "elu": ((0.7,), lambda a: np.where(a > 0, a, 0.7 * np.expm1(a))),
    "celu": ((1.5,), lambda a: np.where(a > 0, a, 1.5 * np.expm1(a / 1.5))),
    "selu": (SELU, lambda a: SELU[1] * np.where(a > 0, a, SELU[0] * np.expm1(a))),
    "equal": ((), np.equal),
    "less": ((), np.less),
    "less_equal": ((), np.less_equal),
    "greater": ((), np.greater),
    "greater_equal": ((), np.greater_equal),
}
COMPARISONS = {"equal", "less", "less_equal", "greater", "greater_equal"}
POSITIVE = {"pow", "sqrt", "rsqrt", "log"}


def host(bits: int | None = None) -> Target:
    """This machine, seen as having vectors of ``bits`` bits."""
    target = get_target("host")
    if bits is None:
        return target
    return target.model_copy(update={"vector": Vector(bits=bits, registers=16)})  # type: ignore[arg-type]


def run(
    program: Pointwise,
    arrays: list[np.ndarray],
    shape: tuple[int, ...],
    target: Target | None = None,
    choice: dict[str, int] | None = None,
) -> np.ndarray:
    target = target or host()
    inputs = [Tensor(f"x{i}", array.shape, str(array.dtype)) for i, array in enumerate(arrays)]
    node = Node("pointwise", list(inputs), [Tensor("y", shape, program.dtype)], {"program": program})
    workload = pointwise.claim(node)
    assert workload is not None
    choice = choice or pointwise.analytic_default(workload, target)
    return run_kernel(pointwise.emit(workload, target, choice, "k"), arrays, shape, program.dtype, target)


def single(op: str, arrays: list[np.ndarray], params: tuple[float, ...] = (), dtype: str = "float32") -> Pointwise:
    operands = tuple(Operand(array.shape, str(array.dtype)) for array in arrays)
    return Pointwise(operands, (Term(op, tuple(range(len(arrays))), params, dtype),))


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return generator.random(shape) > 0.5
    values = generator.standard_normal(shape) * 3 if dtype.startswith("float") else generator.integers(1, 40, shape)
    return np.asarray(values).astype(dtype)


@pytest.mark.parametrize("op", sorted(FLOAT))
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float16", 3e-3)])
def test_operations_on_floats(op: str, dtype: str, tolerance: float) -> None:
    params, reference = FLOAT[op]
    # Whole blocks, whole vectors and a tail.
    arrays = [numbers((1003,), dtype, seed) for seed in range(OPERATIONS[op].arity)]
    if op in POSITIVE:
        arrays[0] = np.abs(arrays[0]) + np.asarray(0.1, dtype)
    if op in COMPARISONS:
        arrays[1][::3] = arrays[0][::3]
    result = run(single(op, arrays, params, "bool" if op in COMPARISONS else dtype), arrays, (1003,))
    with np.errstate(over="ignore"):
        expected = reference(*(array.astype("float64") for array in arrays)).astype(result.dtype)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8"])
def test_operations_on_integers(dtype: str) -> None:
    a, b = numbers((77,), dtype), numbers((77,), dtype, 1)
    if dtype != "uint8":
        a[::2] *= -1
        b[::3] *= -1
    wide = a.astype("int64"), b.astype("int64")
    expected = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "div": (np.sign(wide[0] * wide[1]) * (abs(wide[0]) // abs(wide[1]))).astype(dtype),
        "mod": np.mod(a, b),
        "fmod": np.fmod(a, b),
        "min": np.minimum(a, b),
        "max": np.maximum(a, b),
        "less": a < b,
        "equal": a == b,
    }
    for op, reference in expected.items():
        kind = "bool" if op in COMPARISONS else dtype
        np.testing.assert_array_equal(run(single(op, [a, b], (), kind), [a, b], (77,)), reference, err_msg=op)
    for op, reference in {"relu": np.maximum(a, 0), "sign": np.sign(a), "abs": abs(a), "neg": -a}.items():
        np.testing.assert_array_equal(run(single(op, [a], (), dtype), [a], (77,)), reference, err_msg=op)
    clipped = run(single("clip", [a], (-3.5, 1e9), dtype), [a], (77,))
    np.testing.assert_array_equal(clipped, np.maximum(a, 0 if dtype == "uint8" else -3))


def test_logic() -> None:
    a, b = numbers((70,), "bool"), numbers((70,), "bool", 1)
    for op, reference in {"and": a & b, "or": a | b, "xor": a ^ b, "equal": a == b}.items():
        np.testing.assert_array_equal(run(single(op, [a, b], (), "bool"), [a, b], (70,)), reference, err_msg=op)
    np.testing.assert_array_equal(run(single("not", [a], (), "bool"), [a], (70,)), ~a)
    x, y = numbers((70,)), numbers((70,), seed=1)
    np.testing.assert_array_equal(run(single("where", [a, x, y]), [a, x, y], (70,)), np.where(a, x, y))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("float32", "int32"),
        ("float32", "int64"),
        ("float32", "bool"),
        ("float32", "float16"),
        ("int64", "float32"),
        ("bool", "float32"),
        ("bool", "int64"),
        ("uint8", "float32"),
        ("int64", "int32"),
    ],
)
def test_cast(given: str, wanted: str) -> None:
    x = numbers((70,), given)
    x[::5] = 0
    np.testing.assert_array_equal(run(single("cast", [x], (), wanted), [x], (70,)), x.astype(wanted))


@pytest.mark.parametrize(
    ("shape", "operands"),
    [
        ((2, 3, 5), ((2, 3, 5), (5,))),
        ((1, 17, 19, 24), ((1, 17, 19, 24), (24,), (1, 17, 19, 1))),
        ((1, 40, 40, 96), ((1, 40, 40, 96), (1, 1, 1, 96))),
        ((3, 70001), ((3, 70001), (3, 1))),
        ((100003,), ((100003,), ())),
        ((4, 7, 9), ((4, 1, 9), (7, 1))),
        ((8, 4, 16, 16), ((4, 16, 16), (8, 1, 1, 16))),
        ((2, 3), ((1, 1), (2, 3))),
        ((), ((), ())),
    ],
)
@pytest.mark.parametrize("bits", [None, 128])
def test_broadcasting(shape: tuple[int, ...], operands: tuple[tuple[int, ...], ...], bits: int | None) -> None:
    arrays = [numbers(operand, seed=seed) for seed, operand in enumerate(operands)]
    count = len(arrays)
    terms = [Term("add", (0, 1))] + [Term("mul", (count, 2))] * (count == 3)
    program = Pointwise(tuple(Operand(operand) for operand in operands), tuple(terms))
    expected = arrays[0] + arrays[1]
    if count == 3:
        expected = expected * arrays[2]
    np.testing.assert_array_equal(run(program, arrays, shape, host(bits)), expected)


def test_expand_without_terms() -> None:
    x = numbers((5, 1, 3))
    program = Pointwise((Operand(x.shape),))
    np.testing.assert_array_equal(run(program, [x], (2, 5, 4, 3)), np.broadcast_to(x, (2, 5, 4, 3)))


@pytest.mark.parametrize("unroll", [1, 2, 4, 8])
def test_every_choice_computes_the_same(unroll: int) -> None:
    x, bias = numbers((37, 100)), numbers((100,), seed=1)
    program = Pointwise(
        (Operand(x.shape), Operand(bias.shape)), (Term("add", (0, 1)), Term("sigmoid", (2,)), Term("mul", (2, 3)))
    )
    total = (x + bias).astype("float64")
    result = run(program, [x, bias], x.shape, choice={"unroll": unroll})
    np.testing.assert_allclose(result, total * special.expit(total), rtol=3e-6, atol=1e-6)


def test_values_used_twice_and_conditions_within_a_program() -> None:
    x = numbers((1000,))
    program = Pointwise(
        (Operand(x.shape),),
        (
            Term("constant", (), (0.5,)),
            Term("less", (0, 1), (), "bool"),
            Term("log", (0,)),
            Term("hard_sigmoid", (0,), (0.2, 0.5)),
            Term("where", (2, 4, 3)),
            Term("not", (2,), (), "bool"),
            Term("cast", (6,)),
            Term("mul", (5, 7)),
            Term("add", (8, 5)),
        ),
    )
    with np.errstate(invalid="ignore"):
        chosen = np.where(x < 0.5, np.clip(0.2 * x + 0.5, 0, 1), np.log(x))
    np.testing.assert_allclose(run(program, [x], x.shape), chosen * ~(x < 0.5) + chosen, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("exponent", [2.0, 3.0, -1.0, 0.5, -0.5, 1.5, 0.0, 2.2])
def test_power_with_a_constant_exponent(exponent: float) -> None:
    x = numbers((100,))
    if exponent % 1:
        x = np.abs(x)
    program = Pointwise((Operand(x.shape),), (Term("constant", (), (exponent,)), Term("pow", (0, 1))))
    np.testing.assert_allclose(run(program, [x], x.shape), x.astype("float64") ** exponent, rtol=1e-6)


def test_not_a_number_survives_minima_and_maxima() -> None:
    x, y = numbers((64,)), numbers((64,), seed=1)
    x[::4], y[1::4] = np.nan, np.nan
    for op, reference in (("min", np.minimum), ("max", np.maximum)):
        np.testing.assert_array_equal(run(single(op, [x, y]), [x, y], (64,)), reference(x, y))
    np.testing.assert_array_equal(run(single("relu", [x]), [x], (64,)), np.maximum(x, np.float32(0)))
    program = Pointwise((Operand((64,)),), (Term("constant", (), (1.0,)), Term("max", (1, 0))))
    np.testing.assert_array_equal(run(program, [x], (64,)), np.maximum(x, np.float32(1)))


@pytest.mark.parametrize(
    "program",
    [
        Pointwise((Operand((4,)),), (Term("tan", (0,)),)),
        Pointwise((Operand((4,), "complex64"),), (Term("abs", (0,), (), "complex64"),)),
        Pointwise((Operand((4,), "int32"),), (Term("exp", (0,), (), "int32"),)),
        Pointwise((Operand((4,)), Operand((4,), "int32")), (Term("add", (0, 1)),)),
        Pointwise((Operand((4,)),), (Term("add", (0,)),)),
    ],
)
def test_unknown_operations_and_types_are_left_to_others(program: Pointwise) -> None:
    inputs = [Tensor(f"x{i}", operand.shape, operand.dtype) for i, operand in enumerate(program.operands)]
    node = Node("pointwise", list(inputs), [Tensor("y", (4,), program.dtype)], {"program": program})
    assert pointwise.claim(node) is None


def test_work_of_a_workload() -> None:
    program = Pointwise((Operand((2, 8)), Operand((8,), "float16")), (Term("cast", (1,)), Term("add", (0, 2))))
    workload = pointwise.Workload((2, 8), program)
    assert workload.flops == 32
    assert workload.bytes == 64 + 16 + 64
