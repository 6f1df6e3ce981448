"""Formulas against published values, to the digits they were printed with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from bench.analysis.queueing import (
    erlang_b,
    erlang_c,
    halfin_whitt,
    in_flight_peak,
    in_flight_quantile,
    mdc_wait,
    mva,
    servers_needed,
    stopped_percentile,
    usl_fit,
)


def test_erlang_b() -> None:
    assert erlang_b(15, 8.108) == pytest.approx(0.01, abs=5e-6)
    assert erlang_b(0, 8.108) == 1
    assert erlang_b(1, 1) == 0.5


@pytest.mark.parametrize(
    ("servers", "load", "printed"),
    # The last is 0.261 in a test that others copied: wrong.
    [(14, 10, "0.174"), (15, 10, "0.102"), (132, 123, "0.3211"), (25, 20, "0.2091")],
)
def test_erlang_c(servers: int, load: float, printed: str) -> None:
    digits = len(printed.partition(".")[2])
    assert f"{erlang_c(servers, load):.{digits}f}" == printed


def test_where_the_load_is_not_below_the_servers_everyone_waits() -> None:
    assert erlang_c(10, 10) == erlang_c(10, 12) == 1


@pytest.mark.parametrize(
    ("load", "p_wait", "servers"),
    [
        *zip([10] * 5, (0.2, 0.1, 0.05, 0.01, 0.001), (14, 16, 17, 19, 22), strict=True),
        *zip([100] * 5, (0.2, 0.1, 0.05, 0.01, 0.001), (111, 115, 119, 125, 134), strict=True),
        (1, 0.01, 5),
        (5, 0.01, 12),
        (50, 0.01, 68),
    ],
)
def test_servers_needed(load: float, p_wait: float, servers: int) -> None:
    assert servers_needed(load, p_wait) == servers


@pytest.mark.parametrize(("beta", "printed"), [(1, "0.2234"), (1.5, "0.0847"), (2, "0.0269")])
def test_halfin_whitt(beta: float, printed: str) -> None:
    assert f"{halfin_whitt(beta):.4f}" == printed


def test_halfin_whitt_is_the_limit_of_erlang_c() -> None:
    load = 1e6
    assert erlang_c(round(load + 1.5 * math.sqrt(load)), load) == pytest.approx(
        halfin_whitt(1.5), rel=2e-3
    )


@pytest.mark.parametrize(
    ("servers", "share", "printed"),
    [(10, 0.9, "0.34458"), (10, 0.8, "0.10983"), (20, 0.9, "0.14429"), (1, 0.5, "0.50000")],
)
def test_mdc_wait(servers: int, share: float, printed: str) -> None:
    assert f"{mdc_wait(servers, servers * share):.5f}" == printed


@pytest.mark.parametrize(("servers", "share"), [(2, 0.3), (20, 0.5), (7, 0.93), (100, 0.95)])
def test_mdc_wait_is_what_spitzers_identity_gives(servers: int, share: float) -> None:
    n, load = np.arange(1, 3000), servers * share
    reached = special.gammainc(n * servers, n * load)  # P(Poisson(nA) ≥ nc)
    passed = special.gammainc(n * servers + 1, n * load)
    summed = float(np.sum(reached - passed / share))
    assert mdc_wait(servers, load) == pytest.approx(summed, rel=1e-6, abs=1e-12)


def test_mdc_wait_near_saturation_is_the_diffusions() -> None:
    assert mdc_wait(10, 9.999) == pytest.approx(1 / (2 * 10 * 1e-4), rel=1e-3)


def test_mdc_wait_is_never_negative_however_it_is_rounded() -> None:
    light = [mdc_wait(servers, 0.1 * servers) for servers in range(30, 60)]
    assert min(light) >= 0
    assert max(light) < 1e-12


@pytest.mark.parametrize(("p", "in_flight"), [(0.5, 10), (0.9, 14), (0.99, 18), (0.999, 21)])
def test_in_flight_at_a_load_of_ten(p: float, in_flight: int) -> None:
    assert in_flight_quantile(10, p) == in_flight


def test_in_flight_at_small_and_large_loads() -> None:
    assert in_flight_quantile(0.1, 0.9) == 0
    assert in_flight_quantile(5000, 0.5) == 5000


def test_the_most_in_flight_over_a_minute() -> None:
    """28, not 29: tests/test_coverage.py simulates it."""
    assert in_flight_peak(10, hold_s=1e-3, over_s=60) == 28
    assert in_flight_peak(10, hold_s=1e-3, over_s=60, p=0.99) == 32
    assert in_flight_peak(10, hold_s=1e-3, over_s=0) == in_flight_quantile(10, 0.5)


def test_the_peak_grows_with_p_time_and_load() -> None:
    quantiles = [in_flight_peak(10, 1e-3, 60, p / 100) for p in range(1, 100)]
    assert quantiles == sorted(quantiles)
    assert (quantiles[0], quantiles[-1]) == (26, 32)
    peaks = [in_flight_peak(10, 1e-3, over_s) for over_s in (0.01, 0.1, 1, 10, 100, 1000)]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]
    assert 5000 < in_flight_peak(5000, 1e-3, 60) < 5500


@pytest.mark.parametrize("p", [0.01, 0.3])
def test_the_peak_of_a_long_time_is_above_the_mean_for_certain(p: float) -> None:
    for load in range(1, 100):
        assert in_flight_peak(load, 1, 1_000, p) > load + math.sqrt(load)


@pytest.mark.parametrize(("q", "latency_s"), [(0.9, 0.4), (0.95, 0.9), (0.99, 1.3), (0.5, 0.0)])
def test_a_stopped_server_gives_these_percentiles(q: float, latency_s: float) -> None:
    assert stopped_percentile(q, stop_s=1.4, window_s=10) == pytest.approx(latency_s)


def test_exact_mean_value_analysis() -> None:
    queues = mva((2, 3, 1), customers=20, think_s=4)
    assert [f"{queue:.3f}" for queue in queues] == ["1.991", "16.177", "0.500"]
    assert mva((2, 3), customers=0) == [0, 0]
    assert sum(mva((2, 3, 1), customers=7)) == pytest.approx(7)


def test_usl_of_spec_sdm91() -> None:
    found = usl_fit(
        (1, 18, 36, 72, 108, 144, 216), (64.9, 995.9, 1652.4, 1853.2, 1828.9, 1775.0, 1702.2)
    )
    assert f"{found.contention:.5f}" == "0.02773"
    assert f"{found.coherency:.3e}" == "1.044e-04"
    assert f"{found.qps_of_one:.1f}" == "90.0"
    assert f"{found.peak_concurrency:.1f}" == "96.5"


@pytest.mark.parametrize(
    "refused",
    [
        lambda: erlang_b(-1, 1),
        lambda: erlang_c(1, -1),
        lambda: servers_needed(1, 0),
        lambda: servers_needed(1, 1),
        lambda: halfin_whitt(0),
        lambda: mdc_wait(10, 10),
        lambda: in_flight_quantile(10, 1),
        lambda: in_flight_quantile(0, 0.5),
        lambda: in_flight_peak(10, 0, 60),
        lambda: stopped_percentile(0.9, stop_s=11, window_s=10),
        lambda: stopped_percentile(99, stop_s=1, window_s=10),
        lambda: mva((1, -1), 3),
        lambda: usl_fit((1, 2, 3), (1, 2, 3)),
        lambda: usl_fit((1, 2, 3, 4), (1, 2, 3)),
        lambda: usl_fit((1, 2, 3, 4), (1, 2, 0, 3)),
    ],
)
def test_queues_that_cannot_be_are_refused(refused: object) -> None:
    with pytest.raises(ValueError, match="no such queue"):
        refused()  # type: ignore[operator]
