"""How far an artifact's tensors are from the reference's, and whether that is near enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, PlainSerializer

from edgevit.accuracy.inputs import seeded_inputs
from edgevit.accuracy.tolerance import TOLERANCES, Tolerance, tolerance_for
from edgevit.device.phone import PhoneFacts

__all__ = [
    "RELATIVE_FLOOR",
    "TOLERANCES",
    "AccuracyResult",
    "TensorComparison",
    "Tolerance",
    "compare_tensors",
    "fold",
    "seeded_inputs",
    "tolerance_for",
]

Array = npt.NDArray[Any]

RELATIVE_FLOOR = 1e-3
"""Part of max |reference| under which an element's own size does not scale its error."""


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


# JSON has no infinity; pydantic reads the words back as numbers.
Metric = Annotated[float, PlainSerializer(_json_number, when_used="json")]


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorComparison(_Result):
    """One output compared with the reference's, or the worst over several inputs and calls.

    Metrics are None when there is nothing to compute them from; ``reason`` then says why.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    max_abs: Metric | None = None
    """max |actual - reference|"""
    max_rel: Metric | None = None
    """max of |actual - reference| / max(|reference|, RELATIVE_FLOOR * max |reference|), elementwise: without
    the floor, one element that should be zero would decide."""
    max_reference: Metric | None = None
    """max |reference|"""
    normalised_error: Metric | None = None
    """max_abs / max_reference; infinite when the reference is all zero and the artifact is not."""
    cosine: Metric | None = None
    """Cosine of the angle between the flattened tensors; 1 when both are zero, 0 when one is."""
    psnr_db: Metric | None = None
    """20 log10(max_reference / root mean square error), in dB; infinite when equal."""
    top1_agrees: bool | None = None
    """Whether every row of an [N, C] float output peaks at the reference's class; None for other outputs."""
    nonfinite_reference: int = 0
    nonfinite_actual: int = 0
    reason: str | None = None
    """Why this fails whatever the tolerance: another shape or dtype, NaN or infinity."""
    comparisons: int = 1
    """How many comparisons this is the worst of."""

    def failure(self, tolerance: Tolerance) -> str | None:
        """Why this fails ``tolerance``, in one sentence; None if it passes."""
        if self.reason:
            return self.reason
        if self.normalised_error is None:
            return "nothing could be compared"
        if not self.normalised_error <= tolerance.normalised_error:
            return (
                f"the largest error is {self.normalised_error:.3g} of the reference's largest value; "
                f"{tolerance.precision} allows {tolerance.normalised_error:g}"
            )
        if tolerance.same_top1 and self.top1_agrees is False:
            return "the top class differs from the reference's"
        return None


