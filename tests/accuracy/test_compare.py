"""Comparison of tensors by hand-made numbers."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from edgevit.accuracy.compare import (
    TOLERANCES,
    AccuracyResult,
    TensorComparison,
    compare_tensors,
    fold,
    seeded_inputs,
    tolerance_for,
)
from edgevit.errors import UserError

FP32 = TOLERANCES["fp32"]
NAN, INF = float("nan"), float("inf")


def f32(*values: float, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.array(values, dtype="float32")
    return array.reshape(shape) if shape else array


def test_metrics_of_known_numbers():
    result = compare_tensors("y", f32(3, 4, 0, 0), f32(3, 4, 0, 1))
    assert result.max_abs == 1
    assert result.max_reference == 4
    assert result.normalised_error == 0.25
    assert result.cosine == pytest.approx(25 / (5 * math.sqrt(26)))
    # Peak 4, mean square error 1/4.
    assert result.psnr_db == pytest.approx(20 * math.log10(4 / 0.5))
    # The element at fault is 0 in the reference, so the floor of 0.001 * 4 divides.
    assert result.max_rel == pytest.approx(250)
    assert result.failure(FP32) == "the largest error is 0.25 of the reference's largest value; fp32 allows 0.0001"


def test_relative_error_is_elementwise_above_the_floor():
    assert compare_tensors("y", f32(100, 2), f32(100, 3)).max_rel == pytest.approx(0.5)


def test_equal_tensors():
    result = compare_tensors("y", f32(1, -2), f32(1, -2))
    assert (result.max_abs, result.max_rel, result.normalised_error) == (0, 0, 0)
    assert result.cosine == pytest.approx(1)
    assert result.psnr_db == INF
    assert result.failure(FP32) is None


def test_opposite_tensors():
    result = compare_tensors("y", f32(1, 2), f32(-1, -2))
    assert result.cosine == pytest.approx(-1)
    assert result.normalised_error == 2


@pytest.mark.parametrize(
    ("reference", "actual", "error", "cosine", "psnr"),
    [([0, 0], [0, 0], 0, 1, INF), ([0, 0], [0, 1], INF, 0, -INF), ([0, 1], [0, 0], 1, 0, None)],
)
def test_zeros(reference, actual, error, cosine, psnr):
    result = compare_tensors("y", f32(*reference), f32(*actual))
    assert result.normalised_error == error
    assert result.cosine == cosine
    assert psnr is None or result.psnr_db == psnr
    assert (result.failure(FP32) is None) == (error == 0)


def test_empty_tensors_agree():
    result = compare_tensors("boxes", np.zeros((0, 4), "float32"), np.zeros((0, 4), "float32"))
    assert result.failure(FP32) is None


def test_large_values_do_not_overflow():
    big = f32(3e38, -3e38)
    result = compare_tensors("y", big, -big)
    assert result.normalised_error == pytest.approx(2)
    assert result.cosine == pytest.approx(-1)
    wide = np.array([1.7e308, 1.0])
    assert compare_tensors("y", wide, -wide).failure(FP32)


@pytest.mark.parametrize(
    ("actual", "word"),
    [
        (np.zeros((1, 3), "float32"), "shape is [1, 3] where the reference has [1, 2]"),
        (np.zeros((2,), "float32"), "shape is [2]"),
        (np.zeros((1, 2), "float16"), "dtype is float16 where the reference has float32"),
    ],
)
def test_another_shape_or_dtype_fails(actual, word):
    result = compare_tensors("y", np.zeros((1, 2), "float32"), actual)
    assert word in result.failure(FP32)
    assert result.max_abs is None


@pytest.mark.parametrize(
    ("reference", "actual", "word", "counts"),
    [
        ([1, 2, 3], [1, NAN, 3], "1 of 3 values are NaN or infinite where", (0, 1)),
        ([1, 2, 3], [INF, NAN, 3], "2 of 3 values", (0, 2)),
        ([1, NAN, 3], [1, 2, 3], "1 of 3 values are finite where", (1, 0)),
        ([1, NAN, 3], [1, INF, 3], "differ", (1, 1)),
        ([1, INF, 3], [1, -INF, 3], "differ", (1, 1)),
        ([NAN, NAN], [NAN, NAN], "no finite value", (2, 2)),
    ],
)
def test_nan_and_infinity_fail_whatever_the_tolerance(reference, actual, word, counts):
    result = compare_tensors("y", f32(*reference), f32(*actual))
    loose = FP32.model_copy(update={"normalised_error": INF, "same_top1": False})
    assert word in result.failure(loose)
    assert (result.nonfinite_reference, result.nonfinite_actual) == counts


def test_the_same_infinities_in_the_same_places_agree():
    result = compare_tensors("mask", f32(1, -INF, NAN, 2), f32(1, -INF, NAN, 2.5))
    assert (result.nonfinite_reference, result.nonfinite_actual) == (2, 2)
    assert result.max_abs == 0.5
    assert result.normalised_error == 0.25


def test_integers_are_compared_exactly():
    large = np.array([2**62, -(2**62)], dtype="int64")
    assert compare_tensors("ids", large, large + np.array([1, 0])).max_abs == 1
    extremes = np.array([-(2**63)]), np.array([2**63 - 1])
    assert compare_tensors("ids", *extremes).max_abs == pytest.approx(2.0**64)
    assert compare_tensors("ids", np.array([250], "uint8"), np.array([5], "uint8")).max_abs == 245
    assert compare_tensors("on", np.array([True, False]), np.array([True, True])).max_abs == 1


@pytest.mark.parametrize(
    ("reference", "actual", "agrees"),
    [
        ([[1, 5, 2]], [[1, 4, 2]], True),
        ([[1, 5, 2]], [[1, 4, 4.5]], False),
        ([[1, 5, 2], [9, 0, 0]], [[1, 5, 2], [0, 0, 9]], False),
        ([[5, 5, 2]], [[1, 5, 2]], True),  # an exact tie: either class is right
        ([[1]], [[2]], None),
        ([1, 5], [5, 1], None),
        ([[[1, 5]]], [[[5, 1]]], None),
    ],
)
def test_top1(reference, actual, agrees):
    result = compare_tensors("y", np.array(reference, "float32"), np.array(actual, "float32"))
    assert result.top1_agrees is agrees


def test_top1_is_a_gate_for_fp32_alone():
    result = compare_tensors("y", f32(1, 1.00001, shape=(1, 2)), f32(1.00001, 1, shape=(1, 2)))
    assert result.normalised_error < 1e-4
    assert result.failure(FP32) == "the top class differs from the reference's"
    assert result.failure(TOLERANCES["fp16"]) is None


def test_an_error_exactly_at_the_tolerance_passes():
    result = TensorComparison(name="y", shape=(1,), dtype="float32", normalised_error=1e-4)
    assert result.failure(FP32) is None


def test_tolerances_are_stated():
    assert tolerance_for("fp32").normalised_error == 1e-4
    assert tolerance_for("fp16").normalised_error == 5e-3
    assert all(tolerance.reason for tolerance in TOLERANCES.values())
    with pytest.raises(UserError, match="bf7"):
        tolerance_for("bf7")


def test_fold_takes_the_worst_of_each_metric():
    near = compare_tensors("y", f32(0, 4, shape=(1, 2)), f32(0, 4.5, shape=(1, 2)))
    far = compare_tensors("y", f32(0, 1, shape=(1, 2)), f32(0.25, 1, shape=(1, 2)))
    flipped = compare_tensors("y", f32(0, 9, shape=(1, 2)), f32(9, 9, shape=(1, 2)))
    worst = fold([near, far])
    assert (worst.max_abs, worst.normalised_error, worst.max_reference) == (0.5, 0.25, 4)
    assert worst.cosine == far.cosine
    assert worst.psnr_db == min(near.psnr_db, far.psnr_db)
    assert worst.top1_agrees is True
    assert worst.comparisons == 2
    assert fold([worst, flipped]).top1_agrees is False
    assert fold([worst, flipped]).comparisons == 3


def test_fold_keeps_a_reason_to_fail():
    good = compare_tensors("y", f32(1), f32(1))
    bad = compare_tensors("y", f32(1), f32(NAN))
    worst = fold([good, bad, good])
    assert worst.reason == bad.reason
    assert worst.nonfinite_actual == 1
    assert worst.max_abs == 0


def test_fold_refuses_nothing_and_strangers():
    with pytest.raises(ValueError, match="nothing"):
        fold([])
    strangers = compare_tensors("a", f32(1), f32(1)), compare_tensors("b", f32(1), f32(1))
    with pytest.raises(ValueError, match="a, b"):
        fold(strangers)


def judge(*comparisons: TensorComparison, precision: str = "fp32") -> AccuracyResult:
    return AccuracyResult.judge(
        comparisons,
        precision=precision,
        seeds=[0, 1],
        repeats=2,
        reference="ONNX Runtime 1.20",
        ran_on="this process",
        emulated=False,
    )


def test_a_result_names_the_tensor_that_fails():
    fine = compare_tensors("boxes", f32(1, 2), f32(1, 2))
    off = compare_tensors("scores", f32(1, 2), f32(1, 2.1))
    result = judge(fine, off, fine, fine)
    assert not result.passed
    assert result.worst == "scores"
    assert [tensor.name for tensor in result.tensors] == ["boxes", "scores"]
    assert len(result.failures) == 1
    assert result.failures[0].startswith("scores: the largest error")
    assert judge(fine, off, precision="int8").passed


def test_the_worst_tensor_is_one_that_fails_even_with_a_smaller_error():
    near = compare_tensors("near", f32(1, 2), f32(1, 2.0001))
    flipped = compare_tensors("flipped", f32(1, 1.00001, shape=(1, 2)), f32(1.00001, 1, shape=(1, 2)))
    result = judge(near, flipped)
    assert near.normalised_error > flipped.normalised_error
    assert near.failure(FP32) is None
    assert result.worst == "flipped"


def test_a_result_survives_json_with_its_infinities():
    result = judge(
        compare_tensors("same", f32(1), f32(1)),
        compare_tensors("zero", f32(0), f32(1)),
        compare_tensors("nan", f32(1), f32(NAN)),
    )
    for text in (result.model_dump_json(), json.dumps(result.model_dump(mode="json"), allow_nan=False)):
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert AccuracyResult.model_validate_json(text) == result


def test_a_result_needs_comparisons():
    with pytest.raises(ValueError, match="at least one"):
        judge()


def spec(name: str, shape: tuple[int, ...], dtype: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, shape=shape, dtype=dtype)


def test_inputs_depend_on_the_seed_alone():
    specs = [spec("image", (1, 3, 8, 8), "float32"), spec("ids", (1, 16), "int64")]
    first, again, other = (seeded_inputs(specs, seed) for seed in (7, 7, 8))
    assert list(first) == ["image", "ids"]
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()
    reshaped = seeded_inputs([spec("image", (1,), "float32"), specs[1]], 7)
    np.testing.assert_array_equal(reshaped["ids"], first["ids"])


def test_inputs_are_those_numpys_generator_documents():
    """The seed sequence and distribution are public: anyone can make the same input."""
    expected = np.random.Generator(np.random.PCG64([3, 0])).standard_normal((2, 2)).astype("float32")
    np.testing.assert_array_equal(seeded_inputs([spec("x", (2, 2), "float32")], 3)["x"], expected)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int8", -128, 127),
        ("uint16", 0, 65535),
        ("int32", 0, 99),
        ("int64", 0, 99),
        ("bool", 0, 1),
    ],
)
def test_input_ranges(dtype, low, high):
    values = seeded_inputs([spec("x", (100_000,), dtype)], 0)["x"]
    assert values.dtype == dtype
    span = high - low
    assert low <= values.min() <= low + span * 0.001
    assert high - span * 0.001 <= values.max() <= high


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_inputs_are_standard_normal(dtype):
    values = seeded_inputs([spec("x", (40_000,), dtype)], 1)["x"]
    assert values.dtype == dtype
    assert abs(values.astype("float64").mean()) < 0.02
    assert abs(values.astype("float64").std() - 1) < 0.02


@pytest.mark.parametrize("dtype", ["complex64", "str", "float9"])
def test_inputs_of_other_dtypes_are_refused(dtype):
    with pytest.raises(UserError, match=r"input x.*dtype"):
        seeded_inputs([spec("x", (1,), dtype)], 0)
