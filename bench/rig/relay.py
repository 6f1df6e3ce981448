"""The link's own process, relaying TCP with a fixed delay:
`python -m bench.rig.relay MODERATION_S`.

One thread, one epoll, edge-triggered, so that a chunk costs one receive, one send and no epoll_ctl.
The delay of a route is fixed, hence chunks fall due in the order they came: a deque, not a heap.
Commands come as JSON lines on standard input; its end is the end of the relay.

Where its time goes (perf, 200 connections, 1 ms): of 15-22 µs a request 4-7 are Python's, the rest
is the kernel's, for two receives and two sends, whose loopback delivery and wake-ups run on the
sender's account. A turn of the loop serves about 20 events, so the two calls that find them hardly
count. Tried without gain: another congestion control than the system's BBR. Where requests are few
a turn serves one event, and its wake is most of it: 45 µs a request at 10,000/s. With the
moderation of a network card's interrupts, one turn in 0.1 ms at most, 29 µs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import math
import os
import resource
import select
import selectors
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

from bench.rig import host

LOOPBACK = "127.0.0.1"
LISTEN_BACKLOG = 4096
CHUNK_BYTES = 65536
DRAIN_CHUNKS = 16
BACKLOG_LIMIT_BYTES = 1 << 20  # above it the other side is not read until this one has drained
ACCEPTS_A_TURN = 64  # so that a burst of new connections does not hold up those that relay
IN, OUT, ERR, HUP, RDHUP, EDGE = 0x1, 0x4, 0x8, 0x10, 0x2000, 1 << 31
ORDINARY = IN | OUT
NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends RST
PR_SET_TIMERSLACK = 29
LATE_S = 0.5e-3  # what was due longer ago waited for us: for a core, or behind too much work
MOST_STALLS = 10_000  # kept between two marks; what comes then makes the last one longer
END: bytes = b""  # travels through the queue behind the data: the other end sent FIN
RESET: None = None  # likewise: it sent RST, or is gone
NEVER = float("inf")
SWEEPS = 50  # in the time for which a connection may be idle: it is ended up to 4 % late
# Of all connections that idled, in one turn. To end one takes 35 µs: 500 at once held up those that
# relay by 17 ms.
LOOKS_A_TURN, ENDS_A_TURN = 64, 4
GHOST_S = 10.0  # for so long a server holds a connection whose client went unheard


class Side:
    """One of the two sockets of a relayed connection; `peer` is the other.

    Faults have one place to act: `send` and `recv` belong to the single connection and may be
    replaced. A closed side's `send` is `len`, which swallows, and so is that of a connection that
    was dropped in silence; `lost` says that its ends travel no further either. A stalled one's is
    `_full`. None of them replaces `recv`.
    """

    __slots__ = (
        "append", "backlog", "bytes", "chunks", "closed", "delay_s", "ended", "fd", "held", "lost",
        "must_end", "peer", "recv", "route", "send", "sent_end", "sock", "to_server", "unusual",
    )  # fmt: skip
    peer: Side

    def __init__(self, sock: socket.socket, route: Route, to_server: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.fd = sock.fileno()
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[Any], int] = sock.send
        self.route = route
        self.append = route.queue.append
        self.delay_s = route.delay_s
        self.to_server = to_server  # the direction of what is read here
        self.bytes = 0
        self.chunks = 0
        self.backlog = bytearray()  # due, but not taken by the socket yet
        self.held = False  # not to be read: the peer's backlog is full, or it has ended
        self.unusual = False  # held, or with a backlog: an event is more than something to read
        self.ended = False  # FIN was read here
        self.must_end = False  # the end is to follow the backlog
        self.sent_end = False
        self.closed = False
        self.lost = False


def _full(data: Any) -> int:
    """`send` of a side whose path stalls: what is due stays in its backlog."""
    raise BlockingIOError


def _bound(port: int) -> socket.socket:
    """A listener that does not listen yet."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, port))
    listener.setblocking(False)
    return listener


