"""The link: a user-space network between client and server, in a process of its own.

It delays bytes, not packets. What a handshake's packets would have cost is charged to the first
byte of a connection, which is held back for one round trip.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.rig.host import Companion

Address = tuple[str, int]


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
        self._routes: dict[tuple[float, Address], Address] = {}

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

    def route(self, rtt_s: float, target: Address | None = None) -> Address:
        """The address that leads to the target with this round trip; asked twice, the same."""
        leads_to = target or self._target
        if (rtt_s, leads_to) not in self._routes:
            host_name, port = leads_to
            told = self._relay.ask("route", rtt_s=rtt_s, host_name=host_name, port=port)
            host_name, port = told["address"]
            self._routes[rtt_s, leads_to] = (host_name, port)
        return self._routes[rtt_s, leads_to]

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
