"""The threaded client's own process: `python -m bench.load.threaded`, asked as a `Companion`.

valkey-glide blocks the thread that calls it, and with it a gevent hub, so its users are threads.
All of a process share one client, which has one connection and multiplexes: nobody waits for a
connection, and requests are acquired the moment they are sent. Times and figures are those of the
Locust workers, by the same recorder.

Carriers of the open loop each take the next arrival and sleep until it is due: no thread hands
requests over, which would cost a switch of the interpreter's lock each.
"""

from __future__ import annotations

import gc
import itertools
import os
import resource
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from time import perf_counter as clock
from typing import Any

import numpy as np

from bench.load.arrivals import Schedule, schedule
from bench.load.commands import COMMANDS, draw
from bench.load.recorder import IN_FLIGHT, Recorder
from bench.model import BenchError, Cell
from bench.rig import host
from bench.rig.relay import sharpen_timers

REQUEST_TIMEOUT_MS = 2_000
CONNECT_TIMEOUT_MS = 5_000
DRAIN_S = 5.0
PAUSE_AFTER_FAILURE_S = 0.01
SWITCH_INTERVAL_S = 0.0005  # the usual 5 ms would be the latency of a thread that waits its turn
AHEAD_S = 1.0

Call = Callable[[tuple[Any, ...]], Any]


class Crowd:
    """The threads of one cell, and what they record."""

    def __init__(self, cell: Cell, call: Call, users: int, seed: int, worker: int) -> None:
        self.recorder = Recorder(COMMANDS)
        self._cell = cell
        self._call = call
        sinks = {name: self.recorder.sink(name) for name in COMMANDS}
        requests = [(each[0], sinks[name]) for name, each in draw(cell.workload, seed + worker)]
        self._requests = itertools.cycle(requests)
        # A place for each thread, which alone writes there: sums need no lock.
        self._used_s = array("d", bytes(8 * users))
        self._since = array("d", bytes(8 * users))
        self._stops_at = float("inf")
        self._turn = threading.Lock()
        self._schedule: Schedule | None = None
        self._times: Iterator[float] = iter(())
        if cell.arrivals is not None:
            rate = cell.offered_qps or 0.0
            self._schedule = schedule(cell.arrivals, rate, seed, worker, cell.workers)
        work = self._closed if self._schedule is None else self._open
        self._threads = [
            threading.Thread(target=work, args=(number,), daemon=True) for number in range(users)
        ]

    def begin(self) -> None:
        """Does not block."""
        self._began = clock()
        if self._schedule is not None:
            self._times = self._due()
        for thread in self._threads:
            thread.start()

    def _due(self) -> Iterator[float]:
        assert self._schedule is not None
        for begin in itertools.count(0.0, AHEAD_S):
            part = self._schedule.between(begin, begin + AHEAD_S)
            yield from array("d", (part + self._began).tobytes())

    def stop(self, at: float) -> None:
        """Nothing due from `at` on is begun; blocks until the last reply. Raises BenchError."""
        self._stops_at = at
        deadline = clock() + DRAIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - clock()))
        if any(thread.is_alive() for thread in self._threads):
            raise BenchError(f"requests were still out {DRAIN_S:g} s after the window")

    def used_seconds(self) -> float:
        """The time integral of the requests that are out."""
        now = clock()
        out = sum(now - since for since in self._since if since)
        return sum(self._used_s) + out

    def offered(self, start: float, end: float) -> dict[str, int]:
        if self._schedule is None:
            return {}
        scheduled = self._schedule.count(start - self._began, end - self._began)
        return {"scheduled": scheduled, "dropped": 0}

    # In a thread

    def _closed(self, number: int) -> None:
        while clock() < self._stops_at:
            if not self._serve(number, clock()):
                time.sleep(PAUSE_AFTER_FAILURE_S)

    def _open(self, number: int) -> None:
        sharpen_timers()  # it is a setting of the thread
        while (intended := self._next()) < self._stops_at:
            early = intended - clock()
            if early > 0:
                time.sleep(early)
            if intended >= self._stops_at:
                return
            self._serve(number, intended)

    def _next(self) -> float:
        with self._turn:
            return next(self._times)

    def _serve(self, number: int, intended: float) -> bool:
        words, record = next(self._requests)
        failure: Exception | None = None
        sent = self._since[number] = clock()
        try:
            self._call(words)
        except Exception as error:  # each release of the client has kinds of its own
            failure = error
        done = clock()
        self._since[number] = 0.0
        self._used_s[number] += done - sent
        if failure is None:
            record((intended if self._schedule else sent, sent, sent, done))
        else:
            self.recorder.fail(failure, timed_out=False)
        return failure is None


