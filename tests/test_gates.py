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


@pytest.mark.parametrize(("busiest", "passed"), [(0.6, True), (0.61, False), (None, None)])
def test_cores_must_have_time_to_spare(busiest: float | None, passed: bool | None) -> None:
    gate = gates.cores(busiest)
    assert (gate.passed, gate.figure) == (passed, busiest)
    assert ("a core was 61% busy, 60% allowed" in gate.reason) == (passed is False)


def test_a_steady_rate_is_settled_and_a_drifting_one_is_not() -> None:
    low, high = [500, 510, 505, 505], [900, 905, 910, 905]
    assert gates.settled([1000, 1010, 990, 1005, 995, 1000, 1005, 995]).passed is True
    rising = gates.settled(low + high)
    assert rising.passed is False
    assert rising.figure == pytest.approx(905 / 505 - 1)
    assert "never settled" in rising.reason
    assert gates.settled(high + low).passed is False


@pytest.mark.parametrize(
    "rates",
    [
        [100, 90, 80, 70, 60, 50, 40, 30],  # a plain ramp: within the halves it is scatter too
        [45, 52, 61, 66, 75, 84, 92, 100],
        [50, 52, 50, 51, 99, 101, 100, 98],  # a step
    ],
)
def test_a_drift_does_not_excuse_itself_as_scatter(rates: list[float]) -> None:
    assert gates.settled(rates).passed is False


def test_scatter_alone_does_not_unsettle() -> None:
    rng = np.random.default_rng(7)
    verdicts = [gates.settled(rng.normal(100, 25, 8).tolist()).passed for _ in range(2000)]
    assert verdicts.count(False) <= 6  # one in a thousand promised


@pytest.mark.parametrize("rates", [[], [5.0, 9.0, 1.0], [5.0] * 7, [0.0] * 4 + [3.0] * 4])
def test_too_few_intervals_say_nothing(rates: list[float]) -> None:
    gate = gates.settled(rates)
    assert (gate.figure, gate.passed) == (None, None)


# ---------------------------------------------------------------------- open loops


@pytest.mark.parametrize(
    ("done", "passed", "reason"),
    [(10_000, True, ""), (9_990, True, ""), (9_989, False, "only 99.89% of offered")],
)
def test_999_of_1000_arrivals_must_be_served(done: int, passed: bool, reason: str) -> None:
    gate = gates.served(10_000, done, "users")
    assert gate == Gate("served", done / 10_000, 0.999, passed, reason)
    assert gates.served(10_000, done, "generator").passed is passed


def test_where_the_pool_is_the_limit_not_all_can_be_served() -> None:
    gate = gates.served(10_000, 5_000, "pool")
    assert (gate.figure, gate.passed) == (0.5, None)
    assert "pool is the limit" in gate.reason


def test_without_arrivals_there_is_nothing_to_serve_or_to_queue() -> None:
    for gate in (gates.served(0, 0, "users"), gates.backlog(0, 20, 0, "users")):
        assert (gate.figure, gate.passed) == (None, None)
        assert "no arrival" in gate.reason


@pytest.mark.parametrize(
    ("grown", "figure", "passed"),
    [(-30, 0, True), (20, 0, True), (520, 0.05, True), (521, 0.0501, False), (8_020, 0.8, False)],
)
def test_a_line_may_not_grow_by_a_twentieth_of_the_arrivals(
    grown: int, figure: float, passed: bool
) -> None:
    gate = gates.backlog(grown, room=20, scheduled=10_000, bound="generator")
    assert (gate.name, gate.limit, gate.passed) == ("backlog", 0.05, passed)
    assert gate.figure == pytest.approx(figure)
    assert gate.reason == (
        "" if passed else f"{figure:.1%} of the arrivals piled up within the window"
    )


def test_a_line_at_a_pool_that_is_the_limit_grows_with_good_reason() -> None:
    gate = gates.backlog(8_020, room=20, scheduled=10_000, bound="pool")
    assert (gate.figure, gate.passed) == (0.8, None)


@pytest.mark.parametrize(
    ("p99_s", "unloaded_s", "limit", "passed"),
    [
        (0.5e-3, 1.2e-3, 0.5e-3, True),  # half a millisecond at least,
        (0.51e-3, 1.2e-3, 0.5e-3, False),
        (5e-3, 50e-3, 5e-3, True),  # or a tenth of the round trip
        (5.1e-3, 50e-3, 5e-3, False),
    ],
)
def test_the_generator_keeps_its_schedule(
    p99_s: float, unloaded_s: float, limit: float, passed: bool
) -> None:
    gate = gates.send_lag(p99_s, unloaded_s, rtt_s=unloaded_s)
    assert (gate.name, gate.figure, gate.passed) == ("send_lag", p99_s, passed)
    assert gate.limit == pytest.approx(limit)
    assert gate.reason == (
        "" if passed else f"p99 {p99_s * 1e3:.2f} ms behind schedule, {limit * 1e3:.2f} ms allowed"
    )


def test_the_send_lag_is_only_reported_at_no_round_trip_or_of_too_few() -> None:
    near, few = gates.send_lag(0.02, 30e-6, 0.0), gates.send_lag(None, 1e-3, 1e-3)
    assert (near.figure, near.passed, near.reason) == (0.02, None, "at RTT 0 reported, not gated")
    assert (few.figure, few.passed, few.reason) == (None, None, "too few requests for a p99")


