"""Synthetic runs: what a quiet machine would store if pools and instrument behaved exactly as
theory says, or not quite, as a `Truth` has it.

Only for tests of what is said and drawn about stored cells, where the truth must be known.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import asleep
import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from bench.analysis.gates import little_pool, little_users, served, settled
from bench.analysis.statistics import summarise
from bench.experiments import instrument, pool_sweep
from bench.load.recorder import IN_FLIGHT, KINDS, Recorder
from bench.model import BoundBy, Cell, Observation, Percentiles, Plan, Profile, Settings, Workload
from bench.store import Store

LINK_CARRIES_QPS, SERVER_CARRIES_QPS, REDIS_PY_CARRIES_QPS = 26_000.0, 60_000.0, 12_000.0
NOISE = (1.0, 1.004, 0.997, 1.002, 0.999)  # by block: replicates are never quite alike

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What the instrument of a run is like: as it stands here, every claim of it is true.

    `stretched`: what is recorded of the callers' wait for a stopped server, as a factor, and
    `longest_s` at most. `on_the_wire`: whether the command time holds that wait too. `second_arm`:
    the figures of A/A's second arm, as a factor. `carried`: of the closed loop's rate, under
    overload. `cold_s`, `cold_decay_s`: what the first request of a cold start takes longer, and
    how fast that fades.
    """

    stretched: float = 1.0
    longest_s: float = math.inf
    on_the_wire: bool = False
    second_arm: float = 1.0
    send_lag_mean_s: float = 0.06e-3
    carried: float = 0.98
    cold_s: float = 0.02
    cold_decay_s: float = 0.05


def store(
    folder: Path,
    profile: Profile,
    replicates: int,
    experiments: tuple[ModuleType, ...] = (pool_sweep,),
    truth: Truth = Truth(),
    wanted: Callable[[Cell], bool] = lambda cell: True,
) -> Path:
    """A whole run of the profile's cells, or of those `wanted`, each in its blocks."""
    settings = Settings(profile=profile).identity()
    made = Store.create(folder, {"settings": settings, "python": "3.11.0"})
    made.note_server("redis", "7.0.0")
    for module in experiments:
        plan: Plan = module.plan(profile, Workload(), 1)
        for block, planned in enumerate(plan.blocks[:replicates], 1):
            for cell in planned:
                if wanted(cell):
                    made.add(observation(cell, block, truth))
    made.finish("complete")
    return folder


def observation(cell: Cell, block: int, truth: Truth = Truth()) -> Observation:
    """The cell by min(users, pool) ÷ W, up to what the rig carries; of an open loop by its rows."""
    if cell.idling is not None:
        return _asleep(cell, block)
    known = _closed(cell, block) if cell.loop == "closed" else _open(cell, block, truth)
    if cell.arm == instrument.ARMS[1]:
        known |= _times(known, truth.second_arm)
    busy_s = known["client_cpu_us_per_op"] * 1e-6 * known["qps"] * cell.measure_s
    usual: dict[str, Any] = {
        "cell": cell,
        "block": block,
        "replicate": block,
        "attempt": 1,
        "client_rss_bytes": 200_000_000,
        "client_cpu_s": busy_s,
        "unloaded_s": cell.rtt_s + 0.0002,
        "measured_s": cell.measure_s,
        "valid": True,
        "invalid_reasons": "",
        "doubts": "",
        "calm_share": 1.0,
        "series": [],
        "histograms": {},
        "requests": [],
        "pods": (),
        "phases": (),
        "bursts": (),
        "tls_ends_at": "",
    }
    blank = dict.fromkeys(typing.get_type_hints(Observation), 0)
    return Observation(**(blank | usual | known))


