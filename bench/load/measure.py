"""Runs one cell on an open rig and swarm, and makes its one Observation."""

from __future__ import annotations

import time
from time import perf_counter as clock
from typing import Any, NamedTuple

from bench.load.crew import Crew
from bench.load.findings import Findings, Merged
from bench.load.swarm import Swarm
from bench.model import BenchError, Cell, Observation
from bench.rig.probes import Readings, calls_between
from bench.rig.rig import Rig


class Watched(NamedTuple):
    """What was seen while the workers measured: `stalls` from when to when, in perf_counter."""

    readings: Readings
    shares: list[dict[str, Any]]
    stalls: list[tuple[float, float]]
    clock_step_s: float


def measure(
    rig: Rig, swarm: Swarm | Crew, cell: Cell, block: int = 0, replicate: int = 0, attempt: int = 1
) -> Observation:
    """Open the cell's pools, run it, and gather what workers and probes saw. Blocks throughout.

    Where some of several workers are lost on the way, the rest is the observation, which is
    invalid. Raises ApparatusLost when another process of the rig dies, or the last worker;
    BenchError when a worker reports a failure.
    """
    began, started_unix_s = clock(), time.time()
    rig.check()
    try:
        idle = rig.idle.cost()
        rig.demand(cell)
        swarm.prepare(cell, rig.address(cell), seed=rig.seed(block))
        before = rig.server.snapshot()
        swarm.enter(cell)
        seen = _watch(rig, swarm, cell)
        calls = calls_between(before, rig.server.snapshot())
    except BenchError:
        rig.blame()
        raise
    found = Findings(
        cell,
        Merged(seen.shares, seen.stalls),
        seen.readings,
        calls,
        unloaded_s=rig.unloaded_s(cell),
        tls_ends_at=rig.tls_ends_at(cell),
        hiccup_max_s=rig.hiccups.max_s,
        clock_step_s=seen.clock_step_s,
        owned=rig.server.owned,
    )
    return found.observation(
        block=block,
        replicate=replicate,
        attempt=attempt,
        started_unix_s=started_unix_s,
        idle_connection_age_s=idle.age_s,
        idle_connection_memory_bytes=idle.memory_bytes,
        outside_s=clock() - began - cell.measure_s,
    )


def _watch(rig: Rig, swarm: Swarm | Crew, cell: Cell) -> Watched:
    """Probe the stretch of time that the workers call their window, within milliseconds."""
    probes = rig.probes(swarm.pids, cell)
    try:
        probes.start_window()
        rig.mark()
        wall, monotonic = time.time(), clock()
        running = swarm.start(cell)
        _pass_window(rig, cell)
        step_s = (time.time() - wall) - (clock() - monotonic)
        stalls = rig.stalls()  # before our own sums load the machine
        readings = probes.end_window()
        return Watched(readings, swarm.collect(running), stalls, step_s)
    finally:
        probes.close()


def _pass_window(rig: Rig, cell: Cell) -> None:
    """Let the cell's window pass, its server stopped in the midst of it where the cell asks, or its
    pooler away."""
    began = clock()
    if cell.outage is not None:
        time.sleep(cell.outage.begins_s)
        with rig.server.stopped() if cell.fault == "stop" else rig.without_proxy(cell):
            time.sleep(cell.outage.fault_s)
    time.sleep(max(0.0, cell.measure_s - (clock() - began)))
