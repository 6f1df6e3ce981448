"""How one request is made: `lean` (a hot path on the socket), `redis-py` (what a service runs),
`tuned` (the same with a short handshake) and `bare` (a socket and nothing else).

All borrow from the same `Pool`. A session's `call(command)` performs one request and returns its
clock readings `(acquired, done)` in perf_counter seconds; it blocks its greenlet for the wait on
the pool and the round trip, and raises redis-py's exceptions.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from time import perf_counter as clock
from typing import Any, Protocol

import hiredis
from greenlet import getcurrent
from redis import Redis
from redis.connection import Connection
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from bench.load.connections import (
    BareConnection,
    KeptContext,
    KeptTLS,
    LeanConnection,
    LeanTLSConnection,
)
from bench.load.phases import Phases, TimedSession, timed, watch_lookups
from bench.load.pool import AcquireTimeout, Pool, TooManyWaiting
from bench.model import Cell
from bench.rig.access import Access
from bench.rig.server import connection_settings
from bench.rig.tls import TLSConnection

# redis-py gives each parser a 64 KiB buffer: 5,000 connections would hold 330 MB. The lean path
# reads with its own calls, so the parser's buffer serves the handshake alone.
HANDSHAKE_BUFFER_BYTES = 4096
LOOK_UP_TIMEOUT_S = 10.0

Command = tuple[Any, ...]


class Session(Protocol):
    """One virtual user's way to Redis."""

    def call(self, command: Any) -> tuple[float, float]: ...


class LeanSession:
    """Borrow, exchange on the socket, release. To be made in the greenlet that is to call. A
    command may be `depth` of them, packed together."""

    def __init__(self, pool: Pool, depth: int = 1) -> None:
        borrow, release, resume = pool.get_connection, pool.release, getcurrent().switch
        refusal, more = hiredis.ReplyError, depth - 1

        def call(command: bytes) -> tuple[float, float]:
            connection = borrow()
            acquired = connection.borrowed_at  # now: release may hand it to the next in line
            try:
                reply = connection.exchange(command, resume, more)
                done = clock()
            finally:
                release(connection)
            if reply.__class__ is refusal:
                raise ResponseError(str(reply))
            return acquired, done

        self.call = call


class _Stamped:
    """A pool as one user's `Redis` sees it, noting when a connection was lent and returned."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = self._pool.get_connection()
        self.acquired = connection.borrowed_at
        return connection

    def release(self, connection: Any) -> None:
        self.released = clock()
        self._pool.release(connection)


class RedisPySession:
    """`Redis.execute_command`, as a service calls it. `done` is the moment redis-py has the reply
    in hand and gives the connection back."""

    def __init__(self, pool: Pool, depth: int = 1) -> None:
        assert depth == 1, "pipelines are the lean client's"
        self._stamps = _Stamped(pool)
        client: Any = Redis(connection_pool=self._stamps)  # type: ignore[arg-type]
        self._execute = client.execute_command

    def call(self, command: Command) -> tuple[float, float]:
        self._execute(*command)
        return self._stamps.acquired, self._stamps.released


SESSIONS: dict[str, Callable[[Pool, int], Session]] = {
    "lean": LeanSession,
    "bare": LeanSession,
    "redis-py": RedisPySession,
    "tuned": RedisPySession,
}


def new_session(cell: Cell, pool: Pool) -> Session:
    """To be made in the greenlet that is to call."""
    session = SESSIONS[cell.client](pool, cell.workload.depth)
    return TimedSession(session, pool.connection_kwargs["phases"]) if cell.time_phases else session


def open_pool(cell: Cell, access: Access, address: tuple[str, int] | None) -> Pool:
    """The cell's pool, with nothing opened yet. `address` stands in for the host and port of the
    URL where something is on the path. Blocks only where the lean client is to look up a host by
    name; raises OSError when nothing answers there."""
    options = connection_settings(
        access.url,
        address,
        login=access.logins.get(cell.auth),
        ca_file=access.ca_file if cell.tls != "none" else None,
    )
    secure = "connection_class" in options
    options |= _options_of(cell, secure)
    if secure and cell.client != "redis-py":  # which makes a context for each connection
        options["kept"] = KeptTLS(options, resumes=cell.tls == "resumed")
    if not secure and cell.client in ("lean", "bare"):
        options["host"] = _numeric(options["host"], options.get("port", 6379))
    return Pool(
        max_connections=cell.pool_size,
        timeout=cell.acquire_timeout_s,
        test_on_borrow=cell.test_on_borrow,
        fifo=cell.order == "fifo",
        max_uses=cell.max_uses,
        max_lifetime=cell.max_lifetime_s,
        lifetime_jitter=0.0,  # a cell's connections are all as old as it says
        # Or a pool that is seldom empty would shrink to the few that it needs.
        min_idle=cell.pool_size if cell.max_lifetime_s and cell.opening == "prefilled" else 0,
        protocol=cell.resp,
        **options,
    )


def _options_of(cell: Cell, secure: bool) -> dict[str, Any]:
    """What the cell's client asks of a connection beyond its address."""
    options: dict[str, Any] = {"connection_class": _connection_class(cell, secure)}
    if cell.client != "redis-py":
        options |= {
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
    if cell.client == "lean":
        options["socket_read_size"] = HANDSHAKE_BUFFER_BYTES
    if cell.database:
        options["db"] = cell.database
    if cell.local_ports:
        options["local_ports"] = cell.local_ports
    if cell.time_phases:
        watch_lookups()
        options["phases"] = Phases()
    return options


def _connection_class(cell: Cell, secure: bool) -> type:
    """[without TLS, with it] for each client."""
    classes: dict[str, tuple[type, type]] = {
        "bare": (BareConnection, BareConnection),
        "lean": (LeanConnection, LeanTLSConnection),
        "tuned": (Connection, KeptContext),
        "redis-py": (Connection, TLSConnection),
    }
    chosen = classes[cell.client][secure]
    return timed(chosen) if cell.time_phases and cell.client != "bare" else chosen


def _numeric(host: str, port: int) -> str:
    """The address at which `host` answers: of a name's several, perhaps only one does."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        with socket.create_connection((host, port), timeout=LOOK_UP_TIMEOUT_S) as found:
            return str(found.getpeername()[0])


def is_acquire_timeout(error: RedisError) -> bool:
    """Whether the request gave up waiting for the pool, rather than failed on the wire."""
    return isinstance(error, AcquireTimeout | TooManyWaiting)
