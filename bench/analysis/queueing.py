"""What theory says of pools and queues: formulas with their sources, no measurements.

`load` is the offered load A = λ · S in Erlang: arrivals a second times seconds of service, which is
the mean number in service. Every function raises ValueError where an argument makes no sense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats costs a second to import

Array = NDArray[np.float64]


class Usl(NamedTuple):
    """qps(N) = γN / (1 + α(N − 1) + βN(N − 1)) and where it peaks (inf: it never falls)."""

    contention: float  # α
    coherency: float  # β
    qps_of_one: float  # γ
    peak_concurrency: float


def erlang_b(servers: int, load: float) -> float:
    """The share of arrivals that find all servers busy where nobody waits (Erlang, 1917).

    By the recursion B(n) = A·B(n−1) / (n + A·B(n−1)); holds for any distribution of service times.
    """
    _check(servers >= 0 and load >= 0, f"{servers} servers at a load of {load:g}")
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = load * blocked / (busy + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """The share of arrivals that must wait in M/M/c, first come first served (Erlang, 1917).

    1 where the load is not below the number of servers: the queue then grows for ever.
    """
    blocked = erlang_b(servers, load)
    if load >= servers:
        return 1.0
    return blocked / (1 - load / servers * (1 - blocked))


def servers_needed(load: float, p_wait: float) -> int:
    """The fewest servers with which at most the share `p_wait` of arrivals waits, by `erlang_c`."""
    _check(0 < p_wait < 1, f"a share of {p_wait:g} that waits")
    servers = math.floor(load) + 1
    while erlang_c(servers, load) > p_wait:
        servers += 1
    return servers


def halfin_whitt(beta: float) -> float:
    """The share that waits with A + β√A servers, in the limit of large A (Halfin, Whitt, 1981)."""
    _check(beta > 0, f"a β of {beta:g}")
    density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
    return float(1 / (1 + beta * special.ndtr(beta) / density))


def mdc_wait(servers: int, load: float) -> float:
    """The mean wait in M/D/c, in service times, exact (Crommelin, 1932).

    From one service time to the next the number present becomes (N − c)⁺ + Poisson(A): a bulk
    service queue, whose mean is A/2(c − A) + A/2 − (c − 1)/2 + Σ 1/(1 − z) over the c − 1 roots
    z ≠ 1 of z^c = exp(A(z − 1)) in the unit circle (Janssen, van Leeuwaarden, 2005); Lambert's W
    gives the roots. Rounding leaves about 1e-12 of error, so tiny waits have no digits.
    """
    _check(0 < load < servers, f"{servers} servers at a load of {load:g}")
    share = load / servers
    turns = np.exp(2j * np.pi * np.arange(1, servers) / servers)
    roots = -special.lambertw(-share * np.exp(-share) * turns) / share
    present = load / (2 * (servers - load)) + load / 2 - (servers - 1) / 2
    waiting = present + float(np.sum(1 / (1 - roots)).real) - load
    return max(0.0, waiting) / load


def in_flight_quantile(load: float, p: float) -> int:
    """The p-quantile of the number in flight where nobody waits (M/G/∞).

    Poisson with mean λW, whatever the distribution of the hold times W (Palm, 1943).
    """
    _check(load > 0 and 0 < p < 1, f"quantile {p:g} at a load of {load:g}")
    levels = _levels(load)
    return int(np.searchsorted(special.pdtr(levels, load), p))


def in_flight_peak(load: float, hold_s: float, over_s: float, p: float = 0.5) -> int:
    """The p-quantile of the largest number in flight over `over_s` seconds where nobody waits.

    The number rises to k + 1 at the rate λ · P(in flight = k). Such crossings come in clumps, of
    which the share 1 − L/(k + 1) begins a new one, and clumps as a Poisson process:
    P(peak ≤ k) ≈ P(N ≤ k) · exp(−(1 − L/(k + 1)) · λ · over_s · P(N = k)).
    This is Alm's approximation of the scan statistic (1983), which is M/D/∞, and Aldous' clumping
    heuristic (1989) for M/M/∞; simulated peaks of both agree with it. To count every crossing as a
    peak of its own reads one too high: 29 instead of 28 at L = 10, W = 1 ms, one minute.
    """
    _check(min(load, hold_s) > 0 and over_s >= 0 and 0 < p < 1, "a peak without load or time")
    levels = _levels(load)
    density = np.exp(levels * math.log(load) - load - special.gammaln(levels + 1))
    clumps = np.maximum(1 - load / (levels + 1), 0) * density * load / hold_s
    rate = np.maximum.accumulate(clumps[::-1])[::-1]  # below the mean the formula does not hold
    return int(np.searchsorted(special.pdtr(levels, load) * np.exp(-rate * over_s), p))


def stopped_percentile(q: float, stop_s: float, window_s: float) -> float:
    """The q-quantile of latency, in seconds, that a server stopped for `stop_s` must give.

    Of requests that arrive evenly over `window_s` and take next to nothing otherwise, those that
    arrive u after the stop began take D − u: p_q = D − (1 − q)·T, and 0 where that is negative. A
    load generator that waits for the reply before it sends the next request hides this
    (coordinated omission: Tene, 2013).
    """
    _check(0 < q < 1 and 0 <= stop_s <= window_s, f"a stop of {stop_s:g} s in {window_s:g} s")
    return max(0.0, stop_s - (1 - q) * window_s)


def mva(demands: Sequence[float], customers: int, think_s: float = 0.0) -> list[float]:
    """Mean number of customers at each station of a closed network, exact.

    `demands` in seconds per visit to the whole network, one queue each; mean value analysis
    (Reiser, Lavenberg, 1980).
    """
    _check(min(*demands, think_s, customers) >= 0, "a negative demand, think time or population")
    demand = np.asarray(demands, dtype=float)
    queues = np.zeros_like(demand)
    for population in range(1, customers + 1):
        residence = demand * (1 + queues)
        queues = population / (think_s + residence.sum()) * residence
    return [float(queue) for queue in queues]


def usl_fit(concurrency: Sequence[float], qps: Sequence[float]) -> Usl:
    """The Universal Scalability Law (Gunther, 1993) by least squares; to draw, never as the knee.

    Raises ValueError for fewer than 4 points, or values that are not positive.
    """
    from scipy import optimize  # 0.6 s to import, which `bench size` need not wait for

    n, rate = np.asarray(concurrency, dtype=float), np.asarray(qps, dtype=float)
    _check(n.size == rate.size >= 4, f"{n.size} values of concurrency and {rate.size} of qps")
    _check(bool(np.all(n > 0) and np.all(rate > 0)), "concurrency or qps that is not positive")
    start = (0.01, 1e-6, float(np.max(rate / n)))
    scale = (0.01, 1e-4, start[2])
    found = optimize.least_squares(
        lambda free: (_usl(n, *free) - rate) / rate.max(),
        start, bounds=(0, np.inf), x_scale=scale, xtol=1e-12, ftol=1e-12, gtol=1e-12,
    )  # fmt: skip
    alpha, beta, gamma = (float(free) for free in found.x)
    peak = math.sqrt(max(0.0, 1 - alpha) / beta) if beta > 0 else math.inf
    return Usl(alpha, beta, gamma, peak)


def _usl(n: Array, alpha: float, beta: float, gamma: float) -> Array:
    return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))


def _levels(load: float) -> Array:
    """Numbers in flight, up to one that no probability a float can tell from 1 reaches."""
    return np.arange(math.ceil(load + 40 * math.sqrt(load)) + 100, dtype=float)


def _check(sound: bool, what: str) -> None:
    if not sound:
        raise ValueError(f"no such queue: {what}")
