"""The worker's side of cells that sleep: lanes, each a service with a pool of its own.

The master says when a lane opens, when it is struck by a burst, and when it closes; one at a time,
so that no burst meets another. A request is a greenlet of its own, as a service's thread is: what
hangs must hold up no other.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter as clock
from typing import Any

import gevent
import numpy as np
from gevent.event import Event
from gevent.hub import get_hub
from gevent.lock import Semaphore
from numpy.typing import NDArray
from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from bench.load.bursts import (
    ANSWERED,
    LEAD_S,
    OWN_FDS,
    Demand,
    connection_options,
    pauses,
    row,
    uncollected,
)
from bench.load.loans import Loan, Loans, WatchedConnection, loan, outcome_of
from bench.load.pool import Pool
from bench.load.timer import NEVER, open_timer
from bench.model import LANE_COLUMNS, OUTCOMES, BenchError, Cell, Service
from bench.rig.access import Access
from bench.rig.firewall import Passage
from bench.rig.host import raise_fd_limit
from bench.rig.server import KEY_PREFIX

BURST_TIMEOUT_S = 60.0
BUFFER_BYTES = 4096  # of each connection's parser: redis-py's own 64 KiB would be a gigabyte
CONNECTING = 25  # at once: no handshake is to wait for longer than a scaled time-out
NO_THREAD = OUTCOMES.index("no thread")


class Lane:
    """One pool of the cell's kind, opened full. `address` leads by whatever is the trap; sockets
    come by `passage` where that is a firewall."""

    def __init__(self, cell: Cell, access: Access, address: Any, passage: str, seed: int) -> None:
        self._cell = cell
        self._demand = Demand(cell, seed)
        self._passage = Passage(passage) if passage else None
        self._loans = Loans(new_pool(cell, access, address, self._passage))
        self._redis: Any = Redis(connection_pool=self._loans)  # type: ignore[arg-type]
        self._fill()

    def _fill(self) -> None:
        """Blocks until the pool is full, as after a burst that needed all of it."""
        if self._cell.maker == "ours":
            self._loans.prefill(parallel=CONNECTING)
            return
        held = [self._loans.get_connection() for _ in range(self._cell.pool_size)]
        for connection in held:
            self._loans.release(connection)

    def burst(self) -> dict[str, Any]:
        """Blocks until every request of a burst has its end; its rows, as LANE_COLUMNS."""
        before = self.counts()
        burst = Burst(self._redis, self._demand.arrivals(), self._cell, self._demand.others())
        with uncollected():
            rows = burst.run()
        after = self.counts()
        return {"rows": rows.tobytes(), **{name: after[name] - before[name] for name in after}}

    def counts(self) -> dict[str, int]:
        """What the pool tells of itself; nothing, where it is not ours."""
        if self._cell.maker != "ours":
            return {}
        stats = self._loans.stats()
        closed = stats.closed
        return {
            "opened": stats.created,
            "closed_idle": closed.get("idle", 0) + closed.get("lifetime", 0),
            "closed_stale": closed.get("stale", 0),
            "closed_error": closed.get("error", 0),
        }

    def close(self) -> None:
        """Blocks for as many closings as there are connections."""
        self._loans.close()
        if self._passage is not None:
            self._passage.close()


class Burst:
    """Requests at their times, each in a greenlet of its own."""

    def __init__(
        self,
        client: Any,
        arrivals: NDArray[np.float64],
        cell: Cell,
        others: NDArray[np.bool_],
    ) -> None:
        service = cell.service or Service()
        self._client = client
        self._threads = Semaphore(service.threads or len(arrivals))
        self._patience_s = service.patience_s
        self._other_s = service.other_s
        self._others = iter(others.tolist())
        self._borrows = cell.borrows
        self._keys = cell.workload.keys
        self._times = iter(array("d", (arrivals + clock() + LEAD_S).tobytes()))
        self._key = 0
        self._left = len(arrivals)
        self._rows = array("d")
        self._ended = Event()
        self._upcoming = next(self._times, NEVER)
        self._timer = open_timer(self._wake)

    def run(self) -> NDArray[np.float64]:
        """Blocks until the last one has ended. Raises BenchError where that takes a minute."""
        self._timer.arm(self._upcoming)
        try:
            if not self._ended.wait(BURST_TIMEOUT_S):
                raise BenchError(f"{self._left} requests of a burst had no end in a minute")
        finally:
            self._timer.close()
        return np.frombuffer(self._rows).reshape(-1, len(LANE_COLUMNS))

    def _wake(self) -> None:
        """On the hub: a greenlet for each request that is due."""
        run_callback = get_hub().loop.run_callback
        while self._upcoming <= clock():
            request = gevent.Greenlet(self._request, self._upcoming, next(self._others))
            run_callback(request.switch)
            self._upcoming = next(self._times, NEVER)
        self._timer.arm(self._upcoming)

    def _request(self, intended: float, other: bool) -> None:
        """In a greenlet of its own, which waits for one of the service's threads."""
        if not self._threads.acquire(timeout=intended + self._patience_s - clock()):
            now = clock()
            self._end(row(intended, now, now, NO_THREAD, None, 0, other))
            return
        try:
            if other:
                self._serve_other(intended)
            else:
                self._serve(intended)
        finally:
            self._threads.release()

    def _end(self, row: tuple[float, ...]) -> None:
        self._rows.extend(row)
        self._left -= 1
        if not self._left:
            self._ended.set()

    def _serve_other(self, intended: float) -> None:
        """What needs no Redis."""
        sent = clock()
        gevent.sleep(self._other_s)
        self._end(row(intended, sent, clock(), ANSWERED, None, 0, True))

    def _serve(self, intended: float) -> None:
        """A GET."""
        sent = clock()
        self._key = key = (self._key + 1) % self._keys
        first: Loan | None = None
        commands = 0
        for _ in range(self._borrows):
            outcome = self._call(f"{KEY_PREFIX}{key}")
            known = loan()
            first = first or known
            commands += known.commands if known is not None else 0
            if outcome == ANSWERED:
                break
        self._end(row(intended, sent, clock(), outcome, first, commands, False))

    def _call(self, key: str) -> int:
        try:
            self._client.get(key)
        except (RedisError, OSError) as error:
            return OUTCOMES.index(outcome_of(error))
        return ANSWERED


