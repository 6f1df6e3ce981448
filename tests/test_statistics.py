"""Percentiles that may be said, and intervals that cover what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from bench.analysis.statistics import (
    enough,
    log_t_interval,
    median_spread,
    samples_needed,
    summarise,
)
from bench.model import Percentiles


def histogram_of(values: list[int]) -> HdrHistogram:
    histogram = HdrHistogram(1, 60_000_000, 3)
    for value in values:
        histogram.record_value(value)
    return histogram


@pytest.mark.parametrize(
    ("p", "needed"), [(0.5, 11), (0.9, 69), (0.99, 726), (0.999, 7289), (0.01, 726)]
)
def test_a_percentile_needs_enough_samples(p: float, needed: int) -> None:
    assert samples_needed(p) == needed
    assert enough(p, needed)
    assert not enough(p, needed - 1)


def test_the_sample_rule_is_what_makes_both_ends_of_a_percentile_interval_exist() -> None:
    for p in (0.5, 0.9, 0.99, 0.999):
        n = samples_needed(p)
        half = 1.959964 * math.sqrt(n * p * (1 - p))
        assert math.ceil(n * p + half) + 1 <= n
        assert math.floor(n * p - half) >= 1


@pytest.mark.parametrize("p", [0, 1, 99])
def test_a_percentile_is_a_share(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        samples_needed(p)


@pytest.mark.parametrize("replicates", [3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(replicates: int) -> None:
    rng = np.random.default_rng(20)
    truth, runs = 48_000.0, 2500
    draws = truth * np.exp(rng.normal(0, 0.15, (runs, replicates)))
    estimates = [log_t_interval(row) for row in draws]
    covered = sum(e.low <= truth <= e.high for e in estimates) / runs
    assert 0.93 <= covered <= 0.97


def test_the_interval_is_students_t_on_logarithms() -> None:
    estimate = log_t_interval([math.e**1, math.e**2, math.e**3], unit="/s")
    assert estimate.value == pytest.approx(math.e**2)
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2) · s/√n with s = 1, from a printed table
    assert math.log(estimate.low) == pytest.approx(2 - half, abs=1e-5)
    assert math.log(estimate.high) == pytest.approx(2 + half, abs=1e-5)
    assert (estimate.unit, estimate.n, estimate.warnings) == ("/s", 3, ())


@pytest.mark.parametrize(
    ("values", "value", "warning"),
    [
        ([5.0], 5.0, "1 replicate, 2 needed"),
        ([], math.nan, "0 replicates"),
        ([0.0, 2.0, 4.0], 2.0, "zero or below"),
    ],
)
def test_no_interval_without_grounds_for_one(
    values: list[float], value: float, warning: str
) -> None:
    estimate = log_t_interval(values)
    assert estimate.value == pytest.approx(value, nan_ok=True)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert warning in estimate.warnings[0]


def test_unknown_replicates_are_left_out_and_said() -> None:
    estimate = log_t_interval([2.0, None, math.nan, 2.0])
    assert (estimate.value, estimate.n) == (pytest.approx(2.0), 2)
    assert estimate.warnings == ("2 of 4 replicates hold no value",)


def test_a_histogram_is_summarised_in_seconds() -> None:
    summary = summarise(histogram_of(list(range(1, 10_001))))
    assert summary.p50 == pytest.approx(0.005, rel=1e-3)
    assert summary.p90 == pytest.approx(0.009, rel=1e-3)
    assert summary.p99 == pytest.approx(0.0099, rel=1e-3)
    assert summary.p999 == pytest.approx(0.00999, rel=1e-3)


@pytest.mark.parametrize(("n", "known"), [(10, 0), (11, 1), (69, 2), (726, 3), (7289, 4)])
def test_a_percentile_with_too_few_samples_is_blank(n: int, known: int) -> None:
    summary = summarise(histogram_of([100] * n))
    figures = (summary.p50, summary.p90, summary.p99, summary.p999)
    assert [figure is not None for figure in figures] == [i < known for i in range(4)]


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert summarise(HdrHistogram(1, 60_000_000, 3)) == Percentiles(None, None, None, None)
    only_above = summarise(HdrHistogram(1, 60_000_000, 3), above_range=10_000)
    assert only_above == Percentiles(None, None, None, None)


def test_values_above_the_range_shift_the_ranks() -> None:
    values = list(range(1, 901))
    summary = summarise(histogram_of(values), above_range=100)
    assert summary.p50 == pytest.approx(500e-6, rel=5e-3)
    assert summary.p90 == pytest.approx(900e-6, rel=2e-3)
    assert summary.p99 is None  # it lies among the values that were too large to record


def test_median_and_extremes() -> None:
    assert median_spread([3.0, None, 1.0, 2.0, math.nan]) == (2.0, 1.0, 3.0)
    assert all(math.isnan(figure) for figure in median_spread([None]))
