"""Which of MetaSchedule's candidates look fast: least squares over features of their loops.

TVM's own learned models need packages that nothing else here needs. This one is linear in logarithms: from 164 numbers
for every store of a candidate (:class:`tvm.s_tir.meta_schedule.feature_extractor.PerStoreFeature`), of which it takes
the largest and the mean over the stores, to the logarithm of its speed; ridge regression, fitted anew to each
function's measurements of this run. Until a function has enough of them its candidates are drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENOUGH = 8
"""Measurements of a function before its model is asked."""

_RIDGE = 1.0
_NOISE = 0.1
"""Standard deviation of what is added to scores, so that a poor model does not ask for the same again and again."""


@derived_object
class CostModel(ms.cost_model.PyCostModel):  # type: ignore[misc]
    """Scores candidates, the higher the faster.

    Args:
        seed: of what is drawn.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = np.random.default_rng(seed)
        self._extractor = ms.feature_extractor.PerStoreFeature()
        self._known: dict[str, tuple[list[NDArray[np.float64]], list[float]]] = {}

    def load(self, path: str) -> None:
        """Nothing is kept beside the log."""

    def save(self, path: str) -> None:
        """Nothing is kept beside the log."""

    def update(self, context: Any, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Take measurements; failures say nothing of speed."""
        features, speeds = self._known.setdefault(str(context.task_name), ([], []))
        for row, result in zip(self._features(context, candidates), results, strict=True):
            seconds = [float(one) for one in result.run_secs or []]
            if seconds:
                features.append(row)
                speeds.append(-float(np.log(np.median(seconds))))

    def predict(self, context: Any, candidates: Sequence[Any]) -> NDArray[np.float64]:
        """Scores from 0 to about 1."""
        features, speeds = self._known.get(str(context.task_name), ([], []))
        if len(speeds) < ENOUGH:
            return self._random.random(len(candidates))
        scores = _fit(np.array(features), np.array(speeds), self._features(context, candidates))
        spread = float(np.std(scores)) or 1.0
        noisy = scores + self._random.normal(0.0, _NOISE * spread, len(scores))
        # MetaSchedule draws parents in proportion to their scores: these fall by half with each standard deviation.
        halved: NDArray[np.float64] = np.exp2((noisy - noisy.max()) / spread)
        return halved

    def _features(self, context: Any, candidates: Sequence[Any]) -> NDArray[np.float64]:
        found = [tensor.numpy() for tensor in self._extractor.extract_from(context, list(candidates))]
        # They are logarithms already. Largest and mean told more of held-out schedules than sums did.
        return np.array([[*rows.max(axis=0), *rows.mean(axis=0)] for rows in found], dtype=np.float64)


def _fit(features: NDArray[np.float64], values: NDArray[np.float64], wanted: NDArray[np.float64]) -> Any:
    """Ridge regression in its dual form, on standardised features: there are fewer samples than features."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1.0
    known, asked = (features - mean) / deviation, np.clip((wanted - mean) / deviation, -5.0, 5.0)
    scale = features.shape[1]
    weights = np.linalg.solve(known @ known.T / scale + _RIDGE * np.eye(len(values)), values - values.mean())
    return asked @ known.T @ weights / scale
