"""A kernel's firewall between client and server, for real: nftables and connection tracking, in
network namespaces of their own (`bench.rig.namespaces`).

Nothing of it is to be seen from outside, nor outlives its process: the namespaces have no names,
so that there is nothing to remove, however this one ends.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
import socket
import threading
from typing import Any

from bench.model import ApparatusLost, PreflightError
from bench.rig import host
from bench.rig.namespaces import (
    CLIENT,
    INSIDE,
    NO_TOOL,
    SERVER,
    SERVER_ADDRESS,
    SOCKETS_A_TIME,
    TOOLS,
    tool,
)

PORT = 6379  # nobody else is in the server's namespace
ANSWER_TIMEOUT_S = 10.0


@functools.cache
def missing() -> str:
    """Why there can be no firewall here, and what to do about it; empty where there can. Tries."""
    if not host.LINUX:
        return "a kernel's firewall is set up on Linux alone"
    for name, package in TOOLS.items():
        if tool(name) is None:
            return NO_TOOL.format(name, package)
    try:
        Firewall(1).close()
    except PreflightError as failure:
        return str(failure)
    return ""


class Firewall:
    """Forgets connections on which no packet passed for `idle_s`, and drops without a word what
    comes on them then. A context manager. Entering blocks until it is set up.

    `server_address`: where a server that runs in `namespaces` listens. Clients reach it by sockets
    of `Passage(firewall.passage)`. Raises PreflightError when it cannot be set up, ApparatusLost
    when its process is gone.
    """

    server_address = SERVER_ADDRESS, PORT

    def __init__(self, idle_s: float) -> None:
        if not (float(idle_s).is_integer() and idle_s >= 1):
            raise PreflightError(
                f"idle_s is {idle_s:g}: the firewall counts whole seconds, from 1 up"
            )
        self.passage = f"redis-pool-bench-{os.getpid()}-{secrets.token_hex(8)}"
        self._beside = Passage(self.passage, SERVER)
        self._helper = host.Companion(
            "bench.rig.namespaces", str(int(idle_s)), self.passage, name="firewall"
        )
        try:
            self.entries()
            self.namespaces = _namespaces(self.passage)
        except (ApparatusLost, OSError) as failure:
            self._helper.close()
            raise PreflightError(f"no firewall can be set up: {failure}") from failure

    def __enter__(self) -> Firewall:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._helper.pid

    def server_socket(self) -> Any:
        """One made beside the server, which the firewall does not see: for questions. Raises
        OSError where the firewall is gone."""
        return self._beside.socket()

    def entries(self) -> int:
        """How many connections it knows now."""
        return int(self._helper.ask("entries")["entries"])

    def check(self) -> None:
        self._helper.check()

    def close(self) -> None:
        """May be repeated."""
        self._beside.close()
        self._helper.close()
        for namespace in self.__dict__.pop("namespaces", ()):
            os.close(namespace)


class Passage:
    """Makes unconnected sockets that lead through the firewall of that name (`kind` SERVER: beside
    it). `socket` blocks for an answer now and then; threads and greenlets may share one. Up to 31
    lie ready until it is closed."""

    def __init__(self, name: str, kind: bytes = CLIENT) -> None:
        self._name = name
        self._kind = kind
        self._stash: list[int] = []
        self._turn = threading.Lock()
        self._channel: socket.socket | None = None

    def socket(self) -> socket.socket:
        """Raises OSError where the firewall is gone, or no descriptor is left."""
        with self._turn:
            if not self._stash:
                if self._channel is None:
                    self._channel = _channel(self._name)
                self._stash = _received(self._channel, self._kind)
            made = socket.socket(fileno=self._stash.pop())
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def close(self) -> None:
        """May be repeated."""
        for descriptor in self._stash:
            os.close(descriptor)
        self._stash.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _namespaces(name: str) -> list[int]:
    """Descriptors of those in which the server is to run, in the order in which to enter them."""
    with _channel(name) as channel:
        return _received(channel, INSIDE)


def _channel(name: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(ANSWER_TIMEOUT_S)
    try:
        channel.connect(f"\0{name}")
    except BaseException:
        channel.close()
        raise
    return channel


def _received(channel: socket.socket, kind: bytes) -> list[int]:
    channel.sendall(kind)
    # Closed at exec: a child that held one would keep its namespace.
    how = socket.MSG_CMSG_CLOEXEC
    said, descriptors, _flags, _address = socket.recv_fds(channel, 1, SOCKETS_A_TIME, how)
    if not said:
        raise ConnectionError("the firewall is gone")
    if not descriptors:  # the kernel leaves out those for which there is no room
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return descriptors
