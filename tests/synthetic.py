"""Synthetic runs: what a quiet machine would store if pools behaved exactly as theory says.

Only for tests of what is said and drawn about stored cells, where the truth must be known.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

from bench.analysis.gates import little_pool, little_users
from bench.experiments import pool_sweep
from bench.model import BoundBy, Cell, Observation, Percentiles, Profile, Workload
from bench.store import Store

LINK_CARRIES_QPS, SERVER_CARRIES_QPS = 26_000.0, 60_000.0
NOISE = (1.0, 1.004, 0.997, 1.002, 0.999)  # by block: replicates are never quite alike


def store(folder: Path, profile: Profile, replicates: int) -> Path:
    """A whole run of the profile's cells, each in every block."""
    made = Store.create(folder, {"settings": {"profile": profile}, "python": "3.11.0"})
    made.note_server("redis", "7.0.0")
    for block in range(1, replicates + 1):
        for cell in pool_sweep.plan(profile, Workload(), 1).cells:
            made.add(observation(cell, block))
    made.finish("complete")
    return folder


def observation(cell: Cell, block: int) -> Observation:
    """The cell by min(users, pool) ÷ W, up to what the rig carries."""
    qps, bound_by = _rate(cell)
    qps *= NOISE[block - 1]
    held_s = min(cell.concurrency, cell.pool_size) / qps
    wait_s = max(cell.concurrency / qps - held_s, 0.0)
    opened = cell.pool_size if cell.opening == "prefilled" else cell.concurrency
    known: dict[str, Any] = {
        "cell": cell,
        "block": block,
        "replicate": block,
        "attempt": 1,
        "qps": qps,
        "latency": _same(held_s + wait_s, qps * cell.measure_s),
        "acquire": _same(wait_s, qps * cell.measure_s),
        "command": _same(held_s, qps * cell.measure_s),
        "pool_empty_share": float(cell.concurrency > cell.pool_size),
        "client_fds_peak": opened + 12,
        "server_fds_peak": opened + 8,
        "link_fds_peak": 2 * opened + 7,
        "server_client_memory_bytes": 20_000 * opened,
        "client_rss_bytes": 200_000_000,
        "unloaded_s": cell.rtt_s + 0.0002,
        "idle_connection_age_s": 0.5 + cell.concurrency % 30,
        "idle_connection_memory_bytes": 20_000.0 if cell.concurrency % 30 < 5 else 2_000.0,
        "server_cpu_us_per_op": 10.0 * NOISE[-block],
        "client_cpu_us_per_op": 14.0 * NOISE[-block],
        "measured_s": cell.measure_s,
        "bound_by": bound_by,
        "valid": True,
        "invalid_reasons": "",
        "doubts": "",
        "in_flight_mean": min(cell.concurrency, cell.pool_size),
        "calm_share": 1.0,
        "gates": (
            little_users(cell.concurrency * 0.999, cell.concurrency, cell.rtt_s),
            little_pool(5.0, held_mean=5.002, qps=qps),
        ),
        "series": [],
        "histograms": {},
    }
    blank = dict.fromkeys(typing.get_type_hints(Observation), 0)
    return Observation(**(blank | known))


def _rate(cell: Cell) -> tuple[float, BoundBy]:
    service_s = cell.rtt_s + 0.0002
    wanted = min(cell.concurrency, cell.pool_size) / service_s
    carried, limit = (LINK_CARRIES_QPS, "link") if cell.rtt_s else (SERVER_CARRIES_QPS, "server")
    if wanted > carried:
        return carried, typing.cast(BoundBy, limit)
    return wanted, "pool" if cell.concurrency > cell.pool_size else "users"


def _same(seconds: float, requests: float) -> Percentiles:
    known = [seconds if requests >= needed else None for needed in (11, 69, 726, 7289)]
    return Percentiles(*known)