def _asleep(cell: Cell, block: int) -> Observation:
    """All is well with it, whatever goes wrong meanwhile."""
    assert cell.idling is not None
    fault = {"fault_began_s": 1.2, "fault_ended_s": 1.5} if cell.outage is not None else {}
    cycles = range(1 - cell.idling.fresh, cell.idling.cycles + 1)
    at = np.linspace(1.0, 2.0, 200)
    kept: dict[str, Any] = {
        "requests": [asleep.rows(at, at + 0.001)] if cell.keep_requests else [],
        "series": [
            {"source": "probes", "at_s": t, "server_cpu_s": t / 50, "server_connections": 40.0,
             "server_connects": 10 * t}
            for t in np.arange(0.5, 2.5, 0.1)
        ] if cell.keep_requests else [],
    }  # fmt: skip
    bursts = [asleep.burst(cell, cycle, **fault) for cycle in cycles]
    return asleep.observation(cell, bursts, block, **kept)


def _closed(cell: Cell, block: int) -> dict[str, Any]:
    qps, bound_by = _rate(cell)
    noise = NOISE[-block % 5] if cell.arm == instrument.ARMS[1] else NOISE[(block - 1) % 5]
    qps *= noise
    held_s = min(cell.concurrency, cell.pool_size) / qps
    wait_s = max(cell.concurrency / qps - held_s, 0.0)
    opened = cell.pool_size if cell.opening == "prefilled" else cell.concurrency
    client_us = 80.0 if cell.client == "redis-py" else 14.0
    cost_noise = NOISE[(block - 1) % 5] if cell.arm == instrument.ARMS[1] else NOISE[-block % 5]
    return {
        "qps": qps,
        "latency": _same(held_s + wait_s, qps * cell.measure_s),
        "acquire": _same(wait_s, qps * cell.measure_s),
        "command": _same(held_s, qps * cell.measure_s),
        "pool_empty_share": float(cell.concurrency > cell.pool_size),
        "client_fds_peak": opened + 12,
        "server_fds_peak": opened + 8,
        "link_fds_peak": 2 * opened + 7,
        "server_client_memory_bytes": 20_000 * opened,
        "idle_connection_age_s": 0.5 + cell.concurrency % 30,
        "idle_connection_memory_bytes": 20_000.0 if cell.concurrency % 30 < 5 else 2_000.0,
        "server_cpu_us_per_op": 10.0 * cost_noise,
        "client_cpu_us_per_op": client_us * cost_noise,
        "bound_by": bound_by,
        "in_flight_mean": min(cell.concurrency, cell.pool_size),
        "in_flight_peak": min(cell.concurrency, cell.pool_size),
        "gates": (
            little_users(cell.concurrency * 0.999, cell.concurrency, cell.rtt_s),
            little_pool(5.0, held_mean=5.002, qps=qps),
        ),
        "scheduled": None,
        "dropped": None,
        "served_share": None,
        "send_lag": Percentiles(0.0, 0.0, 0.0, 0.0),
        "acquire_calm": _same(wait_s, qps * cell.measure_s),
    }


def _rate(cell: Cell) -> tuple[float, BoundBy]:
    service_s = cell.rtt_s + 0.0002
    wanted = min(cell.concurrency, cell.pool_size) / service_s
    carried, limit = (LINK_CARRIES_QPS, "link") if cell.rtt_s else (SERVER_CARRIES_QPS, "server")
    if cell.client == "redis-py":
        carried, limit = REDIS_PY_CARRIES_QPS, "generator"
    if wanted > carried:
        return carried, typing.cast(BoundBy, limit)
    return wanted, "pool" if cell.concurrency > cell.pool_size else "users"


def _same(seconds: float, requests: float) -> Percentiles:
    known = [seconds if requests >= needed else None for needed in (11, 69, 726, 7289)]
    return Percentiles(*known)


def _times(known: dict[str, Any], factor: float) -> dict[str, Any]:
    """The figures that A/A compares, each `factor` times as large."""
    latency: Percentiles = known["latency"]
    parts = (latency.p50, latency.p90, latency.p99, latency.p999)
    longer = Percentiles(*(part and part * factor for part in parts))
    plain = ("qps", "server_cpu_us_per_op", "client_cpu_us_per_op")
    return {"latency": longer, **{name: known[name] * factor for name in plain}}


# The open loop: a row (intended, sent, acquired, done) for every request


