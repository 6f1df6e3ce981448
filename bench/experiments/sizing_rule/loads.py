"""What pods are offered, and the cells that are measured for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.analysis.nstar import MOST_SHARE
from bench.analysis.queueing import servers_needed
from bench.model import Arrivals, Cell, Plan, Profile, Workload

NAME = "sizing_rule"

# Side by side, and what they may offer together, the link's turns moderated: so the cores of a
# two-core machine stay below the gate `cores`.
PODS, TOGETHER_QPS, MODERATION_S = 6, 6_000.0, 0.1e-3
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 5}
# A little above 2,500 and 10,000, which chance must not undercut.
ARRIVALS: dict[Profile, int] = {"smoke": 300, "standard": 2_650, "full": 10_250}
STEPS: dict[Profile, tuple[int, ...]] = {
    "smoke": (-4, -2, 0, 2, 4),
    "standard": (-4, -2, 0, 2, 4),
    "full": (-4, -3, -2, -1, 0, 1, 2, 4),
}
OWN_S = 0.4e-3  # what link, server and client add to the round trip; only to choose sizes to try
CONTROL, CONTROL_MORE = (
    4.6,
    8,
)  # × L, and connections more: above 4 L by whatever W₀ turns out to be
CARRIERS_MORE = 30  # than connections, in each pod: the pool must be the one line
WARMUP_S, WARMUP_HOLDS = 0.1, 3

# The series without the link: the server's own work is the hold time, which grows with its load.
LOOPS = 100_000  # about 0.4 ms
SERVER_QPS = (500.0, 1_000.0, 1_500.0)
SERVER_SIZES = (4, 7, 10, 13)  # at the highest of these rates
SERVER_CONTROL, SERVER_CONTROL_S = 40, 2.5


class Load(NamedTuple):
    """What one pod is offered, and how long a call is to take."""

    qps: float
    rtt_s: float
    peak_to_mean: float = 1.0

    @property
    def planned(self) -> int:
        """The pool size around which to look: Erlang C, at the rate within a burst."""
        return servers_needed(self.in_flight * self.peak_to_mean, MOST_SHARE)

    @property
    def pods(self) -> int:
        """How many are offered it side by side."""
        return min(PODS, int(TOGETHER_QPS // self.qps))

    @property
    def in_flight(self) -> float:
        """L, before W₀ is known."""
        return self.qps * (self.rtt_s + OWN_S)

    @property
    def arrivals(self) -> Arrivals:
        """Bursts last for ten hold times or more, so that each is a load of its own."""
        if self.peak_to_mean == 1:
            return Arrivals()
        period_s = 10 * self.peak_to_mean * self.rtt_s
        return Arrivals("bursty", peak_to_mean=self.peak_to_mean, period_s=period_s)


SAME_IN_FLIGHT = (Load(500, 0.020), Load(1_000, 0.010), Load(2_000, 0.005))
SAME_RATE = tuple(Load(1_000, rtt_s) for rtt_s in (0.002, 0.005, 0.020, 0.040))
BURSTY = (Load(1_000, 0.010, 2.0),)
MORE = (Load(2_000, 0.010), Load(500, 0.020, 4.0))
LOADS: dict[Profile, tuple[Load, ...]] = {
    "smoke": (Load(1_000, 0.005), Load(500, 0.010)),
    "standard": SAME_IN_FLIGHT + SAME_RATE + BURSTY,
    "full": SAME_IN_FLIGHT + SAME_RATE + BURSTY + MORE,
}


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """A cell for each three pods of each load. Pods are workers, however many the run has."""
    cells = [
        _cell(profile, workload, load, sizes, control=number == 0)
        for load in LOADS[profile]
        for number, sizes in enumerate(_windows(load, STEPS[profile]))
    ]
    server = [] if profile == "smoke" else _server_cells(profile)
    if profile == "full":
        return Plan((*cells, *server), REPLICATES[profile])
    return Plan(tuple(cells), REPLICATES[profile], once=tuple(server))


def _windows(load: Load, steps: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The pool sizes of each window's pods, ascending, neighbours in different windows; the
    control is in the first."""
    control = math.ceil(CONTROL * load.in_flight) + CONTROL_MORE
    sizes = [control, *sorted({max(1, load.planned + step) for step in steps}, reverse=True)]
    windows = -(-len(sizes) // load.pods)
    for number in range(windows):
        yield tuple(sorted(sizes[number::windows]))


def _cell(
    profile: Profile, workload: Workload, load: Load, sizes: tuple[int, ...], *, control: bool
) -> Cell:
    *lesser, largest = sizes
    return Cell(
        NAME,
        pool_size=largest,
        concurrency=len(sizes) * (largest + CARRIERS_MORE),
        rtt_s=load.rtt_s,
        moderation_s=MODERATION_S,
        loop="open",
        workers=len(sizes),
        offered_qps=load.qps * len(sizes),
        arrivals=load.arrivals,
        workload=workload,
        warmup_s=round(WARMUP_S + WARMUP_HOLDS * load.rtt_s, 3),
        measure_s=round(ARRIVALS[profile] / load.qps, 3),
        staircase=tuple(lesser),
        keep_requests=control,
        quiet=True,
        arm="rule" if load.peak_to_mean == 1 else "bursty",
    )


def _server_cells(profile: Profile) -> list[Cell]:
    def cell(qps: float, size: int, seconds: float) -> Cell:
        return Cell(
            NAME, size, size + CARRIERS_MORE, loop="open", offered_qps=qps, arrivals=Arrivals(),
            workload=Workload(script_loops=LOOPS), warmup_s=WARMUP_S, measure_s=round(seconds, 3),
            quiet=True, arm="server",
        )  # fmt: skip

    highest = SERVER_QPS[-1]
    steps = [cell(highest, size, ARRIVALS[profile] / highest) for size in SERVER_SIZES]
    return [cell(qps, SERVER_CONTROL, SERVER_CONTROL_S) for qps in SERVER_QPS] + steps
