"""Arrival schedules: the same times however they are asked for, and of the law they claim."""

from __future__ import annotations

import os
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bench.load.arrivals import CHUNK, Schedule, _Bursts, _Made, _Steps, read_trace, schedule
from bench.model import Arrivals, PreflightError

MANY = 20_000  # arrivals: enough for the laws, and made in a few milliseconds
UNLIKELY = 1e-4  # a true law fails a test at this level once in ten thousand seeds
QUIET = settings(deadline=None, database=None)

POISSON = Arrivals("poisson")
CONSTANT = Arrivals("constant")
BURSTY = Arrivals("bursty", peak_to_mean=4.0, period_s=0.1)
SPIKE = Arrivals("spike", spike_factor=5.0, spike_at_s=2.0, spike_s=3.0)
GAP = Arrivals("spike", spike_factor=0.0, spike_at_s=2.0, spike_s=3.0)


def named(arrivals: Arrivals) -> str:
    return "gap" if arrivals == GAP else arrivals.process


arrivals_at_random = st.one_of(
    st.just(POISSON),
    st.builds(
        Arrivals,
        process=st.just("bursty"),
        peak_to_mean=st.floats(1, 1_000),
        period_s=st.floats(0.001, 100),
    ),
    st.builds(
        Arrivals,
        process=st.just("spike"),
        spike_factor=st.one_of(st.just(0.0), st.floats(0, 100)),
        spike_at_s=st.floats(0, 100),
        spike_s=st.floats(0, 100),
    ),
)
any_arrivals = st.one_of(st.just(CONSTANT), arrivals_at_random)


@st.composite
def slices(draw: Any) -> tuple[Schedule, float, float]:
    """A schedule, and a slice of it anywhere in a day that seldom holds many arrivals."""
    rate = draw(st.floats(0.001, 1e6))
    workers = draw(st.integers(1, 64))
    made = schedule(
        draw(any_arrivals),
        rate,
        draw(st.integers(0, 2**40)),
        draw(st.integers(0, workers - 1)),
        workers,
    )
    start_s = draw(st.floats(0, 86_400))
    return made, start_s, start_s + draw(st.floats(0, 30 * workers / rate))


def all_workers(arrivals: Arrivals, rate: float, until_s: float, workers: int) -> list[Any]:
    return [schedule(arrivals, rate, 3, w, workers).between(0.0, until_s) for w in range(workers)]


def counts(times: NDArray[np.float64], width_s: float, until_s: float) -> NDArray[np.int64]:
    """Arrivals in each whole interval of that width before `until_s`."""
    edges = np.arange(int(until_s / width_s + 1e-9) + 1) * width_s
    return np.diff(np.searchsorted(times, edges))


def assert_mean(count: int, expected: float) -> None:
    """`count` is what a Poisson variable of that mean may well be."""
    assert abs(count - expected) < stats.norm.isf(UNLIKELY / 2) * np.sqrt(expected)


def assert_dispersed(counted: NDArray[np.int64]) -> None:
    """Fisher's test that the variance equals the mean, as Poisson's does: two-sided."""
    statistic = ((counted - counted.mean()) ** 2).sum() / counted.mean()
    assert UNLIKELY / 2 < stats.chi2.cdf(statistic, len(counted) - 1) < 1 - UNLIKELY / 2


def assert_exponential(gaps: NDArray[np.float64], rate: float) -> None:
    assert stats.kstest(gaps, stats.expon(scale=1 / rate).cdf).pvalue > UNLIKELY


# Whatever the process


