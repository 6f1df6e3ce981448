"""The live view's figures: a test's pools, waits and server, a second at a time.

A `Meter` stands beside each pool and is read once a second; the `Board`, in the process with the
web UI, keeps what was read over the last minutes. Counts are of the second before. Times are of the
last `SPAN` seconds, since one second holds too few for a p99, and come from histograms of whole
microseconds. Nothing here is a result: there is no window, no warm-up and no gate.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from time import perf_counter as clock
from typing import Any

import gevent
from hdrh.histogram import HdrHistogram
from redis.exceptions import RedisError

from bench.analysis.statistics import quantiles
from bench.load.pool import Pool, PoolStats
from bench.load.recorder import ACQUIRED, DONE, INTENDED, SENT, Floats, add_seconds, new_histogram
from bench.model import BenchError, Cell
from bench.rig.host import open_fds
from bench.rig.server import Server, ServerSnapshot, reach

EVERY_S = 1.0
SPAN = 5  # readings
KEPT = 300  # readings
SILENT_S = 3.5  # a second and Locust's own busiest moments; then a process counts no more
SHARES = {"p50": 0.5, "p99": 0.99}
TIMES = {"latency": (INTENDED, DONE), "acquire": (SENT, ACQUIRED)}
REQUESTS = ("served", "failed", "dropped", "offered")
COUNTED = (*REQUESTS, "borrows", "empty", "cpu_s")
NOW = ("size", "used", "idle", "changing", "waiting", "served_total", "failed_total")
SERVERS = ("redis-server", "valkey-server")

Reading = dict[str, Any]
Timed = dict[str, tuple[HdrHistogram, int]]  # with how many were out of its range


class Meter:
    """What one process's pool and requests did. Costs 0.3 µs a request, and 1 ms a reading."""

    def __init__(self, pool: Pool, server: ServerWatch | None) -> None:
        self._pool = pool
        self._server = server
        self._total: Counter[str] = Counter()
        self._before = self._counters(pool.stats())
        self._read_at = clock()
        self._rows: list[Floats] = []
        self._recent: deque[Timed] = deque(maxlen=SPAN)

    def add(self, rows: Floats, **counts: int) -> None:
        """Requests as the recorder has them, and how many `failed`; of an open loop also how many
        were `offered` and `dropped`."""
        self._rows.append(rows)
        self._total.update(served=len(rows), **counts)

    def read(self, *, final: bool = False) -> Reading:
        """What happened since the last time, for a message; `final`: the test is over. Does not
        block."""
        now, pool = clock(), self._pool.stats()
        counters = self._counters(pool)
        self._recent.append(_timed(self._rows))
        self._rows = []
        before, self._before = self._before, counters
        span_s, self._read_at = now - self._read_at, now
        return {
            **{name: counters[name] - before[name] for name in COUNTED},
            "span_s": span_s,
            "final": final,
            "served_total": counters["served"],
            "failed_total": counters["failed"] + counters["dropped"],  # as Locust counts them
            "size": pool.max,
            "used": pool.count_used,
            "idle": pool.count_idle,
            "changing": pool.changing,
            "waiting": pool.pending_requests,
            "fds": open_fds(os.getpid()),
            "times": {name: _packed(each[name] for each in self._recent) for name in TIMES},
            "server": self._server.said() if self._server else None,
        }

    def _counters(self, pool: PoolStats) -> dict[str, float]:
        return {
            **{name: self._total[name] for name in REQUESTS},
            "borrows": pool.requests,
            "empty": pool.empty,
            "cpu_s": time.process_time(),
        }

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


def _timed(parts: list[Floats]) -> Timed:
    found = {name: (new_histogram(), 0) for name in TIMES}
    for rows in parts:
        for name, (begun, ended) in TIMES.items():
            histogram, strays = found[name]
            strays += add_seconds(histogram, rows[:, ended] - rows[:, begun])
            found[name] = histogram, strays
    return found


def _packed(parts: Iterable[tuple[HdrHistogram, int]]) -> tuple[bytes, int]:
    total, strays = _sum(parts)
    return bytes(total.encode()), strays


def _sum(parts: Iterable[tuple[HdrHistogram, int]]) -> tuple[HdrHistogram, int]:
    total, strays = new_histogram(), 0
    for histogram, out_of_range in parts:
        total.add(histogram)
        strays += out_of_range
    return total, strays


