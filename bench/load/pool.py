"""A connection pool for redis-py, fit for a service: `Redis(connection_pool=Pool(...))`.

How it works, in one paragraph. A borrower takes an idle connection; else it opens one, while fewer
than `max_connections` exist; else it stands in line. Whoever frees something (a connection or the
room for one) gives it to the first in line, so a waiter is never overtaken. One lock guards the
books and is held for a few statements that never switch or block: every socket is opened, tested
and closed outside it, in a *place* (`_Place`) reserved beforehand, so that the size is never
exceeded. Works with threads and with gevent greenlets, and across a fork.

redis-py pushes metrics (`record_connection_count` and its kin) four times a borrow even when
nobody listens. They are left out: `stats()` and `get_connection_count()` are there to be asked.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import random
import select
import socket
import sys
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from time import perf_counter, sleep
from typing import Any, Literal

from redis.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    CacheProxyConnection,
    Connection,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from bench.model import TestOnBorrow

Reason = Literal["stale", "idle", "lifetime", "uses", "error", "marked", "shrink", "close"]

logger = logging.getLogger(__name__)

# Counted by a hook, because asking the kernel for the process id on each borrow costs more.
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def _native(module: str, attribute: str) -> Any:
    """The interpreter's own, even where gevent has put its cooperative one in its place."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, attribute)
    return getattr(importlib.import_module(module), attribute)


_NativeRLock = _native("_thread", "RLock")
_native_poll = _native("select", "poll")
_thread_id = _native("_thread", "get_ident")

# By the housekeeper: a thousand a second, at 50 µs of CPU each.
CLOSED_AT_ONCE, REST_S = 4, 0.004
_PEER_CLOSED = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere POLLHUP says it
_ENDED = _PEER_CLOSED | select.POLLHUP | select.POLLERR | select.POLLNVAL


class AcquireTimeout(RedisConnectionError):
    """No connection became free within the pool's timeout."""


class TooManyWaiting(RedisConnectionError):
    """`max_waiting` borrowers already stand in line."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool did since it was made (or since the fork), named as OpenTelemetry does.

    Sums and clocks are seconds; `at` is the `perf_counter` second of the snapshot.

    - `count_idle`, `count_used`: connections now, and `changing`: places in which one is being
      opened or closed. Their sum never exceeds `max` (but after a `resize` that shrinks).
    - `requests` for a connection; `empty`: those that found none idle; `pending_requests`:
      waiting now; `timeouts`, `rejected` (by `max_waiting`).
    - `wait_time`: from request to hand-over, counted where the request waited or connected
      (taking an idle connection counts as none).
    - `created` connections in `create_time`; `closed` by reason: "stale" (failed its test on
      borrow), "idle", "lifetime", "uses", "error" (found disconnected: its borrower met an error
      or closed it), "marked" (redis-py asked for a new one), "shrink", "close".
      created - sum(closed) is count_idle + count_used.
    - `uses`: loans ended (one that failed its test on borrow included), and their `use_time`;
      `used_seconds`: the time integral of `count_used`;
      its increase over a window, divided by the window, is the mean number in use.
    - `peak_used`: the largest `count_used` since `reset_peaks()`.
    """

    name: str
    at: float
    max: int
    count_idle: int
    count_used: int
    changing: int
    pending_requests: int
    requests: int
    empty: int
    timeouts: int
    rejected: int
    wait_time: float
    created: int
    create_time: float
    uses: int
    use_time: float
    used_seconds: float
    peak_used: int
    closed: Mapping[str, int]


class _Place:
    """Room for one connection, held while that is opened or closed.

    `since` is when its borrower asked (None: opened to lie idle). `void` is set when the pool was
    closed or forked meanwhile: what is opened in it must not enter the pool.
    """

    __slots__ = ("since", "void")

    def __init__(self, since: float | None) -> None:
        self.since = since
        self.void = False