class AccuracyResult(_Result):
    """A check of one artifact against its reference, on several inputs, each called several times."""

    precision: str
    tolerance: Tolerance
    passed: bool
    worst: str
    """Name of the tensor that fails, or comes closest to failing."""
    failures: tuple[str, ...]
    """One sentence for each tensor that fails."""
    tensors: tuple[TensorComparison, ...]
    """The worst comparison of each output, in the model's order."""
    seeds: tuple[int, ...]
    repeats: int
    """Calls on each seed's inputs."""
    reference: str
    """What computed the reference, with its version."""
    ran_on: str
    """Where the artifact ran."""
    emulated: bool
    phone: PhoneFacts | None = None
    """What Android says, of a phone reached through adb."""

    @classmethod
    def judge(
        cls,
        comparisons: Sequence[TensorComparison],
        *,
        precision: str,
        seeds: Sequence[int],
        repeats: int,
        reference: str,
        ran_on: str,
        emulated: bool,
        phone: PhoneFacts | None = None,
        tolerance: Tolerance | None = None,
    ) -> AccuracyResult:
        """Fold all comparisons tensor by tensor and hold them against the tolerance.

        Args:
            comparisons: of every output, seed and repeat.
            precision: the artifact's, a key of ``TOLERANCES``.
            seeds: of the inputs.
            repeats: calls on each seed's inputs.
            reference: what computed the reference, with its version.
            ran_on: where the artifact ran.
            emulated: whether that was an emulator.
            phone: what Android says, of a phone.
            tolerance: in place of the precision's own.

        Raises:
            UserError: an unknown precision, and no tolerance given.
            ValueError: no comparisons.
        """
        if not comparisons:
            raise ValueError("an accuracy result needs at least one comparison")
        tolerance = tolerance or tolerance_for(precision)
        by_name: dict[str, list[TensorComparison]] = {}
        for comparison in comparisons:
            by_name.setdefault(comparison.name, []).append(comparison)
        tensors = tuple(fold(same) for same in by_name.values())
        failures = [(tensor, tensor.failure(tolerance)) for tensor in tensors]
        return cls(
            precision=precision,
            tolerance=tolerance,
            passed=all(failure is None for _, failure in failures),
            worst=max(failures, key=lambda pair: (pair[1] is not None, _badness(pair[0])))[0].name,
            failures=tuple(f"{tensor.name}: {failure}" for tensor, failure in failures if failure),
            tensors=tensors,
            seeds=tuple(seeds),
            repeats=repeats,
            reference=reference,
            ran_on=ran_on,
            emulated=emulated,
            phone=phone,
        )


def compare_tensors(name: str, reference: Array, actual: Array) -> TensorComparison:
    """Compare an artifact's output with the reference's; all arithmetic is in float64.

    Where both hold a NaN, or the same infinity (a masked attention score, say), the elements agree and are
    left out of the metrics. A NaN or infinity in one only, or nothing finite at all, fails whatever the
    tolerance. So do another shape and another dtype.
    """
    given: dict[str, Any] = {"name": name, "shape": reference.shape, "dtype": reference.dtype.name}
    for what, its, expected in (
        ("shape", list(actual.shape), list(reference.shape)),
        ("dtype", actual.dtype.name, reference.dtype.name),
    ):
        if its != expected:
            return TensorComparison(**given, reason=f"the {what} is {its} where the reference has {expected}")
    wide_reference, wide_actual = reference.astype(np.float64), actual.astype(np.float64)
    finite_reference, finite_actual = np.isfinite(wide_reference), np.isfinite(wide_actual)
    given["nonfinite_reference"] = int(np.count_nonzero(~finite_reference))
    given["nonfinite_actual"] = int(np.count_nonzero(~finite_actual))
    both = finite_reference & finite_actual
    agreeing = both | (wide_reference == wide_actual) | (np.isnan(wide_reference) & np.isnan(wide_actual))
    if not agreeing.all() or (reference.size and not both.any()):
        return TensorComparison(**given, reason=_nonfinite_reason(finite_reference, finite_actual))
    given.update(_metrics(wide_reference[both], wide_actual[both], _distance(reference, actual)[both]))
    return TensorComparison(**given, top1_agrees=_top1_agrees(reference, actual))


def fold(comparisons: Sequence[TensorComparison]) -> TensorComparison:
    """The worst of several comparisons of one tensor, metric by metric.

    The first reason to fail is kept. ``normalised_error`` is the worst of its kind, which need not be the
    quotient of the ``max_abs`` and ``max_reference`` beside it.

    Raises:
        ValueError: none are given, or their tensors differ.
    """
    if not comparisons:
        raise ValueError("there is nothing to fold")
    names = {comparison.name for comparison in comparisons}
    if len(names) > 1:
        raise ValueError(f"cannot fold different tensors: {', '.join(sorted(names))}")

    def all_of(field: str) -> list[Any]:
        values = (getattr(comparison, field) for comparison in comparisons)
        return [value for value in values if value is not None]

    first = comparisons[0]
    worst: dict[str, Any] = {"name": first.name, "shape": first.shape, "dtype": first.dtype}
    for field in ("max_abs", "max_rel", "max_reference", "normalised_error"):
        worst[field] = max(all_of(field), default=None)
    for field in ("cosine", "psnr_db", "top1_agrees"):
        worst[field] = min(all_of(field), default=None)
    for field in ("nonfinite_reference", "nonfinite_actual"):
        worst[field] = max(all_of(field))
    worst["reason"] = next(iter(all_of("reason")), None)
    worst["comparisons"] = sum(all_of("comparisons"))
    return TensorComparison(**worst)


