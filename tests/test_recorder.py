"""Clock readings in, exact histograms and areas out."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from bench.load.recorder import Recorder, add_seconds, merge, new_histogram


def recorded(rows: list[tuple[float, float, float]]) -> Recorder:
    """Requests by (sent, acquired, done), each intended when it was sent."""
    return open_recorded([(row[0], *row) for row in rows])


def open_recorded(rows: list[tuple[float, float, float, float]]) -> Recorder:
    recorder = Recorder(("GET", "SET"))
    for row in rows:
        recorder.sink("GET")(row)
    return recorder


def test_a_window_takes_the_requests_that_end_in_it() -> None:
    rows = [(0.0, 0.1, 0.9), (0.5, 0.6, 1.0), (1.2, 1.3, 1.999), (1.5, 1.6, 2.0)]
    window = recorded(rows).window(1.0, 2.0, "closed")
    assert window["requests"] == 2
    assert window["sums_s"]["latency"] == pytest.approx(0.5 + 0.799)
    assert window["sums_s"]["acquire"] == pytest.approx(0.2)
    assert window["sums_s"]["command"] == pytest.approx(0.4 + 0.699)


def test_an_open_window_takes_the_requests_that_were_due_in_it_whenever_they_end() -> None:
    rows = [
        (0.9, 1.1, 1.1, 1.2),  # due before, done within
        (1.0, 1.1, 1.3, 1.6),
        (1.9, 1.9, 2.5, 9.0),  # due within, done long after: what is slow must not fall out of it
        (2.0, 2.0, 2.0, 2.1),
    ]
    window = open_recorded(rows).window(1.0, 2.0, "open")
    assert (window["requests"], window["done"]) == (2, 2)
    assert window["sums_s"]["latency"] == pytest.approx(0.6 + 7.1)
    assert window["sums_s"]["send_lag"] == pytest.approx(0.1)
    assert window["sums_s"]["acquire"] == pytest.approx(0.2 + 0.6)
    assert window["quickest_s"] == pytest.approx(0.3)
    assert sum(row["samples"] for row in window["series"]) == 2
    assert [row["requests"] for row in window["series"]].count(1) == 2


def test_what_was_held_is_told_by_the_time_at_each_number() -> None:
    rows = [
        (0.0, 0.0, 0.5, 1.2),  # held from before the window
        (1.0, 1.0, 1.1, 1.4),
        (1.0, 1.0, 1.3, 2.5),  # to after it
        (2.0, 2.0, 2.1, 2.2),  # not within
    ]
    held = HdrHistogram.decode(open_recorded(rows).in_flight(1.0, 2.0))
    spent = [held.get_count_at_value(number) for number in range(4)]
    assert spent == pytest.approx([0, 800_000, 200_000, 0], abs=2)


def test_nothing_held_is_the_whole_window_at_none() -> None:
    held = HdrHistogram.decode(Recorder(("GET",)).in_flight(1.0, 2.0))
    assert held.get_count_at_value(0) == 1_000_000


def test_waits_beyond_the_objective_are_counted() -> None:
    rows = [(1.0, 1.0, 1.0004, 1.1), (1.0, 1.0, 1.0006, 1.1), (1.0, 1.2, 1.2, 1.3)]
    assert open_recorded(rows).window(1.0, 2.0, "open")["waited_long"] == 1


def test_times_that_run_backwards_are_counted() -> None:
    rows = [(1.0, 1.1, 1.2, 1.3), (1.0, 0.9, 1.2, 1.3), (1.0, 1.1, 1.2, 1.1)]
    window = open_recorded(rows).window(1.0, 2.0, "open")
    assert window["backwards"] == 2
    assert window["out_of_range"]["send_lag"] == window["out_of_range"]["command"] == 1


def test_intervals_histograms_add_up_to_the_windows() -> None:
    rng = np.random.default_rng(3)
    due = np.sort(rng.uniform(0, 1, 2_000))
    took = rng.exponential(1e-3, 2_000)
    rows = [(t, t + 1e-5, t + 2e-5, t + 2e-5 + x) for t, x in zip(due, took, strict=True)]
    window = open_recorded(rows).window(0.0, 1.0, "open")
    for kind in ("latency", "acquire"):
        parts = merge(row["histograms"][kind] for row in window["series"])
        assert parts.encode() == window["histograms"][kind]


def test_raw_rows_come_in_the_order_in_which_they_were_due() -> None:
    rows = open_recorded([(3.0, 3.0, 3.1, 3.2), (2.0, 2.5, 2.6, 3.9)]).rows(since=2.0)
    assert rows.tolist() == pytest.approx(np.array([[0, 0.5, 0.6, 1.9], [1, 1, 1.1, 1.2]]))


def test_areas_cut_requests_off_at_the_edges_of_the_window() -> None:
    rows = [(0.0, 0.5, 3.0), (1.5, 1.75, 2.5), (0.0, 0.1, 0.9)]
    window = recorded(rows).window(1.0, 2.0, "closed")
    assert window["out_s"] == pytest.approx(1.0 + 0.5)
    assert window["held_s"] == pytest.approx(1.0 + 0.25)


def test_histograms_hold_every_value_in_whole_microseconds() -> None:
    histogram = new_histogram()
    assert add_seconds(histogram, np.array([0.0, 0.4e-6, 1.5e-6, 0.001, 0.001])) == 0
    assert histogram.get_total_count() == 5
    counts = {
        item.value_iterated_to: item.count_at_value_iterated_to
        for item in histogram.get_recorded_iterator()
    }
    assert counts == {0: 2, 1: 1, 1000: 2}


def test_what_is_out_of_range_is_counted_and_not_lost_in_silence() -> None:
    histogram = new_histogram()
    assert add_seconds(histogram, np.array([61.0, -1e-3, 59.0])) == 2
    assert histogram.get_total_count() == 1


def test_merging_workers_equals_one_histogram_of_all_values() -> None:
    rng = np.random.default_rng(5)
    parts = [rng.lognormal(-7, 1.5, 5_000) for _ in range(4)]
    encoded, whole = [], new_histogram()
    for part in parts:
        histogram = new_histogram()
        add_seconds(histogram, part)
        encoded.append(histogram.encode())
        add_seconds(whole, part)
    merged = merge(encoded)
    assert merged.get_total_count() == whole.get_total_count() == 20_000
    for p in (1, 50, 90, 99, 99.9, 100):
        assert merged.get_value_at_percentile(p) == whole.get_value_at_percentile(p)
    assert merged.encode() == whole.encode()


def test_operations_are_counted_per_command_wherever_they_fell() -> None:
    recorder = recorded([(0.0, 0.0, 0.1)] * 3)
    recorder.sink("SET")((5.0, 5.0, 5.0, 5.1))
    assert recorder.operations() == {"GET": 3, "SET": 1}


def test_intervals_share_out_the_window() -> None:
    rows = [(t - 0.01, t - 0.01, t) for t in np.arange(10.0, 11.0, 0.01)]
    series = recorded(rows).window(10.0, 11.0, "closed")["series"]
    assert sum(row["requests"] for row in series) == 100
    assert sum(row["length_s"] for row in series) == pytest.approx(1.0)


def test_an_empty_window_says_nothing_and_does_not_fail() -> None:
    window = recorded([]).window(0.0, 1.0, "closed")
    assert window["requests"] == 0
    assert HdrHistogram.decode(window["histograms"]["latency"]).get_total_count() == 0
    assert {row["latency_mean_s"] for row in window["series"]} == {None}


def test_draining_takes_out_what_was_recorded() -> None:
    recorder = recorded([(0.0, 0.1, 0.2)] * 2)
    assert recorder.drain().shape == (2, 4)
    assert recorder.drain().shape == (0, 4)


def test_failures_are_told_apart_by_kind() -> None:
    recorder = Recorder(("GET",))
    recorder.fail(ConnectionError("gone"), timed_out=False)
    recorder.fail(TimeoutError("line"), timed_out=True)
    recorder.fail(ConnectionError("gone"), timed_out=False)
    assert (recorder.errors, recorder.timeouts) == (2, 1)
    assert recorder.drain_errors() == {"ConnectionError: gone": 2, "TimeoutError: line": 1}
