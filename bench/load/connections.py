"""The connections that the clients open: redis-py's own, and those whose path is shorter.

- `LeanConnection`: redis-py makes it (handshake, TLS, AUTH); requests bypass redis-py.
- `BareConnection`: a socket and nothing else, the floor of what a connection costs.
- `KeptContext`: TLS whose context, and session where it is to be taken up again, outlive the
  connection; redis-py itself makes a context for each.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import hiredis
from gevent.hub import get_hub
from greenlet import greenlet
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError

from bench.load.phases import CLIENT, CONNECT, TLS, Phases, phase_of
from bench.rig.server import NO_PORT
from bench.rig.sockets import PlainConnection, tcp_socket
from bench.rig.tls import TLSConnection, tls_context

# One buffer for all connections of the process: what is read is fed to a parser before anybody
# else can run. A fresh bytes object per read took up to a quarter of a request's time (profiled).
RECEIVE_BYTES = 65_536
_received = bytearray(RECEIVE_BYTES)
IP_LOCAL_PORT_RANGE = 51  # of Linux from 6.3 on; Python has no name for it
SYSTEM_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")

Resume = Callable[[], Any]


class LeanConnection(PlainConnection):
    """A redis-py connection whose `exchange` bypasses redis-py: write, wait on the hub, read.

    redis-py's `Connection` does the handshake and AUTH. After that one io watcher, made once per
    connection, serves every round trip; that and skipping the read that can only fail first is
    what takes a request from 20 µs of client CPU to about 10. `exchange` and a session's `call`
    are closures, whose parts are at hand without a look-up: together 5 to 10 % of a request's CPU
    (two series of 60 pairs of runs).
    """

    _readable: Any = None

    def exchange(self, packed: bytes, resume: Resume, more: int = 0) -> Any:
        """Send one packed command, or several that have `more` replies than one, and return the
        last reply, or else a refusal among them (a ReplyError is returned, not raised).

        `resume` switches to the calling greenlet, which blocks, without a time-out of its own.
        Raises redis ConnectionError when the peer is gone; the connection is then disconnected,
        since its stream is unknown. While it is connected, `_exchange_on` takes this one's place.
        """
        raise ConnectionError("not connected")

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        self._readable, self.exchange = _shorter_way(self)  # type: ignore[method-assign]

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._readable is not None:
            _end_watching(self)
        super().disconnect(*args, **kwargs)  # type: ignore[no-untyped-call]


def _shorter_way(connection: Any) -> tuple[Any, Any]:
    """An io watcher for the connection's socket, and the `exchange` that uses it."""
    raw: Any = connection._sock._sock  # the native socket below gevent's wrapper
    readable = get_hub().loop.io(raw.fileno(), 1)
    return readable, _exchange_on(connection, raw, readable)


def _end_watching(connection: Any) -> None:
    connection._readable.stop()
    connection._readable.close()
    connection._readable = None
    del connection.exchange  # it refers back to this


def _exchange_on(connection: Any, raw: Any, readable: Any) -> Any:
    """`LeanConnection.exchange` over this native socket and its io watcher."""
    reader = hiredis.Reader()
    feed: Any = reader.feed  # its stub leaves out bytearray
    gets, send, recv_into = reader.gets, raw.send, raw.recv_into
    watch, unwatch, received = readable.start, readable.stop, _received
    # The hub's own `switch` first looks for a `switch_out` that gevent's greenlets lack.
    pause = greenlet.switch.__get__(get_hub())
    refusal = hiredis.ReplyError

    def exchange(packed: bytes, resume: Resume, more: int = 0) -> Any:
        refused = None
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
                while more and reply is not False:
                    if reply.__class__ is refusal:
                        refused = reply
                    more -= 1
                    reply = gets()
                if reply is not False:
                    return refused or reply
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


class KeptTLS:
    """What a pool's connections share: a context made once, of `settings` as a redis-py connection
    has them, and, where it `resumes`, the session of an earlier connection, whose full handshake so
    is spared."""

    def __init__(self, settings: Mapping[str, Any], *, resumes: bool) -> None:
        self._context = tls_context(settings)
        self._server_name = settings["server_name"]
        self._resumes = resumes
        self._session: Any = None

    def secured(self, sock: Any) -> Any:
        """The socket with TLS on it, its handshake done; blocks for that."""
        return self._context.wrap_socket(
            sock, server_hostname=self._server_name, session=self._session
        )

    def is_closing(self, sock: Any) -> None:
        """TLS 1.3 hands tickets out after the handshake: they are there once something was read.
        One serves for all: to take one out costs 0.6 ms."""
        if self._resumes and self._session is None:
            self._session = sock.session


class KeptContext(TLSConnection):
    """TLS by a context and a session that outlive the connection."""

    def __init__(self, *, kept: KeptTLS, **settings: Any) -> None:
        super().__init__(**settings)
        self._kept = kept

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        return self._kept.secured(sock)

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._sock is not None:
            self._kept.is_closing(self._sock)
        super().disconnect(*args, **kwargs)  # type: ignore[no-untyped-call]