def _metrics(reference: Array, actual: Array, distance: Array) -> dict[str, float]:
    """Metrics over finite elements, flat, in float64; ``distance`` is |actual - reference|."""
    if not reference.size:
        none = dict.fromkeys(("max_abs", "max_rel", "max_reference", "normalised_error"), 0.0)
        return {**none, "cosine": 1.0, "psnr_db": float(np.inf)}
    largest = float(np.abs(reference).max())
    max_abs = float(distance.max())
    if max_abs == 0:
        error = relative = 0.0
    elif largest == 0:
        error = relative = np.inf
    else:
        error = max_abs / largest
        relative = float((distance / np.maximum(np.abs(reference), RELATIVE_FLOOR * largest)).max())
    return {
        "max_abs": max_abs,
        "max_rel": relative,
        "max_reference": largest,
        "normalised_error": error,
        "cosine": _cosine(reference, actual),
        "psnr_db": _psnr(largest, distance),
    }


def _distance(reference: Array, actual: Array) -> Array:
    """|actual - reference|, exact to the last integer, as float64."""
    if reference.dtype.kind in "iu":
        # Modulo 2^64 the larger minus the smaller is exact, where float64 loses int64's low bits.
        a, b = reference.astype(np.uint64), actual.astype(np.uint64)
        return np.where(reference > actual, a - b, b - a).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, which the caller leaves out
        return np.abs(actual.astype(np.float64) - reference.astype(np.float64))


def _cosine(reference: Array, actual: Array) -> float:
    sizes = float(np.abs(reference).max()), float(np.abs(actual).max())
    if 0.0 in sizes:
        return 1.0 if sizes[0] == sizes[1] else 0.0
    # Scaled first: squares of large values overflow.
    a, b = reference / sizes[0], actual / sizes[1]
    return float(np.clip(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)), -1, 1))


def _psnr(peak: float, distance: Array) -> float:
    scale = float(distance.max())
    if scale == 0:
        return float(np.inf)
    if peak == 0 or np.isinf(scale):
        return float(-np.inf)
    root_mean_square = scale * float(np.sqrt(np.mean(np.square(distance / scale))))
    return float(20 * np.log10(peak / root_mean_square))


def _top1_agrees(reference: Array, actual: Array) -> bool | None:
    if reference.ndim != 2 or reference.dtype.kind != "f" or reference.shape[1] < 2:
        return None
    chosen = np.take_along_axis(reference, actual.argmax(axis=1)[:, None], axis=1)
    # By value, not position: of two classes that tie exactly in the reference, either is right.
    return bool(np.all(chosen[:, 0] == reference.max(axis=1)))


def _nonfinite_reason(finite_reference: Array, finite_actual: Array) -> str:
    if not finite_reference.any():
        return "the reference has no finite value to compare with"
    new = int(np.count_nonzero(finite_reference & ~finite_actual))
    lost = int(np.count_nonzero(~finite_reference & finite_actual))
    if new:
        return f"{new} of {finite_actual.size} values are NaN or infinite where the reference's are finite"
    if lost:
        return f"{lost} of {finite_actual.size} values are finite where the reference's are NaN or infinite"
    return "NaN and infinities differ from the reference's"


def _badness(comparison: TensorComparison) -> tuple[bool, float]:
    error = comparison.normalised_error
    return comparison.reason is not None, float("inf") if error is None else error
