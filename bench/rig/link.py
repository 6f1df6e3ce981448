"""The link: a user-space network between client and server, in a process of its own.

It delays bytes, not packets. What a handshake's packets would have cost is charged to the first
byte of a connection, which is held back for one round trip.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.rig.host import Companion


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
    """One relay process towards one target; each round trip is a route with a port of its own.

    Every method raises ApparatusLost when the process is gone.
    """

    def __init__(self, relay: Companion) -> None:
        self._relay = relay
        self._routes: dict[float, tuple[str, int]] = {}

    @classmethod
    def open(cls, target: tuple[str, int], moderation_s: float = 0.0) -> Link:
        """Starts the relay. It may hold two descriptors a connection up to the hard limit.

        With `moderation_s` it rests for that time after each look that found something to read.
        """
        host_name, port = target
        args = (host_name, str(port), str(moderation_s))
        return cls(Companion("bench.rig.relay", *args, name="link"))

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._relay.pid

    def route(self, rtt_s: float) -> tuple[str, int]:
        """The address that leads to the target with this round trip; asked twice, the same."""
        if rtt_s not in self._routes:
            host_name, port = self._relay.ask("route", rtt_s=rtt_s)["address"]
            self._routes[rtt_s] = (host_name, port)
        return self._routes[rtt_s]

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
