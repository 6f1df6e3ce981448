"""Where the warm-up ends, and percentile intervals of times that follow each other closely.

How often the intervals hold the truth is in test_coverage.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from bench.analysis.steady import batches, histogram_interval, mser5, percentile_interval

RNG = np.random.default_rng


def histogram_of(micros: np.ndarray) -> HdrHistogram:
    histogram = HdrHistogram(1, 60_000_000, 3)
    for value, count in zip(*np.unique(micros, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    return histogram


def test_mser5_is_its_definition() -> None:
    values = RNG(5).normal(0, 1, 203) + 4 * np.exp(-np.arange(203) / 10)
    means = values[:200].reshape(40, 5).mean(axis=1)
    statistic = [means[d:].var() / (40 - d) for d in range(21)]
    assert mser5(values) == 5 * int(np.argmin(statistic)) > 0


def test_mser5_cuts_a_step_and_nothing_else() -> None:
    assert mser5([9.0] * 30 + [1.0] * 170) == 30
    assert mser5([9.0] * 32 + [1.0] * 168) == 35
    assert mser5([1.0] * 60) == 0
    assert mser5(1e9 + np.array([9.0] * 30 + [1.0] * 170)) == 30


def test_a_series_that_never_settles_has_no_cut() -> None:
    assert mser5(np.arange(200.0)) is None
    assert mser5([9.0] * 100 + [1.0] * 100) is None


def test_too_short_a_series_for_mser5_is_said() -> None:
    with pytest.raises(ValueError, match="50 values, not 49"):
        mser5([1.0] * 49)


def test_batches_join_neighbours_until_each_holds_enough() -> None:
    assert batches([100] * 30, 0.9) == [range(i, i + 3) for i in range(0, 30, 3)]
    assert batches([800] * 9, 0.99) == [range(i, i + 1) for i in range(9)]
    assert batches([400] * 16, 0.99) == [range(i, i + 2) for i in range(0, 16, 2)]
    assert batches([400] * 15, 0.99) == []
    assert batches([8000] * 7, 0.99) == []
    assert batches([], 0.5) == []


def test_batches_are_nearly_equal_and_leave_nothing_out() -> None:
    counts = RNG(1).integers(50, 150, 57).tolist()
    joined = batches(counts, 0.9)
    assert [i for batch in joined for i in batch] == list(range(57))
    sizes = [sum(counts[i] for i in batch) for batch in joined]
    assert len(sizes) == 10
    assert max(sizes) < 1.5 * min(sizes)


def test_an_interval_that_holds_all_samples_makes_no_batches() -> None:
    assert batches([0] * 10 + [100_000] + [0] * 10, 0.5) == []


def test_independent_values_get_the_interval_of_a_binomial() -> None:
    values = RNG(2).permutation(100_000) / 1e6
    estimate = percentile_interval(values, 0.9)
    assert estimate.value == pytest.approx(0.09, abs=2e-6)
    half = 2.262157 * math.sqrt(0.9 * 0.1 / 100_000) * 0.1  # t(0.975, 9); values reach 0.1 s
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.6)
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.unit, estimate.n, estimate.warnings) == ("s", 10, ())


def test_the_interval_is_students_t_on_the_batches_shares() -> None:
    """Ten batches of 100 ranks: those with i values too many at or below the median, all told."""
    extra = [-9, 7, -5, 3, -1, 1, -3, 5, -7, 9]
    low, high = iter(range(1, 501)), iter(range(501, 1001))
    values = [next(low if k < 50 + e else high) for e in extra for k in range(100)]
    half = 2.262157 * math.sqrt(10 / 9 * sum(e * e for e in extra))
    estimate = percentile_interval(values, 0.5, unit="")
    assert (estimate.value, estimate.low, estimate.high) == (
        500,
        math.floor(500 - half + 0.5),
        math.floor(500 + half + 0.5),
    )


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    values = RNG(2).exponential(1, 20_000)
    narrow, wide = (percentile_interval(values, 0.9, confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize("p", [0.5, 0.9, 0.95, 0.99])
def test_histograms_give_the_same_interval_as_their_values(p: float) -> None:
    waits = RNG(3).lognormal(6, 0.7, 30_000)
    waits[9_000:12_000] *= 2
    micros = np.floor(waits).astype(int)
    rows = percentile_interval(micros / 1e6, p)
    stored = histogram_interval([histogram_of(part) for part in np.array_split(micros, 30)], p)
    for ours, theirs in zip(
        (stored.value, stored.low, stored.high), (rows.value, rows.low, rows.high), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=2e-3)
    assert (stored.n, stored.unit, stored.warnings) == (rows.n, rows.unit, rows.warnings)


def test_histograms_that_came_out_of_the_store_do_as_well() -> None:
    parts = [histogram_of(RNG(seed).integers(1, 900, 2_000)) for seed in range(12)]
    decoded = [HdrHistogram.decode(part.encode()) for part in parts]
    assert histogram_interval(decoded, 0.9) == histogram_interval(parts, 0.9)
    assert parts[0].get_total_count() == 2_000


def test_intervals_of_unequal_size_do_not_pass_for_scatter() -> None:
    """Equal distributions in intervals of very unequal size: a share of each is what scatters."""
    sizes = [6_000, 3_000] * 5
    values = np.concatenate([np.arange(size) / size * 900 for size in sizes]).astype(int)
    parts = [histogram_of(part) for part in np.split(values, np.cumsum(sizes)[:-1])]
    estimate = histogram_interval(parts, 0.9)
    assert estimate.n == 10
    assert estimate.high - estimate.low < 5e-6


def test_values_that_are_all_alike_have_an_interval_of_no_width() -> None:
    estimate = percentile_interval([0.002] * 20_000, 0.99)
    assert (estimate.low, estimate.high, estimate.warnings) == (0.002, 0.002, ())


def test_too_few_samples_for_the_percentile_itself() -> None:
    estimate = percentile_interval(RNG(1).normal(0, 1, 725), 0.99)
    assert math.isnan(estimate.value)
    assert estimate.warnings == ("no p99: 725 samples, 726 needed",)


def test_too_few_samples_for_an_interval() -> None:
    estimate = percentile_interval(RNG(1).normal(0, 1, 8 * 726 - 1), 0.99)
    assert estimate.value == pytest.approx(2.3, abs=0.2)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert "5807 samples in 7 parts do not make 8 batches of 726" in estimate.warnings[0]
    assert percentile_interval(RNG(1).normal(0, 1, 8 * 726), 0.99).n == 8


def test_too_few_intervals_for_batches() -> None:
    parts = [histogram_of(RNG(seed).integers(1, 900, 20_000)) for seed in range(7)]
    estimate = histogram_interval(parts, 0.5)
    assert math.isnan(estimate.low)
    assert "140000 samples in 7 parts do not make 8 batches" in estimate.warnings[0]


def test_nothing_recorded_has_no_percentile() -> None:
    assert math.isnan(percentile_interval([], 0.5).value)
    assert math.isnan(histogram_interval([HdrHistogram(1, 60_000_000, 3)] * 9, 0.5).value)
    with pytest.raises(ValueError, match="no histogram"):
        histogram_interval([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_interval([1.0] * 99, 50)


def test_waits_that_are_mostly_zero_have_percentiles_too() -> None:
    waits = np.where(RNG(1).random(50_000) < 0.97, 0.0, 0.004)
    median = percentile_interval(waits, 0.5)
    assert (median.value, median.low, median.high, median.warnings) == (0, 0, 0, ())


def test_a_tail_made_by_one_stall_has_no_upper_bound() -> None:
    waits = RNG(1).exponential(1e-3, 20_000)
    waits[5_000:5_400] += 1
    estimate = percentile_interval(waits, 0.99)
    assert estimate.high == math.inf
    assert "open interval" in estimate.warnings[0]


def test_a_window_that_drifts_is_said() -> None:
    values = RNG(1).normal(0, 1, 20_000) + np.linspace(0, 1, 20_000)
    assert "neighbouring batches are alike" in percentile_interval(values, 0.5).warnings[0]
