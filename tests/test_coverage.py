"""Statistics put to the test by simulation with known truth; the shares measured are printed.

A nominal 95 % interval must hold the truth in 93 to 97 % of at least 2,000 simulated runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, special

from bench.analysis.queueing import in_flight_peak, in_flight_quantile
from bench.analysis.statistics import differs, equivalence, false_calls, log_t_interval
from bench.analysis.steady import histogram_interval, mser5, percentile_interval
from bench.load.recorder import add_seconds, new_histogram

RUNS = 2_000
CHUNK = 100  # runs at a time: memory stays small
PERCENTILES = (0.5, 0.9, 0.99)

Array = NDArray[np.float64]
Report = Callable[[str], None]


def autoregressive(rng: np.random.Generator, runs: int, n: int, phi: float) -> Array:
    """Rows of n standard normal values, each correlated with the one before by φ."""
    steps = rng.standard_normal((runs, n))
    steps[:, 1:] *= math.sqrt(1 - phi**2)
    return np.asarray(signal.lfilter([1], [1, -phi], steps, axis=1))


def queue_waits(rng: np.random.Generator, runs: int, n: int, busy: float) -> Array:
    """Rows of n waits in M/M/1 from a stationary start, in mean service times: Lindley's walk."""
    walk = np.cumsum(rng.exponential(1, (runs, n)) - rng.exponential(1 / busy, (runs, n)), axis=1)
    first = rng.exponential(1 / (1 - busy), runs) * (rng.random(runs) < busy)
    return np.maximum(walk - np.minimum.accumulate(walk, axis=1), walk + first[:, None])


def queue_wait_quantile(busy: float, p: float) -> float:
    """P(wait > t) = ρ · exp(−(1 − ρ)t)."""
    return max(0.0, math.log(busy / (1 - p)) / (1 - busy))