class LeanTLSConnection(KeptContext):
    """TLS takes redis-py's own path: the records have to pass through its socket wrapper."""

    def exchange(self, packed: bytes, resume: Resume, more: int = 0) -> Any:
        self.send_packed_command([packed], check_health=False)  # type: ignore[no-untyped-call]
        replies = [self._reply() for _ in range(more + 1)]
        return _refusal_or_last(replies)

    def _reply(self) -> Any:
        try:
            return self.read_response()
        except ResponseError as refusal:
            return hiredis.ReplyError(str(refusal))


def _refusal_or_last(replies: list[Any]) -> Any:
    refused = (reply for reply in replies if isinstance(reply, hiredis.ReplyError))
    return next(refused, replies[-1])


class BareConnection:
    """The least a connection can be: a socket; TLS, AUTH and SELECT where they are asked for.

    It is no redis-py connection, and offers what `Pool` asks of one. `local_ports`: as `Cell` has
    it. With `phases` its opening is noted there, phase by phase.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        kept: KeptTLS | None = None,
        local_ports: int = 0,
        socket_timeout: float | None = None,
        phases: Phases | None = None,
        **_: Any,
    ) -> None:
        if phases is not None:
            phases.begin()
        self._at = (host, port)
        self._login = (username, password)
        self._database = db
        self._kept = kept
        self._local_ports = local_ports
        self._timeout_s = socket_timeout
        self._phases = phases
        self._readable: Any = None
        self._sock: Any = None
        self._should_reconnect = False
        self._note(CLIENT, phases.born if phases is not None else 0.0)

    @property
    def is_connected(self) -> bool:
        return self._sock is not None

    def should_reconnect(self) -> bool:
        return False

    def _get_socket(self) -> Any:
        return self._sock

    def connect(self) -> None:
        """Blocks for the handshakes. Raises redis-py's errors, as its connections do."""
        try:
            began = clock()
            self._sock = self._connected()
            self._reader = hiredis.Reader()
            self._note(CONNECT, began)
            if self._kept is not None:
                self._secure(self._kept)
            if self._login[1] is not None:
                self._tell("AUTH", *filter(None, self._login))
            if self._database:
                self._tell("SELECT", str(self._database))
            began = clock()
            if self._kept is None:
                self._readable, self.exchange = _shorter_way(self)  # type: ignore[method-assign]
            self._note(CLIENT, began)
        except OSError as error:
            self.disconnect()
            raise ConnectionError(f"cannot connect: {_reason(error)}") from error
        except BaseException:
            self.disconnect()
            raise

    def _connected(self) -> Any:
        sock = tcp_socket(self._at[0])
        try:
            sock.settimeout(self._timeout_s)
            if self._local_ports:
                _narrow(sock, self._local_ports)
            sock.connect(self._at)
        except BaseException:
            sock.close()
            raise
        return sock

    def exchange(self, packed: bytes, resume: Resume, more: int = 0) -> Any:
        """As `LeanConnection.exchange`, over TLS; without it `_exchange_on` takes its place."""
        try:
            replies = [self._asked(packed), *(self._asked(b"") for _ in range(more))]
        except OSError as error:
            self.disconnect()
            raise ConnectionError(f"connection lost: {_reason(error)}") from error
        except BaseException:
            self.disconnect()
            raise
        return _refusal_or_last(replies)

    def _secure(self, kept: KeptTLS) -> None:
        began = clock()
        self._sock = kept.secured(self._sock)
        self._note(TLS, began)

    def _tell(self, *words: Any) -> None:
        """Ask what belongs to the handshake. Raises what redis-py raises where it is refused."""
        began = clock()
        reply = self._asked(hiredis.pack_command(words))
        self._note(phase_of(words), began)
        if isinstance(reply, hiredis.ReplyError):
            refused = AuthenticationError if words[0] == "AUTH" else ConnectionError
            raise refused(str(reply))

    def _asked(self, packed: bytes) -> Any:
        """The next reply after sending this, by the socket's own blocking calls."""
        self._sock.sendall(packed)
        while (reply := self._reader.gets()) is False:
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise OSError("closed by the peer")
            self._reader.feed(data)
        return reply

    def disconnect(self, *_: Any, **__: Any) -> None:
        if self._sock is None:
            return
        began = clock()
        if self._kept is not None:
            self._kept.is_closing(self._sock)
        if self._readable is not None:
            _end_watching(self)
        self._sock.close()
        self._sock = None
        if self._phases is not None:
            self._phases.close(began, clock())

    def _note(self, phase: str, began: float) -> None:
        if self._phases is not None:
            self._phases.note(phase, began, clock())


def _narrow(sock: Any, ports: int) -> None:
    """Let the kernel choose the socket's own port among so many; OSError before Linux 6.3."""
    last = _last_port()
    bounds = struct.pack("=I", last << 16 | (last - ports + 1))
    sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, bounds)


@functools.cache
def _last_port() -> int:
    """A narrow range has an effect only within the system's own: it is the upper end of that."""
    return int(SYSTEM_PORTS.read_text().split()[1])


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return NO_PORT
    return error.strerror or str(error)
