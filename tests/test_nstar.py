"""N* from shares at several sizes, and the law over many loads, on data whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.nstar import crossing, falling, law, left_out_errors
from bench.analysis.queueing import erlang_c, servers_needed

shares = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(shares, st.data())
def test_the_falling_fit_is_the_best_of_all_that_never_rise(
    values: list[float], data: object
) -> None:
    weights = data.draw(  # type: ignore[attr-defined]
        st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values))
    )
    fit = falling(values, weights)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(fit))
    assert np.average(fit, weights=weights) == pytest.approx(np.average(values, weights=weights))

    def squares(guess: np.ndarray) -> float:
        return float(np.sum(np.asarray(weights) * (np.asarray(values) - guess) ** 2))

    rng = np.random.default_rng(1)
    for _ in range(20):
        other = np.sort(rng.random(len(values)))[::-1]
        mixed = fit + rng.random() * (other - fit)  # never rises either
        assert squares(fit) <= squares(mixed) + 1e-9


def test_the_crossing_lies_where_the_logarithm_of_the_share_says() -> None:
    sizes, requests = [10, 12, 14], [1000, 1000, 1000]
    assert crossing(sizes, [0.1, 0.01, 0.001], requests, 0.01).connections == pytest.approx(12)
    assert crossing(sizes, [0.04, 0.02, 0.005], requests, 0.01).connections == pytest.approx(13)
    assert crossing(sizes, [0.1, 0.001, 0.001], requests, 0.01).connections == pytest.approx(11)


def test_a_share_of_none_counts_as_half_a_request() -> None:
    found = crossing([10, 12], [0.04, 0.0], [200, 200], 0.01).connections
    assert found == pytest.approx(crossing([10, 12], [0.04, 0.0025], [200, 200], 0.01).connections)


def test_a_share_that_rises_by_chance_is_joined_with_its_neighbour() -> None:
    joined = crossing([10, 12, 14], [0.02, 0.004, 0.012], [1000, 1000, 1000], 0.01)
    assert 10 < joined.connections <= 14
    assert joined == crossing([10, 12, 14], [0.02, 0.008, 0.008], [1000, 1000, 1000], 0.01)


@pytest.mark.parametrize(("values", "beyond"), [([0.009, 0.001], "below"), ([0.1, 0.02], "above")])
def test_what_lies_outside_the_sizes_measured_is_said(values: list[float], beyond: str) -> None:
    found = crossing([10, 12], values, [1000, 1000], 0.01)
    assert math.isnan(found.connections)
    assert found.beyond == beyond


@pytest.mark.parametrize("load", [2.4, 10.0, 40.0])
def test_n_star_is_found_from_noisy_shares(load: float) -> None:
    """Erlang's own shares, counted over 2,500 requests that come in clumps of three."""
    true = servers_needed(load, 0.01)
    sizes = [true + step for step in (-4, -2, 0, 2, 4) if true + step > load]
    rng = np.random.default_rng(7)
    chances = [erlang_c(size, load) for size in sizes]
    found = [
        crossing(sizes, (3 * rng.binomial(833, chances) / 2500).tolist(), [2500] * len(sizes), 0.01)
        for _ in range(300)
    ]
    known = [each.connections for each in found if not each.beyond]
    assert len(known) > 0.9 * len(found)
    assert np.mean(known) == pytest.approx(true - 0.5, abs=0.6)  # the whole number above it is N*
    assert np.std(known) < 0.06 * true + 0.4


IN_FLIGHT = np.tile([10, 10.4, 10.8, 2.4, 5.3, 20.3, 40.5], 3)
RATE = np.tile([500.0, 1000, 2000, 1000, 1000, 1000, 1000], 3)
BLOCK = np.repeat([1, 2, 3], 7)


def sizes(rng: np.random.Generator, scatter: float, b: float, c: float) -> np.ndarray:
    """N* of three blocks of seven loads by a known law; a block has a level of its own."""
    noise = rng.normal(0, scatter, 21) + np.repeat(rng.normal(0, 0.03, 3), 7)
    return 3 * IN_FLIGHT**b * RATE**c * np.exp(noise)


@pytest.mark.parametrize(("b", "c"), [(0.7, 0.0), (0.7, 0.2), (0.0, 1.0)])
def test_the_exponents_intervals_hold_the_truth_19_times_in_20(b: float, c: float) -> None:
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    rounds = 600
    for _ in range(rounds):
        found = law(sizes(rng, 0.05, b, c), IN_FLIGHT, RATE, BLOCK.tolist())
        hits += [each.low <= true <= each.high for each, true in zip(found, (b, c), strict=True)]
    assert np.all(np.abs(hits / rounds - 0.95) < 0.03)


def test_a_need_that_is_no_power_of_what_is_in_flight_has_no_exponent_of_the_rate() -> None:
    """Erlang's N*, which grows as L and √L together."""
    rng = np.random.default_rng(5)
    true = np.array([servers_needed(load, 0.01) for load in IN_FLIGHT])
    held = [
        law(true * np.exp(rng.normal(0, 0.03, 21)), IN_FLIGHT, RATE, BLOCK.tolist())
        for _ in range(300)
    ]
    assert np.mean([each.rate.low <= 0 <= each.rate.high for each in held]) > 0.9
    assert np.mean([each.rate.low >= -0.1 and each.rate.high <= 0.1 for each in held]) > 0.95
    assert np.mean([each.in_flight.value for each in held]) == pytest.approx(0.75, abs=0.05)


def test_exponents_that_no_load_tells_apart_are_refused() -> None:
    found = sizes(np.random.default_rng(1), 0.01, 0.7, 0.0)
    same_rate = RATE == 1000
    for some in (same_rate, np.arange(21) < 3, np.zeros(21, dtype=bool)):
        with pytest.raises(ValueError, match="apart"):
            law(found[some], IN_FLIGHT[some], RATE[some], BLOCK[some].tolist())


def test_a_rule_is_judged_on_loads_it_was_not_fitted_to() -> None:
    assert left_out_errors([2, 4, 8], [1, 2, 4]) == pytest.approx([1, 1, 1])
    ratios = left_out_errors([10, 10, 20], [1, 1, 1])
    assert ratios == pytest.approx([2**0.5, 2**0.5, 0.5])
    with pytest.raises(ValueError, match="two values"):
        left_out_errors([10], [1])
