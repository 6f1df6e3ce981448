"""The parent's side of the threaded client: what `Swarm` is for Locust's workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

import gevent
from gevent.event import AsyncResult

from bench.load.swarm import Address, Running, shares
from bench.model import ApparatusLost, Cell
from bench.rig.access import Access
from bench.rig.host import Companion
from bench.rig.server import connection_settings

PATIENCE_S = 60.0  # until a process that does not answer is given up


class Crew:
    """`processes` of the threaded client, each with a connection of its own, until closed.

    A context manager, with `Swarm`'s methods and meaning. Raises ApparatusLost when one is gone.
    """

    def __init__(self, processes: int, users: int, access: Access, log: IO[bytes]) -> None:
        self._count = processes
        self._access = access

    def __enter__(self) -> Crew:
        self._stack = ExitStack()
        self._companions = [self._opened(number) for number in range(self._count)]
        return self

    def _opened(self, number: int) -> Companion:
        name = f"threaded client {number + 1}"
        companion = Companion("bench.load.threaded", name=name, timeout_s=PATIENCE_S)
        self._stack.callback(companion.close)
        return companion

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [companion.pid for companion in self._companions]

    def prepare(self, cell: Cell, address: Address | None, seed: int) -> list[dict[str, Any]]:
        """Have the cell's processes connect; blocks until all are."""
        settings = connection_settings(self._access.url, address)
        fields = dataclasses.asdict(cell)
        where = [settings["host"], settings.get("port", 6379)]
        return [
            companion.ask("prepare", cell=fields, address=where, share=share, seed=seed, worker=n)
            for n, (companion, share) in enumerate(self._with_shares(cell))
        ]

    def _with_shares(self, cell: Cell) -> Sequence[tuple[Companion, int]]:
        return list(zip(self._companions, shares(cell.concurrency, cell.workers), strict=False))

    def enter(self, cell: Cell) -> None:
        """Let the cell's users begin; blocks until they are warmed up."""
        for answer in self._asked(cell, "enter"):
            answer.get()

    def start(self, cell: Cell) -> Running:
        """Begin the window; returns at once."""
        self._answers = self._asked(cell, "measure")
        return Running(cell, ())

    def collect(self, running: Running) -> list[dict[str, Any]]:
        """Blocks until the cell is over: each process's share of the figures, but for those of
        processes that were lost meanwhile. Raises ApparatusLost when none is left."""
        told, lost = [], None
        for answer in self._answers:
            try:
                told.append(_with_bytes(answer.get()))
            except ApparatusLost as loss:
                lost = loss
        if lost is not None and not told:
            raise lost
        return told

    def _asked(self, cell: Cell, verb: str) -> list[AsyncResult[dict[str, Any]]]:
        """Side by side: each blocks for the cell."""
        return [gevent.spawn(companion.ask, verb) for companion, _ in self._with_shares(cell)]

    def close_pools(self) -> None:
        """Have every process close its connection."""
        for companion in self._companions:
            companion.ask("close")

    def check(self) -> None:
        """Raise ApparatusLost if a process has ended."""
        for companion in self._companions:
            companion.check()

    def loss(self, silent: int) -> ApparatusLost:
        """What to raise for a process that has ended, or for `silent` ones that did not answer."""
        try:
            self.check()
        except ApparatusLost as loss:
            return loss
        return ApparatusLost(f"{silent} of {self._count} threaded clients did not answer in time")

    def close(self) -> None:
        """End the processes. May be repeated."""
        self._stack.close()


def _with_bytes(value: Any) -> Any:
    """What `bench.load.threaded` made text of."""
    if isinstance(value, dict):
        if set(value) == {"ascii"}:
            return value["ascii"].encode("ascii")
        return {name: _with_bytes(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_bytes(part) for part in value]
    return value
