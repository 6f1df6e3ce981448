"""The size itself: Erlang C for who waits and how long, a simulation beside it.

M/M/c: requests arrive independently of each other, hold a connection for an exponential time, and
are served first come, first served. Of them the share C waits (`queueing.erlang_c`), and longer
than t the share C·exp(−(c − A)·t/S), where A is the load and S the mean hold time (Erlang, 1917).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.analysis.queueing import erlang_c, in_flight_peak
from bench.analysis.simulation import poisson, smallest_pool, waits
from bench.sizing.holds import HoldTimes
from bench.sizing.quantities import per_second, span

Array = NDArray[np.float64]

OVER_S = 60.0  # the peak in flight is the largest over a minute
REQUESTS = 250_000
MOST_REQUESTS = 2_000_000
SEED = 1
BATCHES = 20
RELAXATIONS = 25  # a simulated queue shorter than this many of them has not shown its mean
FILLING = 16  # mean hold times until the pool is as full as it gets, and as many to be measured
MOST_POOL = 10_000_000


@dataclass(frozen=True, slots=True)
class Objective:
    """At most the share `share` of requests waits longer than `longest_s` for a connection."""

    longest_s: float
    share: float
    typed: str = ""  # the share, where it was

    def __str__(self) -> str:
        if self.longest_s:
            return f"p{100 * (1 - self.share):g} of the wait at most {span(self.longest_s)}"
        return f"at most {self.typed or percent(self.share)} of requests wait"


@dataclass(frozen=True, slots=True)
class Load:
    """What one pod's pool carries: requests per second, and how long each holds a connection."""

    rate_per_s: float
    hold: HoldTimes

    @property
    def in_flight(self) -> float:
        """L = λW: connections held on average, the load in Erlang."""
        return self.rate_per_s * self.hold.mean_s

    @property
    def in_flight_peak(self) -> int:
        """The most in flight over a minute, in the median, where nobody waits."""
        return in_flight_peak(self.in_flight, self.hold.mean_s, OVER_S)

    def __str__(self) -> str:
        return f"{per_second(self.rate_per_s)} × {span(self.hold.mean_s)}"


@dataclass(frozen=True, slots=True)
class Size:
    """What a pool of so many connections gives. Formulas are M/M/c's; what is simulated has the
    hold times given. None: the queue grows for ever, or is too near that to simulate."""

    connections: int
    busy_share: float
    wait_share: float
    wait_p99_s: float | None
    wait_p999_s: float | None
    simulated_wait_share: float | None
    simulated_wait_p99_s: float | None
    simulated_wait_p999_s: float | None

    @property
    def stable(self) -> bool:
        return self.busy_share < 1


def waits_longer(connections: int, load: Load, longest_s: float) -> float:
    """The share of requests that waits longer than `longest_s`, in M/M/c."""
    if connections <= load.in_flight:
        return 1.0
    spare = (connections - load.in_flight) / load.hold.mean_s
    return erlang_c(connections, load.in_flight) * math.exp(-spare * longest_s)


def wait_quantile(connections: int, load: Load, q: float) -> float | None:
    """The q-quantile of the wait in M/M/c, in seconds; None where the queue grows for ever."""
    if connections <= load.in_flight:
        return None
    spare = (connections - load.in_flight) / load.hold.mean_s
    return max(0.0, math.log(max(erlang_c(connections, load.in_flight), 1e-300) / (1 - q)) / spare)


def by_formula(load: Load, objectives: tuple[Objective, ...]) -> int:
    """The fewest connections that meet every objective in M/M/c."""

    def meets(connections: int) -> bool:
        return all(waits_longer(connections, load, o.longest_s) <= o.share for o in objectives)

    first = math.ceil(load.in_flight + 2 * math.sqrt(load.in_flight)) + 1
    found = smallest_pool(meets, first, MOST_POOL)
    assert found is not None, "a pool far beyond any load that is let in"
    return found


class Simulation:
    """The same requests through pools of any size: Poisson arrivals, hold times as given.

    The pool starts empty-handed, so a tenth is cut, or eight mean hold times where that is more.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        count = min(MOST_REQUESTS, max(REQUESTS, math.ceil(60 * load.in_flight)))
        self.sent_s = poisson(load.rate_per_s, count / load.rate_per_s, SEED)
        self.hold_s = load.hold.draw(len(self.sent_s), np.random.default_rng(SEED + 1))
        self._warm_up = max(count // 10, min(count // 2, math.ceil(8 * load.in_flight)))
        self._done: dict[int, Array | None] = {}

    @property
    def requests(self) -> int:
        """How many count."""
        return len(self.sent_s) - self._warm_up

    def waits(self, connections: int) -> Array | None:
        """The wait of each request in seconds; None where the run is too short to tell.

        Near its limit a queue takes about 1/(√(cμ) − √λ)² to forget how it began (Morse, 1955).
        """
        if connections not in self._done:
            self._done[connections] = self._simulate(connections)
        return self._done[connections]

    def exceeds(self, connections: int, objective: Objective) -> bool:
        """Whether more requests wait than may, by over twice the standard error of batch means."""
        waited = self.waits(connections)
        if waited is None:
            return False
        batches = np.array_split(waited > objective.longest_s, BATCHES)
        shares = np.array([batch.mean() for batch in batches])
        error = float(shares.std(ddof=1)) / math.sqrt(BATCHES)
        return float(shares.mean()) > objective.share + 2 * error

    def _simulate(self, connections: int) -> Array | None:
        load = self.load
        spare = math.sqrt(connections) - math.sqrt(load.in_flight)
        length_s = float(self.sent_s[-1])
        if spare <= 0 or length_s < load.hold.mean_s * max(FILLING, RELAXATIONS / spare**2):
            return None
        return waits(self.sent_s, self.hold_s, connections)[self._warm_up :]


def recommended(simulation: Simulation, objectives: tuple[Objective, ...]) -> int:
    """The formula's size, or more where the hold times given wait longer than exponential ones."""
    load = simulation.load
    least = by_formula(load, objectives)
    if load.hold.exponential:
        return least  # the formula is exact

    def meets(connections: int) -> bool:
        if connections < least:
            return False
        return not any(simulation.exceeds(connections, o) for o in objectives)

    return smallest_pool(meets, least, MOST_POOL) or least


def described(simulation: Simulation, connections: int) -> Size:
    """What a pool of `connections` gives."""
    load = simulation.load
    waited = simulation.waits(connections)

    def simulated(q: float) -> float | None:
        return None if waited is None else float(np.quantile(waited, q))

    return Size(
        connections,
        load.in_flight / connections,
        erlang_c(connections, load.in_flight),
        wait_quantile(connections, load, 0.99),
        wait_quantile(connections, load, 0.999),
        None if waited is None else float((waited > 0).mean()),
        simulated(0.99),
        simulated(0.999),
    )


def percent(share: float) -> str:
    """A share as people read it."""
    if 0 < share < 1e-5:
        return "< 0.001 %"
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"