def chunks(draw: Callable[..., Array], seed: int, *args: float) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    for _ in range(RUNS // CHUNK):
        yield from draw(rng, CHUNK, *args)


@pytest.mark.parametrize("replicates", [3, 5])
def test_log_t_interval(replicates: int, report_line: Report) -> None:
    rng = np.random.default_rng(20)
    truth = 48_000.0
    draws = truth * np.exp(rng.normal(0, 0.15, (2 * RUNS, replicates)))
    estimates = [log_t_interval(row) for row in draws]
    covered = np.mean([e.low <= truth <= e.high for e in estimates])
    report_line(f"log_t_interval, lognormal, {replicates} replicates: {covered:.1%} (nominal 95 %)")
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(
    ("name", "series", "truth"),
    [
        (
            "AR(1), φ = 0.95, 20,000 values",
            (autoregressive, 1, 20_000, 0.95),
            lambda p: float(special.ndtri(p)),
        ),
        (
            "waits of M/M/1 60 % busy, 20,000",
            (queue_waits, 2, 20_000, 0.6),
            lambda p: queue_wait_quantile(0.6, p),
        ),
    ],
)
def test_percentile_interval(
    name: str,
    series: tuple[Callable[..., Array], int, int, float],
    truth: Callable[[float], float],
    report_line: Report,
) -> None:
    true = {p: truth(p) for p in PERCENTILES}
    held, open_ended = dict.fromkeys(PERCENTILES, 0), 0
    for values in chunks(*series):
        for p in PERCENTILES:
            estimate = percentile_interval(values, p)
            held[p] += estimate.low <= true[p] <= estimate.high
            open_ended += math.isinf(estimate.high)
    said = ", ".join(f"p{100 * p:g} {held[p] / RUNS:.1%}" for p in PERCENTILES)
    report_line(f"percentile_interval, {name}: {said} (nominal 95 %)")
    assert all(0.93 <= count / RUNS <= 0.97 for count in held.values())
    assert open_ended <= 0.01 * RUNS * len(PERCENTILES)


@pytest.mark.slow
def test_histogram_interval(report_line: Report) -> None:
    """As cells have it: 20 intervals' histograms of whole microseconds, joined into batches."""
    scale_s, busy = 0.01, 0.6
    true = {p: scale_s * queue_wait_quantile(busy, p) for p in PERCENTILES}
    held = dict.fromkeys(PERCENTILES, 0)
    for waits in chunks(queue_waits, 9, 20_000, busy):
        parts = [new_histogram() for _ in range(20)]
        for part, own in zip(parts, np.array_split(scale_s * waits, len(parts)), strict=True):
            assert not add_seconds(part, own)
        for p in PERCENTILES:
            estimate = histogram_interval(parts, p)
            held[p] += estimate.low <= true[p] <= estimate.high
    said = ", ".join(f"p{100 * p:g} {held[p] / RUNS:.1%}" for p in PERCENTILES)
    report_line(f"histogram_interval, waits of M/M/1 60 % busy, 20,000: {said} (nominal 95 %)")
    assert all(0.93 <= count / RUNS <= 0.97 for count in held.values())


@pytest.mark.parametrize("edge", [0.95, 1.05])
def test_equivalence_is_seldom_claimed_at_the_margins_edge(
    edge: float, report_line: Report
) -> None:
    draws = edge * np.exp(np.random.default_rng(4).normal(0, 0.02, (5 * RUNS, 5)))
    claimed = np.mean([equivalence(row).equivalent for row in draws])
    report_line(f"equivalence, true ratio {edge}, σ 2 %: claimed {claimed:.1%} (at most 5 %)")
    assert 0.045 <= claimed <= 0.0565  # 5 %, give or take what 10,000 runs scatter


def test_equivalence_is_claimed_where_it_holds(report_line: Report) -> None:
    draws = np.exp(np.random.default_rng(5).normal(0, 0.02, (RUNS, 5)))
    claimed = np.mean([equivalence(row).equivalent for row in draws])
    report_line(f"equivalence, true ratio 1, σ 2 %, 5 replicates: claimed {claimed:.1%}")
    assert claimed >= 0.95


@pytest.mark.parametrize(("replicates", "power"), [(5, 0.791), (10, 0.799)])
def test_detectable(replicates: int, power: float, report_line: Report) -> None:
    """At the difference that replicates with this scatter are said to detect, they do so."""
    rng, sigma = np.random.default_rng(6), 0.03
    typical = rng.normal(0, 1, replicates)
    typical *= sigma / typical.std(ddof=1)
    ratio = 1 + equivalence(np.exp(typical)).detectable
    draws = ratio * np.exp(rng.normal(0, sigma, (2 * RUNS, replicates)))
    called = np.mean([differs(log_t_interval(row)) for row in draws])
    report_line(
        f"detectable, {replicates} replicates: a difference of {ratio - 1:.1%} is called in "
        f"{called:.1%} (exact {power:.1%}, nominal 80 %)"
    )
    assert called == pytest.approx(power, abs=0.02)


@pytest.mark.parametrize(("ratio", "least", "most"), [(1.0, 0.04, 0.06), (1.06, 0.3, 1)])
def test_false_calls(ratio: float, least: float, most: float, report_line: Report) -> None:
    draws = ratio * np.exp(np.random.default_rng(7).normal(0, 0.03, (RUNS, 10)))
    shares = [false_calls(row).share for row in draws]
    above = np.mean([share > 0.1 for share in shares])
    report_line(
        f"false_calls, true ratio {ratio}, σ 3 %, 10 pairs: mean {np.mean(shares):.1%}, "
        f"above 10 % in {above:.1%} of A/A tests"
    )
    assert least <= np.mean(shares) <= most


def test_mser5_cuts_a_transient(report_line: Report) -> None:
    rise, fall_values = 5.0, 50.0
    transient = rise * np.exp(-np.arange(1_000) / fall_values)
    runs = [row + transient for row in chunks(autoregressive, 8, 1_000, 0.5)]
    cuts = [mser5(row) for row in runs]
    settled = [row[cut:].mean() for row, cut in zip(runs, cuts, strict=True) if cut is not None]
    before = rise * fall_values / 1_000
    report_line(
        f"mser5, transient of 5 σ over 50 of 1,000 values: bias of the mean {np.mean(settled):.3f} "
        f"instead of {before:.2f}, never settled in {1 - len(settled) / RUNS:.1%}"
    )
    assert abs(np.mean(settled)) < 0.05
    assert len(settled) >= 0.99 * RUNS


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_mser5_cuts_little_of_what_is_settled(phi: float, report_line: Report) -> None:
    cuts = [mser5(row) for row in chunks(autoregressive, 9, 1_000, phi)]
    known = np.array([cut for cut in cuts if cut is not None])
    report_line(
        f"mser5, settled AR(1) φ = {phi}: cuts {known.mean() / 1_000:.1%} on average, nothing in "
        f"{np.mean(known == 0):.1%}, never settled in {1 - len(known) / RUNS:.1%}"
    )
    assert known.mean() < 0.03 * 1_000
    assert len(known) >= 0.99 * RUNS


HOLDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "constant": lambda rng, n: np.ones(n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "lognormal": lambda rng, n: rng.lognormal(-0.125, 0.5, n),
}
SPAN = 1_000  # in mean hold times


@pytest.mark.parametrize("holds", list(HOLDS))
def test_in_flight_whatever_the_hold_times(holds: str, report_line: Report) -> None:
    """M/G/∞ at L = 10, over the second as arrivals see it, and the largest within it."""
    rng = np.random.default_rng(10)
    peaks, seen = [], np.zeros(100)
    for _ in range(RUNS):
        arrive = np.sort(rng.uniform(-20, SPAN, rng.poisson(10 * (SPAN + 20))))
        gone = np.searchsorted(np.sort(arrive + HOLDS[holds](rng, arrive.size)), arrive)
        others = (np.arange(arrive.size) - gone)[arrive >= 0]
        seen += np.bincount(others, minlength=100)
        peaks.append(int(others.max()) + 1)
    shares = np.cumsum(seen) / seen.sum()
    found = [int(np.searchsorted(shares, p)) for p in (0.5, 0.9, 0.99, 0.999)]
    median, theory = int(np.median(peaks)), in_flight_peak(10, 1, SPAN)
    report_line(
        f"in flight at L = 10, {holds} holds: p50, p90, p99, p99.9 {found}; the most in a second "
        f"of 1 ms holds, median {median}, theory {theory}"
    )
    assert found == [in_flight_quantile(10, p) for p in (0.5, 0.9, 0.99, 0.999)]
    assert median == theory


def test_the_most_in_flight_within_a_minute(report_line: Report) -> None:
    """L = 10, constant holds: more than m are in flight where m + 1 arrivals fall into one hold.

    Counting each crossing of a level as a peak gives a median of 29; it is 28.
    """
    rng, span, minutes = np.random.default_rng(11), 60_000, 1_000
    levels = range(26, 33)
    within = np.zeros(len(levels))
    for _ in range(minutes):
        arrive = np.cumsum(rng.exponential(0.1, rng.poisson(10 * (span + 1))))
        within += [np.min(arrive[m:] - arrive[:-m]) > 1 for m in levels]
    shares = within / minutes
    median, p90 = (levels[int(np.argmax(shares >= p))] for p in (0.5, 0.9))
    report_line(
        f"in flight at L = 10, the most in a minute of 1 ms holds: median {median}, p90 {p90}; "
        f"at most 28 in {shares[2]:.1%} of {minutes} minutes (approximation 55.7 %)"
    )
    assert (median, p90) == tuple(in_flight_peak(10, 1, span, p) for p in (0.5, 0.9))
    assert shares[2] == pytest.approx(0.557, abs=0.04)
