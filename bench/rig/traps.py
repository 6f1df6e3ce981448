"""What ends idle connections, for real: the servers, links, balancers and firewalls of one block.

Cells whose trap is the same share it, so that many lanes may sleep in one; those that ask for a
place `apart` have a server and a path of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from time import perf_counter as clock
from typing import Any

from numpy.random import SeedSequence

from bench.model import Cell, Fault, Idling, Outage, Settings, Trap
from bench.rig.access import Access
from bench.rig.firewall import Firewall
from bench.rig.hiccup import HiccupMeter
from bench.rig.host import raise_fd_limit
from bench.rig.link import IdleEnd, Link
from bench.rig.proxies import EnvoyBalancer, HAProxyBalancer
from bench.rig.server import Server, ServerSnapshot, open_server

Address = tuple[str, int]
Key = tuple[Trap, float, int, str]
LINK_ENDS: dict[str, IdleEnd] = {
    "link fin": "fin",
    "link reset": "reset",
    "link reset on next": "reset on next",
    "link silence": "silence",
}
BALANCERS: dict[str, type[EnvoyBalancer] | type[HAProxyBalancer]] = {
    "envoy": EnvoyBalancer,
    "haproxy": HAProxyBalancer,
}
# A server holds those as well whose clients it was never told had left.
MOST_HELD, OWN_FDS = 18_000, 500
SAMPLE_S = 0.1
LOOK_S, SETTLE_S = 0.005, 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """A trap that is set: its server, and where clients connect to; by the sockets of `passage`
    where a namespace lies between. `hop` names the process that relays, if one does."""

    server: Server
    address: Address
    passage: str = ""
    hop: str = ""
    balancer: Any = None


class Traps:
    """A context manager. Entering blocks until all that the cells need is open.

    Raises PreflightError where something cannot be had, ApparatusLost when a part dies later.
    """

    def __init__(self, settings: Settings, cells: Sequence[Cell]) -> None:
        self._settings = settings
        self._cells = cells
        self._firewalls: list[Firewall] = []
        self.link: Link | None = None

    def __enter__(self) -> Traps:
        with ExitStack() as stack:
            self._stack = stack
            self._common = self._server()
            self.link = stack.enter_context(Link.open((self._common.host, self._common.port)))
            wanted = {key_of(cell): _idling(cell) for cell in self._cells}
            self._places = {key: self._set(idling) for key, idling in wanted.items()}
            self.hiccups = stack.enter_context(HiccupMeter())
            shown = [self.place(cell).server for cell in self._cells if cell.keep_requests]
            self.sampler = stack.enter_context(Sampler(list(dict.fromkeys(shown))))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def place(self, cell: Cell) -> Place:
        return self._places[key_of(cell)]

    @property
    def access(self) -> Access:
        """What workers need to get in; each lane's address takes the place of the URL's."""
        return Access(self._common.url)

    def seed(self, *which: int) -> int:
        """For one worker's share of one lane, by block, lane and worker: no two are related."""
        return int(SeedSequence([self._settings.seed, *which]).generate_state(1)[0])

    def servers(self) -> list[Server]:
        """Each of them once."""
        return list(dict.fromkeys([self._common, *(p.server for p in self._places.values())]))

    @property
    def pids(self) -> list[int]:
        """Of every process that belongs to the traps."""
        assert self.link is not None
        servers = [server.pid for server in self.servers() if server.pid is not None]
        balancers = [place.balancer.pid for place in self._places.values() if place.balancer]
        return [*servers, *balancers, self.link.pid, self.hiccups.pid]

    def faulty(self, place: Place, outage: Outage) -> AbstractContextManager[None]:
        """Something is wrong at that place meanwhile. For a pause, and it alone, `outage` says for
        how long."""
        link = self.link
        assert link is not None
        faults: dict[Fault, Callable[[], AbstractContextManager[None]]] = {
            "stop": place.server.stopped,
            "pause": lambda: place.server.paused(outage.fault_s),
            "restart": place.server.away,
            "stall": lambda: link.stalled(outage.fault_share, route=place.address),
            "cut": lambda: link.cut(route=place.address),
            "sever": lambda: link.severed(route=place.address),
        }
        return faults[outage.fault]()

    def restore(self, place: Place, outage: Outage) -> None:
        """What a fault that is over has left undone: a server that was started anew has no keys."""
        if outage.fault == "restart":
            place.server.refill()

    def settle(self, place: Place) -> None:
        """Blocks until that place's server and link are done with those who have left: for
        thousands that takes a tenth of a second, which would befall whoever sends next."""
        last, until = None, clock() + SETTLE_S
        while clock() < until and (held := self._held(place)) != last:
            last = held
            time.sleep(LOOK_S)

    def _held(self, place: Place) -> tuple[int | None, int]:
        """How many connections the server and the link have."""
        assert self.link is not None
        told = place.server.snapshot_if_there()
        relayed = self.link.stats().connections if place.hop == "link" else 0
        return told.connected_clients if told else None, relayed

    def check(self) -> None:
        """Raise ApparatusLost if a part has ended."""
        parts: Iterator[Any] = iter(
            [*self.servers(), self.link, *self._firewalls, self.sampler,
             *filter(None, (place.balancer for place in self._places.values()))]
        )  # fmt: skip
        for part in parts:
            part.check()

    def _set(self, idling: Idling) -> Place:
        trap = idling.trap
        if trap == "firewall":
            firewall = self._stack.enter_context(Firewall(int(idling.trap_s)))
            self._firewalls.append(firewall)
            server = self._server(_options(idling), firewall=firewall)
            return Place(server, (server.host, server.port), passage=firewall.passage)
        server = self._server_for(idling)
        direct = (server.host, server.port)
        if trap in LINK_ENDS:
            assert self.link is not None
            address = self.link.route(0.0, direct, idle_s=idling.trap_s, idle_end=LINK_ENDS[trap])
            return Place(server, address, hop="link")
        if trap == "link":
            assert self.link is not None
            return Place(server, self.link.route(0.0, direct), hop="link")
        if trap in BALANCERS:
            balancer = self._stack.enter_context(BALANCERS[trap](direct, idling.trap_s))
            return Place(server, balancer.address, hop=trap, balancer=balancer)
        return Place(server, direct)

    def _server_for(self, idling: Idling) -> Server:
        """The common one, where nothing of the trap is the server's own."""
        options = _options(idling)
        if idling.trap == "redis timeout":
            return self._server(options | {"timeout": str(int(idling.trap_s))})
        if idling.apart or idling.server_keepalive_s != _keepalive_of(self._cells):
            return self._server(options)
        return self._common

    def _server(self, options: dict[str, str] | None = None, **where: Any) -> Server:
        usual = {"tcp-keepalive": str(_keepalive_of(self._cells))}
        server = self._stack.enter_context(
            open_server(
                None,
                max_connections=min(MOST_HELD, raise_fd_limit(0) - OWN_FDS),
                options=usual | (options or {}),
                **where,
            )
        )
        server.fill(self._settings.workload)
        return server


