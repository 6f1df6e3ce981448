"""Each gate at its limit, and the name of what bounds a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.analysis import gates
from bench.model import Gate


@pytest.mark.parametrize("outstanding", [97.1, 100.0, 102.9])
def test_littles_law_over_the_users_within_three_percent(outstanding: float) -> None:
    gate = gates.little_users(outstanding, concurrency=100, rtt_s=0.001)
    assert gate.figure == pytest.approx(outstanding / 100 - 1)
    assert (gate.name, gate.limit, gate.passed, gate.reason) == ("little_users", 0.03, True, "")


@pytest.mark.parametrize(("outstanding", "told"), [(96.0, "-4.0%"), (104.0, "+4.0%")])
def test_littles_law_over_the_users_beyond_it(outstanding: float, told: str) -> None:
    gate = gates.little_users(outstanding, concurrency=100, rtt_s=0.01)
    assert gate.passed is False
    assert told in gate.reason


def test_below_one_millisecond_the_gap_is_the_generators_share() -> None:
    gate = gates.little_users(40.0, concurrency=50, rtt_s=0.0)
    assert gate.figure == pytest.approx(-0.2)
    assert gate.passed is None
    assert "generator's share" in gate.reason


def test_nothing_served_is_not_a_division_by_zero() -> None:
    assert gates.little_users(0.0, 10, 0.01).passed is False
    assert gates.little_pool(0.0, 0.0, 0.0).passed is False


@pytest.mark.parametrize(("in_use", "passed"), [(19.85, True), (20.25, False), (19.75, False)])
def test_the_pools_own_count_against_littles_law(in_use: float, passed: bool) -> None:
    gate = gates.little_pool(in_use, held_mean=20.0, qps=100.0)
    assert gate.figure == pytest.approx(in_use / 20 - 1, abs=1e-5)
    assert gate.passed is passed


@pytest.mark.parametrize(("late_s", "passed"), [(0.9e-6, True), (-0.9e-6, True), (1.3e-6, False)])
def test_the_pool_may_read_its_clock_a_microsecond_after_done(late_s: float, passed: bool) -> None:
    hold_s = 25e-6
    qps = 1 / hold_s
    gate = gates.little_pool(1.0 + late_s * qps, held_mean=1.0, qps=qps)
    assert gate.passed is passed
    assert (gate.figure == 0) is passed


@pytest.mark.parametrize(("in_use", "passed"), [(9.75, True), (9.6, False), (10.4, False)])
def test_a_pool_that_is_the_limit_is_full(in_use: float, passed: bool) -> None:
    gate = gates.little_pool_full(in_use, pool_size=5, workers=2, bound="pool")
    assert gate.passed is passed


def test_a_pool_that_is_not_the_limit_need_not_be_full() -> None:
    gate = gates.little_pool_full(3.0, pool_size=5, workers=2, bound="users")
    assert gate.passed is None
    assert "bound by users" in gate.reason


def test_operations_must_equal_the_servers_count_for_each_command() -> None:
    sent = {"get": 900, "set": 100}
    assert gates.operations(sent, sent, {"get": 900, "set": 100, "info": 7}).passed is True
    swapped = gates.operations(sent, sent, {"get": 899, "set": 101})  # the sum is the same
    assert swapped.passed is False
    assert swapped.figure == 1
    assert "get: 900–900 sent, server counts 899" in swapped.reason


def test_operations_with_failures_lie_between_successes_and_sends() -> None:
    successes, sends = {"get": 990}, {"get": 1000}
    for calls, passed in [(989, False), (990, True), (1000, True), (1001, False)]:
        assert gates.operations(successes, sends, {"get": calls}).passed is passed


def test_a_command_nobody_should_have_sent_fails_the_gate() -> None:
    gate = gates.operations({"get": 5}, {"get": 5, "set": 0}, {"get": 5, "set": 2})
    assert (gate.passed, gate.figure) == (False, 2)


def test_unknown_counts_are_reported_as_such() -> None:
    assert gates.operations({"get": 5}, {"get": 5}, None).passed is None
    assert gates.foreign_operations(5, None).figure is None


def test_foreign_operations_on_a_shared_server_are_reported() -> None:
    few, many = gates.foreign_operations(995, 1000), gates.foreign_operations(900, 1000)
    assert (few.figure, few.passed, few.reason) == (0.005, None, "")
    assert many.passed is None
    assert "10.0% foreign" in many.reason
    assert gates.foreign_operations(0, 0).figure == 0


def test_steal_and_foreign_cpu_are_reported_never_gated() -> None:
    assert gates.steal(0.01) == Gate("steal", 0.01, 0.01, None, "")
    assert "2.0%" in gates.steal(0.02).reason
    assert gates.foreign_cpu(0.5).passed is None
    assert gates.foreign_cpu(0.03).reason == ""


def test_a_steady_rate_is_settled_and_a_drifting_one_is_not() -> None:
    low, high = [500, 510, 505, 505], [900, 905, 910, 905]
    assert gates.settled([1000, 1010, 990, 1005, 995, 1000, 1005, 995]).passed is True
    rising = gates.settled(low + high)
    assert rising.passed is False
    assert rising.figure == pytest.approx(905 / 505 - 1)
    assert "never settled" in rising.reason
    assert gates.settled(high + low).passed is False


def test_scatter_alone_does_not_unsettle() -> None:
    rng = np.random.default_rng(7)
    verdicts = [gates.settled(rng.normal(100, 25, 8).tolist()).passed for _ in range(2000)]
    assert verdicts.count(False) <= 6  # one in a thousand promised


@pytest.mark.parametrize("rates", [[], [5.0, 9.0, 1.0], [5.0] * 7, [0.0] * 4 + [3.0] * 4])
def test_too_few_intervals_say_nothing(rates: list[float]) -> None:
    gate = gates.settled(rates)
    assert (gate.figure, gate.passed) == (None, None)


IDLE: dict[str, Any] = {
    "worker_busy": [0.3, 0.2],
    "link_busy": 0.3,
    "server_busy": 0.3,
    "machine_busy": 0.45,
    "runqueue_share": 0.01,
    "hold_s": 0.0012,
    "unloaded_s": 0.001,
    "in_use_mean": 3.0,
    "pool_size": 5,
    "workers": 2,
    "concurrency": 40,
}


@pytest.mark.parametrize(
    ("changed", "bound"),
    [
        ({}, "users"),
        ({"in_use_mean": 9.7}, "pool"),
        ({"in_use_mean": 9.69}, "users"),
        ({"in_use_mean": 10.0, "concurrency": 10}, "users"),
        ({"worker_busy": [0.2, 0.85]}, "generator"),
        ({"worker_busy": [0.8, 0.8]}, "users"),
        ({"link_busy": 0.9, "in_use_mean": 10.0}, "link"),
        ({"server_busy": 0.9}, "server"),
        ({"server_busy": 0.9, "link_busy": 0.95, "worker_busy": [0.86]}, "link"),
        ({"runqueue_share": 0.06, "in_use_mean": 10.0}, "machine"),
        ({"runqueue_share": 0.05}, "users"),
        ({"runqueue_share": 0.2, "hold_s": 0.0010999}, "users"),
        ({"runqueue_share": 0.2, "hold_s": 0.0010999, "in_use_mean": 10.0}, "pool"),
        ({"runqueue_share": 0.2, "hold_s": 0.0010999, "machine_busy": 0.9}, "machine"),
        ({"machine_busy": 0.85}, "machine"),
        ({"machine_busy": 0.84}, "users"),
        ({"machine_busy": 0.9, "server_busy": 0.9}, "server"),
    ],
)
def test_every_cell_names_what_bounds_it(changed: dict[str, Any], bound: str) -> None:
    assert gates.bound_by(**{**IDLE, **changed}) == bound


def test_reasons_join_what_failed_and_only_that() -> None:
    told = gates.invalid_reasons(
        [
            gates.little_users(0.0, 10, 0.01),
            gates.steal(0.5),
            gates.little_users(10.0, 10, 0.01),
            Gate("a", 1, 0, False, "b"),
        ]
    )
    assert told == "little_users: -100.0% of the users' time is unaccounted for; a: b"
    assert gates.invalid_reasons([gates.steal(0.5)]) == ""