class ServerWatch:
    """Asks a server once a second how it is, by INFO alone, in a greenlet of its own: one that does
    not answer holds up nobody. It comes back to a server that was away. To be closed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._server: Server | None = None
        self._last: ServerSnapshot | None = None
        self._said: Reading = {}
        self._asked_at = clock()
        self._asker = gevent.spawn(self._ask_for_ever)

    def said(self) -> Reading:
        """Its last answer, or under `trouble` why there is none."""
        late_s = clock() - self._asked_at
        if late_s > SILENT_S:
            return {"trouble": f"the server has not answered for {late_s:.0f} s"}
        return self._said

    def close(self) -> None:
        self._asker.kill()
        self._forget()

    def _ask_for_ever(self) -> None:
        while True:
            self._asked_at = clock()
            self._said = self._ask()
            gevent.sleep(max(0.0, self._asked_at + EVERY_S - clock()))

    def _ask(self) -> Reading:
        try:
            if self._server is None:
                self._server = reach(self._url)
            told = self._server.snapshot(light=True)
            fds = _fds(self._server)
        except (BenchError, RedisError, OSError) as error:
            self._forget()  # it may come back as another process
            # Not every text but our own is known to be without the password.
            return {
                "trouble": str(error) if isinstance(error, BenchError) else type(error).__name__
            }
        before, self._last = self._last, told
        return {"clients": told.connected_clients, "fds": fds, "cpu": _cpu_share(before, told)}

    def _forget(self) -> None:
        server, self._server, self._last = self._server, None, None
        if server is not None:
            server.close()


def _cpu_share(before: ServerSnapshot | None, now: ServerSnapshot) -> float | None:
    """Of one core."""
    if before is None:
        return None
    used_s = now.cpu_user_s + now.cpu_system_s - before.cpu_user_s - before.cpu_system_s
    return max(0.0, used_s / (now.at_s - before.at_s))


def _fds(server: Server) -> int | None:
    """None where the server is elsewhere or another user's. A port on loopback may lead elsewhere
    too, so the process that the server says it is must be one."""
    import psutil

    pid = server.told_pid
    if pid is None or not _is_here(server.host):
        return None
    try:
        return open_fds(pid) if psutil.Process(pid).name().startswith(SERVERS) else None
    except (psutil.Error, ProcessLookupError):
        return None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Told:
    """What one process said last, unpacked."""

    def __init__(self, reading: Reading) -> None:
        self.at = clock()
        self.reading = reading
        self.times = {name: _unpacked(*packed) for name, packed in reading["times"].items()}


def _unpacked(payload: bytes, strays: int) -> tuple[HdrHistogram, int]:
    histogram = new_histogram()
    histogram.decode_and_add(payload)
    return histogram, strays


class Board:
    """The last minutes of all processes together, and each process's last reading.

    `trouble` is why a test was refused or is not what was meant; empty: nothing.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._test: dict[str, Any] = {}
        self._number = 0
        self._serial = 0
        self._rows: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._told: dict[str, _Told] = {}

    def begin(self, cell: Cell) -> None:
        """A test starts. What was before stays in sight until it is too old."""
        self.trouble = ""
        self._told = {}
        self._number += 1
        self._test = {
            "number": self._number,
            "loop": cell.loop,
            "client": cell.client,
            "workers": cell.workers,
            "pool_size": cell.pool_size,
            "acquire_timeout_s": cell.acquire_timeout_s,
            "test_on_borrow": cell.test_on_borrow,
            "order": cell.order,
            "opening": cell.opening,
            "offered_qps": cell.offered_qps,
        }

    def take(self, process: str, reading: Reading) -> None:
        """A process reports. The first of those that are there closes the second for all; what is
        final comes once."""
        self._told[process] = _Told(reading)
        there = self._there()
        if reading["final"] or process == next(iter(there)):
            self._serial += 1
            row = {"serial": self._serial, "at": time.time(), "test": self._number}
            self._rows.append(row | _figures(there.values()))

    def _there(self) -> dict[str, _Told]:
        since = clock() - SILENT_S
        return {process: told for process, told in self._told.items() if told.at > since}

    def shown(self, since: int) -> dict[str, Any]:
        """For the page: the seconds after the one with serial number `since`, and what is now."""
        return {
            "now": time.time(),
            "test": self._test,
            "trouble": self.trouble,
            "kept_s": KEPT * EVERY_S,
            "times_over_s": SPAN * EVERY_S,
            "rows": [row for row in self._rows if row["serial"] > since],
            "processes": [
                {"process": name, "silent_s": clock() - told.at, **_figures([told])}
                for name, told in self._told.items()
            ],
        }


def _figures(parts: Iterable[_Told]) -> dict[str, Any]:
    """Rates are a second, shares are of a core or of all borrows; None is what is not known."""
    told = list(parts)
    readings = [each.reading for each in told]
    borrows = sum(each["borrows"] for each in readings)
    return {
        **{name: sum(each[name] for each in readings) for name in NOW},
        **{f"{name}_qps": _rate(readings, name) for name in REQUESTS},
        "empty_share": sum(each["empty"] for each in readings) / borrows if borrows else None,
        "client_cpu": _rate(readings, "cpu_s"),
        "fds": None if None in (fds := [each["fds"] for each in readings]) else sum(fds),
        "final": any(each["final"] for each in readings),
        **_quantiles([each.times for each in told]),
        "server": next((each["server"] for each in readings if each["server"] is not None), None),
    }


def _rate(readings: Iterable[Reading], name: str) -> float:
    return sum(float(each[name] / each["span_s"]) for each in readings)


def _quantiles(times: list[Mapping[str, tuple[HdrHistogram, int]]]) -> dict[str, float | None]:
    """Seconds by `latency_p50_s` and the like; None where there were too few."""
    found: dict[str, float | None] = {}
    for name in TIMES:
        histogram, strays = _sum(each[name] for each in times)
        values = quantiles(histogram, list(SHARES.values()), strays)
        found |= {f"{name}_{p}_s": value for p, value in zip(SHARES, values, strict=True)}
    return found