class Route:
    """One listener, the delay that everything through it gets, and where that goes. With `idle_s`
    it ends connections that were idle for so long, in the manner of `idle_end`."""

    def __init__(
        self, rtt_s: float, target: tuple[str, int], idle_s: float | None, idle_end: str
    ) -> None:
        found = socket.getaddrinfo(*target, type=socket.SOCK_STREAM)[0]
        self.family: int = found[0]
        self.target: tuple[Any, ...] = found[4]
        self.rtt_s = rtt_s
        self.delay_s = rtt_s / 2
        self.queue: deque[tuple[float, Side, bytes | None]] = deque()
        self.newcomers: deque[tuple[float, Side]] = deque()
        self.idle_s = idle_s
        self.idle_end = idle_end
        # Of each connection, by its client's side: the chunks it had carried, and since when no
        # more. Looked at now and then, all in a round, so that a chunk costs nothing.
        self.activity: deque[tuple[Side, int, float]] = deque()
        self.unswept = 0
        self.next_sweep = NEVER
        self.sweep_s = idle_s / SWEEPS if idle_s else NEVER
        self.fault = ""  # what connections that come meet
        self.listener = _bound(0)
        self.port: int = self.listener.getsockname()[1]  # which it keeps when the path was cut

    def refuse(self) -> None:
        """Whoever connects is refused until it listens again; the port stays ours meanwhile."""
        self.listener.close()
        self.listener = _bound(self.port)

    def next_due(self) -> float:
        """When there is something to do next; infinity when there is nothing."""
        head = self.queue[0][0] if self.queue else NEVER
        return min(head, self.newcomers[0][0]) if self.newcomers else head


