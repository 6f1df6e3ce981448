"""The open loop: requests are due at intended times, whatever became of those before them.

Users are carriers here, greenlets made once. A timer takes up all requests that are due and hands
each to a free carrier. Where none is free, the pool has a line at its door already (or the
generator is behind, which the gates tell), and the request joins the end of it, the backlog: it
has been sent, and waits for its connection as it would in the pool's own line, first come first
served. A carrier that is done takes the next from there without a switch. A backlog that is full
drops what comes; that is counted. Carriers may come and be killed at any time (Locust's users do).
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import takewhile
from time import perf_counter as clock
from typing import Any

import numpy as np
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet
from redis.exceptions import RedisError

from bench.load.arrivals import schedule
from bench.load.clients import Session
from bench.load.pool import AcquireTimeout, Pool
from bench.load.timer import NEVER, open_timer
from bench.load.users import Commands, Job
from bench.model import Cell

TOO_LONG_IN_LINE = "no connection came free within the pool's timeout"
CUT_OFF = "its carrier was killed with the request out"
AHEAD_S = 1.0  # of the schedule, made while nothing is measured for the length of a planned cell


class OpenLoop(Job):
    """Worker `worker`'s share of the cell's arrivals. `begin` starts them."""

    def __init__(self, cell: Cell, pool: Pool, users: int, seed: int, worker: int = 0) -> None:
        super().__init__(cell, pool, users, seed, worker)
        assert cell.arrivals is not None, "an open loop has arrivals"
        assert cell.offered_qps is not None, "an open loop has a rate"
        self._schedule = schedule(cell.arrivals, cell.offered_qps, seed, worker, cell.workers)
        self._room = cell.arrivals.backlog
        self._free: list[Callable[[float | None], Any]] = []  # carriers' switches
        self._backlog: deque[tuple[float, float]] = deque()  # intended, sent
        self._dropped = array("d")  # intended
        self._began = NEVER
        self._times: Iterator[float] = iter(())
        self._upcoming = NEVER
        self._stopping = False
        self._timer = open_timer(self._wake)

    def begin(self) -> None:
        planned_s = self._cell.warmup_s + self._cell.measure_s + AHEAD_S
        first = self._schedule.between(0.0, planned_s)
        self._began = clock()
        self._times = self._due(first, planned_s)
        self._upcoming = next(self._times, NEVER)
        self._timer.arm(self._upcoming)

    def _due(self, first: Any, until_s: float) -> Iterator[float]:
        """Intended times on the clock; they end where a trace does."""
        yield from array("d", (first + self._began).tobytes())
        while until_s < self._schedule.end_s:
            part = self._schedule.between(until_s, until_s + AHEAD_S)
            yield from array("d", (part + self._began).tobytes())
            until_s += AHEAD_S

    @property
    def ends_at(self) -> float:
        """Nothing is intended at this time or later; NEVER unless a trace has begun."""
        return self._began + self._schedule.end_s

    def stop(self, at: float) -> None:
        if self._upcoming >= at:
            self._upcoming = NEVER
        self._times = takewhile(at.__gt__, self._times)
        get_hub().loop.run_callback(self._wind_up)  # carriers come back to the hub alone

    def drain_dropped(self) -> int:
        """Take out what was dropped so far, and return how many: `offered` knows no more of it."""
        count = len(self._dropped)
        del self._dropped[:]
        return count

    def abandon(self) -> None:
        self._backlog.clear()

    def offered(self, start: float, end: float) -> dict[str, int]:
        dropped = np.frombuffer(self._dropped)
        return {
            "scheduled": self._schedule.count(start - self._began, end - self._began),
            "dropped": int(np.count_nonzero((dropped >= start) & (dropped < end))),
        }

    # On the hub. A carrier that is switched to comes back here at its first wait.

    def _wake(self) -> None:
        self._take_up()
        self._timer.arm(self._upcoming)

    def _take_up(self) -> None:
        """Hand out what is due now."""
        free, backlog, times = self._free, self._backlog, self._times
        now = clock()
        while self._upcoming <= now:
            intended = self._upcoming
            self._upcoming = next(times, NEVER)
            if free:
                free.pop()(intended)
            elif len(backlog) < self._room:
                backlog.append((intended, now))
            else:
                self._dropped.append(intended)
            now = clock()

    def _wind_up(self) -> None:
        self._take_up()
        self._stopping = True
        self._timer.close()
        while self._free:
            self._free.pop()(None)

    # In a carrier

    def _first_in_line(self, now: float) -> tuple[float, float] | None:
        """The next of the backlog; those that have waited for longer than the pool's timeout, which
        counts from when they were sent, give up."""
        while self._backlog:
            intended, sent = self._backlog.popleft()
            if now - sent <= self._cell.acquire_timeout_s:
                return intended, sent
            self._fail(AcquireTimeout(TOO_LONG_IN_LINE))
        return None

    def _serve(self, session: Session, commands: Commands) -> None:
        free, backlog, call = self._free, self._backlog, session.call
        switch = getcurrent().switch
        pause = greenlet.switch.__get__(get_hub())
        done = clock()
        while True:
            if turn := backlog and self._first_in_line(done):
                intended, sent = turn
            elif self._upcoming <= done:
                intended, sent = self._upcoming, done
                self._upcoming = next(self._times, NEVER)
            elif self._stopping:
                return
            else:
                free.append(switch)
                try:
                    intended = pause()
                except BaseException:
                    free.remove(switch)  # killed: what is due goes to others
                    raise
                if intended is None:
                    return
                sent = clock()
            command, record = next(commands)
            try:
                acquired, done = call(command)
            except RedisError as error:
                self._fail(error)
                done = clock()
            except BaseException:
                self.recorder.fail(RuntimeError(CUT_OFF), timed_out=False)
                raise
            else:
                record((intended, sent, acquired, done))
