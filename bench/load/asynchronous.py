"""Lanes on redis-py's asyncio pool, in a process of their own: `python -m bench.load.asynchronous`,
asked as a `Companion`.

A worker's process is gevent's, where asyncio's loop has no place. The loop never rests between
bursts, as a service's does not, so that it hears of connections that end meanwhile. What is due is
woken up to 1 ms late, as asyncio rounds its timers up to that.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter as clock
from typing import Any

from numpy.typing import NDArray
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.exceptions import RedisError

from bench.load.bursts import (
    ANSWERED,
    LEAD_S,
    OWN_FDS,
    Demand,
    connection_options,
    pauses,
    row,
    uncollected,
)
from bench.load.loans import Loan, Watched, outcome_of
from bench.load.telling import serve
from bench.model import OUTCOMES, Cell
from bench.rig.access import Access
from bench.rig.firewall import Passage
from bench.rig.host import raise_fd_limit
from bench.rig.relay import sharpen_timers
from bench.rig.server import KEY_PREFIX
from bench.rig.sockets import NewSocket

# The last loan of each task; None where the pool gave it no connection.
_LOAN: ContextVar[Loan | None] = ContextVar("loan", default=None)


class LoanedConnection(Watched, Connection):
    """redis-py's own; by a socket of `new_socket`, where one is given."""

    def __init__(self, *, new_socket: NewSocket | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._new_socket = new_socket
        self._arguments: dict[str, Any] = {"host": self.host, "port": self.port}

    def _connection_arguments(self) -> dict[str, Any]:
        return self._arguments

    async def _connect(self) -> None:
        if self._new_socket is not None:
            self._arguments = {"sock": await self._connected(self._new_socket())}
        await super()._connect()  # type: ignore[no-untyped-call]

    async def _connected(self, made: Any) -> Any:
        made.setblocking(False)
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(made, (self.host, self.port))
        except BaseException:
            made.close()
            raise
        return made

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_connected:
            await super().connect_check_health(*args, **kwargs)
            self.is_open()

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        self.note_sending()
        try:
            await super().send_packed_command(*args, **kwargs)
        except (RedisError, OSError) as error:
            self.note(outcome_of(error))
            raise

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            reply = await super().read_response(*args, **kwargs)
        except (RedisError, OSError) as error:
            self.note(outcome_of(error))
            raise
        self.note("ok")
        return reply


class LoanedPool(ConnectionPool):
    """redis-py's own, that notes each loan."""

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        _LOAN.set(None)
        asked = clock()
        connection: Any = await super().get_connection()  # type: ignore[no-untyped-call]
        _LOAN.set(connection.lend(asked))
        return connection

    async def release(self, connection: Any) -> None:
        connection.take_back()
        await super().release(connection)


class Lane:
    """As `bench.load.lanes.Lane`."""

    def __init__(self, cell: Cell, access: Access, address: Any, passage: str, seed: int) -> None:
        self._cell = cell
        self._demand = Demand(cell, seed)
        self._passage = Passage(passage) if passage else None
        self._pool = LoanedPool(
            connection_class=LoanedConnection,
            max_connections=cell.pool_size,
            retry=Retry(pauses(cell), cell.retries),
            **connection_options(cell, access, address, self._passage),
        )

    async def fill(self) -> None:
        held = [await self._pool.get_connection() for _ in range(self._cell.pool_size)]
        for connection in held:
            await self._pool.release(connection)

    async def burst(self) -> dict[str, Any]:
        with uncollected():
            rows = await Burst(self._pool, self._cell).run(self._demand.arrivals())
        return {"rows": rows.tobytes()}

    async def close(self) -> None:
        await self._pool.aclose()
        if self._passage is not None:
            self._passage.close()


class Burst:
    """Requests at their times, each a task of its own."""

    def __init__(self, pool: Any, cell: Cell) -> None:
        self._client: Any = Redis(connection_pool=pool)
        self._keys = cell.workload.keys
        self._rows = array("d")

    async def run(self, arrivals: NDArray[Any]) -> array[float]:
        began = clock() + LEAD_S
        async with asyncio.TaskGroup() as requests:
            for number, intended in enumerate((arrivals + began).tolist()):
                if (early := intended - clock()) > 0:
                    await asyncio.sleep(early)
                key = f"{KEY_PREFIX}{(number + 1) % self._keys}"
                requests.create_task(self._serve(intended, key))
        return self._rows

    async def _serve(self, intended: float, key: str) -> None:
        """A GET."""
        sent = clock()
        try:
            await self._client.get(key)
            outcome = ANSWERED
        except (RedisError, OSError) as error:
            outcome = OUTCOMES.index(outcome_of(error))
        first = _LOAN.get()
        commands = first.commands if first is not None else 0
        self._rows.extend(row(intended, sent, clock(), outcome, first, commands, False))


class Keeper:
    """Lanes by their number; its methods answer the master's messages."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}

    async def open(
        self, lane: int, cell: dict[str, Any], address: list[Any], passage: str, seed: int
    ) -> dict[str, Any]:
        began = clock()
        asked = Cell.from_dict(cell)
        raise_fd_limit(asked.pool_size + OWN_FDS)
        made = Lane(asked, Access.from_environment(), tuple(address), passage, seed)
        await made.fill()
        self._lanes[lane] = made
        return {"seconds": clock() - began}

    async def burst(self, lane: int) -> dict[str, Any]:
        return await self._lanes[lane].burst()

    async def close(self, lane: int) -> dict[str, Any]:
        await self._lanes.pop(lane).close()
        return {}


def main() -> None:
    loop = asyncio.new_event_loop()
    threading.Thread(target=_go_on, args=(loop,), daemon=True).start()

    def waiting(work: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        return lambda **args: asyncio.run_coroutine_threadsafe(work(**args), loop).result()

    keeper = Keeper()
    verbs: dict[str, Callable[..., Any]] = {
        "lane.open": keeper.open,
        "lane.burst": keeper.burst,
        "lane.close": keeper.close,
    }
    serve({verb: waiting(work) for verb, work in verbs.items()})


def _go_on(loop: asyncio.AbstractEventLoop) -> None:
    """For as long as the process lives."""
    sharpen_timers()  # it is a setting of the thread
    loop.run_forever()


if __name__ == "__main__":
    main()
