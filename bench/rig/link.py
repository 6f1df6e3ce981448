"""The link: a user-space network between client and server, in a process of its own.

It delays bytes, not packets. What a handshake's packets would have cost is charged to the first
byte of a connection, which is held back for one round trip.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from bench.rig.host import Companion

Address = tuple[str, int]
IdleEnd = Literal["fin", "reset", "reset on next", "silence"]


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Totals since the link was opened, over all its routes."""

    connections: int
    accepted: int
    fds: int | None
    bytes_to_server: int
    chunks_to_server: int
    bytes_to_client: int
    chunks_to_client: int
    cpu_user_s: float
    cpu_system_s: float
    dropped: int  # for having been idle


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one connection carried so far."""

    bytes_to_server: int
    chunks_to_server: int
    bytes_to_client: int
    chunks_to_client: int


class Link:
    """One relay process; each round trip to each target is a route with a port of its own.

    Every method raises ApparatusLost when the process is gone.
    """

    def __init__(self, relay: Companion, target: Address) -> None:
        self._relay = relay
        self._target = target
        self._routes: dict[tuple[float, Address, float | None, str], Address] = {}
        self._befallen: set[Address] = set()  # the routes on which a fault is

    @classmethod
    def open(cls, target: Address, moderation_s: float = 0.0) -> Link:
        """Starts the relay, towards `target` where a route names no other. It may hold two
        descriptors a connection up to the hard limit.

        With `moderation_s` it rests for that time after each look that found something to read.
        """
        return cls(Companion("bench.rig.relay", str(moderation_s), name="link"), target)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._relay.pid

    def route(
        self,
        rtt_s: float,
        target: Address | None = None,
        *,
        idle_s: float | None = None,
        idle_end: IdleEnd = "silence",
    ) -> Address:
        """The address that leads to the target with this round trip; asked twice, the same.

        With `idle_s` a connection on which no byte passed for so long (up to 4 % longer) is ended:
        "fin": both ends get FIN; "reset": both get RST; "silence": neither is told, and what they
        send is swallowed; "reset on next": each gets RST when it sends, and is told nothing before.
        A server holds what it was not told of until it leaves by itself, or
        `bench.rig.relay.GHOST_S` after its client left.
        The kernel of this machine answers TCP's own probes: only bytes keep a connection.
        """
        leads_to = target or self._target
        key = rtt_s, leads_to, idle_s, idle_end
        if key not in self._routes:
            host_name, port = leads_to
            told = self._relay.ask(
                "route", rtt_s=rtt_s, host_name=host_name, port=port, idle_s=idle_s,
                idle_end=idle_end,
            )  # fmt: skip
            host_name, port = told["address"]
            self._routes[key] = (host_name, port)
        return self._routes[key]

    @contextmanager
    def stalled(self, share: float = 1.0, *, route: Address | None = None) -> Iterator[None]:
        """Meanwhile what is sent on this share of the connections, the oldest, is held, and then
        delivered; with all of them, on those that come meanwhile too.

        Like the other two it befalls one route, by its address, or all that there are, and raises
        ValueError where one of them is on already.
        """
        with self._faulty("stall", route, share=share):
            yield

    @contextmanager
    def cut(self, *, route: Address | None = None) -> Iterator[None]:
        """Every connection is reset at both ends, and new ones are refused meanwhile."""
        with self._faulty("cut", route):
            yield

    @contextmanager
    def severed(self, *, route: Address | None = None) -> Iterator[None]:
        """What is sent meanwhile is lost, and so is for good every connection that there is or that
        comes meanwhile; nobody is told. Those that come are accepted, by this machine's kernel, but
        the server never hears of them. New ones work afterwards."""
        with self._faulty("sever", route):
            yield

    @contextmanager
    def _faulty(self, kind: str, route: Address | None, **how: float) -> Iterator[None]:
        befallen = {route} if route else set(self._routes.values())
        if not befallen <= set(self._routes.values()):
            raise ValueError(f"no route of this link has the address {route}")
        if befallen & self._befallen:
            raise ValueError(f"no {kind} while another fault is on")
        port = route[1] if route else None
        self._befallen |= befallen
        try:
            self._relay.ask("fault", kind=kind, port=port, **how)
            yield
        finally:
            self._befallen -= befallen
            self._relay.ask("fault", kind="", port=port)

    def stats(self) -> LinkStats:
        """Halts relaying for about a millisecond at 5,000 connections: not while measuring."""
        return LinkStats(**self._relay.ask("stats"))

    def traffic(self) -> list[Traffic]:
        """What each open connection carried. Halts relaying for some milliseconds at 5,000."""
        return [Traffic(*figures) for figures in self._relay.ask("connections")["open"]]

    def mark(self) -> None:
        """Forgets the stalls so far."""
        self._relay.ask("mark")

    def stalls(self) -> list[tuple[float, float]]:
        """Since the mark, from when to when what was due lay undelivered for longer than
        `bench.rig.relay.LATE_S`, in this machine's perf_counter seconds."""
        return [(due, now) for due, now in self._relay.ask("stalls")["stalls"]]

    def check(self) -> None:
        self._relay.check()

    def close(self) -> None:
        """Ends the relay and with it every connection through it. May be repeated."""
        self._relay.close()