class EpollPoller:
    """Edge-triggered for relayed sockets: interest is never changed, so it costs nothing."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handle = [self._epoll.fileno()]
        self.events: Callable[[float], list[tuple[int, int]]] = self._epoll.poll

    def add(self, fd: int) -> None:
        self._epoll.register(fd, IN | OUT | RDHUP | EDGE)

    def add_level(self, fd: int) -> None:
        self._epoll.register(fd, IN)

    def interest(self, fd: int, *, read: bool, write: bool) -> None:
        pass

    def forget(self, fd: int) -> None:
        pass  # the kernel does, when the socket is closed

    def wait(self, timeout_s: float | None) -> None:
        # epoll itself waits whole milliseconds, and the delay is often half of one.
        select.select(self._handle, (), (), timeout_s)


class SelectorPoller:
    """Where there is no epoll; level-triggered.

    It hides the error bit: a reset that follows a FIN shows only when the other side writes.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int) -> None:
        self.interest(fd, read=True, write=False)

    def add_level(self, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def interest(self, fd: int, *, read: bool, write: bool) -> None:
        """Neither is "not at all": a selector refuses to watch for nothing."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        wanted = selectors.EVENT_READ * read | selectors.EVENT_WRITE * write
        if wanted:
            self._selector.register(fd, wanted)

    def forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def events(self, timeout_s: float) -> list[tuple[int, int]]:
        """A readable side is always drained to the end here (RDHUP): nothing tells of FIN."""
        return [
            (key.fd, (IN | RDHUP) * bool(mask & selectors.EVENT_READ)
             | OUT * bool(mask & selectors.EVENT_WRITE))
            for key, mask in self._selector.select(timeout_s)
        ]  # fmt: skip

    def wait(self, timeout_s: float | None) -> None:
        self._selector.select(timeout_s)


class Relay:
    """All routes. `run` returns when the command channel ends."""

    def __init__(self, poller: EpollPoller | SelectorPoller, moderation_s: float = 0.0) -> None:
        self._poller = poller
        self._moderation_s = moderation_s
        self._sides: dict[int, Side] = {}
        self._routes: list[Route] = []
        self._listening: dict[int, Route] = {}
        self._unread: list[Side] = []
        self._accepted = 0
        self._dropped = 0
        self._chore_at = NEVER
        self._ghosts: deque[tuple[float, Side]] = deque()
        self._closed_totals = {"to_server": [0, 0], "to_client": [0, 0]}
        self._requests = b""
        self._running = True
        self._stalls: list[tuple[float, float]] = []
        self._commands: dict[str, Callable[..., dict[str, Any]]] = {
            "route": self.open_route,
            "stats": self.stats,
            "connections": self.connections,
            "mark": self.mark,
            "stalls": self.stalls,
            "fault": self.set_fault,
        }
        poller.add_level(0)

    # The loop. Everything else is called from here.

    def run(self) -> None:
        """Relays until the command channel ends."""
        poll, sides = self._poller.events, self._sides
        while self._running:
            events = poll(0)
            # One clock for all: they arrived before the poll returned, so this is the nearest.
            now = perf_counter()
            for fd, mask in events:
                side = sides.get(fd)
                if side is None:
                    self._serve(fd)
                elif mask != ORDINARY or side.unusual:
                    self._unusual(side, mask, now)
                else:
                    # Written out, not called: this and _deliver are the cost of a request.
                    try:
                        data = side.recv(CHUNK_BYTES)
                    except BlockingIOError:
                        continue
                    except OSError:
                        self._broken(side, now)
                        continue
                    size = len(data)
                    side.chunks += 1
                    side.bytes += size
                    side.append((now + side.delay_s, side.peer, data))
                    if size == CHUNK_BYTES or not size:
                        self._after(side, data, now)
            if self._unread:
                self._drain_rests(now)
            self._deliver()
            self._rest(now, busy=bool(events or self._unread))

    def _rest(self, began: float, *, busy: bool) -> None:
        """Until there is something to do; after a turn that read something, for as long as
        moderation asks."""
        if began >= self._chore_at:
            self._do_chores(began)
        if not busy:
            self._poller.wait(self._time_to_next())
        elif self._moderation_s:
            sleep(max(0.0, began + self._moderation_s - perf_counter()))

    def _time_to_next(self) -> float | None:
        due = min((route.next_due() for route in self._routes), default=NEVER)
        due = min(due, self._chore_at)
        return None if due == NEVER else max(0.0, due - perf_counter())

    def _deliver(self) -> None:
        """Sends everything that is due."""
        for route in self._routes:
            if route.newcomers:
                self._admit(route)
            queue = route.queue
            now = perf_counter()
            if queue and queue[0][0] < now - LATE_S:
                self._note_stall(queue[0][0], now)
            while queue and queue[0][0] <= now:
                _, sink, data = queue.popleft()
                if not data or sink.backlog:
                    self._deliver_slowly(sink, data)
                    continue
                try:
                    sent = sink.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._broken(sink, now)
                    continue
                if sent != len(data):
                    self._keep(sink, data[sent:])

    def _note_stall(self, due: float, now: float) -> None:
        if len(self._stalls) < MOST_STALLS:
            self._stalls.append((due, now))
        else:
            self._stalls[-1] = (self._stalls[-1][0], now)

    # Reading

    def _unusual(self, side: Side, mask: int, now: float) -> None:
        if mask & OUT and side.backlog:
            self._flush(side, now)
        if mask & ERR and side.ended and not side.closed:
            self._broken(side, now)
        elif mask & ~OUT:
            self._drain(side, now)

    def _drain(self, side: Side, now: float) -> None:
        """Reads until nothing is left: edge-triggered, a rest would never be told of again.

        A rest beyond DRAIN_CHUNKS waits for the next turn, after what is due was delivered: only
        then does a reader that has stopped show, and a writer without end would keep us here.
        """
        for _ in range(DRAIN_CHUNKS):
            if side.held or side.closed:
                return
            try:
                data = side.recv(CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._broken(side, now)
                return
            side.chunks += 1
            side.bytes += len(data)
            side.append((now + side.delay_s, side.peer, data))
            if not data:
                self._ended(side)
                return
        self._unread.append(side)

    def _drain_rests(self, now: float) -> None:
        rests, self._unread = self._unread, []
        for side in rests:
            self._drain(side, now)

    def _after(self, side: Side, data: bytes, now: float) -> None:
        if data:
            self._drain(side, now)
        else:
            self._ended(side)

    def _ended(self, side: Side) -> None:
        """FIN was read and travels on; there is no more to read."""
        side.chunks -= 1  # END is none
        side.held = side.ended = True
        self._watch(side)
        if side.lost and side.peer.closed:  # nobody is left to hear of it
            self._close(side)

    # Writing

    def _deliver_slowly(self, sink: Side, data: bytes | None) -> None:
        if sink.closed:
            return
        if sink.lost and not data:
            self._haunt(sink)
        elif not data and sink.send is _full:
            sink.must_end = True  # and when it heals, the end follows what was held
        elif data is RESET:
            self._abort(sink)
        elif data:
            self._keep(sink, data)
        elif sink.backlog:
            sink.must_end = True
        else:
            self._send_end(sink)

    def _keep(self, sink: Side, rest: bytes) -> None:
        sink.backlog += rest
        if len(sink.backlog) > BACKLOG_LIMIT_BYTES and not sink.peer.held:
            sink.peer.held = True
            self._watch(sink.peer)
        self._watch(sink)

    def _flush(self, sink: Side, now: float) -> None:
        try:
            sent = sink.send(sink.backlog)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._broken(sink, now)
            return
        del sink.backlog[:sent]
        self._watch(sink)
        if not sink.backlog:
            self._flushed(sink, now)

    def _flushed(self, sink: Side, now: float) -> None:
        if not sink.must_end:
            self._release(sink.peer, now)
        elif sink.peer.closed:  # a stall held back its RST
            self._abort(sink)
        else:
            self._send_end(sink)

    def _release(self, side: Side, now: float) -> None:
        """Reads it again, first of all what came while it was held: no event tells of that."""
        if side.held and not side.ended:
            side.held = False
            self._watch(side)
            self._drain(side, now)

    def _watch(self, side: Side) -> None:
        """To be called when `held`, `backlog` or `send` has changed."""
        side.unusual = side.held or bool(side.backlog)
        if not side.closed:
            # A stalled side's socket would be writable all the time.
            write = bool(side.backlog) and side.send is not _full
            self._poller.interest(side.fd, read=not side.held, write=write)

    def _send_end(self, sink: Side) -> None:
        with contextlib.suppress(OSError):
            sink.sock.shutdown(socket.SHUT_WR)
        sink.sent_end = True
        if (peer := sink.peer).sent_end:
            self._close(sink)
            self._close(peer)

    # Ends

    def _broken(self, side: Side, now: float) -> None:
        """The socket failed under us: its peer hears of it after the delay, behind the data."""
        side.append((now + side.delay_s, side.peer, RESET))
        self._close(side)

    def _abort(self, side: Side) -> None:
        """Closes it with RST."""
        with contextlib.suppress(OSError):
            side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._close(side)

    def _close(self, side: Side) -> None:
        if side.closed:
            return
        side.closed = True
        del self._sides[side.fd]
        self._poller.forget(side.fd)
        side.sock.close()
        side.send = len
        side.backlog.clear()
        totals = self._closed_totals[_direction(side)]
        totals[0] += side.bytes
        totals[1] += side.chunks
        if side.peer.closed:  # nothing else breaks this cycle: the collector is off
            del side.peer.peer, side.peer

    # Idle ends

    def _do_chores(self, now: float) -> None:
        """What is looked at now and then."""
        for _ in range(ENDS_A_TURN):
            if self._ghosts and self._ghosts[0][0] <= now:
                self._abort(self._ghosts.popleft()[1])
        for route in self._routes:
            if route.next_sweep <= now:
                self._sweep(route, now)
        ghost_at = self._ghosts[0][0] if self._ghosts else NEVER
        self._chore_at = min((route.next_sweep for route in self._routes), default=NEVER)
        self._chore_at = min(self._chore_at, ghost_at)

    def _sweep(self, route: Route, now: float) -> None:
        """Ends what has carried nothing for too long: a few in this turn, the rest in the next."""
        assert route.idle_s is not None
        route.unswept = route.unswept or len(route.activity)
        ends = 0
        for _ in range(min(route.unswept, LOOKS_A_TURN)):
            client, chunks, since = route.activity.popleft()
            route.unswept -= 1
            if client.closed or client.lost:
                continue
            carried = client.chunks + client.peer.chunks
            if carried != chunks:
                since = now
            if now - since < route.idle_s:
                route.activity.append((client, carried, since))
                continue
            self._dropped += 1
            self._drop(client, route.idle_end, now)
            ends += 1
            if ends == ENDS_A_TURN:
                break
        if route.unswept:
            route.next_sweep = now
        else:
            route.next_sweep = now + route.sweep_s if route.activity else NEVER

    def _drop(self, client: Side, manner: str, now: float) -> None:
        server = client.peer
        if manner == "fin":
            self._send_end(client)
            self._send_end(server)
        elif manner == "reset":
            self._abort(client)
            self._abort(server)
        else:
            self._lose(client, now)
            if manner == "reset on next":
                for side in (client, server):
                    side.send = functools.partial(self._refuse, side)

    def _lose(self, client: Side, now: float) -> None:
        """Nothing passes any more, in either direction, and neither end is told. What they send is
        read all the same, also by a side that a full backlog had held."""
        both = client, client.peer
        for side in both:
            side.backlog.clear()
            side.lost, side.send = True, len
            self._watch(side)
            if side.must_end and not side.closed:
                self._haunt(side)
        for side in both:
            self._release(side, now)

    def _refuse(self, sink: Side, data: Any) -> int:
        """What was sent towards `sink` is answered to its sender by RST."""
        self._abort(sink.peer)
        self._haunt(sink)
        return len(data)

    def _haunt(self, sink: Side) -> None:
        """The other end left unheard: that one's socket is closed, and this one stays."""
        refuses = sink.send is not len
        sink.send = len
        self._close(sink.peer)
        if refuses:  # what this end sends is answered likewise
            sink.peer.send = functools.partial(self._reset, sink)
        if sink.to_server and not sink.ended:
            return  # it is the client that is left alone: let it find out
        if sink.ended and not sink.to_server:
            self._close(sink)
            return
        # Of a client that has sent FIN no event would ever tell us that it left.
        self._ghosts.append((perf_counter() + GHOST_S, sink))
        self._chore_at = min(self._chore_at, self._ghosts[0][0])

    def _reset(self, side: Side, data: Any) -> int:
        self._abort(side)
        return len(data)

    # Faults by command

    def set_fault(self, kind: str, share: float = 1.0, port: int | None = None) -> dict[str, Any]:
        """ "stall", "cut" or "sever" from now on, or "" for the end of it: on the route with this
        port, or on all that there are."""
        now = perf_counter()
        routes = {route for route in self._routes if port in (None, route.port)}
        for route in routes & set(self._listening.values()):
            self._accept(route, LISTEN_BACKLOG)  # they came before this command
        clients = [client for client in self._clients() if client.route in routes]
        for route in routes:
            # A stall of some connections leaves those that come alone.
            route.fault = kind if share == 1.0 else ""
        if kind == "stall":
            self._stall(clients, share)
        elif kind == "cut":
            self._cut(routes, clients)
        elif kind == "sever":
            for client in clients:
                self._lose(client, now)
        else:
            self._heal(routes, now)
        return {}

    def _clients(self) -> list[Side]:
        """The oldest first."""
        return [side for side in self._sides.values() if side.to_server]

    def _stall(self, clients: list[Side], share: float) -> None:
        alive = [client for client in clients if not client.lost]
        # Rounded up; but 0.07 of 100 is 7.000000000000001.
        for client in alive[: math.ceil(round(share * len(alive), 6))]:
            for side in (client, client.peer):
                if not side.closed:
                    side.send = _full
                    self._watch(side)

    def _cut(self, routes: set[Route], clients: list[Side]) -> None:
        for client in clients:
            self._abort(client.peer)
            self._abort(client)
        for route in routes:
            fd = route.listener.fileno()
            self._poller.forget(fd)
            del self._listening[fd]
            route.refuse()

    def _heal(self, routes: set[Route], now: float) -> None:
        for side in list(self._sides.values()):
            if side.send is _full and side.route in routes:
                side.send = side.sock.send
                if side.backlog or side.must_end:
                    self._flush(side, now)
        for route in routes:
            if route.listener.fileno() not in self._listening:
                self._listen(route)

    # Connections

    def _serve(self, fd: int) -> None:
        if fd in self._listening:
            self._accept(self._listening[fd])
        elif fd == 0:
            self._answer()
        # else its side was closed earlier in this very turn

    def _accept(self, route: Route, most: int = ACCEPTS_A_TURN) -> None:
        for _ in range(most):
            try:
                accepted, _ = route.listener.accept()
                upstream = socket.socket(route.family)
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as failure:
                sys.exit(f"the link cannot take another connection: {failure.strerror}")
            self._join(route, Side(accepted, route, True), Side(upstream, route, False))

    def _join(self, route: Route, client: Side, server: Side) -> None:
        """Connects on at once, but does not read the client for one round trip.

        The kernel completed the handshake before we could delay its packets; held here, the first
        byte arrives as late as if SYN and SYN-ACK had travelled.
        """
        client.peer, server.peer = server, client
        self._sides[client.fd] = client
        self._sides[server.fd] = server
        self._accepted += 1
        now = perf_counter()
        if route.idle_s:
            route.activity.append((client, 0, now))
            route.next_sweep = min(route.next_sweep, now + route.sweep_s)
            self._chore_at = min(self._chore_at, route.next_sweep)
        route.newcomers.append((now + route.rtt_s, client))
        if route.fault == "sever":  # its SYN would have been lost too: the server hears of nothing
            self._lose(client, now)
            self._close(server)
            return
        if route.fault == "stall":
            client.send = server.send = _full
        status = server.sock.connect_ex(route.target)
        self._poller.add(server.fd)
        if status not in (0, errno.EINPROGRESS):
            self._broken(server, now)

    def _admit(self, route: Route) -> None:
        now = perf_counter()
        while route.newcomers and route.newcomers[0][0] <= now:
            _, client = route.newcomers.popleft()
            if not client.closed:
                self._poller.add(client.fd)
                self._watch(client)

    # Commands

    def _answer(self) -> None:
        received = os.read(0, CHUNK_BYTES)
        self._running = bool(received)
        *requests, self._requests = (self._requests + received).split(b"\n")
        for request in requests:
            sys.stdout.buffer.write(host.answer(request, self._commands))
        sys.stdout.buffer.flush()

    def open_route(
        self, rtt_s: float, host_name: str, port: int, idle_s: float | None, idle_end: str
    ) -> dict[str, Any]:
        route = Route(rtt_s, (host_name, port), idle_s, idle_end)
        self._routes.append(route)
        self._listen(route)
        return {"address": route.listener.getsockname()}

    def _listen(self, route: Route) -> None:
        route.listener.listen(LISTEN_BACKLOG)
        fd = route.listener.fileno()
        self._listening[fd] = route
        self._poller.add_level(fd)

    def stats(self) -> dict[str, Any]:
        totals = {direction: list(both) for direction, both in self._closed_totals.items()}
        for side in self._sides.values():
            totals[_direction(side)][0] += side.bytes
            totals[_direction(side)][1] += side.chunks
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "connections": sum(side.to_server for side in self._sides.values()),
            "accepted": self._accepted,
            "dropped": self._dropped,
            "fds": host.open_fds(os.getpid()),
            "bytes_to_server": totals["to_server"][0],
            "chunks_to_server": totals["to_server"][1],
            "bytes_to_client": totals["to_client"][0],
            "chunks_to_client": totals["to_client"][1],
            "cpu_user_s": usage.ru_utime,
            "cpu_system_s": usage.ru_stime,
        }

    def mark(self) -> dict[str, Any]:
        self._stalls.clear()
        return {}

    def stalls(self) -> dict[str, Any]:
        return {"stalls": self._stalls}

    def connections(self) -> dict[str, Any]:
        """Bytes and chunks of every open connection, to the server and to the client."""
        clients = [side for side in self._sides.values() if side.to_server]
        return {
            "open": [
                [side.bytes, side.chunks, side.peer.bytes, side.peer.chunks] for side in clients
            ]
        }


def _direction(side: Side) -> str:
    return "to_server" if side.to_server else "to_client"


def sharpen_timers() -> None:
    """Linux lets an ordinary thread oversleep by 50 µs, which would be 0.1 ms a round trip."""
    if host.LINUX:
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)


def main() -> None:
    host.raise_fd_limit(0)
    sharpen_timers()
    gc.disable()  # a collection over 10,000 sides would be a stall on every connection
    poller = EpollPoller() if hasattr(select, "epoll") else SelectorPoller()
    (moderation_s,) = sys.argv[1:]
    Relay(poller, float(moderation_s)).run()


if __name__ == "__main__":
    main()
