"""Percentiles that may be said, and intervals that cover what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from bench.analysis.statistics import (
    CONFIDENCE,
    differs,
    enough,
    equivalence,
    false_calls,
    log_t_interval,
    median_spread,
    proportion,
    quantiles,
    recorded,
    samples_needed,
    summarise,
    t_interval,
)
from bench.model import Estimate, Percentiles


def histogram_of(values: list[int]) -> HdrHistogram:
    histogram = HdrHistogram(1, 60_000_000, 3)
    for value in values:
        histogram.record_value(value)
    return histogram


@pytest.mark.parametrize(
    "empty", [(1, 60_000_000, 3), (1, 3_600_000_000, 2), (1_000, 10**9, 3)], ids=str
)
def test_what_was_recorded_is_what_the_library_s_own_iterator_yields(empty: tuple[int]) -> None:
    histogram = HdrHistogram(*empty)
    for value in np.random.default_rng(1).lognormal(8, 3, 3_000):
        histogram.record_value(int(value))
    for each in (histogram, HdrHistogram.decode(histogram.encode()), HdrHistogram(*empty)):
        steps = [
            (step.value_iterated_to, step.count_at_value_iterated_to)
            for step in each.get_recorded_iterator()
        ]
        ticks, counts = recorded(each)
        assert list(zip(ticks.tolist(), counts.tolist(), strict=True)) == steps


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


def test_any_percentile_can_be_asked_in_any_order() -> None:
    histogram = histogram_of(list(range(1, 1001)))
    p95, p10, p50 = quantiles(histogram, (0.95, 0.1, 0.5))
    assert [p95, p10, p50] == pytest.approx([950e-6, 100e-6, 500e-6], rel=1e-3)
    assert quantiles(histogram, (0.999, 0.95)) == [None, p95]
    assert quantiles(histogram, ()) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantiles(histogram, (95,))


def test_the_library_corrects_for_coordinated_omission_as_hdrhistograms_own_tests_say() -> None:
    raw, corrected = HdrHistogram(1, 3_600_000_000, 3), HdrHistogram(1, 3_600_000_000, 3)
    for value in [1000] * 10_000 + [100_000_000]:
        raw.record_value(value)
        corrected.record_corrected_value(value, 10_000)
    assert raw.get_mean_value() == pytest.approx(10_996, rel=1e-3)
    assert corrected.get_total_count() == 20_000
    assert corrected.get_mean_value() == pytest.approx(25.003e6, rel=1e-3)
    assert corrected.get_value_at_percentile(75) == pytest.approx(50.0e6, rel=1e-3)
    assert corrected.get_value_at_percentile(99) == pytest.approx(98.0e6, rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "called"),
    [(1.01, 1.2, True), (0.8, 0.99, True), (0.99, 1.01, False), (math.nan, math.nan, False)],
)
def test_a_difference_is_called_where_the_interval_leaves_out_one(
    low: float, high: float, called: bool
) -> None:
    assert differs(Estimate(1.1, low, high, "", 3)) is called


def logs_with(mean: float, deviation: float, n: int) -> list[float]:
    """Ratios whose logarithms have exactly this mean and standard deviation."""
    ranks = np.arange(n) - (n - 1) / 2
    return list(np.exp(mean + deviation * ranks / ranks.std(ddof=1)))


def test_equivalence_rests_on_the_ninety_percent_interval() -> None:
    half = 2.131847 * 0.02 / math.sqrt(5)  # t(0.95, 4) from a printed table
    found = equivalence(logs_with(0.01, 0.02, 5))
    assert math.log(found.ratio.low) == pytest.approx(0.01 - half, abs=1e-7)
    assert math.log(found.ratio.high) == pytest.approx(0.01 + half, abs=1e-7)
    assert (found.equivalent, found.margin, found.ratio.warnings) == (True, 0.05, ())


@pytest.mark.parametrize("edge", [math.log(0.95), math.log(1.05)])
def test_equivalence_ends_at_one_plus_and_one_minus_the_margin(edge: float) -> None:
    half = 2.131847 * 0.02 / math.sqrt(5)
    inside, outside = edge - math.copysign(half, edge), math.copysign(1e-5, edge)
    assert equivalence(logs_with(inside - outside, 0.02, 5)).equivalent
    assert not equivalence(logs_with(inside + outside, 0.02, 5)).equivalent


def test_the_smallest_detectable_difference_is_printed_beside() -> None:
    found = equivalence(logs_with(0.3, 0.02, 5))
    needed = (2.776445 + 0.940965) * 0.02 / math.sqrt(5)  # t(0.975, 4) and t(0.8, 4), printed
    assert found.detectable == pytest.approx(math.expm1(needed), rel=1e-5)
    assert not found.equivalent


@pytest.mark.parametrize("ratios", [[1.0] * 4, [1.0], [], [1.0, 1.0, 1.0, 1.0, math.nan]])
def test_few_replicates_never_show_equivalence(ratios: list[float]) -> None:
    found = equivalence(ratios)
    assert not found.equivalent
    assert "5 needed" in found.ratio.warnings[-1]


def test_unknown_ratios_are_left_out_of_equivalence_and_said() -> None:
    found = equivalence([*logs_with(0.0, 0.01, 5), None])
    assert (found.equivalent, found.ratio.n) == (True, 5)
    assert found.ratio.warnings == ("1 of 6 replicates hold no value",)


def test_no_equivalence_without_an_interval() -> None:
    found = equivalence([1.0, 1.0, 1.0, 1.0, 0.0])
    assert not found.equivalent
    assert math.isnan(found.detectable)
    assert "zero or below" in found.ratio.warnings[0]


@pytest.mark.parametrize("margin", [0, 1, -0.05, 5])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        equivalence([1.0] * 5, margin)


def test_false_calls_are_the_calls_of_every_comparison_that_could_have_been() -> None:
    ratios = list(np.exp(np.random.default_rng(3).normal(0.02, 0.03, 9)))
    triples = list(itertools.combinations(ratios, 3))
    calls = sum(differs(log_t_interval(triple)) for triple in triples)
    assert false_calls([*ratios, None]) == (calls / 84, calls, 84)
    assert 0 < calls < 84


@pytest.mark.parametrize(("ratio", "calls"), [(1.0, 0), (1.1, 10)])
def test_equal_ratios_call_a_difference_only_where_there_is_one(ratio: float, calls: int) -> None:
    assert false_calls([ratio] * 5).calls == calls


@pytest.mark.parametrize(
    ("ratios", "replicates", "message"),
    [([1.0, 1.1], 3, "3 of 2"), ([1.0, 1.1], 1, "1 of 2"), ([1.0, 1.1, 0.0], 3, "zero or below")],
)
def test_comparisons_that_cannot_be_made_are_refused(
    ratios: list[float], replicates: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        false_calls(ratios, replicates)


def test_differences_have_student_s_interval() -> None:
    """t(0.975, 2) = 4.303, s/√3 = 0.577."""
    found = t_interval([-1.0, None, 0.0, math.nan, 1.0], "s")
    assert (found.value, found.low, found.high) == pytest.approx((0, -2.484, 2.484), abs=1e-3)
    assert math.isnan(t_interval([1.0], "s").low)
    assert math.isnan(t_interval([], "s").value)


def test_a_share_has_an_interval_that_covers_it_at_least_as_often_as_it_says() -> None:
    of, rng = 60, np.random.default_rng(7)
    for truth in (0.02, 0.3, 0.9):
        counts = rng.binomial(of, truth, 2_000)
        found = {int(count): proportion(int(count), of) for count in set(counts)}
        covered = np.mean([found[int(c)].low <= truth <= found[int(c)].high for c in counts])
        assert covered >= CONFIDENCE - 0.01


def test_a_share_of_none_or_all_ends_where_it_must() -> None:
    none, all_ = proportion(0, 1_000), proportion(1_000, 1_000)
    assert (none.value, none.low, all_.value, all_.high) == (0.0, 0.0, 1.0, 1.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 1_000))  # in closed form, where none is
    assert math.isnan(proportion(0, 0).value)
