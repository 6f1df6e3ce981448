"""Opens one block's worth of apparatus (server, link, proxies, hiccup meter), and closes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter as clock
from time import sleep

from redis.connection import Connection

from bench.model import MOST_WORKERS, ApparatusLost, Cell, Settings
from bench.rig.access import Access
from bench.rig.certificates import Certificates
from bench.rig.hiccup import HiccupMeter
from bench.rig.idle import IdleConnections
from bench.rig.link import Link
from bench.rig.probes import Probes
from bench.rig.proxies import Envoy, Front, Pooler, Twemproxy
from bench.rig.server import Server, open_server

# Connections of the suite's own beside the pools': probes, key filling, a spare.
OWN_CONNECTIONS = 32
ROUND_TRIPS = 5
# A killed process closes its connections before it can be seen to have ended, so that those who
# lose them may complain first.
DYING_S = 0.5
DYING_POLL_S = 0.01
Address = tuple[str, int]
POOLERS: dict[str, type[Envoy] | type[Twemproxy]] = {"envoy": Envoy, "twemproxy": Twemproxy}


class Rig:
    """A context manager. Entering blocks until the server answers and its keys are filled.

    `cells` agree in the link's moderation. Raises PreflightError when the server cannot be had,
    ApparatusLost when a part dies later.
    """

    def __init__(self, settings: Settings, cells: list[Cell]) -> None:
        self._settings = settings
        self._cells = cells
        self._rtts = sorted({cell.rtt_s for cell in cells if cell.rtt_s})
        (self._moderation_s,) = {cell.moderation_s for cell in cells if cell.rtt_s} or {0.0}
        self._connections = max(cell.workers * cell.pool_size for cell in cells)
        self._poolers: dict[tuple[str, float], Pooler] = {}
        self._front: Front | None = None
        self._made: Certificates | None = None
        self.link: Link | None = None

    def __enter__(self) -> Rig:
        with ExitStack() as stack:
            self.server: Server = stack.enter_context(
                open_server(
                    self._settings.url,
                    max_connections=self._connections + OWN_CONNECTIONS,
                    port=self._settings.server_port,
                    certificates=self._certificates(stack),
                )
            )
            self.server.fill(self._settings.workload)
            if self._rtts:
                self.link = Link.open((self.server.host, self.server.port), self._moderation_s)
                stack.callback(self.link.close)
            self._open_proxies(stack)
            try:
                self._unloaded_s = {
                    rtt: unloaded_s(self.server, self._way(rtt)) for rtt in (0.0, *self._rtts)
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

    def _certificates(self, stack: ExitStack) -> Certificates | None:
        if all(cell.tls == "none" for cell in self._cells):
            return None
        self._made = stack.enter_context(Certificates())
        return self._made

    def _open_proxies(self, stack: ExitStack) -> None:
        """Those that a cell needs. Blocks until they listen; raises PreflightError where one cannot
        be started."""
        if any(map(self._needs_front, self._cells)):
            direct = (self.server.host, self.server.port)
            self._front = stack.enter_context(Front(direct, self._made))
        for cell in self._cells:
            key = cell.via, cell.rtt_s
            if cell.via in POOLERS and key not in self._poolers:
                target = self._way(cell.rtt_s) or (self.server.host, self.server.port)
                self._poolers[key] = stack.enter_context(POOLERS[cell.via](target))

    def _needs_front(self, cell: Cell) -> bool:
        return cell.via == "front" or (cell.tls != "none" and self.server.tls_port is None)

    def _way(self, rtt_s: float, target: Address | None = None) -> Address | None:
        """What leads to `target`, or to the server (where nothing is between: None)."""
        if not rtt_s:
            return target
        assert self.link is not None
        return self.link.route(rtt_s, target)

    def address(self, cell: Cell) -> Address | None:
        """Where workers connect for that cell; None: straight to the server."""
        if cell.via in POOLERS:
            return self._poolers[cell.via, cell.rtt_s].address
        return self._way(cell.rtt_s, self._end(cell))

    def _end(self, cell: Cell) -> Address | None:
        """Where what the cell's connections say is understood; None: at the server's usual port."""
        if self._needs_front(cell):
            assert self._front is not None
            return self._front.address if cell.tls == "none" else self._front.tls_address
        if cell.tls == "none":
            return None
        assert self.server.tls_port is not None
        return self.server.host, self.server.tls_port

    def tls_ends_at(self, cell: Cell) -> str:
        """Which program decrypts what the cell's clients send; empty where nothing is encrypted."""
        if cell.tls == "none":
            return ""
        return "server" if self.server.tls_port is not None else "envoy"

    def demand(self, cell: Cell) -> None:
        """Have an owned server ask of new connections what the cell says."""
        self.server.demand(cell.auth)

    @property
    def access(self) -> Access:
        """What workers need to get in."""
        ca_file = self._made.ca_file if self._made is not None else None
        return Access(self.server.url, self.server.credentials, ca_file)

    @contextmanager
    def without_proxy(self, cell: Cell) -> Iterator[None]:
        """The cell's pooler is away meanwhile: killed, and started again at the same address."""
        pooler = self._poolers[cell.via, cell.rtt_s]
        pooler.stop()
        try:
            yield
        finally:
            pooler.start()

    def _proxy(self, cell: Cell) -> Front | Pooler | None:
        if cell.via in POOLERS:
            return self._poolers[cell.via, cell.rtt_s]
        return self._front if self._needs_front(cell) else None

    def unloaded_s(self, cell: Cell) -> float:
        """What one PING took over that round trip when the block began and nothing else went on."""
        return self._unloaded_s[cell.rtt_s]

    def seed(self, block: int) -> int:
        """Where a block's workers start their key sequences; worker k adds k."""
        return (self._settings.seed * 1_000 + block) * MOST_WORKERS

    def probes(self, worker_pids: list[int], cell: Cell) -> Probes:
        """Probes that watch these workers beside server, link and the cell's proxy."""
        proxy = self._proxy(cell)
        return Probes(
            self.server,
            self.link,
            worker_pids,
            proxy_pid=proxy.pid if proxy is not None else None,
            ours=[self.hiccups.pid],
        )

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
        for proxy in (*self._poolers.values(), *filter(None, [self._front])):
            proxy.check()

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
