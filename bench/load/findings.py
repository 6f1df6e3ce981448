"""The workers' shares of a cell and the rig's readings, put together: figures, limit, gates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hdrh.histogram import HdrHistogram

from bench.analysis import gates
from bench.analysis.statistics import summarise
from bench.analysis.steady import histogram_interval
from bench.load.recorder import BY_INTERVAL, IN_FLIGHT, KINDS, merge, new_histogram
from bench.model import Cell, Fault, Gate, Observation, Percentiles, Phase, Pod

if TYPE_CHECKING:  # it brings redis-py and with it ssl, which must wait for locust's patches
    from bench.rig.probes import Readings

COMMANDS = ("get", "set", "eval")  # what the workload sends, as `INFO commandstats` names it
POOLER_AWAY: Fault = "pooler restart"
WAITS = ("latency", "acquire")  # what a request that was never served had no end of
# What the suite itself asks of a server, and what opening a connection sends.
HOUSEKEEPING = ("info", "client", "config", "hello", "ping", "auth", "select", "command")


class Merged:
    """The workers' shares as one. Counts add up; each worker's times are on its own clock.

    `stalls` of the machine, from when to when, tell which intervals were calm. Those of workers on
    other machines, whose clocks are others, are all taken for calm.
    """

    def __init__(self, shares: list[dict[str, Any]], stalls: list[tuple[float, float]]) -> None:
        self.shares = shares
        self.window_s = self.sum("window_s") / len(shares)
        self.qps = sum(share["done"] / share["window_s"] for share in shares)
        self.intervals = _intervals(shares, stalls)
        self.in_use_mean = self.sum("in_use_mean")
        self.operations: Counter[str] = Counter()
        self.histograms = {
            kind: merge(share["histograms"][kind] for share in shares) for kind in KINDS
        }
        for share in shares:
            self.operations.update({k.lower(): v for k, v in share["operations"].items()})

    def stored_histograms(self) -> dict[str, bytes]:
        """Those of all kinds, and of the connections held where workers tell."""
        stored = {kind: bytes(self.histograms[kind].encode()) for kind in KINDS}
        if held := [share[IN_FLIGHT] for share in self.shares if IN_FLIGHT in share]:
            stored[IN_FLIGHT] = bytes(merge(held).encode())
        return stored

    def empty_share(self, least_pool: int = 0) -> float:
        """The share of requests that found their pool empty, of pools from `least_pool` up."""
        chosen = [share for share in self.shares if share["pool_size"] >= least_pool]
        borrows = sum(share["borrows"] for share in chosen)
        return sum(share["empty"] for share in chosen) / borrows if borrows else 0.0

    def phases(self) -> Iterator[Phase]:
        """Those of opening connections, over all workers, in the order in which they come."""
        for name, histogram in self._phase_parts().items():
            parts = [share["phases"][name] for share in self.shares if name in share["phases"]]
            count = sum(part["count"] for part in parts)
            mean_s = _per(sum(part["sum_s"] for part in parts), count) or 0.0
            yield Phase(name, count, mean_s, summarise(histogram).p50)

    def phase_histograms(self) -> dict[str, bytes]:
        """By the tag under which each is stored."""
        return {
            f"phase_{name.replace(' ', '_')}": bytes(histogram.encode())
            for name, histogram in self._phase_parts().items()
        }

    def _phase_parts(self) -> dict[str, HdrHistogram]:
        names = dict.fromkeys(name for share in self.shares for name in share["phases"])
        return {
            name: merge(
                share["phases"][name]["histogram"]
                for share in self.shares
                if name in share["phases"]
            )
            for name in names
        }

    def sum(self, name: str) -> Any:
        return sum(share[name] for share in self.shares)

    def mean_s(self, kind: str) -> float:
        """Mean over the requests done in the window; 0 where there was none."""
        requests = self.sum("requests")
        return sum(share["sums_s"][kind] for share in self.shares) / requests if requests else 0.0

    def percentiles(self, kind: str) -> Percentiles:
        """In seconds; None where the window held too few requests to say, or where the percentile
        lies among requests that were due but never served: theirs would have been the longest."""
        strays = sum(share["out_of_range"][kind] for share in self.shares)
        if self.scheduled is not None and kind in WAITS:
            strays += max(0, self.scheduled - self.sum("requests"))
        return summarise(self.histograms[kind], strays)

    def mean_count(self, area: str) -> float:
        """How many requests were out (`out_s`), or held a connection (`held_s`), on average."""
        return float(sum(share[area] / share["window_s"] for share in self.shares))

    @property
    def scheduled(self) -> int | None:
        """Arrivals of an open loop due within the window; None in a closed one."""
        return self.sum("scheduled") if "scheduled" in self.shares[0] else None

    def calm_share(self) -> float:
        """The share of the window's intervals in which the machine had no stall."""
        return float(sum(row["calm"] for row in self.intervals) / len(self.intervals))

    def calm_empty_share(self) -> float | None:
        """The share of the calm intervals' requests that found the pool empty; None without any."""
        calm = [row for row in self.intervals if row["calm"]]
        return _per(sum(row["empty"] for row in calm), sum(row["borrows"] for row in calm))

    def calm_percentiles(self, kind: str) -> Percentiles:
        """Those of the calm intervals alone, in seconds."""
        calm = new_histogram()
        for row in self.intervals:
            if row["calm"]:
                calm.add(row["histograms"][kind])
        return summarise(calm)

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
        *,
        unloaded_s: float,
        tls_ends_at: str,
        hiccup_max_s: float,
        clock_step_s: float,
        owned: bool,
    ) -> None:
        self._cell = cell
        self._total = total
        self._readings = readings
        self._calls = {name: calls.get(name, 0) for name in COMMANDS}
        self._own = sum(total.operations.values())
        self._depth = cell.workload.depth
        self._tls_ends_at = tls_ends_at
        self._behind_proxy = cell.via != "direct" or tls_ends_at == "envoy"
        self._others = _others(calls)
        self._lost = cell.workers - len(total.shares)
        self._foreign = self._foreign_calls(calls.get("ping", 0))
        # A pipeline takes longer than the PING that the rig has sent, and so does the first
        # exchange of a connection, which the link holds back: then the quickest tells.
        usual = cell.workload.depth == 1 and not cell.fresh
        self._unloaded_s = unloaded_s if usual else self._quickest_s() or unloaded_s
        self._hiccup_max_s = hiccup_max_s
        self._clock_step_s = clock_step_s
        self._owned = owned
        self._send_lag = gates.send_lag(total.percentiles("send_lag").p99, unloaded_s, cell.rtt_s)
        self._bound = self._bound_by()

    def observation(self, **placed: Any) -> Observation:
        """The record; `placed` says where and when the cell was measured."""
        total, read = self._total, self._readings
        checks = tuple(self._gates())
        reasons = gates.invalid_reasons(checks)
        return Observation(
            cell=self._cell,
            qps=total.qps,
            in_flight_mean=total.in_use_mean,
            in_flight_peak=total.sum("in_use_peak"),
            latency=total.percentiles("latency"),
            acquire=total.percentiles("acquire"),
            acquire_calm=total.calm_percentiles("acquire"),
            calm_share=total.calm_share(),
            command=total.percentiles("command"),
            send_lag=total.percentiles("send_lag"),
            latency_mean_s=total.mean_s("latency"),
            acquire_mean_s=total.mean_s("acquire"),
            command_mean_s=total.mean_s("command"),
            unloaded_s=self._unloaded_s,
            quickest_s=self._quickest_s(),
            scheduled=total.scheduled,
            dropped=None if total.scheduled is None else total.sum("dropped"),
            served_share=_per(total.sum("requests"), total.scheduled or 0),
            pool_empty_share=total.empty_share(),
            pool_empty_calm_share=total.calm_empty_share(),
            hiccup_max_s=self._hiccup_max_s,
            clock_step_s=self._clock_step_s,
            workers_lost=self._lost,
            operations=self._own,
            server_operations=sum(self._calls.values()),
            foreign_operations=self._foreign,
            errors=total.sum("errors"),
            timeouts=total.sum("timeouts"),
            connections_opened=total.sum("created"),
            connect_mean_s=_per(total.sum("create_time_s"), total.sum("created")),
            client_fds_peak=read.client_fds_peak,
            server_connections_peak=read.server_connections_peak,
            server_fds_peak=read.server_fds_peak,
            link_fds_peak=read.link_fds_peak or 0,
            proxy_fds_peak=read.proxy_fds_peak or 0,
            proxy_busy_share=read.proxy_cpu.total_s / read.measured_s,
            tls_ends_at=self._tls_ends_at,
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
            doubts=gates.doubts(checks),
            gates=checks,
            series=self._series(),
            histograms=total.stored_histograms() | total.phase_histograms(),
            requests=[share["rows"] for share in total.shares if share.get("rows")],
            pods=tuple(map(_pod, total.shares)),
            phases=tuple(total.phases()),
            **self._cpu(),
            **self._intervals_of_confidence(),
            **placed,
        )

    def _cpu(self) -> dict[str, Any]:
        """Seconds of the window, and microseconds per command by each part's own counts."""
        total, read = self._total, self._readings
        commands_per_s = total.qps * self._depth
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
            "client_cpu_us_per_op": _per(
                (user_s + system_s) * 1e6, total.sum("done") * self._depth
            ),
            # Others' work is in the server's CPU: beyond a hundredth of it, no figure (rule 7).
            "server_cpu_us_per_op": None
            if (self._foreign_gate().figure or 0.0) > gates.FOREIGN_OPERATIONS
            else _per(read.server_info_cpu.total_s * 1e6, counted),
            "link_cpu_us_per_op": _per(
                read.link_cpu.total_s / read.measured_s * 1e6, commands_per_s
            ),
            "proxy_cpu_s": read.proxy_cpu.total_s,
            "proxy_cpu_us_per_op": _per(
                read.proxy_cpu.total_s / read.measured_s * 1e6, commands_per_s
            )
            if self._behind_proxy
            and self._cell.fault != POOLER_AWAY  # the second one's is not known
            else None,
        }

    def _intervals_of_confidence(self) -> dict[str, Any]:
        """Around p99 within the cell, from intervals joined to batches; None where too few."""
        ends = {}
        for kind in BY_INTERVAL:
            parts = [row["histograms"][kind] for row in self._total.intervals]
            p99 = histogram_interval(parts, 0.99)
            ends[f"{kind}_p99_low_s"] = p99.low if math.isfinite(p99.low) else None
            ends[f"{kind}_p99_high_s"] = p99.high if math.isfinite(p99.high) else None
        return ends

    def _bound_by(self) -> Any:
        read, cell = self._readings, self._cell
        waits = (read.worker_runqueue_share, read.link_runqueue_share)
        return gates.bound_by(
            worker_busy=self._total.busy(),
            link_busy=read.link_cpu.total_s / read.measured_s,
            server_busy=read.server_cpu.total_s / read.measured_s,
            machine_busy=read.machine_busy_share or 0.0,
            runqueue_share=max(wait or 0.0 for wait in waits),
            hold_s=self._hold_s(),
            # Moderation adds twice its time on average. A PING alone meets about half of it, when
            # its reply finds the link at rest; the other half is no sign of a busy machine.
            unloaded_s=self._unloaded_s + cell.moderation_s,
            in_use_mean=self._total.in_use_mean,
            # One multiplexed connection is no limit to how many requests are out.
            pool_size=cell.pool_size if cell.client != "glide" else cell.concurrency,
            workers=cell.workers,
            concurrency=cell.concurrency,
            behind=self._send_lag.passed is False,
        )

    def _hold_s(self) -> float:
        """The mean hold; of a cell whose server is stopped the median, since the stop, and not the
        machine, stretches the mean."""
        if self._cell.fault == "stop":
            return self._total.percentiles("command").p50 or 0.0
        return self._total.mean_s("command")

    def _quickest_s(self) -> float | None:
        known = [s["quickest_s"] for s in self._total.shares if s["quickest_s"] is not None]
        return min(known, default=None)

    def _foreign_calls(self, pings: int) -> int | None:
        """What others had the server do; None where a lost worker's part of it is unknown."""
        if self._lost:
            return None
        own_pings = self._own if self._cell.test_on_borrow == "ping" else 0
        others = sum(self._others.values()) + max(0, pings - own_pings)
        return max(0, sum(self._calls.values()) - self._own) + others

    def _foreign_gate(self) -> Gate:
        known = None if self._foreign is None else self._own + self._foreign
        return gates.foreign_operations(self._own, known)

    def _gates(self) -> Iterable[Gate]:
        cell, total, read = self._cell, self._total, self._readings
        if cell.loop == "closed":
            out = total.mean_count("out_s")
            yield gates.little_users(out, cell.concurrency, cell.rtt_s, closes=cell.fresh)
        else:
            yield from self._open_gates(total.scheduled or 0)
        if cell.fault != POOLER_AWAY:  # what fails then is in use too, and not in the record
            yield gates.little_pool(total.in_use_mean, total.mean_count("held_s"), total.qps)
        yield gates.little_pool_full(total.in_use_mean, cell.pool_size, cell.workers, self._bound)
        if self._owned:
            failed = total.sum("errors") * self._depth
            sends = {name: count + failed for name, count in total.operations.items()}
            nobody = dict.fromkeys(self._others, 0)
            yield gates.operations(total.operations, nobody | sends, self._calls | self._others)
        yield self._foreign_gate()
        quickest_s = self._quickest_s()
        if quickest_s is not None and not cell.fresh:
            yield gates.link_rtt(min(quickest_s, self._unloaded_s), cell.rtt_s)
        yield gates.workers(self._lost, cell.workers)
        yield gates.clock(self._clock_step_s, total.sum("backwards"))
        yield gates.hiccups(self._hiccup_max_s, total.calm_share())
        yield gates.steal(read.steal_share)
        yield gates.foreign_cpu(read.foreign_share)
        if cell.quiet:
            yield gates.cores(read.core_busy_max)
        yield gates.settled(self._comparable_rates())

    def _open_gates(self, scheduled: int) -> Iterable[Gate]:
        cell, total = self._cell, self._total
        if not (cell.local_ports or cell.fault == POOLER_AWAY):  # they show what is not served then
            yield gates.served(scheduled, total.sum("requests"), self._bound)
        if cell.steady:
            grown = scheduled - total.sum("done") - total.sum("dropped")
            yield gates.backlog(grown, self._room(), scheduled, self._bound)
        yield self._send_lag
        if cell.opening == "prefilled" and cell.steady:
            empty, connections = total.empty_share(cell.pool_size), cell.pool_size * cell.workers
            yield gates.null_control(
                empty, connections, cell.concurrency, total.in_use_mean, cell.rtt_s
            )

    def _room(self) -> float:
        """How many more requests of an open loop may be out at one moment than at another: those
        in flight, four standard deviations of their number, and a burst."""
        arrivals, in_flight = self._cell.arrivals, self._total.in_use_mean
        room = float(in_flight + 4 * math.sqrt(in_flight))
        if arrivals is None or arrivals.process != "bursty":
            return room
        return room + arrivals.period_s * (self._cell.offered_qps or 0.0)

    def _comparable_rates(self) -> list[float]:
        """The rate of each interval; none where the load is meant to change, or an interval is
        shorter than a turn, since users in step would then look like drift."""
        if not self._cell.steady:
            return []
        turn_s = self._total.mean_s("latency")
        return [
            row["requests"] / row["length_s"]
            for row in self._total.intervals
            if row["length_s"] >= turn_s
        ]

    def _series(self) -> list[dict[str, Any]]:
        workers = (
            {name: value for name, value in row.items() if name != "histograms"}
            for row in self._total.intervals
        )
        return [{"source": "workers", **row} for row in workers] + [
            {"source": "probes", **row} for row in self._readings.series
        ]