def key_of(cell: Cell) -> Key:
    """Cells that agree in this share a trap."""
    idling = _idling(cell)
    return (
        idling.trap, idling.trap_s, idling.server_keepalive_s, cell.id if idling.apart else "",
    )  # fmt: skip


def _idling(cell: Cell) -> Idling:
    assert cell.idling is not None, "only lanes meet traps"
    return cell.idling


def _options(idling: Idling) -> dict[str, str]:
    return {"tcp-keepalive": str(idling.server_keepalive_s)}


def _keepalive_of(cells: Sequence[Cell]) -> int:
    return _idling(cells[0]).server_keepalive_s


class Sampler:
    """What each server's dashboard would show, ten times a second: connected clients and CPU."""

    def __init__(self, servers: list[Server]) -> None:
        self._servers = servers
        self._rows: dict[Server, list[ServerSnapshot]] = {s: [] for s in servers}
        self._ended = threading.Event()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raises what ended the sampling: ApparatusLost, when a server was gone."""
        if self._trouble is not None:
            raise self._trouble

    def rows(self, server: Server, start: float, end: float) -> list[ServerSnapshot]:
        """Those within [start, end], in perf_counter seconds; none of a server not looked at."""
        return [row for row in list(self._rows.get(server, ())) if start <= row.at_s <= end]

    def _sample(self) -> None:
        due = clock()
        try:
            while not self._ended.is_set():
                for server in self._servers:
                    told = server.snapshot_if_there()
                    if told is not None:
                        self._rows[server].append(told)
                due = max(due + SAMPLE_S, clock())
                time.sleep(max(0.0, due - clock()))
        except BaseException as trouble:
            self._trouble = trouble
