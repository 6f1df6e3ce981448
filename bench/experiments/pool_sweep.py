"""Pool sweep: what pools of 5 to 5000 connections do at every concurrency, closed loop.

A pool of N at round trip R carries at most N/R. It can show that limit only where N/R stays below
what generator, link and server carry together, so larger pools need longer round trips. Where the
pool holds at least as many connections as there are users it cannot bind: those cells are one
band, measured through the largest pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pandas as pd

from bench.model import Cell, Opening, Order, Plan, Profile, Workload

NAME = "pool_sweep"
QUESTION = "What do pools of 5 to 5000 connections do to throughput, waiting and cost?"

POOL_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CONCURRENCIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RTTS_S = (0.0, 0.001, 0.010, 0.050)
FIFO_FROM = 500
LARGEST = POOL_SIZES[-1]
COST_USERS = 10  # a load light enough that what differs between pools is the pool
SAME_USERS, SAME_RTT_S = 100, 0.010  # latency against pool size: one load on every pool

# The largest pool whose limit N/RTT lies within reach of a two-core rig, per round trip.
BINDING_UP_TO = {0.001: 20, 0.010: 200, 0.050: 2000}

CARRIED_QPS = 15_000.0  # what a two-core rig carries through the link, on a slow day
SHORTEST_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.45, "full": 2.0}
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 5}


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """The cells of `profile`, without repeats. The grid is per worker; users add up over all."""
    build = {"smoke": _smoke, "standard": _standard, "full": _full}[profile]
    cells = dict.fromkeys(
        Cell(
            experiment=NAME,
            pool_size=pool,
            concurrency=users * workers,
            rtt_s=rtt,
            opening=opening,
            order=order,
            workers=workers,
            workload=workload,
            warmup_s=round(max(0.1, 1.2 * turn_s(pool, users, rtt, workers)), 3),
            measure_s=round(max(SHORTEST_S[profile], 5.2 * turn_s(pool, users, rtt, workers)), 3),
        )
        for pool, users, rtt, opening, order in build()
    )
    return Plan(tuple(cells), REPLICATES[profile])


Point = tuple[int, int, float, Opening, Order]


def _smoke() -> Iterator[Point]:
    yield from _not_binding(0.050, (5, 20, 100, 500, 2000))
    yield from _binding(0.050, (5, 20, 100, 500), times=(1, 2))
    yield from _binding(0.001, (5, 20), times=(1, 2))
    yield from _same_users((5, 20, 100, 500))
    yield from _cost((5, 50, 500, 5000))
    yield 5000, COST_USERS, 0.0, "prefilled", "fifo"
    yield 5000, COST_USERS, 0.0, "lazy", "lifo"


def _standard() -> Iterator[Point]:
    yield from _not_binding(0.050, CONCURRENCIES[2:])
    yield from _not_binding(0.001, (1, 5, 20, 50))
    yield from _not_binding(0.010, (10, 50))
    yield from _binding(0.050, POOL_SIZES[:8], times=(1, 2))
    yield from _binding(0.001, (5, 10, 20), times=(1, 2))
    yield from _same_users(POOL_SIZES)
    yield from _cost(POOL_SIZES)
    yield from ((pool, COST_USERS, 0.0, "prefilled", "fifo") for pool in POOL_SIZES[6::3])
    yield from ((pool, COST_USERS, 0.0, "lazy", "lifo") for pool in (50, 5000))


def _full() -> Iterator[Point]:
    for rtt in RTTS_S:
        yield from _not_binding(rtt, CONCURRENCIES)
    for rtt, largest in BINDING_UP_TO.items():
        pools = tuple(pool for pool in POOL_SIZES if pool <= largest)
        yield from _binding(rtt, pools, times=(1, 2, 4, 10))
    yield from _same_users(POOL_SIZES)
    yield from _cost(POOL_SIZES)
    for pool, users, rtt in product(POOL_SIZES, (COST_USERS, 50), (0.0, 0.001)):
        yield pool, users, rtt, "lazy", "lifo"
        if pool >= FIFO_FROM:
            yield pool, users, rtt, "prefilled", "fifo"


def _same_users(pools: tuple[int, ...]) -> Iterator[Point]:
    yield from ((pool, SAME_USERS, SAME_RTT_S, "prefilled", "lifo") for pool in pools)


def _not_binding(rtt: float, users: tuple[int, ...]) -> Iterator[Point]:
    yield from ((LARGEST, count, rtt, "prefilled", "lifo") for count in users)


def _binding(rtt: float, pools: tuple[int, ...], times: tuple[int, ...]) -> Iterator[Point]:
    for pool, factor in product(pools, times):
        yield pool, min(pool * factor, CONCURRENCIES[-1]), rtt, "prefilled", "lifo"


def _cost(pools: tuple[int, ...]) -> Iterator[Point]:
    yield from ((pool, COST_USERS, 0.0, "prefilled", "lifo") for pool in pools)


def turn_s(pool: int, users: int, rtt: float, workers: int) -> float:
    """How long the pool, or failing that the rig, needs to serve every user once, in seconds.

    The window holds at least five turns (rule 7), and the warm-up one.
    """
    carried = users * workers / CARRIED_QPS if rtt else 0.0
    return max(rtt, rtt * users / pool, carried)


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """What each pool carried at best, per round trip; medians over replicates."""
    groups = ["rtt_s", "pool_size", "opening", "order", "concurrency"]
    valid = cells[cells["valid"]]
    medians = valid.groupby(groups, as_index=False).agg(
        qps=("qps", "median"),
        p50=("latency_p50_s", "median"),
        p99=("latency_p99_s", "median"),
        wait_p99=("acquire_p99_s", "median"),
        bound_by=("bound_by", lambda names: names.mode()[0]),
    )
    best = medians.loc[medians.groupby(groups[:-1])["qps"].idxmax()]
    return pd.DataFrame(
        {
            "RTT ms": best["rtt_s"] * 1e3,
            "pool": best["pool_size"],
            "opening": best["opening"],
            "order": best["order"],
            "users": best["concurrency"],
            "QPS": best["qps"].round().astype(int),
            "p50 ms": (best["p50"] * 1e3).round(3),
            "p99 ms": (best["p99"] * 1e3).round(3),
            "wait p99 ms": (best["wait_p99"] * 1e3).round(3),
            "bound by": best["bound_by"],
        }
    )
