"""The parent's side of clients that cannot live in Locust's workers: what `Swarm` is for these."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Self

import gevent
from gevent.greenlet import Greenlet

from bench.load.swarm import PREPARE_TIMEOUT_S, Address, Running, Swarm, shares
from bench.load.telling import as_told
from bench.load.threaded import DRAIN_TIMEOUT_S
from bench.model import ASYNCIO, ApparatusLost, BenchError, Cell
from bench.rig.access import Access
from bench.rig.host import Companion
from bench.rig.server import connection_settings
from bench.rig.tls import TLSConnection

FOR_EVER_S = 1e6  # what a cell may take is known only when it is asked for: `_gather` keeps time

Answer = dict[str, Any] | ApparatusLost


class Companions:
    """`count` processes of one module, called `title` in messages, until closed.

    A context manager. `add` is put into their environment.
    """

    def __init__(self, module: str, title: str, count: int, add: Mapping[str, str]) -> None:
        self._module = module
        self._title = title
        self._count = count
        self._add = add
        self._companions: list[Companion] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number in range(1, self._count + 1):
                name = f"{self._title} {number}"
                companion = Companion(self._module, name=name, timeout_s=FOR_EVER_S, env=self._add)
                stack.callback(companion.close)
                self._companions.append(companion)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [companion.pid for companion in self._companions]

    def _gather(self, asked: Sequence[Greenlet], timeout_s: float) -> list[Answer]:
        """Each one's answer, or why there is none."""
        gevent.joinall(asked, timeout=timeout_s)
        silent = sum(not greenlet.ready() for greenlet in asked)
        gevent.killall(asked)
        return [
            self.loss(silent) if isinstance(greenlet.value, gevent.GreenletExit) else greenlet.value
            for greenlet in asked
        ]

    def check(self) -> None:
        """Raise ApparatusLost if a process has ended."""
        for companion in self._companions:
            companion.check()

    def loss(self, silent: int) -> ApparatusLost:
        """What to raise for a process that has ended; where none has, for `silent` ones that did
        not answer in time."""
        what = f"{silent} of {self._count} {self._title}s did not answer in time"
        try:
            self.check()
        except ApparatusLost as loss:
            what = str(loss).rstrip(".")
        return ApparatusLost(what)

    def close(self) -> None:
        """End the processes. May be repeated."""
        self._stack.close()


class Lodging(Companions):
    """The process of lanes on asyncio, with those of `Swarm`'s methods that lanes are asked by."""

    def __init__(self, access: Access) -> None:
        super().__init__("bench.load.asynchronous", "asyncio client", 1, access.environment())

    def order(self, verb: str, arguments: Sequence[dict[str, Any]]) -> list[Greenlet]:
        """Sends a message; returns what `answers` takes."""
        [args] = arguments
        asked = [_ask(self._companions[0], verb, **args)]
        gevent.sleep(0)  # the greenlet sends what is asked when it is first run
        return asked

    def answers(self, asked: Sequence[Greenlet], timeout_s: float) -> list[dict[str, Any]]:
        """Blocks for them. Raises BenchError when it failed, ApparatusLost when it is gone or
        late."""
        return _all_of(self._gather(asked, timeout_s))


@contextmanager
def hands(
    cells: Sequence[Cell], access: Access, log: IO[bytes]
) -> Iterator[dict[bool, Swarm | Lodging]]:
    """Whoever runs the lanes of these cells, by whether on asyncio, until left."""
    workers = [cell.workers for cell in cells if cell.maker != ASYNCIO]
    with ExitStack() as stack:
        opened: dict[bool, Swarm | Lodging] = {}
        if workers:
            opened[False] = stack.enter_context(Swarm(max(workers), max(workers), access, log))
        if len(workers) < len(cells):
            opened[True] = stack.enter_context(Lodging(access))
        yield opened