class _ThreadWaiter:
    """One borrower in line: it parks, and is woken with a connection or a place `granted`."""

    __slots__ = ("_parked", "granted", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.granted: Any = None
        self._parked = threading.Lock()
        self._parked.acquire()

    def park(self, timeout: float | None) -> None:
        """Block until woken, or for `timeout` seconds."""
        self._parked.acquire(timeout=-1 if timeout is None else timeout)

    def wake(self) -> None:
        self._parked.release()


class _GreenletWaiter:
    """The same for a greenlet: the hub switches straight to it, at a third of a lock's cost."""

    __slots__ = ("_greenlet", "_hub", "_parked", "granted", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.granted: Any = None
        self._greenlet = _current()
        self._hub = _hub()
        self._parked = False

    def park(self, timeout: float | None) -> None:
        """Switch away until woken, or for `timeout` seconds."""
        hub = self._hub
        timer = None
        if timeout is not None:
            timer = hub.loop.timer(timeout)
            timer.start(self._resume)
        self._parked = True
        try:
            while self._parked:
                hub.switch()
        finally:
            self._parked = False
            if timer is not None:
                timer.close()

    def _resume(self) -> None:
        # A wake may still be on its way to a greenlet that was killed, or timed out, and now waits
        # for something else.
        if self._parked:
            self._parked = False
            self._greenlet.switch()

    def wake(self) -> None:
        hub = self._hub
        if _thread_id() == hub.thread_ident:
            hub.loop.run_callback(self._resume)
        else:
            hub.loop.run_callback_threadsafe(self._resume)


def _hub() -> Any:
    return sys.modules["gevent.hub"].get_hub()


def _current() -> Any:
    return sys.modules["greenlet"].getcurrent()


_Waiter = _ThreadWaiter | _GreenletWaiter


class Pool(BlockingConnectionPool):
    """At most `max_connections` connections, lent to threads or greenlets one borrower at a time.

    All times are seconds.

    - `timeout`: how long a borrower waits in line; None: for ever, 0: not at all. Connecting is
      bounded by the connection's own `socket_connect_timeout` and `socket_timeout` instead.
    - `max_waiting`: how many may stand in line; None: any number.
    - `fifo`: hand out the connection that lay idle longest, not the one used last. Waiters are
      always served first come, first served.
    - `test_on_borrow`: "none"; "passive": nothing may be there to read (catches an orderly close,
      a reset and data nobody asked for, at a microsecond; not a silent black hole); "ping": one
      round trip. A connection that fails is replaced before it is handed out.
    - `max_idle_time`, `max_lifetime` (drawn per connection within ± `lifetime_jitter`, a share):
      checked on borrow, the lifetime also on return, and both by a housekeeper in the background,
      which also keeps `min_idle` connections idle. It starts with the first connection.
    - `max_uses`: a connection is closed on its so-manieth return; 1: a connection per request.

    Connections of a pool built by hand retry nothing (`Redis(...)` would give them ten retries);
    pass `retry=` to change that. Remaining arguments go to `connection_class`.
    """

    def __init__(
        self,
        max_connections: int = 50,
        timeout: float | None = 20,
        connection_class: Any = Connection,
        *,
        min_idle: int = 0,
        max_idle_time: float | None = None,
        max_lifetime: float | None = None,
        lifetime_jitter: float = 0.1,
        max_uses: int | None = None,
        max_waiting: int | None = None,
        test_on_borrow: TestOnBorrow = "passive",
        fifo: bool = False,
        name: str | None = None,
        **connection_kwargs: Any,
    ) -> None:
        if "queue_class" in connection_kwargs:
            raise ValueError("queue_class is not used by this pool; fifo=True hands out the oldest")
        self.min_idle = min_idle
        self.max_idle_time = max_idle_time
        self.max_lifetime = max_lifetime
        self.lifetime_jitter = lifetime_jitter
        self.max_uses = max_uses
        self.max_waiting = max_waiting
        self.test_on_borrow = test_on_borrow
        self.fifo = fifo
        self._reauthorises = False
        self._check_settings(max_connections, timeout)
        _check_connection_class(connection_class)
        super().__init__(max_connections, timeout, connection_class, **connection_kwargs)  # type: ignore[no-untyped-call]
        self._set_strictness(oversize=False)
        host, port = (self.connection_kwargs.get(key, "?") for key in ("host", "port"))
        self.name = name or f"{host}:{port}"

    def _check_settings(self, max_connections: Any, timeout: Any) -> None:
        _check_whole("max_connections", max_connections, at_least=1)
        _check_whole("min_idle", self.min_idle, at_least=0)
        _check_min_idle(self.min_idle, max_connections)
        _check_seconds("timeout", timeout, zero=True)
        _check_seconds("max_idle_time", self.max_idle_time)
        _check_seconds("max_lifetime", self.max_lifetime)
        _check_share("lifetime_jitter", self.lifetime_jitter)
        if self.max_uses is not None:
            _check_whole("max_uses", self.max_uses, at_least=1)
        if self.max_waiting is not None:
            _check_whole("max_waiting", self.max_waiting, at_least=0)
        if not isinstance(self.fifo, bool):
            raise ValueError(f"fifo must be True or False, not {self.fifo!r}")
        if self.test_on_borrow not in ("none", "passive", "ping"):
            raise ValueError(
                f"test_on_borrow is none, passive or ping, not {self.test_on_borrow!r}"
            )

    def reset(self) -> None:
        """Start empty, as in a new process. Closes nothing: a parent's sockets stay its own."""
        for place in getattr(self, "_changing", ()):
            place.void = True
        # Re-entrant, for a finalizer that runs inside it and returns a connection; native, so that
        # taking it never switches greenlets; new, as the parent may have forked while holding it.
        self._lock = _NativeRLock()
        self._cache_lock = threading.RLock()
        self._waiter_class = _waiter_class()
        self._idle: deque[Any] = deque()  # by the time of return: the oldest on the left
        self._used: set[Any] = set()
        self._changing: set[_Place] = set()
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._housekeeper: _Housekeeper | None = None
        self._requests = self._empty = self._timeouts = self._rejected = 0
        self._created = self._uses = self._peak_used = 0
        self._wait_time = self._create_time = self._use_time = 0.0
        self._closed: Counter[str] = Counter()
        self.pid = os.getpid()
        self._forks = _forks  # last: other threads look at it without a lock

    def _checkpid(self) -> None:
        if self._forks != _forks:
            super()._checkpid()

    # ------------------------------------------------------------------ borrow

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connected connection of the caller's own, until `release`. The arguments are ignored.

        Blocks for at most `timeout` in line, then as long as connecting or a PING may take.
        Raises AcquireTimeout, TooManyWaiting, or why connecting failed. `connection.borrowed_at`
        is the `perf_counter` second at which the pool assigned it (at hand-over, for a waiter).
        """
        if self._forks != _forks:
            self._checkpid()
        now = perf_counter()
        lock = self._lock
        lock.acquire()  # at two thirds of what `with` costs, here and in `release`
        try:
            self._requests += 1
            if self._idle:
                connection = self._idle.popleft() if self.fifo else self._idle.pop()
                self._used.add(connection)
                connection.borrowed_at = now
                if len(self._used) > self._peak_used:
                    self._peak_used = len(self._used)
            else:
                connection = None
                turn = self._take_turn(now)
        finally:
            lock.release()
        if connection is None:
            return self._await_turn(turn)
        if self._trusting and connection._sock is not None:
            return connection
        return self._checked(connection, self._expiry(connection, now))

    def _take_turn(self, now: float) -> _Place | _Waiter:
        """Under the lock: room to open a connection in, else a place in line."""
        self._empty += 1
        if not self._waiting and self._size() < self.max_connections:
            return self._reserve(now)
        if self.timeout == 0:
            self._timeouts += 1
            raise AcquireTimeout(f"{self._all_in_use()}, and timeout=0 forbids waiting")
        if self.max_waiting is not None and len(self._waiting) >= self.max_waiting:
            self._rejected += 1
            raise TooManyWaiting(f"{self._all_in_use()}, and {len(self._waiting)} already wait")
        waiter = self._waiter_class(now)
        self._waiting[waiter] = None
        if self._idle:
            self._serve()  # a finalizer has returned a connection since we looked
        return waiter

    def _await_turn(self, turn: _Place | _Waiter) -> Any:
        granted = turn if isinstance(turn, _Place) else self._wait(turn)
        if isinstance(granted, _Place):
            return self._open(granted)
        if self._trusting and granted._sock is not None:
            return granted
        return self._checked(granted, None)

    def _wait(self, waiter: _Waiter) -> Any:
        try:
            waiter.park(self.timeout)
            granted = waiter.granted or self._withdraw(waiter)
        except BaseException:
            self._hand_back(self._withdraw(waiter))
            raise
        if granted is None:
            with self._lock:
                self._timeouts += 1
            raise AcquireTimeout(f"{self._all_in_use()}, none came free within {self.timeout} s")
        return granted

    def _withdraw(self, waiter: _Waiter) -> Any:
        """Leave the line; what was granted in the last moment is the caller's to take or return."""
        with self._lock:
            self._waiting.pop(waiter, None)
            return waiter.granted

    def _hand_back(self, granted: Any) -> None:
        if isinstance(granted, _Place):
            self._vacate(granted)
        elif granted is not None:
            self.release(granted)

    def _checked(self, connection: Any, fault: Reason | None) -> Any:
        """This connection if it is fit, else reopened."""
        try:
            fault = fault or self._fault(connection)
        except BaseException:
            self._discard(connection, "error", perf_counter())
            raise
        if fault is None:
            return connection
        return self._open(self._end_loan(connection, fault, perf_counter()), connection)

    # ------------------------------------------------------------------ return

    def release(self, connection: Any) -> None:
        """Give a connection back: to the first in line, else to the idle ones. Does not block.

        A connection that is not lent by this pool is disconnected and not taken; returning one
        twice does nothing.
        """
        if self._forks != _forks:
            self._checkpid()
        now = perf_counter()
        if self._strict or connection._sock is None or connection._should_reconnect:
            unfit = self._unfit(connection, now)
            if unfit is not None and connection in self._used:
                self._discard(connection, unfit, now)
                return
        lock = self._lock
        lock.acquire()
        try:
            if connection in self._used:
                self._uses += 1  # as _count_use, here without the call
                self._use_time += now - connection.borrowed_at
                if self._waiting:
                    waiter, _ = self._waiting.popitem(last=False)
                    self._wait_time += now - waiter.since
                    connection.borrowed_at = now
                    waiter.granted = connection
                    waiter.wake()
                else:
                    self._used.remove(connection)
                    connection.idle_since = now
                    self._idle.append(connection)
                return
            ours = connection in self._idle
        finally:
            lock.release()
        if not ours:
            connection.disconnect()

    def _unfit(self, connection: Any, now: float) -> Reason | None:
        """Why a returned connection must not be lent again."""
        if self._reauthorises and not self._reauthorise(connection):
            return "error"
        if not connection.is_connected:
            return "error"
        if connection.should_reconnect():
            return "marked"
        if self._oversize and self._size() > self.max_connections:
            return "shrink"
        if now >= getattr(connection, "expires_at", math.inf):
            return "lifetime"
        if self.max_uses is not None and self._use_up(connection):
            return "uses"
        return None

    def _use_up(self, connection: Any) -> bool:
        """Count this return; whether it was the last one allowed."""
        connection.uses_left -= 1
        return bool(connection.uses_left <= 0)

    def _discard(self, connection: Any, reason: Reason, at: float) -> None:
        """Close a lent connection; only then is its room free for the first in line."""
        self._vacate(self._end_loan(connection, reason, at), connection)

    def _end_loan(self, connection: Any, reason: Reason, at: float) -> _Place:
        """Take a lent connection, whose loan ended at `at`, out of the books, to be closed; its
        place stays the caller's."""
        place = _Place(connection.borrowed_at)
        with self._lock:
            place.void = connection not in self._used  # forked meanwhile
            if not place.void:
                self._used.remove(connection)
                self._changing.add(place)
                self._closed[reason] += 1
                self._count_use(connection, at)
        return place

    # ------------------------------------------------------------------ the books, under the lock

    def _size(self) -> int:
        return len(self._idle) + len(self._used) + len(self._changing)

    def _reserve(self, since: float | None) -> _Place:
        place = _Place(since)
        self._changing.add(place)
        return place

    def _serve(self) -> None:
        """Match those in line with idle connections and with room, first come, first served."""
        while self._waiting:
            if self._idle:
                granted = self._idle.popleft() if self.fifo else self._idle.pop()
            elif self._size() < self.max_connections:
                granted = None
            else:
                return
            waiter, _ = self._waiting.popitem(last=False)
            if granted is None:
                granted = self._reserve(waiter.since)
            else:
                self._lend(granted, perf_counter(), waiter.since)
            waiter.granted = granted
            waiter.wake()

    def _lend(self, connection: Any, now: float, since: float) -> None:
        connection.borrowed_at = now
        self._used.add(connection)
        self._wait_time += now - since
        self._peak_used = max(self._peak_used, len(self._used))

    def _count_use(self, connection: Any, now: float) -> None:
        self._uses += 1
        self._use_time += now - connection.borrowed_at

    def _lay_idle(self, connection: Any, now: float) -> None:
        connection.idle_since = now
        self._idle.append(connection)
        self._serve()

    # ------------------------------------------------------------------ open and close, outside it

    def make_connection(self) -> Any:
        """A new connection, not connected and not counted."""
        connection = self.connection_class(**self.connection_kwargs)
        if self.cache is None:
            return connection
        return CacheProxyConnection(connection, self.cache, self._cache_lock)  # type: ignore[abstract]

    def _open(self, place: _Place, connection: Any = None) -> Any:
        """Connect in `place`, for its borrower or to lie idle; a failure frees the place."""
        began = perf_counter()
        try:
            if place.since is not None:
                self._start_housekeeper()
            if connection is None:
                connection = self.make_connection()
            else:
                connection.disconnect()
            connection.connect()
            self._checkpid()
            self._enter(place, connection, began)
        except BaseException:
            self._vacate(place, connection)
            raise
        return connection

    def _enter(self, place: _Place, connection: Any, began: float) -> None:
        now = perf_counter()
        connection.expires_at = now + self._draw_lifetime()
        if self.max_uses is not None:
            connection.uses_left = self.max_uses  # of one that was reopened, too
        with self._lock:
            if place.void:
                raise RedisConnectionError(f"pool {self.name} was closed while a connection opened")
            self._changing.remove(place)
            self._created += 1
            self._create_time += now - began
            if place.since is None:
                self._lay_idle(connection, now)
            else:
                self._lend(connection, now, place.since)

    def _vacate(self, place: _Place, connection: Any = None) -> None:
        """Close what the place holds and free it for the first in line."""
        if connection is not None:
            connection.disconnect()
        with self._lock:
            self._changing.discard(place)
            self._serve()

    def _draw_lifetime(self) -> float:
        if self.max_lifetime is None:
            return math.inf
        jitter = self.lifetime_jitter
        return self.max_lifetime * random.uniform(1 - jitter, 1 + jitter)

    def _close_idle(self, chosen: Iterable[Any], reason: Reason) -> None:
        """Close those of `chosen` that still lie idle."""
        victims = set(chosen)
        if not victims:
            return
        with self._lock:
            victims.intersection_update(self._idle)
            self._idle = deque(each for each in self._idle if each not in victims)
            self._closed[reason] += len(victims)
            places = [self._reserve(None) for _ in victims]
        for place, connection in zip(places, victims, strict=True):
            self._vacate(place, connection)

    def prefill(self, count: int | None = None, parallel: int = 100) -> None:
        """Open connections until `count` are open (`max_connections` if None); blocks till then.

        At most `parallel` connect at once, and no more are opened than are lacking: where they grow
        old sooner than all are open, it ends all the same. The first failure stops it and becomes
        the cause of the ConnectionError raised; what was opened before stays in the pool, idle.
        """
        count = self.max_connections if count is None else count
        _check_whole("count", count, at_least=0)
        _check_whole("parallel", parallel, at_least=1)
        if count > self.max_connections:
            raise ValueError(f"count {count} is above max_connections {self.max_connections}")
        self._checkpid()
        self._start_housekeeper()
        errors: list[BaseException] = []
        turns = iter(range(count - self._size()))

        def work() -> None:
            while (
                not errors
                and next(turns, None) is not None
                and (place := self._reserve_below(count))
            ):
                try:
                    self._open(place)
                except BaseException as error:
                    errors.append(error)

        openers = min(parallel, count - self._size())
        _run_side_by_side(work, openers, errors)
        if errors:
            raise RedisConnectionError(
                f"pool {self.name}: prefill stopped at {self._size()} of {count} connections, "
                f"{len(errors)} failed, the first with: {errors[0]}"
            ) from errors[0]

    def _reserve_below(self, count: int) -> _Place | None:
        with self._lock:
            return self._reserve(None) if self._size() < count else None

    # ------------------------------------------------------------------ is it fit?

    def _fault(self, connection: Any) -> Reason | None:
        """Why this connection may not be handed out, or None. May take a PING's round trip."""
        if self.test_on_borrow == "passive":
            sock = connection._get_socket()
            if sock is None:
                return "error"
            probe = connection.__dict__.get("probe")
            if probe is None or probe.sock is not sock:
                probe = connection.probe = _Probe(sock)
            if probe.is_quiet() or (self._expects_pushes() and probe.holds_push()):
                return None
            return "stale"
        if not connection.is_connected:
            return "error"
        if self.test_on_borrow == "ping" and not _answers(connection):
            return "stale"
        return None

    def _expects_pushes(self) -> bool:
        return self.cache is not None or bool(self.maint_notifications_enabled())  # type: ignore[no-untyped-call]

    def _expiry(self, connection: Any, now: float) -> Reason | None:
        if now >= connection.expires_at:
            return "lifetime"
        if now - connection.idle_since >= self._idle_limit:
            return "idle"
        return None

    def _set_strictness(self, oversize: bool) -> None:
        """Derive, once, what the fast paths may skip."""
        timed = self.max_idle_time is not None or self.max_lifetime is not None
        self._oversize = oversize
        self._idle_limit = math.inf if self.max_idle_time is None else self.max_idle_time
        # The fast paths read redis-py's own attributes: its properties cost 0.1 µs each.
        familiar = self.cache is None and _is_redis_connection(self.connection_class)
        self._trusting = familiar and self.test_on_borrow == "none" and not timed
        worn = self.max_lifetime is not None or self.max_uses is not None
        self._strict = not familiar or oversize or self._reauthorises or worn

    # ------------------------------------------------------------------ housekeeping

    def _start_housekeeper(self) -> None:
        if self._housekeeper is not None or not (self.min_idle or self._times()):
            return
        with self._lock:
            if self._housekeeper is not None:
                return
            self._housekeeper = keeper = _Housekeeper(self, self._tick())
        keeper.start()

    def _times(self) -> list[float]:
        return [time for time in (self.max_idle_time, self.max_lifetime) if time is not None]

    def _tick(self) -> float:
        """Seconds between two rounds: a tenth of the shortest time to keep, 10 ms to 1 s."""
        shortest = min([1.0 if self.min_idle else 10.0, *self._times()])
        return max(0.01, shortest / 10)

    def _tidy(self, keeper: _Housekeeper) -> None:
        """One round: close what lay or lived too long, then refill to `min_idle`."""
        now = perf_counter()
        if self.max_lifetime is not None:
            with self._lock:
                old = [each for each in self._idle if each.expires_at <= now]
            self._close_slowly(old, "lifetime", keeper)
        if self.max_idle_time is not None:
            long_ago = now - self.max_idle_time
            with self._lock:
                unused = list(takewhile(lambda each: each.idle_since <= long_ago, self._idle))
            self._close_slowly(unused, "idle", keeper)
        while place := self._reserve_spare(keeper):
            self._open(place)

    def _close_slowly(self, chosen: Sequence[Any], reason: Reason, keeper: _Housekeeper) -> None:
        """Close those of `chosen` that still lie idle, a few at a time with rests between: five
        hundred at once held up others under gevent for 25 ms and more."""
        for begin in range(0, len(chosen), CLOSED_AT_ONCE):
            if self._housekeeper is not keeper:
                return
            self._close_idle(chosen[begin : begin + CLOSED_AT_ONCE], reason)
            sleep(REST_S)

    def _reserve_spare(self, keeper: _Housekeeper) -> _Place | None:
        with self._lock:
            few = len(self._idle) < self.min_idle and self._size() < self.max_connections
            return self._reserve(None) if few and self._housekeeper is keeper else None

    # ------------------------------------------------------------------ the owner's side

    def resize(self, max_connections: int) -> None:
        """Change the size. Idle connections above it close now, lent ones on return."""
        _check_whole("max_connections", max_connections, at_least=1)
        _check_min_idle(self.min_idle, max_connections)
        self._checkpid()
        with self._lock:
            self.max_connections = max_connections
            surplus = self._size() - max_connections
            self._set_strictness(oversize=surplus > 0)
            chosen = list(self._idle)[: max(0, surplus)]
            self._serve()
        self._close_idle(chosen, "shrink")

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections, and those in use too: their borrowers get an error."""
        self._checkpid()
        with self._lock:
            for place in self._changing:
                place.void = place.void or place.since is None
            idle, used = list(self._idle), list(self._used)
        self._close_idle(idle, "close")
        if inuse_connections:
            for connection in used:
                connection.disconnect()

    def close(self) -> None:
        """Disconnect everything and stop the housekeeper. A later borrow opens the pool again."""
        with self._lock:
            keeper, self._housekeeper = self._housekeeper, None
        if keeper is not None:
            keeper.stop()
        self.disconnect()

    def stats(self) -> PoolStats:
        """A consistent snapshot; costs time in proportion to the connections in use."""
        self._checkpid()
        with self._lock:
            now = perf_counter()
            # Summed here, so that a borrow need not keep a clock for it.
            still_used = sum(now - each.borrowed_at for each in self._used)
            return PoolStats(
                name=self.name,
                at=now,
                max=self.max_connections,
                count_idle=len(self._idle),
                count_used=len(self._used),
                changing=len(self._changing),
                pending_requests=len(self._waiting),
                requests=self._requests,
                empty=self._empty,
                timeouts=self._timeouts,
                rejected=self._rejected,
                wait_time=self._wait_time,
                created=self._created,
                create_time=self._create_time,
                uses=self._uses,
                use_time=self._use_time,
                used_seconds=self._use_time + still_used,
                peak_used=self._peak_used,
                closed=dict(self._closed),
            )

    def reset_peaks(self) -> None:
        """Let `peak_used` start again from the present count."""
        with self._lock:
            self._peak_used = len(self._used)

    # ------------------------------------------------------------------ what redis-py asks for

    def set_retry(self, retry: Retry) -> None:
        """Give this retry policy to every present and future connection."""
        self.connection_kwargs.update(retry=retry)
        with self._lock:
            for connection in (*self._idle, *self._used):
                connection.retry = retry

    def re_auth_callback(self, token: Any) -> None:
        """Authenticate anew: idle connections now (blocking), lent ones when they come back."""
        with self._lock:
            self._reauthorises = True
            self._set_strictness(self._oversize)
            for connection in (*self._idle, *self._used):
                connection.set_re_auth_token(token)
            idle = list(self._idle)
            self._idle.clear()
            now = perf_counter()
            for connection in idle:
                self._lend(connection, now, now)
        for connection in idle:
            self.release(connection)

    def _reauthorise(self, connection: Any) -> bool:
        try:
            connection.re_auth()
        except (RedisError, OSError):
            connection.disconnect()
            return False
        return True

    def _get_free_connections(self) -> set[Any]:
        with self._lock:
            return set(self._idle)

    def _get_in_use_connections(self) -> set[Any]:
        with self._lock:
            return set(self._used)

    def _all_in_use(self) -> str:
        return f"pool {self.name}: all {self.max_connections} connections are in use"


class _Probe:
    """Whether a socket has something to be read, asked without reading and without a switch."""

    __slots__ = ("_pending", "_poll", "sock")

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        poller = _native_poll()
        poller.register(sock.fileno(), select.POLLIN | _PEER_CLOSED)
        self._poll = poller.poll
        # TLS may have decrypted bytes that the socket below no longer shows.
        self._pending = getattr(sock, "pending", None)

    def is_quiet(self) -> bool:
        return not (self._poll(0) or (self._pending is not None and self._pending()))

    def holds_push(self) -> bool:
        """Whether what there is to read is a RESP3 push (under TLS: anything but the end)."""
        if self._pending is not None:
            # Not can_read(): under gevent its poll cannot see that the peer has closed.
            return not any(event & _ENDED for _, event in self._poll(0))
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK) == b">")
        except OSError:
            return False


class _Housekeeper:
    """Tidies a pool every `interval` seconds, until stopped or until the pool is garbage."""

    def __init__(self, pool: Pool, interval: float) -> None:
        self._interval = interval
        self._name = f"housekeeper of pool {pool.name}"
        # A bare lock, not an Event: the collector may call `stop` from anywhere, even from within
        # the wait, and an Event would then wait for its own lock.
        self._running = threading.Lock()
        self._running.acquire()
        self._pool = weakref.ref(pool, lambda _: self.stop())

    def start(self) -> None:
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def stop(self) -> None:
        with suppress(RuntimeError):  # stopped before
            self._running.release()

    def _run(self) -> None:
        while not self._running.acquire(timeout=self._interval):
            pool = self._pool()
            if pool is None or not self._serves(pool):
                return
            try:
                pool._tidy(self)
            except Exception as error:
                # The next borrower will meet the same error; a later round may not.
                logger.debug("pool %s: housekeeping failed: %s", pool.name, error)
            del pool

    def _serves(self, pool: Pool) -> bool:
        """False in a forked child, into which gevent carries this greenlet along."""
        pool._checkpid()
        return pool._housekeeper is self


def _is_redis_connection(connection_class: Any) -> bool:
    return isinstance(connection_class, type) and issubclass(connection_class, AbstractConnection)


def _waiter_class() -> type[_ThreadWaiter] | type[_GreenletWaiter]:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return _GreenletWaiter
    return _ThreadWaiter


def _answers(connection: Any) -> bool:
    try:
        connection.send_command("PING", check_health=False)
        return connection.read_response() in (b"PONG", "PONG")
    except (RedisError, OSError):
        return False


def _run_side_by_side(work: Callable[[], None], workers: int, errors: list[BaseException]) -> None:
    """Run `work` in so many threads, or greenlets; an interruption is put in `errors` too."""
    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as interruption:
        errors.append(interruption)
        raise


def _check_whole(name: str, value: Any, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} must be a whole number from {at_least} up, not {value!r}")


def _check_min_idle(min_idle: int, max_connections: int) -> None:
    if min_idle > max_connections:
        raise ValueError(f"min_idle {min_idle} is above max_connections {max_connections}")


def _check_seconds(name: str, value: Any, zero: bool = False) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise ValueError(f"{name} must be {least} seconds, or None, not {value!r}")
    if value > threading.TIMEOUT_MAX:  # three centuries: a lock can wait no longer
        most = f"at most {threading.TIMEOUT_MAX:.0f} seconds"
        raise ValueError(f"{name} must be {most}, or None for ever, not {value!r}")


def _check_connection_class(value: Any) -> None:
    if not callable(value) or (isinstance(value, type) and not hasattr(value, "connect")):
        raise ValueError(f"connection_class must make connections, which {value!r} does not")


def _check_share(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a share from 0 to below 1, not {value!r}")
