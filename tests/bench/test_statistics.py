"""Statistics against published tables and SciPy, not against themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edgevit.bench.statistics import (
    LatencySummary,
    is_stable,
    median_ranks,
    p90_spread,
    paired_ratio,
    summarise,
)

# Ranks of the order statistics that bound the median with at least 95 % confidence, as tables of the sign
# test give them (for example Conover, "Practical Nonparametric Statistics", table A3; n = 10: 97.9 %).
TABLE = {6: (1, 6), 8: (1, 8), 9: (2, 8), 10: (2, 9), 15: (4, 12), 20: (6, 15), 25: (8, 18), 30: (10, 21)}


@pytest.mark.parametrize(("count", "ranks"), TABLE.items())
def test_ranks_are_those_of_the_tables(count, ranks):
    assert median_ranks(count) == ranks


def test_coverage_of_ten_samples_is_the_published_one():
    low, high = median_ranks(10)
    coverage = 1 - 2 * stats.binom.cdf(low - 1, 10, 0.5)
    assert high == 11 - low
    assert round(100 * coverage, 2) == 97.85


@pytest.mark.parametrize("count", [6, 7, 11, 12, 17, 50, 99, 100, 1024, 20_000])
def test_the_interval_is_the_narrowest_that_covers(count):
    low, high = median_ranks(count)
    assert low + high == count + 1
    assert 1 - 2 * stats.binom.cdf(low - 1, count, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(low, count, 0.5) < 0.95


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_too_few_samples_have_no_interval(count):
    assert median_ranks(count) is None
    summary = summarise([0.001 * (i + 1) for i in range(count)])
    assert summary.ci95_low is None
    assert summary.ci95_high is None


def test_the_interval_agrees_with_scipys_quantile_test():
    samples = np.random.default_rng(5).lognormal(-4, 0.3, 101)
    summary = summarise(list(samples))
    expected = stats.quantile_test(samples, p=0.5).confidence_interval(0.95)
    assert (summary.ci95_low, summary.ci95_high) == (expected.low, expected.high)


def test_the_interval_covers_the_median_of_a_skewed_distribution():
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(1000):
        summary = summarise(list(generator.exponential(0.01, 25)))
        covered += summary.ci95_low <= 0.01 * math.log(2) <= summary.ci95_high
    # 95.7 % is exact for 25 samples; four standard errors below and above.
    assert 930 <= covered <= 983


def test_summary_of_known_samples():
    summary = summarise([0.010, 0.002, 0.004, 0.008, 0.006, 0.001, 0.003, 0.009, 0.007, 0.005])
    assert summary.count == 10
    assert summary.p50 == pytest.approx(0.0055)
    assert summary.p90 == pytest.approx(0.0091)
    assert summary.p99 == pytest.approx(0.00991)
    assert summary.mean == pytest.approx(0.0055)
    assert (summary.min, summary.max) == (0.001, 0.010)
    assert summary.stdev == pytest.approx(stats.tstd(range(1, 11)) / 1000)
    assert (summary.ci95_low, summary.ci95_high) == (0.002, 0.009)


def test_a_single_sample():
    summary = summarise([0.25])
    assert summary.p50 == summary.p99 == summary.mean == summary.min == summary.max == 0.25
    assert summary.stdev is None


def test_a_summary_survives_json():
    summary = summarise([0.1, 0.2, 0.3])
    assert LatencySummary.model_validate_json(summary.model_dump_json()) == summary


@pytest.mark.parametrize(
    "samples", [[], [0.1, float("nan")], [0.1, float("inf")], [0.1, 0.0], [0.1, -0.2], [[0.1, 0.2]]]
)
def test_impossible_samples_are_refused(samples):
    with pytest.raises(ValueError, match="sample"):
        summarise(samples)


def test_paired_ratio_cancels_what_slows_both():
    heat = np.linspace(1, 3, 30)
    ratio = paired_ratio(list(0.012 * heat), list(0.010 * heat))
    assert ratio.median == pytest.approx(1.2)
    assert (ratio.ci95_low, ratio.ci95_high) == (pytest.approx(1.2), pytest.approx(1.2))
    assert ratio.differs


def test_paired_ratio_interval_takes_the_tables_ranks():
    a = [float(i) for i in range(1, 11)]
    ratio = paired_ratio(a, [1.0] * 10)
    assert (ratio.count, ratio.median, ratio.min, ratio.max) == (10, 5.5, 1.0, 10.0)
    assert (ratio.ci95_low, ratio.ci95_high) == (2.0, 9.0)


@pytest.mark.parametrize("count", [5, 20])
def test_a_difference_needs_an_interval_on_one_side_of_one(count):
    ratio = paired_ratio([1.0, 2.0] * count, [2.0, 1.0] * count)
    assert not ratio.differs
    few = paired_ratio([2.0] * 3, [1.0] * 3)
    assert few.ci95_low is None
    assert not few.differs


def test_paired_ratio_refuses_unequal_lengths_and_impossible_times():
    with pytest.raises(ValueError, match="as many"):
        paired_ratio([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="positive"):
        paired_ratio([0.1], [0.0])


def test_stability_is_p90_within_five_percent_over_the_runs():
    run = [0.010] * 10
    assert p90_spread([run, [0.0104] * 10, run]) == pytest.approx(0.04)
    assert is_stable([run] * 4 + [[0.0104] * 10])
    assert not is_stable([run] * 4 + [[0.0106] * 10])
    assert is_stable([run] * 4 + [[0.0106] * 10], spread=0.1)
    # One outlier in ten moves p99, not p90's verdict.
    assert is_stable([run, [0.010] * 19 + [0.5]])


def test_one_run_cannot_be_stable_or_not():
    with pytest.raises(ValueError, match="two runs"):
        is_stable([[0.1, 0.1]])