@QUIET
@given(slices(), st.data())
def test_a_slice_is_its_parts_bit_for_bit(made: tuple[Schedule, float, float], data: Any) -> None:
    plan, start_s, end_s = made
    whole = plan.between(start_s, end_s)
    on_an_arrival = st.sampled_from(whole.tolist() or [start_s])
    split_s = data.draw(st.one_of(on_an_arrival, st.floats(start_s, end_s)))
    parts = [plan.between(start_s, split_s), plan.between(split_s, end_s)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("arrivals", [POISSON, CONSTANT, BURSTY, SPIKE, GAP], ids=named)
def test_many_parts_make_up_the_whole_across_pauses_and_steps(arrivals: Arrivals) -> None:
    plan = schedule(arrivals, 20_000.0, 1)
    edges = np.arange(0.0, 6.0, 0.013).tolist()
    parts = [plan.between(*edge) for edge in pairwise(edges)]
    assert np.concatenate(parts).tobytes() == plan.between(0.0, edges[-1]).tobytes()


@QUIET
@given(slices())
def test_times_ascend_within_the_slice_and_are_counted(made: tuple[Schedule, float, float]) -> None:
    plan, start_s, end_s = made
    times = plan.between(start_s, end_s)
    assert (np.diff(times) >= 0).all()
    assert ((times >= start_s) & (times < end_s)).all()
    assert plan.count(start_s, end_s) == len(times)
    assert plan.end_s == np.inf


def test_rounding_turns_no_times_around_where_bursts_touch() -> None:
    """Points a last digit apart, on both sides of the joint: many joints, as few would do it."""
    draw = np.random.default_rng(1).random
    for seed in range(5_000):
        rate, period_s, number = 10 ** (9 * draw() - 3), 10 ** (5 * draw() - 3), int(1e6 * draw())
        joint = number * (rate * period_s)
        times = _Bursts(rate, 1.0, period_s, seed).times(around(joint))
        assert (np.diff(times) >= 0).all()


def test_rounding_carries_no_time_past_a_step() -> None:
    rate, spiked, at_s, length_s = 1.9, 1.9 * 1.69, 4.7, 24.4  # found by trying: one in 10,000 does
    times = _Steps([rate, spiked, rate], [at_s, length_s]).times(
        around(rate * at_s + spiked * length_s)
    )
    assert (np.diff(times) >= 0).all()
    assert (times[:20] <= at_s + length_s).all()


def test_rounding_loses_no_arrival_at_the_joint_of_two_chunks() -> None:
    def last_of(chunk: int) -> NDArray[np.float64]:
        return np.array([np.nextafter((chunk + 1) * CHUNK, 0.0)])

    clock = _Steps([0.7])
    plan = _Made(clock, last_of, CHUNK)
    for chunk in range(300):
        at_s = float(clock.times(last_of(chunk))[0])
        assert plan.count(at_s, np.nextafter(at_s, np.inf)) == 1


def test_an_arrival_on_the_edge_of_a_gap_comes_after_it() -> None:
    assert _Steps([1.0, 0.0, 1.0], [2.0, 3.0]).times(np.array([1.5, 2.0])).tolist() == [1.5, 5.0]


def around(point: float) -> NDArray[np.float64]:
    """That point, and the twenty before and nineteen behind it that float64 can tell apart."""
    return point + np.arange(-20, 20) * np.spacing(point)


@QUIET
@given(any_arrivals, st.integers(0, 2**40), st.integers(0, 3))
def test_equal_arguments_give_equal_times(arrivals: Arrivals, seed: int, worker: int) -> None:
    first, second = (schedule(arrivals, 400.0, seed, worker, 4) for _ in range(2))
    second.between(7.0, 9.0)  # what was asked before plays no part
    assert first.between(0.0, 9.0).tobytes() == second.between(0.0, 9.0).tobytes()


@pytest.mark.parametrize("arrivals", [POISSON, CONSTANT, BURSTY, SPIKE, GAP], ids=named)
def test_nothing_arrives_before_the_load_begins_or_in_an_empty_slice(arrivals: Arrivals) -> None:
    plan = schedule(arrivals, 1_000.0, 1)
    assert plan.between(-5.0, 1.0).tobytes() == plan.between(0.0, 1.0).tobytes()
    assert [plan.count(-2.0, -1.0), plan.count(1.0, 1.0), plan.count(2.0, 1.0)] == [0, 0, 0]


@pytest.mark.parametrize("arrivals", [POISSON, CONSTANT, BURSTY, SPIKE], ids=named)
def test_a_slice_far_out_costs_its_own_length(arrivals: Arrivals) -> None:
    plan = schedule(arrivals, 100_000.0, 1)
    tracemalloc.start()
    times = plan.between(86_400.0, 86_400.25)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(times) > 10_000
    assert peak < 4 * times.nbytes


def test_a_long_stretch_is_counted_in_little_memory() -> None:
    plan = schedule(POISSON, 100_000.0, 1)
    tracemalloc.start()
    count = plan.count(0.0, 10.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_mean(count, 1e6)
    assert peak < 200_000


@pytest.mark.parametrize("arrivals", [POISSON, BURSTY, SPIKE, GAP], ids=named)
def test_seeds_and_workers_have_no_arrival_in_common(arrivals: Arrivals) -> None:
    streams = [(1, 0), (1, 1), (2, 0), (0, 1), (2**32 + 1, 0)]
    made = [schedule(arrivals, 1_000.0, *stream, 2).between(0.0, 3.0) for stream in streams]
    assert len(np.unique(np.concatenate(made))) == sum(map(len, made))


# Constant


@pytest.mark.parametrize("rate", [7.0, 1_000.0, 99_999.0])
def test_constant_arrivals_are_spaced_exactly(rate: float) -> None:
    times = schedule(CONSTANT, rate, 1).between(0.0, 1_000 / rate)
    assert times.tolist() == [(n + 0.5) / rate for n in range(1_000)]


def test_constant_arrivals_do_not_drift_in_a_day() -> None:
    times = schedule(CONSTANT, 30_000.0, 1).between(86_400.0, 86_400.01)
    assert times.tolist() == [(86_400 * 30_000 + n + 0.5) / 30_000 for n in range(300)]


@QUIET
@given(st.floats(1, 1e5), st.integers(1, 64), st.floats(0, 1_000))
def test_workers_take_turns_at_constant_arrivals(rate: float, workers: int, at_s: float) -> None:
    until_s = at_s + 300 / rate
    alone = schedule(CONSTANT, rate, 1).between(at_s, until_s)
    plans = [schedule(CONSTANT, rate, 1, w, workers) for w in range(workers)]
    shares = [plan.between(at_s, until_s) for plan in plans]
    assert np.sort(np.concatenate(shares)).tobytes() == alone.tobytes()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert schedule(CONSTANT, rate, 1, 0, workers).between(0.0, 1 / rate)[0] == 0.5 / rate


# Poisson


def test_poisson_gaps_are_exponential() -> None:
    times = schedule(POISSON, 500.0, 4).between(0.0, MANY / 500.0)
    assert_exponential(np.diff(times), 500.0)
    assert abs(stats.spearmanr(np.diff(times)[:-1], np.diff(times)[1:]).statistic) < 0.03


@pytest.mark.parametrize("share_of_chunk", [0.05, 1.0, 3.7])
def test_poisson_counts_have_the_variance_of_their_mean(share_of_chunk: float) -> None:
    rate, intervals = 10_000.0, 300
    width_s = share_of_chunk * CHUNK / rate
    times = schedule(POISSON, rate, 5).between(0.0, intervals * width_s)
    assert_mean(len(times), intervals * share_of_chunk * CHUNK)
    assert_dispersed(counts(times, width_s, intervals * width_s))


def test_poisson_arrivals_do_not_mind_the_joints_between_chunks() -> None:
    """Gaps across a joint are longer by the law of the gap that holds a given moment."""
    rate = float(CHUNK)
    times = schedule(POISSON, rate, 6).between(0.0, 2_000.5)
    joints = np.searchsorted(times, np.arange(1, 2_001))
    assert_exponential(times[joints] - np.arange(1, 2_001), rate)
    assert_exponential(np.arange(1, 2_001) - times[joints - 1], rate)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_are_independent_and_together_poisson(workers: int) -> None:
    rate, until_s = 1_000.0, MANY / 1_000.0
    streams = all_workers(POISSON, rate, until_s, workers)
    together = np.sort(np.concatenate(streams))
    assert_exponential(np.diff(together), rate)
    assert_dispersed(counts(together, 0.1, until_s))
    assert_mean(len(together), MANY)
    for stream in streams:
        assert_mean(len(stream), MANY / workers)
    one, two = (counts(stream, 0.02, until_s) for stream in streams[:2])
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(len(one))


# Bursty


def longest_pause(times: NDArray[np.float64], period_s: float) -> tuple[float, float]:
    """Of the times within their period, taken as a ring: its length and its end."""
    within = np.sort(times % period_s)
    pauses = np.diff(within, prepend=within[-1] - period_s)
    return float(pauses.max()), float(within[pauses.argmax()])


@pytest.mark.parametrize("peak_to_mean", [1.25, 4.0, 20.0])
@pytest.mark.parametrize("workers", [1, 3])
def test_bursts_hold_everything_at_the_stated_peak(peak_to_mean: float, workers: int) -> None:
    arrivals = Arrivals("bursty", peak_to_mean=peak_to_mean, period_s=0.1)
    streams = all_workers(arrivals, 1_000.0, 20.0, workers)  # 200 whole periods
    times = np.sort(np.concatenate(streams))
    assert_mean(len(times), MANY)
    assert_dispersed(counts(times, 0.1, 20.0))  # an interval of one period, wherever it begins
    pause_s, begin_s = longest_pause(times, 0.1)
    on_s = 0.1 / peak_to_mean
    assert pause_s >= 0.1 - on_s - 1e-9, "arrivals in the off phase"
    into_burst = (times - begin_s + 1e-9) % 0.1
    assert stats.kstest(into_burst, stats.uniform(0, on_s).cdf).pvalue > UNLIKELY
    # At the peak the process is Poisson, so that its gaps without the pauses are exponential.
    gaps = np.diff(times)
    assert_exponential(gaps[gaps < 0.1 - on_s], 1_000.0 * peak_to_mean)


def test_where_bursts_fall_follows_from_the_seed() -> None:
    plans = [schedule(BURSTY, 20_000.0, seed) for seed in range(200)]
    begins = [longest_pause(plan.between(0.0, 0.3), 0.1)[1] for plan in plans]
    assert stats.kstest(begins, stats.uniform(0, 0.1).cdf).pvalue > UNLIKELY


def test_bursts_without_a_pause_are_poisson() -> None:
    arrivals = Arrivals("bursty", peak_to_mean=1.0, period_s=0.003)
    times = schedule(arrivals, 1_000.0, 8).between(0.0, MANY / 1_000.0)
    assert_exponential(np.diff(times), 1_000.0)


# Spike


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_spike_multiplies_the_rate_while_it_lasts(factor: float, workers: int) -> None:
    arrivals = Arrivals("spike", spike_factor=factor, spike_at_s=2.0, spike_s=3.0)
    times = np.sort(np.concatenate(all_workers(arrivals, 2_000.0, 9.0, workers)))
    parts = {(0.0, 2.0): 1.0, (2.0, 5.0): factor, (5.0, 9.0): 1.0}
    for (start_s, end_s), times_the_rate in parts.items():
        inside = times[(times >= start_s) & (times < end_s)]
        if times_the_rate:
            rate = 2_000.0 * times_the_rate
            assert_mean(len(inside), rate * (end_s - start_s))
            assert_exponential(np.diff(inside), rate)
            assert inside[0] - start_s < 20 / rate
            assert end_s - inside[-1] < 20 / rate
        else:
            assert not len(inside)


@pytest.mark.parametrize("at_s", [0.0, 2.0])
def test_a_spike_of_no_length_is_none(at_s: float) -> None:
    none = Arrivals("spike", spike_factor=9.0, spike_at_s=at_s, spike_s=0.0)
    assert np.allclose(
        schedule(none, 1_000.0, 1).between(0.0, 9.0),
        schedule(POISSON, 1_000.0, 1).between(0.0, 9.0),
        rtol=1e-12,
    )


def test_a_gap_at_the_very_start_puts_everything_off() -> None:
    late = Arrivals("spike", spike_factor=0.0, spike_at_s=0.0, spike_s=3.0)
    plan, usual = schedule(late, 1_000.0, 1), schedule(POISSON, 1_000.0, 1)
    assert plan.count(0.0, 3.0) == 0
    assert np.allclose(plan.between(3.0, 5.0) - 3.0, usual.between(0.0, 2.0))


# Trace


def trace_file(folder: Path, content: str | bytes) -> str:
    path = folder / "trace.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def trace_schedule(path: str, worker: int = 0, workers: int = 1) -> Schedule:
    return schedule(Arrivals("trace", trace=path), 1.0, 1, worker, workers)


def test_a_trace_counts_from_its_first_arrival(tmp_path: Path) -> None:
    lines = "# access log\n1700000000.5\n\n1700000001\r\n  # pause\n1700000001\n 1700000004.5 \n"
    path = trace_file(tmp_path, lines)
    plan = trace_schedule(path)
    assert plan.between(0.0, 10.0).tolist() == [0.0, 0.5, 0.5, 4.0]
    assert plan.between(0.5, 4.0).tolist() == [0.5, 0.5]
    assert [plan.count(0.0, 0.5), plan.count(4.0, 4.1), plan.count(-3.0, 0.0)] == [1, 1, 0]
    assert plan.count(0.0, plan.end_s) == 4
    assert plan.count(plan.end_s, np.inf) == 0
    assert (read_trace(path).rate, read_trace(path).duration_s) == (3 / 4.0, 4.0)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf1\n3", b"-1e0\n+1.0", b"1\n3.0\n#\xff\n\n"])
def test_what_else_a_trace_may_look_like(tmp_path: Path, content: bytes) -> None:
    assert read_trace(trace_file(tmp_path, content)).times.tolist() == [0.0, 2.0]


@QUIET
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 64), st.floats(0, 1e6))
def test_workers_take_turns_at_a_trace(
    tmp_path_factory: pytest.TempPathFactory, listed: list[float], workers: int, split_s: float
) -> None:
    lines = "\n".join(map(repr, sorted(listed)))
    path = trace_file(tmp_path_factory.getbasetemp(), lines)
    plans = [trace_schedule(path, w, workers) for w in range(workers)]
    halves = [(plan.between(0.0, split_s), plan.between(split_s, np.inf)) for plan in plans]
    shares = [np.concatenate(both) for both in halves]
    expected = np.array(sorted(listed)) - min(listed)
    assert np.sort(np.concatenate(shares)).tobytes() == expected.tobytes()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_what_a_trace_hands_out_cannot_be_changed(tmp_path: Path) -> None:
    times = trace_schedule(trace_file(tmp_path, "1\n2\n")).between(0.0, 9.0)
    with pytest.raises(ValueError, match="read-only"):
        times[0] = 7.0


