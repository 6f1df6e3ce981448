"""How long each phase of opening a connection takes, by two clock readings around it.

A phase costs two readings and an entry in a dictionary, about 0.3 µs (`make calibrate` prints it).
"client" is the client's own work: making its objects, and what `connect` does beside the network's
phases. Whether all phases add up to what a caller waits is told by the "whole", which has readings
of its own, from before the objects are made to the first reply; the pool's books lie in it too.
"""

from __future__ import annotations

from array import array
from time import perf_counter as clock
from typing import Any

import numpy as np

from bench.load.recorder import encoded

CLIENT, RESOLVE, CONNECT, TLS = "client", "resolve", "connect", "tls"
FIRST_COMMAND, CLOSE, WHOLE = "first command", "close", "whole"
# What a handshake's commands are for.
HANDSHAKE = {"HELLO": "hello", "AUTH": "auth", "SELECT": "select", "PING": "ping"}
CLIENT_WORDS = {"SETINFO": "setinfo", "MAINT_NOTIFICATIONS": "maint", "SETNAME": "setname"}
ORDER = (
    CLIENT, RESOLVE, CONNECT, TLS, "hello", "auth", "setinfo", "maint", "select", FIRST_COMMAND,
    CLOSE, WHOLE,
)  # fmt: skip


def phase_of(words: tuple[Any, ...]) -> str:
    """The phase that a handshake's command is."""
    if words[0] == "CLIENT":
        return CLIENT_WORDS.get(words[1], "client command")
    return HANDSHAKE.get(words[0], str(words[0]).lower())


class Phases:
    """Seconds of each phase of every connection, for one user at a time.

    `born`: when the connection now being opened was begun, as a perf_counter reading. What comes
    several times in one connection's opening counts as one phase.
    """

    def __init__(self) -> None:
        self.born = 0.0
        self.present: dict[str, float] = {}
        self._finished: dict[str, array[float]] = {}

    def begin(self) -> None:
        """A connection is about to be made."""
        self.born = clock()
        self.present = {}

    def note(self, name: str, began: float, ended: float) -> None:
        self.present[name] = self.present.get(name, 0.0) + ended - began

    def finish(self, at: float) -> None:
        """Its first reply came at `at`."""
        self.note(WHOLE, self.born, at)
        for name, seconds in self.present.items():
            self._keep(name, at, seconds)

    def close(self, began: float, ended: float) -> None:
        self._keep(CLOSE, ended, ended - began)

    def _keep(self, name: str, at: float, seconds: float) -> None:
        self._finished.setdefault(name, array("d")).extend((at, seconds))

    def window(self, start: float, end: float) -> dict[str, dict[str, Any]]:
        """For each phase those of connections that had their reply (or were closed) in
        [start, end): how many, their sum in seconds, and an encoded histogram."""
        told = {}
        for name in sorted(self._finished, key=_place):
            at, seconds = np.frombuffer(self._finished[name]).reshape(-1, 2).T
            spans = seconds[(at >= start) & (at < end)]
            told[name] = {
                "count": int(spans.size),
                "sum_s": float(spans.sum()),
                "histogram": encoded(spans),
            }
        return told


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


_Beside: Any = object  # whatever class of connections it stands before


class _Timed(_Beside):  # type: ignore[misc]
    """What `timed` puts before a class of redis-py's connections."""

    def __init__(self, *, phases: Phases, **settings: Any) -> None:
        phases.begin()
        self._phases = phases
        self._opening = False
        super().__init__(**settings)
        phases.note(CLIENT, phases.born, clock())

    def connect(self) -> None:
        began, known_s = clock(), sum(self._phases.present.values())
        super().connect()
        named_s = sum(self._phases.present.values()) - known_s
        self._phases.note(CLIENT, began + named_s, clock())

    def _connect(self) -> Any:
        self._opening = True
        self._tls_s = 0.0
        began = clock()
        sock = super()._connect()
        looked_up_s = _lookups.take()
        ended = clock() - self._tls_s
        if looked_up_s:
            self._phases.note(RESOLVE, began, began + looked_up_s)
        self._phases.note(CONNECT, began + looked_up_s, ended)
        return sock

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        began = clock()
        wrapped = super()._wrap_socket_with_ssl(sock)
        ended = clock()
        self._tls_s = ended - began
        self._phases.note(TLS, began, ended)
        return wrapped

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        self._opening = False

    def send_command(self, *words: Any, **options: Any) -> None:
        self._asked = words, clock()
        super().send_command(*words, **options)

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        finally:
            if self._opening:
                words, began = self._asked
                self._phases.note(phase_of(words), began, clock())

    def disconnect(self, *args: Any, **options: Any) -> None:
        began = clock()
        open_ = self._sock is not None
        super().disconnect(*args, **options)
        if open_:
            self._phases.close(began, clock())


def timed(connection_class: type) -> type:
    """This class of redis-py's connections, each phase of whose opening is noted.

    It takes one more argument, `phases`. The look-up of the host is told from the connect by
    `watch_lookups`.
    """
    return type("Timed", (_Timed, connection_class), {})


class _Lookups:
    """Seconds spent in looking hosts up, in this process, since last taken."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._original: Any = None

    def watch(self) -> None:
        import socket

        if self._original is None:
            self._original = socket.getaddrinfo
            socket.getaddrinfo = self._timed

    def _timed(self, *args: Any, **options: Any) -> Any:
        began = clock()
        try:
            return self._original(*args, **options)
        finally:
            self._seconds += clock() - began

    def take(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


_lookups = _Lookups()
watch_lookups = _lookups.watch
"""From now on tell the time of `socket.getaddrinfo` in this process from that of connecting.

redis-py calls it in the midst of a method: there is no other place to read a clock at. It stays."""


class TimedSession:
    """A session whose connections are opened with `timed`: it notes the first command and, from the
    connection's very beginning to that reply, the whole."""

    def __init__(self, session: Any, phases: Phases) -> None:
        self._call = session.call
        self._phases = phases

    def call(self, command: Any) -> tuple[float, float]:
        acquired, done = self._call(command)
        self._phases.note(FIRST_COMMAND, acquired, done)
        self._phases.finish(done)
        return acquired, done
