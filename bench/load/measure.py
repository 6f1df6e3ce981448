"""Runs one cell on an open rig and swarm, and makes its one Observation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from time import perf_counter as clock
from typing import Any

from bench.analysis import gates
from bench.analysis.statistics import summarise
from bench.load.recorder import KINDS, merge
from bench.load.swarm import Swarm
from bench.model import BenchError, Cell, Gate, Observation, Percentiles
from bench.rig.probes import Readings, calls_between
from bench.rig.rig import Rig

COMMANDS = ("get", "set")  # what the workload sends, as `INFO commandstats` names it


def measure(
    rig: Rig, swarm: Swarm, cell: Cell, block: int = 0, replicate: int = 0, attempt: int = 1
) -> Observation:
    """Open the cell's pools, run it, and gather what workers and probes saw. Blocks throughout.

    Raises ApparatusLost when a process of the rig dies, BenchError when a worker reports a failure.
    """
    began, started_unix_s = clock(), time.time()
    rig.check()
    try:
        idle = rig.idle.cost()
        swarm.prepare(cell, rig.address(cell.rtt_s), seed=rig.seed(block))
        before = rig.server.snapshot()
        swarm.enter(cell)
        readings, shares = _watch(rig, swarm, cell)
        calls = calls_between(before, rig.server.snapshot())
    except BenchError:
        rig.check()  # a worker's error may be no more than the echo of a dead server or link
        raise
    unloaded_s = rig.unloaded_s(cell.rtt_s)
    found = Findings(cell, Merged(shares), readings, calls, unloaded_s, owned=rig.server.owned)
    return found.observation(
        block=block,
        replicate=replicate,
        attempt=attempt,
        started_unix_s=started_unix_s,
        hiccup_max_s=rig.hiccups.max_s,
        idle_connection_age_s=idle.age_s,
        idle_connection_memory_bytes=idle.memory_bytes,
        outside_s=clock() - began - cell.measure_s,
    )


def _watch(rig: Rig, swarm: Swarm, cell: Cell) -> tuple[Readings, list[dict[str, Any]]]:
    """Probe the stretch of time that the workers call their window, within milliseconds."""
    probes = rig.probes(swarm.pids)
    try:
        probes.start_window()
        rig.hiccups.mark()
        running = swarm.start(cell)
        time.sleep(cell.measure_s)
        rig.hiccups.read()  # before our own sums load the machine
        readings = probes.end_window()
        return readings, swarm.collect(running)
    finally:
        probes.close()


class Merged:
    """The workers' shares as one. Counts add up; each worker's times are on its own clock."""

    def __init__(self, shares: list[dict[str, Any]]) -> None:
        self.shares = shares
        self.window_s = self.sum("window_s") / len(shares)
        self.qps = sum(share["requests"] / share["window_s"] for share in shares)
        self.in_use_mean = self.sum("in_use_mean")
        self.operations: Counter[str] = Counter()
        self.histograms = {
            kind: merge(share["histograms"][kind] for share in shares) for kind in KINDS
        }
        for share in shares:
            self.operations.update({k.lower(): v for k, v in share["operations"].items()})

    def sum(self, name: str) -> Any:
        return sum(share[name] for share in self.shares)

    def mean_s(self, kind: str) -> float:
        """Mean over the requests done in the window; 0 where there was none."""
        requests = self.sum("requests")
        return sum(share["sums_s"][kind] for share in self.shares) / requests if requests else 0.0

    def percentiles(self, kind: str) -> Percentiles:
        """In seconds; None where the window held too few requests to say."""
        strays = sum(share["out_of_range"][kind] for share in self.shares)
        return summarise(self.histograms[kind], strays)

    def mean_count(self, area: str) -> float:
        """How many requests were out (`out_s`), or held a connection (`held_s`), on average."""
        return float(sum(share[area] / share["window_s"] for share in self.shares))

    def busy(self) -> list[float]:
        """CPU seconds per second of each worker."""
        return [(s["user_s"] + s["system_s"]) / s["window_s"] for s in self.shares]


class Findings:
    """What one cell's parts told, put together."""

    def __init__(
        self,
        cell: Cell,
        total: Merged,
        readings: Readings,
        calls: dict[str, int],
        unloaded_s: float,
        *,
        owned: bool,
    ) -> None:
        self._cell = cell
        self._total = total
        self._readings = readings
        self._calls = {name: calls.get(name, 0) for name in COMMANDS}
        self._unloaded_s = unloaded_s
        self._owned = owned
        self._bound = self._bound_by()

    def observation(self, **placed: Any) -> Observation:
        """The record; `placed` says where and when the cell was measured."""
        total, read = self._total, self._readings
        checks = tuple(self._gates())
        reasons = gates.invalid_reasons(checks)
        served = sum(total.operations.values())
        return Observation(
            cell=self._cell,
            qps=total.qps,
            in_flight_mean=total.in_use_mean,
            in_flight_peak=total.sum("in_use_peak"),
            latency=total.percentiles("latency"),
            acquire=total.percentiles("acquire"),
            command=total.percentiles("command"),
            latency_mean_s=total.mean_s("latency"),
            acquire_mean_s=total.mean_s("acquire"),
            command_mean_s=total.mean_s("command"),
            unloaded_s=self._unloaded_s,
            send_lag_p99_s=0.0,  # closed loop: a request is sent when it is meant to be
            pool_empty_share=_per(total.sum("empty"), total.sum("borrows")) or 0.0,
            operations=served,
            server_operations=sum(self._calls.values()),
            foreign_operations=max(0, sum(self._calls.values()) - served),
            errors=total.sum("errors"),
            timeouts=total.sum("timeouts"),
            connections_opened=total.sum("created"),
            connect_mean_s=_per(total.sum("create_time_s"), total.sum("created")),
            client_fds_peak=read.client_fds_peak,
            server_connections_peak=read.server_connections_peak,
            server_fds_peak=read.server_fds_peak,
            link_fds_peak=read.link_fds_peak or 0,
            time_wait_peak=read.time_wait_peak,
            client_rss_bytes=read.client_rss_bytes,
            server_client_memory_bytes=read.server_client_memory_bytes,
            server_rss_bytes=read.server_rss_bytes,
            machine_busy_share=read.machine_busy_share,
            core_busy_max=read.core_busy_max,
            steal_share=read.steal_share,
            foreign_cpu_share=read.foreign_share,
            worker_runqueue_share=read.worker_runqueue_share,
            link_runqueue_share=read.link_runqueue_share,
            measured_s=total.window_s,
            bound_by=self._bound,
            valid=not reasons,
            invalid_reasons=reasons,
            gates=checks,
            series=self._series(),
            histograms={kind: total.histograms[kind].encode() for kind in KINDS},
            **self._cpu(),
            **placed,
        )

    def _cpu(self) -> dict[str, Any]:
        """Seconds of the window, and microseconds per operation by each part's own counts."""
        total, read = self._total, self._readings
        user_s, system_s = total.sum("user_s"), total.sum("system_s")
        counted = sum(read.server_calls.get(name, 0) for name in COMMANDS)
        return {
            "client_cpu_s": user_s + system_s,
            "client_cpu_user_s": user_s,
            "client_cpu_system_s": system_s,
            "server_cpu_s": read.server_cpu.total_s,
            "server_cpu_user_s": read.server_cpu.user_s,
            "server_cpu_system_s": read.server_cpu.system_s,
            "link_cpu_s": read.link_cpu.total_s,
            "link_cpu_user_s": read.link_cpu.user_s,
            "link_cpu_system_s": read.link_cpu.system_s,
            "client_cpu_us_per_op": _per((user_s + system_s) * 1e6, total.sum("requests")),
            "server_cpu_us_per_op": _per(read.server_info_cpu.total_s * 1e6, counted),
            "link_cpu_us_per_op": _per(read.link_cpu.total_s / read.measured_s * 1e6, total.qps),
        }

    def _bound_by(self) -> Any:
        read, cell = self._readings, self._cell
        waits = (read.worker_runqueue_share, read.link_runqueue_share)
        return gates.bound_by(
            worker_busy=self._total.busy(),
            link_busy=read.link_cpu.total_s / read.measured_s,
            server_busy=read.server_cpu.total_s / read.measured_s,
            machine_busy=read.machine_busy_share or 0.0,
            runqueue_share=max(wait or 0.0 for wait in waits),
            hold_s=self._total.mean_s("command"),
            unloaded_s=self._unloaded_s,
            in_use_mean=self._total.in_use_mean,
            pool_size=cell.pool_size,
            workers=cell.workers,
            concurrency=cell.concurrency,
        )

    def _gates(self) -> Iterable[Gate]:
        cell, total, read = self._cell, self._total, self._readings
        yield gates.little_users(total.mean_count("out_s"), cell.concurrency, cell.rtt_s)
        yield gates.little_pool(total.in_use_mean, total.mean_count("held_s"), total.qps)
        yield gates.little_pool_full(total.in_use_mean, cell.pool_size, cell.workers, self._bound)
        failed = total.sum("errors")
        sends = {name: count + failed for name, count in total.operations.items()}
        if self._owned:
            yield gates.operations(total.operations, sends, self._calls)
        yield gates.foreign_operations(sum(total.operations.values()), sum(self._calls.values()))
        yield gates.steal(read.steal_share)
        yield gates.foreign_cpu(read.foreign_share)
        yield gates.settled(self._comparable_rates())

    def _comparable_rates(self) -> list[float]:
        """The rate of each interval; none where an interval is shorter than a turn, since users in
        step would then look like drift."""
        rows = self._intervals()
        turn_s = self._total.mean_s("latency")
        return [r["requests"] / r["length_s"] for r in rows if r["length_s"] >= turn_s]

    def _intervals(self) -> list[dict[str, Any]]:
        """What the workers did per interval, summed over those that have the interval."""
        first, *others = (share["series"] for share in self._total.shares)
        rows = [dict(row) for row in first]
        for series in others:
            for row, other in zip(rows, series, strict=True):
                _add_interval(row, other)
        return rows

    def _series(self) -> list[dict[str, Any]]:
        return [{"source": "workers", **row} for row in self._intervals()] + [
            {"source": "probes", **row} for row in self._readings.series
        ]


def _add_interval(row: dict[str, Any], other: dict[str, Any]) -> None:
    """Take another worker's interval into `row`: counts add up, means weigh by them."""
    requests = row["requests"] + other["requests"]
    for mean in ("latency_mean_s", "acquire_mean_s"):
        both = ((each[mean] or 0.0) * each["requests"] for each in (row, other))
        row[mean] = _per(sum(both), requests)
    longest = [each["latency_max_s"] for each in (row, other) if each["requests"]]
    row["latency_max_s"] = max(longest, default=None)
    row["requests"] = requests


def _per(amount: float, count: float) -> float | None:
    return amount / count if count else None
