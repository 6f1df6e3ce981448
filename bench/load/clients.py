"""How one request is made: `lean` (a hot path on the socket) and `redis-py` (what a service runs).

Both borrow from the same `Pool`. A session's `call(command)` performs one request and returns its
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
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet
from redis import Redis
from redis.connection import Connection
from redis.exceptions import ConnectionError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from bench.load.pool import AcquireTimeout, Pool, TooManyWaiting
from bench.model import Cell
from bench.rig.server import TLSConnection, connection_settings

# redis-py gives each parser a 64 KiB buffer: 5,000 connections would hold 330 MB. The lean path
# reads with its own calls, so the parser's buffer serves the handshake alone.
HANDSHAKE_BUFFER_BYTES = 4096
LOOK_UP_TIMEOUT_S = 10.0

# One buffer for all connections of the process: what is read is fed to a parser before anybody
# else can run. A fresh bytes object per read took up to a quarter of a request's time (profiled).
_received = bytearray(65_536)

Command = tuple[Any, ...]
Resume = Callable[[], Any]


class Session(Protocol):
    """One virtual user's way to Redis."""

    def call(self, command: Any) -> tuple[float, float]: ...


class LeanConnection(Connection):
    """A redis-py connection whose `exchange` bypasses redis-py: write, wait on the hub, read.

    redis-py's `Connection` does the handshake and AUTH. After that one io watcher, made once per
    connection, serves every round trip; that and skipping the read that can only fail first is
    what takes a request from 20 µs of client CPU to about 10. `exchange` and a session's `call`
    are closures, whose parts are at hand without a look-up: together 5 to 10 % of a request's CPU
    (two series of 60 pairs of runs).
    """

    _readable: Any = None

    def exchange(self, packed: bytes, resume: Resume) -> Any:
        """Send one packed command and return its reply (a ReplyError is returned, not raised).

        `resume` switches to the calling greenlet, which blocks, without a time-out of its own.
        Raises redis ConnectionError when the peer is gone; the connection is then disconnected,
        since its stream is unknown. While it is connected, `_exchange_on` takes this one's place.
        """
        raise ConnectionError("not connected")

    def _connect(self) -> socket.socket:
        # getaddrinfo under gevent is a trip to a thread pool, 0.2 ms per connection; `open_pool`
        # has made the address numeric.
        sock = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, value in self.socket_keepalive_options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(self.socket_keepalive))
            sock.settimeout(self.socket_connect_timeout)
            sock.connect((self.host, self.port))
            sock.settimeout(self.socket_timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        raw: Any = self._sock._sock  # type: ignore[attr-defined]  # the native socket below gevent's wrapper
        self._readable = get_hub().loop.io(raw.fileno(), 1)
        self.exchange = _exchange_on(self, raw, self._readable)  # type: ignore[method-assign]

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._readable is not None:
            self._readable.stop()
            self._readable.close()
            self._readable = None
            del self.exchange  # it refers back to this
        super().disconnect(*args, **kwargs)  # type: ignore[no-untyped-call]


def _exchange_on(connection: LeanConnection, raw: Any, readable: Any) -> Any:
    """`LeanConnection.exchange` over this native socket and its io watcher."""
    reader = hiredis.Reader()
    feed: Any = reader.feed  # its stub leaves out bytearray
    gets, send, recv_into = reader.gets, raw.send, raw.recv_into
    watch, unwatch, received = readable.start, readable.stop, _received
    # The hub's own `switch` first looks for a `switch_out` that gevent's greenlets lack.
    pause = greenlet.switch.__get__(get_hub())

    def exchange(packed: bytes, resume: Resume) -> Any:
        try:
            sent = send(packed)
            if sent != len(packed):
                _send_rest(raw, packed[sent:], resume)
            while True:
                watch(resume)
                pause()
                unwatch()
                count = recv_into(received)
                if not count:
                    raise OSError("closed by the peer")
                feed(received, 0, count)
                reply = gets()
                if reply is not False:
                    return reply
        except OSError as error:
            connection.disconnect()
            raise ConnectionError(f"connection lost: {error}") from error
        except BaseException:
            connection.disconnect()  # killed in between: the reply would greet the next user
            raise

    return exchange


def _send_rest(raw: Any, rest: bytes, resume: Resume) -> None:
    hub = get_hub()
    writable = hub.loop.io(raw.fileno(), 2)
    try:
        while rest:
            writable.start(resume)
            hub.switch()
            writable.stop()
            rest = rest[raw.send(rest) :]
    finally:
        writable.stop()
        writable.close()


class LeanTLSConnection(TLSConnection):
    """TLS takes redis-py's own path: the records have to pass through its socket wrapper."""

    def exchange(self, packed: bytes, resume: Resume) -> Any:
        self.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
        return self.read_response()


class LeanSession:
    """Borrow, exchange on the socket, release. To be made in the greenlet that is to call."""

    def __init__(self, pool: Pool) -> None:
        borrow, release, resume = pool.get_connection, pool.release, getcurrent().switch
        refusal = hiredis.ReplyError

        def call(command: bytes) -> tuple[float, float]:
            connection = borrow()
            acquired = connection.borrowed_at  # now: release may hand it to the next in line
            try:
                reply = connection.exchange(command, resume)
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

    def __init__(self, pool: Pool) -> None:
        self._stamps = _Stamped(pool)
        client: Any = Redis(connection_pool=self._stamps)  # type: ignore[arg-type]
        self._execute = client.execute_command

    def call(self, command: Command) -> tuple[float, float]:
        self._execute(*command)
        return self._stamps.acquired, self._stamps.released


SESSIONS: dict[str, Callable[[Pool], Session]] = {"lean": LeanSession, "redis-py": RedisPySession}


def open_pool(cell: Cell, url: str, address: tuple[str, int] | None) -> Pool:
    """The cell's pool, with nothing opened yet. `address` stands in for the host and port of `url`
    where a link is on the path. Blocks only where the lean client is to look up a host by name;
    raises OSError when nothing answers there."""
    options = connection_settings(url, address)
    if cell.client == "lean":
        secure = "connection_class" in options
        options |= _lean_options(secure)
        if not secure:
            options["host"] = _numeric(options["host"], options.get("port", 6379))
    return Pool(
        max_connections=cell.pool_size,
        timeout=cell.acquire_timeout_s,
        test_on_borrow=cell.test_on_borrow,
        fifo=cell.order == "fifo",
        protocol=cell.resp,
        **options,
    )


def _lean_options(secure: bool) -> dict[str, Any]:
    return {
        "connection_class": LeanTLSConnection if secure else LeanConnection,
        "socket_read_size": HANDSHAKE_BUFFER_BYTES,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


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
