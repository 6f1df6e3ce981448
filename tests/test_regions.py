"""Where an estimate lies beside what is claimed, and how much more data would tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from bench.analysis.regions import margin, times_to_lie
from bench.analysis.statistics import equivalence, log_t_interval, same_within, t_interval
from bench.model import Estimate, Region

NAN = math.nan
ABOVE_TWO = Region(low=2.0)


def known(value: float, half: float, n: int = 5) -> Estimate:
    return Estimate(value, value - half, value + half, "s", n)


def test_depth_is_told_in_half_intervals_with_its_side() -> None:
    assert margin(known(2.5, 0.25), ABOVE_TWO) == pytest.approx(2.0)
    assert margin(known(1.5, 0.25), ABOVE_TWO) == pytest.approx(-2.0)
    assert margin(known(10.0, 1.0), Region(8.0, 13.0)) == pytest.approx(2.0)


def test_an_exact_value_is_as_deep_as_can_be_and_an_unknown_one_nowhere() -> None:
    exact = Estimate(3.0, 3.0, 3.0, "", 5)
    assert margin(exact, ABOVE_TWO) == math.inf
    assert margin(exact, Region(high=2.0)) == -math.inf
    assert math.isnan(margin(Estimate(NAN, NAN, NAN, "", 0), ABOVE_TWO))


def test_logs_and_a_regions_own_confidence_count() -> None:
    ratio = log_t_interval([0.9, 1.0, 1.1, 1.05, 0.95])
    same = same_within(0.25)
    low = math.log(ratio.value / 0.75) / math.log(ratio.value / ratio.low)
    narrower = stdtrit(4, 0.975) / stdtrit(4, 0.95)
    assert margin(ratio, same) == pytest.approx(
        min(low, math.log(1.25 / ratio.value) / math.log(ratio.high / ratio.value)) * narrower
    )


@pytest.mark.parametrize("values", [(0.97, 1.0, 1.02, 1.01, 0.99), (0.9, 1.0, 1.1, 1.05, 0.95)])
def test_a_ratio_lies_where_it_is_the_same_exactly_if_the_two_tests_say_so(
    values: tuple[float, ...],
) -> None:
    deep = margin(log_t_interval(values), same_within(0.05))
    assert (deep >= 1) == equivalence(values, 0.05).equivalent


def test_so_many_times_the_data_tell_about_half_the_time() -> None:
    """If value and scatter stay as they are: the next sample's value is as often nearer."""
    rng, truth, scatter = np.random.default_rng(3), 2.2, 0.5
    half = scatter * stdtrit(4, 0.975) / math.sqrt(5)
    n = round(5 * times_to_lie(known(truth, half), ABOVE_TWO))
    told = [t_interval(list(rng.normal(truth, scatter, n)), "s").low > 2.0 for _ in range(2_000)]
    assert 0.4 < np.mean(told) < 0.65


def test_what_lies_there_takes_no_more_and_what_lies_elsewhere_never_gets_there() -> None:
    assert times_to_lie(known(3.0, 0.5), ABOVE_TWO) == 1.0
    assert times_to_lie(known(1.5, 0.2), ABOVE_TWO) == math.inf
    assert times_to_lie(known(1.5, 0.2), ABOVE_TWO, within=False) == 1.0
    assert times_to_lie(known(1.9, 0.2), ABOVE_TWO, within=False) > 1.0
    assert times_to_lie(known(2.0, 0.2), ABOVE_TWO) == math.inf