def _pod(share: dict[str, Any]) -> Pod:
    """Requests that were due but never served have waited long."""
    latency = summarise(merge([share["histograms"]["latency"]]), share["out_of_range"]["latency"])
    due = max(share["requests"], share.get("scheduled", 0))
    return Pod(
        worker=share["worker"],
        pool_size=share["pool_size"],
        scheduled=share.get("scheduled"),
        requests=share["requests"],
        qps=share["done"] / share["window_s"],
        in_flight_mean=share["in_use_mean"],
        in_flight_peak=share["in_use_peak"],
        command_mean_s=_per(share["sums_s"]["command"], share["requests"]) or 0.0,
        pool_empty_share=_per(share["empty"], share["borrows"]) or 0.0,
        long_wait_share=_per(share["waited_long"] + due - share["requests"], due) or 0.0,
        latency_mean_s=_per(share["sums_s"]["latency"], share["requests"]) or 0.0,
        latency_p50_s=latency.p50,
        latency_p99_s=latency.p99,
        errors=share["errors"],
        failures="; ".join(f"{count} × {kind}" for kind, count in share["failures"].items()),
    )


def _others(calls: dict[str, int]) -> dict[str, int]:
    """The commands that the suite never sends, and how often somebody else did."""
    known = (*COMMANDS, *HOUSEKEEPING)
    return {name: n for name, n in calls.items() if name.partition("|")[0] not in known}