class Agent:
    """Keeps the client and the crowd of the current cell."""

    def __init__(self) -> None:
        self._client: Any = None
        self._identity: tuple[Any, ...] = ()
        self._crowd: Crowd | None = None

    def prepare(
        self, cell: dict[str, Any], address: list[Any], share: int, seed: int, worker: int
    ) -> dict[str, Any]:
        """Connect, unless the last cell's client will do. Blocks for that."""
        self._cell = Cell.from_dict(cell)
        identity = (*address, self._cell.resp)
        if identity != self._identity:
            self.close()
            self._client = _connect(address[0], address[1], self._cell.resp)
            self._identity = identity
        self._crowd = Crowd(self._cell, _caller(self._client), share, seed, worker)
        self._worker = worker
        return {}

    def enter(self) -> dict[str, Any]:
        """Let the users begin, and warm up. Blocks until that is over."""
        gc.collect()
        gc.disable()
        self._prepared().begin()
        time.sleep(self._cell.warmup_s)
        return {}

    def measure(self) -> dict[str, Any]:
        """Blocks for the window and the drain."""
        crowd = self._prepared()
        opening = _readings(crowd)
        time.sleep(self._cell.measure_s)
        closing = _readings(crowd)
        crowd.stop(clock())
        gc.enable()
        told: dict[str, Any] = _as_text(self._share(crowd, opening, closing))
        return told

    def close(self) -> dict[str, Any]:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
        self._client, self._identity = None, ()
        return {}

    def _prepared(self) -> Crowd:
        assert self._crowd is not None, "`prepare` comes first"
        return self._crowd

    def _share(self, crowd: Crowd, opening: Any, closing: Any) -> dict[str, Any]:
        """As `bench.load.agent.Agent.measure` answers it."""
        start, end = opening["at"], closing["at"]
        figures = crowd.recorder.window(start, end, self._cell.loop)
        for row in figures["series"]:
            row["borrows"], row["empty"] = float(row["requests"]), 0.0
        delta = {name: closing[name] - opening[name] for name in opening}
        held = {}
        if self._cell.loop == "open":
            held = {IN_FLIGHT: crowd.recorder.in_flight(start, end)}
        return {
            **figures,
            **crowd.offered(start, end),
            **held,
            "worker": self._worker,
            "pool_size": self._cell.pool_size,
            "start": start,
            "window_s": delta["at"],
            "user_s": delta["user_s"],
            "system_s": delta["system_s"],
            "in_use_mean": delta["used_seconds"] / delta["at"],
            "in_use_peak": _peak(crowd.recorder.rows(since=0.0), start, end),
            "borrows": figures["requests"],
            "empty": 0,
            "created": 1,
            "create_time_s": 0.0,
            "operations": crowd.recorder.operations(),
            "errors": crowd.recorder.errors,
            "timeouts": crowd.recorder.timeouts,
            "failures": crowd.recorder.error_samples,
            "phases": {},
        }


def _peak(rows: Any, start: float, end: float) -> int:
    """The most requests that were out at once within the window."""
    begun, ended = rows[:, 1], rows[:, 3]
    inside = (ended >= start) & (begun < end)
    times = np.concatenate([begun[inside], ended[inside]])
    steps = np.repeat([1, -1], np.count_nonzero(inside))
    return int(np.cumsum(steps[np.argsort(times, kind="stable")]).max(initial=0))


def _readings(crowd: Crowd) -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "at": clock(),
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "used_seconds": crowd.used_seconds(),
    }


def _connect(host_name: str, port: int, resp: int) -> Any:
    from glide_sync import (
        AdvancedGlideClientConfiguration,
        GlideClient,
        GlideClientConfiguration,
        Logger,
        LogLevel,
        NodeAddress,
        ProtocolVersion,
    )

    Logger.init(LogLevel.OFF)
    return GlideClient.create(
        GlideClientConfiguration(
            [NodeAddress(host_name, port)],
            request_timeout=REQUEST_TIMEOUT_MS,
            protocol=ProtocolVersion.RESP2 if resp == 2 else ProtocolVersion.RESP3,
            inflight_requests_limit=100_000,
            advanced_config=AdvancedGlideClientConfiguration(connection_timeout=CONNECT_TIMEOUT_MS),
        )
    )


def _caller(client: Any) -> Call:
    get, set_, custom = client.get, client.set, client.custom_command

    def call(words: tuple[Any, ...]) -> Any:
        if words[0] == "GET":
            return get(words[1])
        if words[0] == "SET":
            return set_(words[1], words[2])
        return custom(list(words))

    return call


def _as_text(value: Any) -> Any:
    """JSON has no bytes: encoded histograms are letters anyway."""
    if isinstance(value, bytes):
        return {"ascii": value.decode("ascii")}
    if isinstance(value, dict):
        return {name: _as_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    return value


def main() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    agent = Agent()
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "prepare": agent.prepare, "enter": agent.enter, "measure": agent.measure,
        "close": agent.close,
    }  # fmt: skip
    with os.fdopen(0, "rb", closefd=False) as requests, os.fdopen(1, "wb", closefd=False) as out:
        for request in requests:
            out.write(host.answer(request, commands))
            out.flush()
    agent.close()


if __name__ == "__main__":
    main()
