"""Observations of cells that sleep, as a truth would have them: for tests of what is said."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bench.analysis.statistics import summarise
from bench.load.recorder import add_seconds, new_histogram
from bench.model import LANE_COLUMNS, OUTCOMES, Burst, Cell, Observation

OK = OUTCOMES.index("ok")
BURST = Burst(
    lane=0, cycle=0, began_s=1.0, length_s=0.2, gap_s=0.0, requests=100,
    outcomes=(0,) * len(OUTCOMES), first=(0,) * len(OUTCOMES), overdue=0, overdue_failed=0,
    opened=0, closed_idle=0, closed_stale=0, closed_error=0, latency_p50_s=0.0005,
    latency_p99_s=0.004, latency_max_s=0.005, send_lag_p99_s=0.001, server_cpu_s=0.002,
    server_operations=100, server_pings=0, server_connects=0, server_connections=501,
)  # fmt: skip


def counts(**kinds: int) -> tuple[int, ...]:
    """By `OUTCOMES`; a space in a name is an underscore here, a dash too."""
    told = {name.replace(" ", "_").replace("-", "_"): name for name in OUTCOMES}
    return tuple(sum(n for kind, n in kinds.items() if told[kind] == name) for name in OUTCOMES)


def burst(cell: Cell, cycle: int, lane: int = 0, **changed: Any) -> Burst:
    assert cell.idling is not None
    requests = cell.idling.requests
    usual = dataclasses.replace(
        BURST, lane=lane, cycle=cycle, requests=requests, outcomes=counts(ok=requests),
        first=counts(ok=min(requests, cell.pool_size)), server_operations=requests,
        gap_s=cell.idling.gap_s if cycle else 0.0, server_cpu_s=20e-6 * requests,
        server_connections=cell.pool_size + 1,
    )  # fmt: skip
    return dataclasses.replace(usual, **changed)


def observation(cell: Cell, bursts: list[Burst], block: int = 1, **changed: Any) -> Observation:
    latency = histogram([0.0005] * 1_000)
    answered = changed.pop("answered", [0.0005] * 1_000)
    known: dict[str, Any] = {
        "block": block, "replicate": block, "attempt": 1, "started_unix_s": 1.75e9,
        "qps": 2_000.0, "served_share": 1.0, "valid": True, "invalid_reasons": "", "doubts": "",
        "bound_by": "users", "measured_s": 15.0, "workers_lost": 0, "bursts": tuple(bursts),
        "server_connections_peak": max(each.server_connections for each in bursts),
        "server_cpu_us_per_op": 20.0, "latency": summarise(latency), "steal_share": 0.0,
        "histograms": {
            "latency": bytes(latency.encode()),
            "fresh": bytes(latency.encode()),
            "answered": bytes(histogram(answered).encode()),
        },
    }  # fmt: skip
    return Observation.partly(cell, **(known | changed))


def histogram(seconds: list[float]) -> Any:
    made = new_histogram()
    add_seconds(made, np.asarray(seconds, float))
    return made


def rows(
    intended: Any, done: Any, outcome: Any = OK, other: Any = 0.0, commands: Any = 1.0
) -> bytes:
    """Requests as a lane keeps them."""
    intended = np.asarray(intended, float)
    table = np.zeros((len(intended), len(LANE_COLUMNS)))
    columns = {"intended_s": intended, "sent_s": intended, "acquired_s": intended,
               "done_s": done, "outcome": outcome, "first": outcome, "commands": commands,
               "other": other}  # fmt: skip
    for name, values in columns.items():
        table[:, LANE_COLUMNS.index(name)] = values
    return table.tobytes()
