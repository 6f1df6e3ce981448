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


class Session(Protocol):
    """One virtual user's way to Redis."""

    def call(self, command: Any) -> tuple[float, float]: ...


class LeanConnection(Connection):
    """A redis-py connection whose `exchange` bypasses redis-py: write, wait on the hub, read.

    redis-py's `Connection` does the handshake and AUTH. After that one io watcher, made once per
    connection, serves every round trip; that and skipping the read that can only fail first is
    what takes a request from 20 µs of client CPU to about 10.
    """

    _readable: Any = None

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
        reader = hiredis.Reader()
        self._send, self._recv_into = raw.send, raw.recv_into
        self._feed: Any = reader.feed  # its stub leaves out bytearray
        self._gets = reader.gets
        hub = get_hub()
        # The hub's own `switch` first looks for a `switch_out` that gevent's greenlets lack.
        self._pause = greenlet.switch.__get__(hub)
        self._readable = hub.loop.io(raw.fileno(), 1)
        self._watch, self._unwatch = self._readable.start, self._readable.stop

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._readable is not None:
            self._readable.stop()
            self._readable.close()
            self._readable = None
        super().disconnect(*args, **kwargs)  # type: ignore[no-untyped-call]

    def exchange(self, packed: bytes) -> Any:
        """Send one packed command and return its reply (a ReplyError is returned, not raised).

        Blocks the greenlet, without a time-out of its own. Raises redis ConnectionError when the
        peer is gone; the connection is then disconnected, since its stream is unknown.
        """
        try:
            sent = self._send(packed)
            if sent != len(packed):
                self._send_rest(packed, sent)
            while True:
                self._watch(getcurrent().switch)
                self._pause()
                self._unwatch()
                count = self._recv_into(_received)
                if not count:
                    raise OSError("closed by the peer")
                self._feed(_received, 0, count)
                reply = self._gets()
                if reply is not False:
                    return reply
        except OSError as error:
            self.disconnect()
            raise ConnectionError(f"connection lost: {error}") from error
        except BaseException:
            self.disconnect()  # killed between write and read: the reply would greet the next user
            raise

    def _send_rest(self, packed: bytes, sent: int) -> None:
        writable = get_hub().loop.io(self._sock.fileno(), 2)  # type: ignore[attr-defined]
        try:
            while sent < len(packed):
                writable.start(getcurrent().switch)
                self._pause()
                writable.stop()
                sent += self._send(packed[sent:])
        finally:
            writable.stop()
            writable.close()


class LeanTLSConnection(TLSConnection):
    """TLS takes redis-py's own path: the records have to pass through its socket wrapper."""

    def exchange(self, packed: bytes) -> Any:
        self.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
        return self.read_response()


class LeanSession:
    """Borrow, exchange on the socket, release."""

    def __init__(self, pool: Pool) -> None:
        self._borrow = pool.get_connection
        self._release = pool.release

    def call(self, command: bytes) -> tuple[float, float]:
        connection = self._borrow()
        acquired = connection.borrowed_at  # read now: release may hand it to the next in line
        try:
            reply = connection.exchange(command)
            done = clock()
        finally:
            self._release(connection)
        if reply.__class__ is hiredis.ReplyError:
            raise ResponseError(str(reply))
        return acquired, done


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
