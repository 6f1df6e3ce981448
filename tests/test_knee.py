"""The hinge finds knees it was given, says how sure it is, and finds none where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.analysis.knee import fit_hinge

USERS = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000], dtype=float)
SLOPE = 1000.0  # a round trip of 1 ms


def queueing_network(users: NDArray[np.float64], demand: float, delay: float) -> list[float]:
    """Exact mean value analysis of one queue and a delay: a curve whose knee is rounded."""
    queue, rates = 0.0, {}
    for n in range(1, int(users.max()) + 1):
        residence = demand * (1 + queue)
        rates[n] = n / (delay + residence)
        queue = rates[n] * residence
    return [rates[int(n)] for n in users]


def noisy(rates: NDArray[np.float64], share: float, seed: int) -> NDArray[np.float64]:
    return rates * np.exp(np.random.default_rng(seed).normal(0, share, rates.shape))


def test_a_queueing_networks_knee_of_101_is_found() -> None:
    hinge = fit_hinge(USERS, queueing_network(USERS, demand=1e-5, delay=1e-3))
    assert hinge.shown
    assert hinge.knee.value == pytest.approx(101, rel=0.02)
    assert hinge.knee.low < 101 < hinge.knee.high
    assert hinge.slope_qps_per_user == pytest.approx(1 / 1.01e-3, rel=0.03)
    assert hinge.plateau_qps == pytest.approx(1e5, rel=0.01)
    assert hinge.knee.unit == "users"
    assert hinge.knee.warnings == ()


@pytest.mark.parametrize(("knee", "noise", "replicates"), [(101.0, 0.05, 1), (20.0, 0.1, 3)])
def test_the_interval_covers_the_knee_as_often_as_it_says(
    knee: float, noise: float, replicates: int
) -> None:
    users, runs = np.repeat(USERS, replicates), 2000
    true = np.minimum(SLOPE * users, SLOPE * knee)
    estimates = [fit_hinge(users, noisy(true, noise, seed)).knee for seed in range(runs)]
    covered = sum(e.low <= knee <= e.high for e in estimates) / runs
    assert 0.93 <= covered <= 0.97
    assert np.median([e.value for e in estimates]) == pytest.approx(knee, rel=0.01)


def test_noise_free_data_give_the_knee_itself() -> None:
    hinge = fit_hinge(USERS, np.minimum(SLOPE * USERS, 70_000.0))
    assert hinge.knee.value == pytest.approx(70)
    assert hinge.knee.low == pytest.approx(70)
    assert hinge.knee.high == pytest.approx(70)
    assert hinge.slope_qps_per_user == pytest.approx(SLOPE)
    assert hinge.plateau_qps == pytest.approx(70_000)


def test_a_curve_that_only_rises_has_no_knee() -> None:
    hinge = fit_hinge(USERS, noisy(SLOPE * USERS, 0.03, seed=4))
    assert not hinge.shown
    assert "rises up to 5000 users" in hinge.knee.warnings[0]
    assert hinge.knee.high == math.inf
    assert hinge.knee.low > 1000
    assert hinge.slope_qps_per_user == pytest.approx(SLOPE, rel=0.05)
    assert math.isnan(hinge.plateau_qps)


def test_a_flat_curve_has_no_knee() -> None:
    hinge = fit_hinge(USERS, noisy(0 * USERS + 9000.0, 0.03, seed=4))
    assert not hinge.shown
    assert "flat from 1 users" in hinge.knee.warnings[0]
    assert hinge.plateau_qps == pytest.approx(9000, rel=0.05)
    assert math.isnan(hinge.slope_qps_per_user)


def test_a_knee_is_rarely_seen_where_there_is_none() -> None:
    rising = [fit_hinge(USERS, noisy(SLOPE * USERS, 0.1, seed)).shown for seed in range(300)]
    flat = [fit_hinge(USERS, noisy(0 * USERS + 9000.0, 0.1, seed)).shown for seed in range(300)]
    assert sum(rising) / 300 < 0.05
    assert sum(flat) / 300 < 0.05


def test_a_steady_power_is_no_knee() -> None:
    hinge = fit_hinge(USERS, noisy(SLOPE * USERS**0.6, 0.02, seed=1))
    assert not hinge.shown
    assert "steady power" in hinge.knee.warnings[0]


def test_scatter_that_hides_everything_is_said() -> None:
    users = [10.0, 20.0, 50.0, 100.0]
    hinge = fit_hinge(users, [900.0, 30_000.0, 2_000.0, 9_000.0])
    assert not hinge.shown
    assert "scatter too much" in hinge.knee.warnings[0]


def test_a_poor_fit_is_said() -> None:
    collapse = np.minimum(SLOPE * USERS, 50_000.0) / (1 + (USERS / 1000) ** 2) ** 0.3
    hinge = fit_hinge(USERS, collapse)
    assert hinge.shown
    assert "off the hinge" in hinge.knee.warnings[0]


def test_three_levels_are_too_few() -> None:
    hinge = fit_hinge([1, 1, 10, 10, 100, 100], [1, 1, 10, 10, 10, 10])
    assert not hinge.shown
    assert "3 levels" in hinge.knee.warnings[0]


def test_the_order_of_the_points_does_not_matter() -> None:
    rates = noisy(np.minimum(SLOPE * USERS, 60_000.0), 0.05, seed=2)
    assert fit_hinge(USERS[::-1], rates[::-1]).knee.value == pytest.approx(
        fit_hinge(USERS, rates).knee.value
    )


@pytest.mark.parametrize(
    ("users", "rates", "message"),
    [([1, 2, 3, 4], [1, 2, 3], "4 values"), ([1, 2, 3, 4], [1, 2, 0, 3], "positive")],
)
def test_impossible_data_are_refused(users: list[float], rates: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_hinge(users, rates)