class Crew(Companions):
    """`processes` of the threaded client, each with a connection of its own, until closed.

    A context manager, with `Swarm`'s methods and meaning. `users` and `log` are there for likeness:
    threads are made for each cell, and what a process has to say is told when it is lost.
    """

    def __init__(self, processes: int, users: int, access: Access, log: IO[bytes]) -> None:
        super().__init__("bench.load.threaded", "threaded client", processes, {})
        self._access = access
        self._measuring: list[Greenlet] = []

    def prepare(self, cell: Cell, address: Address | None, seed: int) -> list[dict[str, Any]]:
        """Have the cell's processes connect; blocks until all are. There may be more of them: these
        close their connections.

        Raises BenchError when one cannot connect, ApparatusLost when one is gone.
        """
        self._close_pools_of(self._companions[cell.workers :])
        common = {"cell": dataclasses.asdict(cell), "way": self._way(cell, address), "seed": seed}
        asked = [
            _ask(companion, "prepare", **common, share=share, worker=number)
            for number, (companion, share) in enumerate(
                zip(self._of(cell), shares(cell.concurrency, cell.workers), strict=True)
            )
        ]
        return _all_of(self._gather(asked, PREPARE_TIMEOUT_S))

    def _way(self, cell: Cell, address: Address | None) -> dict[str, Any]:
        """Where to connect, and how. It holds the password: the channel is nobody else's."""
        settings = connection_settings(
            self._access.url,
            address,
            login=self._access.logins.get(cell.auth),
            ca_file=self._access.ca_file if cell.tls != "none" else None,
        )
        return {
            "host": settings["host"],
            "port": settings.get("port", 6379),
            "username": settings.get("username"),
            "password": settings.get("password"),
            "database": cell.database or settings.get("db", 0),
            "tls": settings.get("connection_class") is TLSConnection,
            "ca_file": settings.get("ssl_ca_certs"),
        }

    def _of(self, cell: Cell) -> Sequence[Companion]:
        return self._companions[: cell.workers]

    def enter(self, cell: Cell) -> None:
        """Let the prepared cell's users in; blocks until all are going and warmed up."""
        asked = [_ask(companion, "enter") for companion in self._of(cell)]
        _all_of(self._gather(asked, cell.warmup_s + DRAIN_TIMEOUT_S))

    def start(self, cell: Cell) -> Running:
        """Begin the window of the cell whose users are going; returns at once."""
        self._measuring = [_ask(companion, "measure") for companion in self._of(cell)]
        gevent.sleep(0)  # the greenlets send what is asked when they are first run
        return Running(cell, ())

    def collect(self, running: Running) -> list[dict[str, Any]]:
        """Blocks until the cell is over: each process's share of the figures, but for those of
        processes that were lost meanwhile. Raises ApparatusLost when none is left, BenchError when
        one failed."""
        told = self._gather(self._measuring, running.cell.measure_s + 2 * DRAIN_TIMEOUT_S)
        answered = [answer for answer in told if not isinstance(answer, ApparatusLost)]
        return _all_of(answered or told)

    def close_pools(self) -> None:
        """Have every process close its connection; blocks until they are."""
        self._close_pools_of(self._companions)

    def _close_pools_of(self, companions: Sequence[Companion]) -> None:
        asked = [_ask(companion, "close") for companion in companions]
        _all_of(self._gather(asked, PREPARE_TIMEOUT_S))


def _ask(companion: Companion, verb: str, **args: Any) -> Greenlet:
    """To be answered while others are asked: each blocks for the cell. A greenlet that fails would
    print that, so a loss is a result."""

    def asking() -> Answer:
        try:
            answer: dict[str, Any] = as_told(companion.ask(verb, **args))
        except ApparatusLost as loss:
            return loss
        if "failure" in answer:
            return {"failure": f"{companion.name} failed: {answer['failure']}"}
        return answer

    return gevent.spawn(asking)


def _all_of(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Raises what stands in the place of an answer."""
    told = []
    for answer in answers:
        if isinstance(answer, ApparatusLost):
            raise answer
        if "failure" in answer:
            raise BenchError(answer["failure"])
        told.append(answer)
    return told