@pytest.mark.parametrize(
    ("empty", "passed", "reason"),
    [
        (0.0, True, ""),
        (0.001, True, ""),
        (0.0011, False, "0.11% of requests found it empty"),
        (0.2, False, "20.00% of requests found it empty"),
    ],
)
def test_a_pool_of_four_times_the_load_is_never_found_empty(
    empty: float, passed: bool, reason: str
) -> None:
    gate = gates.null_control(empty, 40, concurrency=41, in_flight_mean=10.0, rtt_s=0.001)
    assert gate == Gate("null_control", empty, 0.001, passed, reason)


def test_a_smaller_pool_is_no_control_and_at_no_round_trip_there_is_none() -> None:
    small = gates.null_control(0.2, 39, concurrency=500, in_flight_mean=10.0, rtt_s=0.001)
    few = gates.null_control(0.0, 40, concurrency=40, in_flight_mean=10.0, rtt_s=0.001)
    near = gates.null_control(0.2, 40, concurrency=500, in_flight_mean=1.0, rtt_s=0.0)
    for gate in (small, few):
        assert (gate.figure, gate.passed) == (None, None)
        assert "no control" in gate.reason
    assert (near.figure, near.passed) == (0.2, None)
    assert "RTT 0" in near.reason


# ---------------------------------------------------------------------- the apparatus


@pytest.mark.parametrize(
    ("quickest_s", "rtt_s", "passed"),
    [
        (0.991e-3, 1e-3, True),  # the clocks are read at different moments
        (0.989e-3, 1e-3, False),
        (1.44e-3, 1e-3, True),  # a twentieth, and 0.4 ms for the relaying itself
        (1.46e-3, 1e-3, False),
        (52.8e-3, 50e-3, True),
        (53.0e-3, 50e-3, False),
        (49.0e-3, 50e-3, False),
    ],
)
def test_the_link_takes_as_long_as_it_is_set_to(
    quickest_s: float, rtt_s: float, passed: bool
) -> None:
    gate = gates.link_rtt(quickest_s, rtt_s)
    assert (gate.name, gate.passed) == ("link_rtt", passed)
    assert gate.figure == pytest.approx(quickest_s / rtt_s - 1)
    assert gate.limit == pytest.approx(0.05 + 0.4e-3 / rtt_s)  # what was applied
    wrong = f"the quickest request took {quickest_s * 1e3:.3g} ms at RTT {rtt_s * 1e3:g} ms"
    assert gate.reason == ("" if passed else wrong)


def test_without_a_link_there_is_no_setting_to_check() -> None:
    gate = gates.link_rtt(40e-6, 0.0)
    assert (gate.figure, gate.passed, gate.reason) == (None, None, "no link on the path")


def test_no_worker_may_be_lost() -> None:
    assert gates.workers(0, 2) == Gate("workers", 0.0, 0.0, True, "")
    assert gates.workers(1, 2) == Gate("workers", 1.0, 0.0, False, "1 of 2 lost")


@pytest.mark.parametrize(
    ("step_s", "passed"),
    [(0.0, True), (0.05, True), (-0.05, True), (0.051, False), (-0.051, False)],
)
def test_the_wall_clock_may_slew_and_not_step(step_s: float, passed: bool) -> None:
    gate = gates.clock(step_s, backwards=0)
    assert (gate.name, gate.figure, gate.limit, gate.passed) == ("clock", step_s, 0.05, passed)
    assert gate.reason == (
        "" if passed else f"the wall clock stepped by {step_s:+.3f} s within the window"
    )


def test_no_request_runs_backwards() -> None:
    assert gates.clock(0.0, 3) == Gate("clock", 0.0, 0.05, False, "3 requests run backwards")


@pytest.mark.parametrize(("longest_s", "told"), [(0.0, ""), (0.001, ""), (0.0011, "1.1 ms; 75%")])
def test_a_stall_above_a_millisecond_is_told_and_not_gated(longest_s: float, told: str) -> None:
    gate = gates.hiccups(longest_s, calm_share=0.75)
    assert (gate.name, gate.figure, gate.limit, gate.passed) == ("hiccups", longest_s, 1e-3, None)
    assert bool(gate.reason) is bool(told)
    assert told in gate.reason
    assert bool(gates.doubts([gate])) is bool(told)


# ---------------------------------------------------------------------- what bounds a cell


IDLE: dict[str, Any] = {
    "worker_busy": [0.3, 0.2],
    "link_busy": 0.3,
    "server_busy": 0.3,
    "machine_busy": 0.45,
    "runqueue_share": 0.01,
    "hold_s": 0.0013,
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
        ({"runqueue_share": 0.2, "hold_s": 0.0011999}, "users"),
        ({"runqueue_share": 0.2, "hold_s": 0.0011999, "in_use_mean": 10.0}, "pool"),
        ({"runqueue_share": 0.2, "hold_s": 0.0011999, "machine_busy": 0.9}, "machine"),
        ({"runqueue_share": 0.2, "hold_s": 0.0109, "unloaded_s": 0.01}, "users"),
        ({"runqueue_share": 0.2, "hold_s": 0.0111, "unloaded_s": 0.01}, "machine"),
        ({"machine_busy": 0.85}, "machine"),
        ({"machine_busy": 0.84}, "users"),
        ({"machine_busy": 0.9, "server_busy": 0.9}, "server"),
        ({"behind": True}, "generator"),  # though it was not busy
        ({"behind": True, "in_use_mean": 10.0}, "pool"),
        ({"behind": True, "machine_busy": 0.9}, "machine"),
        ({"behind": True, "server_busy": 0.9}, "server"),
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
