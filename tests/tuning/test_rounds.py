"""Which readings count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgevit.tuning.measure import difference
from edgevit.tuning.rounds import Round, calm, ratios


def test_rounds_in_which_the_reference_slowed_do_not_count() -> None:
    steady = [Round(1.0, 1.02, {"a": 2.0}) for _ in range(6)]
    slowed = [Round(1.0, 1.5, {"a": 3.0}), Round(1.4, 1.4, {"a": 2.8})]
    assert calm([*steady[:3], *slowed, *steady[3:]]) == steady
    assert calm([]) == []
    assert calm(slowed, share=1.0) == slowed


def test_a_ratio_to_the_reference_cancels_what_slows_all() -> None:
    rng = np.random.default_rng(0)
    rounds = [Round(speed, speed, {"a": 0.8 * speed}) for speed in rng.uniform(1.0, 2.0, 20)]
    found = ratios(rounds, "a")
    assert found.kept == pytest.approx([0.8] * 20)
    assert found.outliers == 0


def test_outliers_are_counted() -> None:
    rng = np.random.default_rng(1)
    normal = 0.8 + 0.01 * rng.standard_normal(30)
    rounds = [Round(1.0, 1.0, {"a": value}) for value in (*normal, 1.6, 0.2)]
    found = ratios(rounds, "a")
    assert found.outliers >= 2
    assert np.median(found.kept) == pytest.approx(0.8, abs=0.01)
    assert {1.6, 0.2}.isdisjoint(found.kept)
    assert ratios([Round(1.0, 1.0, {"a": 1.0})] * 5, "a").kept == (1.0,) * 5


def test_difference_is_relative_to_the_largest_value() -> None:
    expected = np.array([-4.0, 2.0, 1.0], np.float32)
    assert difference(expected + np.float32(0.5), expected) == 0.125
    assert difference(expected, expected) == 0.0
    nothing = np.zeros(3, np.float32)
    assert difference(nothing, nothing) == 0.0
    assert difference(expected, nothing) == math.inf


def test_what_is_not_finite_must_be_in_the_same_places() -> None:
    expected = np.array([np.nan, np.inf, 1.0], np.float32)
    assert difference(expected.copy(), expected) == 0.0
    assert difference(np.array([np.nan, -np.inf, 1.0], np.float32), expected) == math.inf
    assert difference(np.array([np.nan, np.inf, np.nan], np.float32), expected) == math.inf


def test_integers_must_be_equal() -> None:
    expected = np.array([1, 2, 3])
    assert difference(expected.copy(), expected) == 0.0
    assert difference(expected + 1, expected) == math.inf
