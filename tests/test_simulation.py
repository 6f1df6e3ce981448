"""The simulated pool against formulas, and against a simulation that goes by another way."""

from __future__ import annotations

import heapq
import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.queueing import erlang_c, mdc_wait
from bench.analysis.simulation import poisson, smallest_pool, waits

REQUESTS = 400_000
LOAD = 10.0


def by_events(sent: list[float], hold: list[float], connections: int) -> list[float]:
    """The same pool played through event by event: a queue, and connections that come back."""
    idle, back, line, waited = connections, [], deque(), [0.0] * len(sent)

    def give_back_until(moment: float) -> None:
        nonlocal idle
        while back and back[0] <= moment:
            now = heapq.heappop(back)
            idle += 1
            if line:
                first = line.popleft()
                waited[first] = now - sent[first]
                idle -= 1
                heapq.heappush(back, now + hold[first])

    for number, asked in enumerate(sent):
        give_back_until(asked)
        if idle:
            idle -= 1
            heapq.heappush(back, asked + hold[number])
        else:
            line.append(number)
    give_back_until(math.inf)
    return waited


def arrivals(requests: int = REQUESTS, seed: int = 1) -> np.ndarray:
    return poisson(LOAD, requests / LOAD, seed)  # one service time is a second


@pytest.mark.parametrize("connections", [12, 14, 17, 19])
def test_the_share_that_waits_is_erlang_cs(connections: int) -> None:
    sent = arrivals()
    hold = np.random.default_rng(2).exponential(1.0, len(sent))
    share = (waits(sent, hold, connections) > 0).mean()
    assert share == pytest.approx(erlang_c(connections, LOAD), rel=0.1)


def test_the_tail_of_the_wait_is_that_of_m_m_c() -> None:
    sent = arrivals()
    hold = np.random.default_rng(2).exponential(1.0, len(sent))
    waited = waits(sent, hold, 14)
    for longest in (0.1, 0.3, 0.6):
        tail = erlang_c(14, LOAD) * math.exp(-(14 - LOAD) * longest)
        assert (waited > longest).mean() == pytest.approx(tail, rel=0.1)
    p99 = math.log(erlang_c(14, LOAD) / 0.01) / (14 - LOAD)
    assert np.quantile(waited, 0.99) == pytest.approx(p99, rel=0.05)


@pytest.mark.parametrize("connections", [11, 12, 13])
def test_the_mean_wait_with_equal_hold_times_is_exact(connections: int) -> None:
    sent = arrivals()
    waited = waits(sent, np.ones(len(sent)), connections)
    assert waited.mean() == pytest.approx(mdc_wait(connections, LOAD), rel=0.05)


times = st.integers(0, 40).map(lambda quarter: quarter / 4)  # ties are frequent


@given(st.lists(st.tuples(times, times), max_size=60), st.integers(1, 6))
def test_it_agrees_with_one_played_through_event_by_event(
    requests: list[tuple[float, float]], connections: int
) -> None:
    sent = sorted(asked for asked, _ in requests)
    hold = [held for _, held in requests]
    assert waits(sent, hold, connections).tolist() == by_events(sent, hold, connections)


def test_a_pool_large_enough_keeps_nobody_waiting() -> None:
    sent = arrivals(2_000)
    hold = np.random.default_rng(2).lognormal(0, 2, len(sent))
    assert not waits(sent, hold, len(sent)).any()
    assert waits([], [], 1).size == 0


@given(st.integers(0, 300), st.integers(-5, 400), st.integers(1, 300))
def test_the_smallest_pool_is_the_one_a_linear_search_finds(
    needed: int, first: int, most: int
) -> None:
    found = next((size for size in range(1, most + 1) if size >= needed), None)
    assert smallest_pool(lambda size: size >= needed, first, most) == found


def test_the_search_for_the_smallest_pool_asks_seldom() -> None:
    asked: list[int] = []
    assert smallest_pool(lambda size: asked.append(size) or size >= 700_000, 1, 10**6) == 700_000
    assert len(asked) < 50
    assert all(1 <= size <= 10**6 for size in asked)


def test_poisson_arrivals() -> None:
    sent = poisson(100.0, 50.0, 1)
    assert (np.diff(sent) >= 0).all()
    assert 0 <= sent[0] <= sent[-1] < 50
    assert len(sent) == pytest.approx(5_000, abs=4 * math.sqrt(5_000))
    gaps = np.diff(sent)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.1)
    assert poisson(100.0, 50.0, 1).tolist() == sent.tolist()
    assert poisson(100.0, 50.0, 2).tolist() != sent.tolist()
    assert poisson(0.0, 50.0, 1).size == 0


@pytest.mark.parametrize("connections", [0, -1])
def test_a_pool_without_connections_is_refused(connections: int) -> None:
    with pytest.raises(ValueError, match="connections"):
        waits([0.0], [1.0], connections)


def test_times_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        waits([0.0, 1.0], [1.0], 1)
