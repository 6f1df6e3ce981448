"""The open loop: requests are due at intended times, whatever became of those before them.

Users are carriers here, greenlets made once. A timer takes up all requests that are due and hands
each to a free carrier. Where none is free, the pool has a line at its door already (or the
generator is behind, which the gates tell), and the request joins the end of it, the backlog: it
has been sent, and waits for its connection as it would in the pool's own line, first come first
served. A carrier that is done takes the next from there without a switch. A backlog that is full
drops what comes; that is counted.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter as clock
from typing import Any

import numpy as np
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet
from redis.exceptions import RedisError

from bench.load.arrivals import schedule
from bench.load.clients import Session
from bench.load.pool import Pool
from bench.load.timer import NEVER, open_timer
from bench.load.users import Commands, Job
from bench.model import Cell

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
        self._upcoming = NEVER
        self._stopping = False

    def begin(self) -> None:
        planned_s = self._cell.warmup_s + self._cell.measure_s + AHEAD_S
        first = self._schedule.between(0.0, planned_s)
        self._timer = open_timer(self._wake)
        self._began = clock()
        self._times = self._due(first, planned_s)
        self._upcoming = next(self._times, NEVER)
        self._timer.arm(self._upcoming)

    def _due(self, first: Any, until_s: float) -> Iterator[float]:
        """Intended times on the clock, without end."""
        while True:
            yield from array("d", (first + self._began).tobytes())
            first = self._schedule.between(until_s, until_s + AHEAD_S)
            until_s += AHEAD_S

    def stop(self, at: float) -> None:
        self._stop_at = at
        get_hub().loop.run_callback(self._wind_up)  # carriers come back to the hub alone

    def offered(self, start: float, end: float) -> dict[str, int]:
        dropped = np.frombuffer(self._dropped)
        return {
            "scheduled": self._schedule.count(start - self._began, end - self._began),
            "dropped": int(np.count_nonzero((dropped >= start) & (dropped < end))),
        }

    # On the hub. A carrier that is switched to comes back here at its first wait.

    def _wake(self) -> None:
        self._take_up(NEVER)
        self._timer.arm(self._upcoming)

    def _take_up(self, until: float) -> None:
        """Hand out what is due now, and nothing that is due at `until` or later."""
        free, backlog, times = self._free, self._backlog, self._times
        now = clock()
        while self._upcoming <= now and self._upcoming < until:
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
        self._take_up(self._stop_at)
        self._upcoming = NEVER
        self._stopping = True
        self._timer.close()
        while self._free:
            self._free.pop()(None)

    # In a carrier

    def _serve(self, session: Session, commands: Commands) -> None:
        free, backlog, call = self._free, self._backlog, session.call
        switch = getcurrent().switch
        pause = greenlet.switch.__get__(get_hub())
        while not self._stopping:
            free.append(switch)
            intended = pause()
            if intended is None:
                return
            sent = clock()
            while True:
                command, record = next(commands)
                try:
                    acquired, done = call(command)
                except RedisError as error:
                    self._fail(error)
                    done = clock()
                else:
                    record((intended, sent, acquired, done))
                if backlog:
                    intended, sent = backlog.popleft()
                elif self._upcoming <= done:
                    intended, sent = self._upcoming, done
                    self._upcoming = next(self._times, NEVER)
                else:
                    break