def _intervals(
    shares: list[dict[str, Any]], stalls: list[tuple[float, float]]
) -> list[dict[str, Any]]:
    """What the workers did in each interval, summed over them; `calm` where no stall reaches it."""
    rows = []
    for parts in zip(*(share["series"] for share in shares), strict=True):
        row = _joined(parts)
        begins = [share["start"] + row["at_s"] for share in shares]
        row["calm"] = not any(
            due < begin + row["length_s"] and woke > begin
            for due, woke in stalls
            for begin in begins
        )
        rows.append(row)
    return rows


def _joined(parts: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Several workers' figures of one interval: counts add up, means weigh by them."""
    seen = [part for part in parts if part["samples"]]
    samples = sum(part["samples"] for part in seen)

    def mean(name: str) -> float | None:
        return _per(sum(part[name] * part["samples"] for part in seen), samples)

    return {
        "at_s": parts[0]["at_s"],
        "length_s": parts[0]["length_s"],
        "requests": sum(part["requests"] for part in parts),
        "samples": samples,
        "borrows": sum(part["borrows"] for part in parts),
        "empty": sum(part["empty"] for part in parts),
        "latency_mean_s": mean("latency_mean_s"),
        "latency_max_s": max((part["latency_max_s"] for part in seen), default=None),
        "acquire_mean_s": mean("acquire_mean_s"),
        "histograms": {
            kind: merge(part["histograms"][kind] for part in parts) for kind in BY_INTERVAL
        },
    }


def _per(amount: float, count: float) -> float | None:
    return amount / count if count else None
