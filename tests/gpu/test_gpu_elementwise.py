"""Elementwise programs on emulated GPUs against numpy and scipy in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import special

from edgevit.compiler.gpu import elementwise
from edgevit.compiler.gpu.functions import GPU_OPERATIONS
from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels.pointwise_ops import OPERATIONS
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from tests.compiler.test_pointwise_kernel import COMPARISONS, FLOAT, POSITIVE, numbers, single
from tests.gpu.gpu_kernels import DEVICES, LANGUAGES, Case, check, draw, make_case

BROADCASTS: list[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]] = [
    ((2, 3, 5), ((2, 3, 5), (5,))),
    ((1, 7, 9, 24), ((1, 7, 9, 24), (24,), (1, 7, 9, 1))),
    ((3, 701), ((3, 701), (3, 1))),
    ((1003,), ((1003,), ())),
    ((4, 7, 9), ((4, 1, 9), (7, 1))),
    ((8, 4, 6, 16), ((4, 6, 16), (8, 1, 1, 16))),
    ((2, 3), ((1, 1), (2, 3))),
    ((), ((), ())),
]
CASTS = [
    ("float32", "int32"),
    ("float32", "int64"),
    ("float32", "bool"),
    ("int64", "float32"),
    ("bool", "float32"),
    ("bool", "int64"),
    ("uint8", "float32"),
    ("int64", "int32"),
]
FAR = np.array([-60000, -200, -90, -88, -87, -12, 0, 12, 87, 89, 200, 60000], np.float32)


def case(program: Pointwise, arrays: Sequence[np.ndarray], expected: np.ndarray, tolerance: float = 3e-6) -> Case:
    return make_case("pointwise", arrays, np.asarray(expected).astype(program.dtype), tolerance, program=program)


def operation(op: str, arrays: list[np.ndarray], expected: np.ndarray, dtype: str = "float32") -> Case:
    return case(single(op, arrays, FLOAT[op][0] if op in FLOAT else (), dtype), arrays, expected)


@pytest.mark.parametrize(("device", "count"), [(LANGUAGES[0], 44), (LANGUAGES[1], 44), (LANGUAGES[0], 43)], ids=str)
def test_operations_on_floats(device: tuple[str, str], count: int) -> None:
    cases = []
    for op, (_, reference) in FLOAT.items():
        arrays = [draw(count, scale=2) for _ in range(OPERATIONS[op].arity)]
        if op in POSITIVE | {"div", "reciprocal"}:
            arrays = [np.abs(array) + np.float32(0.25) for array in arrays]
            arrays = [array.astype(np.float16).astype(np.float32) for array in arrays]
        if op in COMPARISONS:
            arrays[1][::3] = arrays[0][::3]
        expected = reference(*(array.astype("float64") for array in arrays))
        cases.append(operation(op, arrays, expected, "bool" if op in COMPARISONS else "float32"))
    check(elementwise, cases, device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_far_from_zero_nothing_overflows_to_nan(device: tuple[str, str]) -> None:
    x = FAR.astype(np.float64)
    expected = {
        "tanh": np.tanh(x),
        "erf": special.erf(x),
        "sigmoid": special.expit(x),
        "silu": x * special.expit(x),
        "softplus": np.logaddexp(0, x),
        "mish": x * np.tanh(np.logaddexp(0, x)),
        "gelu": x * special.ndtr(x),
        "gelu_tanh": FLOAT["gelu_tanh"][1](x),
        "elu": np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0))),
    }
    check(elementwise, [operation(op, [FAR], reference) for op, reference in expected.items()], device)


@pytest.mark.parametrize(
    ("device", "dtype"),
    [(LANGUAGES[0], "int32"), (LANGUAGES[0], "uint8"), (LANGUAGES[1], "int64"), (LANGUAGES[1], "int8")],
    ids=str,
)
def test_operations_on_integers(device: tuple[str, str], dtype: str) -> None:
    a, b = numbers((76,), dtype), numbers((76,), dtype, 1)
    if dtype != "uint8":
        a[::2] *= -1
        b[::3] *= -1
    wide = a.astype("int64"), b.astype("int64")
    quotient = np.sign(wide[0] * wide[1]) * (abs(wide[0]) // abs(wide[1]))
    of_two = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "div": quotient,
        "mod": np.mod(a, b),
        "fmod": np.fmod(a, b),
        "min": np.minimum(a, b),
        "max": np.maximum(a, b),
        "less": a < b,
        "equal": a == b,
    }
    cases = [operation(op, [a, b], expected, "bool" if op in COMPARISONS else dtype) for op, expected in of_two.items()]
    of_one = {"sign": np.sign(a), "abs": abs(a), "neg": -a}
    cases += [operation(op, [a], expected, dtype) for op, expected in of_one.items()]
    cases.append(case(single("relu", [a], (), dtype), [a], np.maximum(a, 0)))
    cases.append(case(single("clip", [a], (-3.5, 1e9), dtype), [a], np.maximum(a, 0 if dtype == "uint8" else -3)))
    check(elementwise, cases, device)


@pytest.mark.parametrize(("device", "count"), [(LANGUAGES[0], 72), (LANGUAGES[1], 72), (LANGUAGES[1], 70)], ids=str)
def test_truth_and_casts(device: tuple[str, str], count: int) -> None:
    a, b, x, y = numbers((count,), "bool"), numbers((count,), "bool", 1), draw(count), draw(count)
    cases = [
        operation(op, [a, b], expected, "bool")
        for op, expected in {"and": a & b, "or": a | b, "xor": a ^ b, "equal": a == b}.items()
    ]
    cases.append(operation("not", [a], ~a, "bool"))
    cases.append(operation("where", [a, x, y], np.where(a, x, y)))
    for given, wanted in CASTS:
        value = draw(count, scale=3) if given == "float32" else numbers((count,), given)
        value[::5] = 0
        cases.append(operation("cast", [value], value.astype(wanted), wanted))
    check(elementwise, cases, device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_broadcasting(device: tuple[str, str]) -> None:
    cases = []
    for _, operands in BROADCASTS:
        arrays = [draw(*operand) for operand in operands]
        count = len(arrays)
        terms = [Term("add", (0, 1))] + [Term("mul", (count, 2))] * (count == 3)
        program = Pointwise(tuple(Operand(operand) for operand in operands), tuple(terms))
        expected = arrays[0] + arrays[1]
        cases.append(case(program, arrays, expected * arrays[2] if count == 3 else expected))
    x = draw(5, 1, 3)
    cases.append(case(Pointwise((Operand(x.shape),)), [x], np.broadcast_to(x, (2, 5, 4, 3))))
    check(elementwise, cases, device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_powers_with_a_constant_exponent(device: tuple[str, str]) -> None:
    cases = []
    for exponent in (2.0, 3.0, -1.0, 0.5, -0.5, 1.5, 0.0, 2.2, 17.0):
        x = np.abs(draw(20)) / 2 + 1 if exponent % 1 else np.sign(draw(20)) * 1.25
        x = x.astype(np.float16).astype(np.float32)
        program = Pointwise((Operand(x.shape),), (Term("constant", (), (exponent,)), Term("pow", (0, 1))))
        cases.append(case(program, [x], x.astype("float64") ** exponent, 1e-5))
    check(elementwise, cases, device)


def test_constants_keep_all_their_digits() -> None:
    # Seven digits, as TVM prints them, do not tell this number from its neighbours.
    number = float(np.float32(0.133797184))
    x = np.ones(8, np.float32)
    program = Pointwise((Operand((8,)),), (Term("constant", (), (number,)), Term("mul", (0, 1))))
    check(elementwise, [case(program, [x], np.full(8, number), 0.0)], DEVICES[0])


@pytest.mark.parametrize(("device", "count"), [(LANGUAGES[0], 64), (LANGUAGES[1], 64), (LANGUAGES[0], 63)], ids=str)
def test_not_a_number_survives(device: tuple[str, str], count: int) -> None:
    x, y = draw(count), draw(count)
    x[::4], y[1::4] = np.nan, np.nan
    cases = [operation("min", [x, y], np.minimum(x, y)), operation("max", [x, y], np.maximum(x, y))]
    for op in ("relu", "clip", "tanh", "erf", "gelu", "sigmoid", "elu", "leaky_relu", "softplus", "hard_swish"):
        with np.errstate(invalid="ignore"):
            cases.append(operation(op, [x], FLOAT[op][1](x.astype("float64"))))
    check(elementwise, cases, device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_conditions_within_a_program(device: tuple[str, str]) -> None:
    x = draw(40)
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
    with np.errstate(invalid="ignore", divide="ignore"):
        chosen = np.where(x < 0.5, np.clip(0.2 * x + 0.5, 0, 1), np.log(x))
    check(elementwise, [case(program, [x], chosen * ~(x < 0.5) + chosen, 1e-5)], device)


def test_integer_powers_that_need_double_precision_are_refused() -> None:
    x = Tensor("x", (4,), "int32")
    powers = Pointwise((Operand((4,), "int32"), Operand((4,), "int32")), (Term("pow", (0, 1), (), "int32"),))
    assert elementwise.claim(Node("pointwise", [x, x], [Tensor("y", (4,), "int32")], {"program": powers})) is None


def test_every_operation_of_its_own_is_one_of_the_cpus() -> None:
    assert all(OPERATIONS[name].arity == own.arity for name, own in GPU_OPERATIONS.items())