def _open(cell: Cell, block: int, truth: Truth) -> dict[str, Any]:
    assert cell.offered_qps is not None
    rows, carried = _arrived(cell, truth)
    recorder = Recorder(["GET"])
    recorder.sink("GET")(rows.ravel())
    window = recorder.window(0.0, cell.measure_s, "open")
    histograms = window["histograms"]
    shares = {kind: summarise(HdrHistogram.decode(histograms[kind])) for kind in KINDS}
    scheduled = round(cell.offered_qps * NOISE[(block - 1) % 5] * cell.measure_s)
    share = min(1.0, carried / cell.offered_qps)
    qps, bound = carried * NOISE[(block - 1) % 5], "pool" if share < 1 else "users"
    mean = qps * window["sums_s"]["command"] / max(window["requests"], 1)
    series = [{k: v for k, v in row.items() if k != "histograms"} for row in window["series"]]
    return {
        **shares,
        "acquire_calm": shares["acquire"],
        "qps": qps,
        "scheduled": scheduled,
        "dropped": round((1 - share) * scheduled),
        "served_share": share,
        "pool_empty_share": float(bound == "pool"),
        "hiccup_max_s": 0.0007,
        "bound_by": bound,
        "in_flight_mean": mean,
        "command_mean_s": window["sums_s"]["command"] / max(window["requests"], 1),
        "in_flight_peak": min(cell.pool_size, round(3 * mean) + 1),
        "client_cpu_us_per_op": 24.0 if cell.offered_qps < 3e4 else 22.0,
        "server_cpu_us_per_op": 10.0,
        "server_cpu_s": 10e-6 * qps * cell.measure_s,
        "gates": (
            served(scheduled, round(share * scheduled), typing.cast(BoundBy, bound)),
            little_pool(5.0, held_mean=5.002, qps=qps),
            settled([qps] * 8 if cell.steady else []),
        ),
        "series": [{"source": "workers", **row} for row in series],
        "histograms": {
            **{kind: histograms[kind] for kind in KINDS},
            IN_FLIGHT: recorder.in_flight(0.0, cell.measure_s),
        },
        "requests": [rows.tobytes()] if cell.keep_requests else [],
    }


def _arrived(cell: Cell, truth: Truth) -> tuple[Rows, float]:
    """The requests of the cell and the rate carried."""
    assert cell.offered_qps is not None
    if cell.fault == "stop":
        return _stopped(cell, truth), cell.offered_qps
    rng = np.random.default_rng(1)
    due = np.cumsum(rng.exponential(1 / cell.offered_qps, round(cell.offered_qps * cell.measure_s)))
    sent = due + rng.exponential(truth.send_lag_mean_s, due.size)
    took_s = (cell.rtt_s + 0.0002) * rng.normal(1, 0.02, due.size)
    if not cell.warmup_s:
        took_s += truth.cold_s * np.exp(-due / truth.cold_decay_s)
    full = cell.pool_size / (cell.rtt_s + 0.0002)
    carried = min(cell.offered_qps, truth.carried * full)
    return np.column_stack([due, sent, sent, sent + took_s]), carried


def _stopped(cell: Cell, truth: Truth) -> Rows:
    """Evenly spaced requests to a server that stands still for a while, so that the q-quantile of
    the latency is D − (1 − q)·T; only those on a connection are told on the wire."""
    assert cell.offered_qps is not None
    due = (np.arange(cell.offered_qps * cell.measure_s) + 0.5) / cell.offered_qps
    assert cell.outage is not None
    begins_s, ends_s = cell.outage.begins_s, cell.outage.begins_s + cell.outage.fault_s
    inside = (begins_s <= due) & (due < ends_s)
    waits_s = np.where(inside, truth.stretched * (ends_s - due), 0.0)
    waits_s = np.minimum(waits_s, truth.longest_s)
    held = np.cumsum(inside) <= cell.pool_size  # the first to come have the connections
    acquired = np.where(held | truth.on_the_wire, due, due + waits_s)
    return np.column_stack([due, due, acquired, due + waits_s + 50e-6])