BAD_TRACES = {
    "": "is empty: list one time in seconds a line",
    "# nothing\n\n": "is empty: list one time in seconds a line",
    "1\n# x\nGET /\n": "line 3: 'GET /' is no time: write one number of seconds a line",
    "1\n2 3\n": "line 2: '2 3' is no time: write one number of seconds a line",
    "1\nnan\n": "line 2: 'nan' is no time: write one number of seconds a line",
    "inf\n": "line 1: 'inf' is no time: write one number of seconds a line",
    "-inf\n1\n": "line 1: '-inf' is no time: write one number of seconds a line",
    "1e999\n": "line 1: '1e999' is no time: write one number of seconds a line",
    "1\r2\n": r"line 1: '1\r2' is no time: write one number of seconds a line",
    "x" * 99: f"line 1: '{'x' * 40}' is no time: write one number of seconds a line",
    b"1\n\xff\xfe2\x00\n": "line 2: this is not UTF-8: save the trace as UTF-8 text",
    "5\n\n4.5\n": "line 3: 4.5 s is earlier than the 5.0 s before it: sort the lines by time",
}


def refusal(path: str) -> str:
    with pytest.raises(PreflightError) as caught:
        trace_schedule(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", BAD_TRACES, ids=range(len(BAD_TRACES)))
def test_a_bad_trace_is_refused_by_file_and_line(tmp_path: Path, content: str | bytes) -> None:
    path = trace_file(tmp_path, content)
    said = refusal(path)
    assert said.startswith(f"the trace {path}")
    assert said.removeprefix(f"the trace {path}").lstrip(" ,") == BAD_TRACES[content]


def test_a_trace_that_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    kinds = "is a folder, a pipe or a device: name a regular file, as every worker reads it anew"
    missing = "cannot be read (No such file or directory): name another file"
    expected = {tmp_path: kinds, tmp_path / "pipe": kinds, tmp_path / "none": missing}
    for path, reason in expected.items():
        assert refusal(str(path)) == f"the trace {path} {reason}"


@pytest.mark.parametrize("content", ["5\n", "5\n5\n5\n"])
def test_a_trace_of_one_moment_can_be_played_but_has_no_rate(tmp_path: Path, content: str) -> None:
    path = trace_file(tmp_path, content)
    assert trace_schedule(path).count(0.0, 1.0) == content.count("5")
    with pytest.raises(PreflightError, match="has no rate, as nothing arrives after its first"):
        _ = read_trace(path).rate