class Keeper:
    """A worker's lanes by their number; its methods answer the master's messages."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}

    def open(
        self, lane: int, cell: dict[str, Any], address: list[Any], passage: str, seed: int
    ) -> dict[str, Any]:
        """Blocks until the lane's pool is full."""
        began = clock()
        asked = Cell.from_dict(cell)
        raise_fd_limit(asked.pool_size + OWN_FDS)
        access = Access.from_environment()
        with uncollected():
            self._lanes[lane] = Lane(asked, access, tuple(address), passage, seed)
        return {"seconds": clock() - began}

    def burst(self, lane: int) -> dict[str, Any]:
        """Blocks for a burst."""
        return self._lanes[lane].burst()

    def close(self, lane: int) -> dict[str, Any]:
        """Blocks until the lane's connections are closed."""
        self._lanes.pop(lane).close()
        return {}

    @property
    def verbs(self) -> dict[str, Callable[..., dict[str, Any]]]:
        return {"lane.open": self.open, "lane.burst": self.burst, "lane.close": self.close}


# Pools


def new_pool(cell: Cell, access: Access, address: Any, passage: Passage | None) -> Any:
    """The pool of the cell's maker, nothing opened yet."""
    options = connection_options(cell, access, address, passage)
    options |= {"connection_class": WatchedConnection, "retry": Retry(pauses(cell), cell.retries)}
    if cell.maker == "redis-py":
        return ConnectionPool(max_connections=cell.pool_size, **options)
    if cell.maker == "redis-py blocking":
        return BlockingConnectionPool(
            max_connections=cell.pool_size, timeout=cell.acquire_timeout_s, **options
        )
    return Pool(
        max_connections=cell.pool_size,
        timeout=cell.acquire_timeout_s,
        test_on_borrow=cell.test_on_borrow,
        fifo=cell.order == "fifo",
        max_idle_time=cell.max_idle_s,
        max_waiting=cell.max_waiting,
        protocol=cell.resp,
        driver_info=None,
        socket_read_size=BUFFER_BYTES,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )
