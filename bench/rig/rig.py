"""Opens one block's worth of apparatus (server, link, hiccup meter) and always closes it."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter as clock
from time import sleep

from redis.connection import Connection

from bench.model import MOST_WORKERS, ApparatusLost, Cell, Settings
from bench.rig.hiccup import HiccupMeter
from bench.rig.idle import IdleConnections
from bench.rig.link import Link
from bench.rig.probes import Probes
from bench.rig.server import Server, open_server

# Connections of the suite's own beside the pools': probes, key filling, a spare.
OWN_CONNECTIONS = 32
ROUND_TRIPS = 5
# A killed process closes its connections before it can be seen to have ended, so that those who
# lose them may complain first.
DYING_S = 0.5
DYING_POLL_S = 0.01
Address = tuple[str, int]


class Rig:
    """A context manager. Entering blocks until the server answers and its keys are filled.

    `cells` agree in the link's moderation. Raises PreflightError when the server cannot be had,
    ApparatusLost when a part dies later.
    """

    def __init__(self, settings: Settings, cells: list[Cell]) -> None:
        self._settings = settings
        self._rtts = sorted({cell.rtt_s for cell in cells if cell.rtt_s})
        (self._moderation_s,) = {cell.moderation_s for cell in cells if cell.rtt_s} or {0.0}
        self._connections = max(cell.workers * cell.pool_size for cell in cells)
        self._addresses: dict[float, Address | None] = {0.0: None}
        self.link: Link | None = None

    def __enter__(self) -> Rig:
        with ExitStack() as stack:
            self.server: Server = stack.enter_context(
                open_server(
                    self._settings.url,
                    max_connections=self._connections + OWN_CONNECTIONS,
                    port=self._settings.server_port,
                )
            )
            self.server.fill(self._settings.workload)
            if self._rtts:
                target = (self.server.host, self.server.port)
                self.link = Link.open(target, self._moderation_s)
                stack.callback(self.link.close)
                for rtt in self._rtts:
                    self._addresses[rtt] = self.link.route(rtt)
            try:
                self._unloaded_s = {
                    rtt: unloaded_s(self.server, way) for rtt, way in self._addresses.items()
                }
            except ApparatusLost:
                self.blame()
                raise
            self.idle = IdleConnections(self.server)
            stack.callback(self.idle.close)
            self.hiccups = HiccupMeter()
            stack.callback(self.hiccups.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def address(self, rtt_s: float) -> Address | None:
        """Where workers connect for that round trip; None: straight to the server."""
        return self._addresses[rtt_s]

    def unloaded_s(self, rtt_s: float) -> float:
        """What one request took on that way when the block began and nothing else was going on."""
        return self._unloaded_s[rtt_s]

    def seed(self, block: int) -> int:
        """Where a block's workers start their key sequences; worker k adds k."""
        return (self._settings.seed * 1_000 + block) * MOST_WORKERS

    def probes(self, worker_pids: list[int]) -> Probes:
        """Probes that watch these workers beside server and link."""
        return Probes(self.server, self.link, worker_pids, ours=[self.hiccups.pid])

    def mark(self) -> None:
        """Begins an interval of which `stalls` is to tell."""
        self.hiccups.mark()
        if self.link is not None:
            self.link.mark()

    def stalls(self) -> list[tuple[float, float]]:
        """Of the machine and of the link since the mark, from when to when, in perf_counter."""
        return self.hiccups.read() + (self.link.stalls() if self.link is not None else [])

    def check(self) -> None:
        """Raise ApparatusLost if the server or the link has ended."""
        self.server.check()
        if self.link is not None:
            self.link.check()

    def blame(self) -> None:
        """Raise ApparatusLost if the server or the link is gone or going: for a failure that may be
        no more than the echo of theirs. Blocks for DYING_S where it is not."""
        deadline = clock() + DYING_S
        while clock() < deadline:
            self.check()
            sleep(DYING_POLL_S)


def unloaded_s(server: Server, address: Address | None) -> float:
    """The quickest of a few PINGs, one after the other. Blocks for as long as they take."""
    connection = server.connect(address)
    try:
        return min(_ping_s(server, connection) for _ in range(ROUND_TRIPS))
    finally:
        connection.disconnect()


def _ping_s(server: Server, connection: Connection) -> float:
    sent = clock()
    server.command(connection, "PING")
    return clock() - sent


def preflight(settings: Settings, cells: list[Cell]) -> str:
    """Open the server the plan needs, look, and close it again; returns one line on what was found.

    Raises PreflightError with what is missing and how to mend it.
    """
    most = max(cell.workers * cell.pool_size for cell in cells)
    with open_server(
        settings.url, max_connections=most + OWN_CONNECTIONS, port=settings.server_port
    ) as server:
        owner = "started by this suite" if server.owned else "yours"
        return (
            f"{server.flavour} {server.version} at {server.shown_url} ({owner}), "
            f"maxclients {server.maxclients}"
        )
