"""What a lane is, whatever runs it: when a burst's requests come, how its connections are set, and
what is kept of each request."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff, NoBackoff

from bench.load.loans import NEVER_USED, NO_COMMAND, Loan
from bench.model import OUTCOMES, Cell
from bench.rig.access import Access
from bench.rig.firewall import Passage
from bench.rig.server import connection_settings

LEAD_S = 0.005  # from the order to the first request
OWN_FDS = 200
PROBES_LOST = 3  # of the kernel's, until it gives a connection up: redis-py's own, as the interval
ANSWERED = OUTCOMES.index("ok")
RETRIED = OUTCOMES.index("ok after retry")


class Demand:
    """What one worker's lane of this cell is asked for, burst by burst."""

    def __init__(self, cell: Cell, seed: int) -> None:
        assert cell.idling is not None, "a lane sleeps"
        assert cell.offered_qps is not None, "a burst has a rate"
        idling = cell.idling
        self._requests = idling.requests // cell.workers
        self._volley = min(idling.volley, self._requests)
        self._rate = cell.offered_qps / cell.workers
        self._other_share = cell.service.other_share if cell.service is not None else 0.0
        self._random = np.random.default_rng(seed)

    def arrivals(self) -> NDArray[np.float64]:
        """Seconds after the burst's begin."""
        waits = self._random.exponential(1 / self._rate, self._requests - self._volley)
        return np.concatenate([np.zeros(self._volley), np.cumsum(waits)])

    def others(self) -> NDArray[np.bool_]:
        """Which of the requests do not need Redis."""
        return self._random.random(self._requests) < self._other_share


def row(
    intended: float,
    sent: float,
    done: float,
    outcome: int,
    first: Loan | None,
    commands: int,
    other: bool,
) -> tuple[float, ...]:
    """A request that has ended, as `LANE_COLUMNS`; `first` is its first loan, if it had one. With
    more than one command an answer came after a retry."""
    if outcome == ANSWERED and commands > 1:
        outcome = RETRIED
    if first is None:
        return intended, sent, NEVER_USED, done, NEVER_USED, outcome, NO_COMMAND, commands, other
    return (
        intended, sent, first.acquired, done, first.idle_s, outcome, first.first, commands, other,
    )  # fmt: skip


@contextmanager
def uncollected() -> Iterator[None]:
    """A collection would walk over thousands of connections, again and again while more come."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def connection_options(
    cell: Cell, access: Access, address: Any, passage: Passage | None
) -> dict[str, Any]:
    """What redis-py's connections of both kinds are made with; their retries differ."""
    options = connection_settings(access.url, address)
    options |= {"new_socket": passage.socket if passage is not None else None, **_kept(cell)}
    if cell.socket_timeout_s is not None:
        # Not that of connecting: what this machine takes for it grows no shorter with the scale.
        options["socket_timeout"] = cell.socket_timeout_s
    return options


def _kept(cell: Cell) -> dict[str, Any]:
    """What the client's kernel is to do about a silent connection."""
    if cell.keepalive_s is None:
        return {"socket_keepalive": False, "socket_keepalive_options": {}}
    return {"socket_keepalive": True, "socket_keepalive_options": keepalive_options(cell)}


def keepalive_options(cell: Cell) -> dict[int, int]:
    """By the names of Linux; elsewhere the first one has another."""
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    options = {idle: cell.keepalive_s, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: PROBES_LOST}
    return {name: value for name, value in options.items() if name is not None and value}


def pauses(cell: Cell) -> AbstractBackoff:
    """Between retries: redis-py's, with the cell's longest."""
    if not cell.backoff_s:
        return NoBackoff()
    # Their ratio is that of redis-py's own 10 ms and 1 s.
    return ExponentialWithJitterBackoff(cap=cell.backoff_s, base=cell.backoff_s / 100)
