"""Connections opened when a block begins and left alone, to see what they cost as they age.

A connection that has just been opened holds buffers the server takes back after some seconds of
idleness (rule 8 of the methods). Waiting for that beside each cell would take longer than the
cells; these grow old while the block is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter as clock

import redis
from redis.connection import Connection

from bench.rig.server import Server

COUNT = 5


@dataclass(frozen=True, slots=True)
class IdleCost:
    """How long a connection has been idle, and the server memory it holds (None: not told)."""

    age_s: float
    memory_bytes: float | None


class IdleConnections:
    """`COUNT` of them, until closed. Raises ApparatusLost when the server is gone."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connections: list[Connection] = []
        self._ids: list[int] = []
        try:
            for _ in range(COUNT):
                self._connections.append(server.connect())
            self._ids = [int(server.command(each, "CLIENT", "ID")) for each in self._connections]
        except redis.ResponseError:
            self._ids = []  # an ACL may forbid CLIENT: then their cost stays unknown
        self._since = clock()

    def cost(self) -> IdleCost:
        """Asks the server once."""
        memory = self._server.client_memory_bytes(self._ids) if self._ids else None
        mean = sum(memory) / len(memory) if memory else None
        return IdleCost(clock() - self._since, mean)

    def close(self) -> None:
        """May be repeated."""
        for each in self._connections:
            each.disconnect()
