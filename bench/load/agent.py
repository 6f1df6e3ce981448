"""The worker's side: Locust spawns the users once per block, the master says what they do.

Messages, each answered once with the tag it came with (a dict; bytes pass as they are):
`prepare` opens the pool, `enter` lets the users in and warms up, `measure` answers with the
worker's share of the figures, `close` ends the pool. Of cells that sleep: those of `Keeper`.
An exception inside a handler would reach only the worker's log, so every answer carries `error`.
"""

from __future__ import annotations

import dataclasses
import gc
import resource
import traceback
from time import perf_counter as clock
from typing import Any

import gevent
import numpy as np
from gevent.queue import SimpleQueue
from locust import User, events, task
from redis.exceptions import RedisError

from bench.load.clients import open_pool
from bench.load.closed_loop import ClosedLoop
from bench.load.lanes import Keeper
from bench.load.open_loop import OpenLoop
from bench.load.pool import Pool, PoolStats
from bench.load.recorder import IN_FLIGHT, interval_count
from bench.load.users import Job
from bench.model import BenchError, Cell
from bench.rig.access import Access
from bench.rig.host import raise_fd_limit

DRAIN_S, DRAIN_TIMEOUT_S = 10.0, 15.0
# Connecting costs CPU near by and round trips afar: at 50 ms, 100 at a time would take 5,000
# connections 5 s of waiting. The listeners' backlog is 4096.
CONNECTING, CONNECTING_AFAR = 100, 1000
OWN_FDS = 100  # sockets to the master, log files, libraries


class VirtualUser(User):
    """Parked until the agent gives it a job; made once per block, so spawning is never measured.

    Its requests run in a greenlet of its own: in Locust's, whose stack is deeper, a request's two
    switches cost 1.3 µs more (eight pairs of runs: 16.5 against 15.1 µs of CPU at best).
    """

    def on_start(self) -> None:
        self.inbox: SimpleQueue[Job] = SimpleQueue()
        self.greenlet_at_work = gevent.spawn(self.work)
        agent_of(self.environment).users.append(self)

    def work(self) -> None:
        while True:
            self.inbox.get().run()

    @task
    def serve(self) -> None:
        try:
            self.greenlet_at_work.join()
        finally:
            self.greenlet_at_work.kill(block=False)


class Agent:
    """Keeps the worker's users and the pool of the current cell."""

    def __init__(self, runner: Any) -> None:
        self.users: list[VirtualUser] = []
        self._runner = runner
        self._pool: Pool | None = None
        self._pool_identity: tuple[Any, ...] = ()
        self._opened = 0.0
        self._cell: Cell | None = None
        self._job: Job | None = None
        self._share = 0
        self._lesser = False
        self._seed = 0
        self._worker = 0

    def answer(self, msg: Any, work: Any) -> None:
        """Do `work` on the message's data and send its result, or its failure, back."""
        tag = msg.data["tag"]
        try:
            result = work(**msg.data["args"])
        except Exception as error:
            known = isinstance(error, BenchError | OSError | RedisError)
            result = {"error": str(error) if known else traceback.format_exc()}
        self._runner.send_message("bench.answer", {"tag": tag, **result})

    def prepare(
        self, cell: dict[str, Any], address: list[Any] | None, share: int, seed: int, worker: int
    ) -> dict[str, Any]:
        """Open the cell's pool (or keep the one that is open where it is the same) for `share` of
        the users, as the `worker`-th from 0. Blocks until prefilled and settled."""
        began = clock()
        asked = Cell.from_dict(cell)
        own = asked.pool_size_of(worker)
        self._cell, self._share = dataclasses.replace(asked, pool_size=own, staircase=()), share
        self._lesser = own < asked.pool_size
        self._seed, self._worker = seed, worker
        if len(self.users) < share:
            raise BenchError(f"{len(self.users)} users were spawned, the cell needs {share}")
        raise_fd_limit(self._cell.pool_size + OWN_FDS)
        if not gc.get_freeze_count():
            gc.freeze()  # libraries and users stay: walking them took 0.2 s of every cell
        self._open_pool(self._cell, tuple(address) if address else None)
        gevent.sleep(max(0.0, self._opened + asked.settle_s - clock()))
        return {"seconds": clock() - began}

    def _open_pool(self, cell: Cell, address: Any) -> None:
        identity = pool_identity(cell, address)
        if identity == self._pool_identity and cell.opening == "prefilled":
            return
        self.close_pool()
        gc.collect()  # the old pool's connections, before the new ones come
        self._pool = open_pool(cell, Access.from_environment(), address)
        if cell.opening == "prefilled":
            self._pool.prefill(parallel=CONNECTING if not cell.rtt_s else CONNECTING_AFAR)
        self._pool_identity = identity
        self._opened = clock()

    def close_pool(self) -> dict[str, Any]:
        """Close every connection of the last cell's pool."""
        if self._pool is not None:
            self._pool.close()  # its housekeeper too, or it would open others in their place
            self._pool, self._pool_identity = None, ()
        return {}

    def enter(self) -> dict[str, Any]:
        """Let the users in and warm up; they keep going. Blocks until the warm-up is over."""
        cell, pool = self._prepared()
        self._job = job = self._new_job(cell, pool)
        gc.disable()  # a collection over 5,000 connections stops the worker for 50 ms
        self._let_in(job, spread_s=max(cell.rtt_s, 0.001))
        if not job.all_in.wait(DRAIN_TIMEOUT_S):
            raise BenchError(f"not all users were going {DRAIN_TIMEOUT_S:g} s after their start")
        job.begin()
        gevent.sleep(cell.warmup_s)
        return {}

    def _new_job(self, cell: Cell, pool: Pool) -> Job:
        if cell.loop == "open":
            return OpenLoop(cell, pool, self._share, self._seed, self._worker)
        return ClosedLoop(cell, pool, self._share, self._seed, self._worker)

    def measure(self) -> dict[str, Any]:
        """Measure the users that are going, and stop them. Blocks for the window and the drain."""
        cell, pool = self._prepared()
        job = self._job
        assert job is not None, "`enter` comes before `measure`"
        try:
            pool.reset_peaks()
            opening = _readings(pool)
            told = _pass_window(pool, opening["at"], cell.measure_s)
            closing = _readings(pool)
        finally:
            job.stop(clock())
            _await_drained(job)
            gc.enable()  # not before: who is still out would wait for the collection
        if not job.drained.is_set():
            raise BenchError(f"requests were still out {DRAIN_TIMEOUT_S:g} s after the window")
        share = _share_of(cell, job, opening, closing)
        share["phases"] = _phases_of(pool, opening["at"], closing["at"])
        told.append((closing["at"], closing["requests"], closing["empty"]))
        _place_borrows(share["series"], told)
        if not self._lesser:  # a staircase's lesser pools are there for their figures alone
            share |= _details(cell, job, opening["at"], closing["at"])
        return {**share, "worker": self._worker, "pool_size": cell.pool_size}

    def _prepared(self) -> tuple[Cell, Pool]:
        assert self._cell is not None, "`prepare` comes first"
        assert self._pool is not None, "`prepare` comes first"
        return self._cell, self._pool

    def _let_in(self, job: Job, spread_s: float) -> None:
        """Let users in evenly over one round trip, or they would march in step for good (carriers
        wait for what arrives)."""
        began = clock()
        for number, user in enumerate(self.users[: self._share]):
            early = began + spread_s * number / self._share - clock()
            if early > 0.001:
                gevent.sleep(early)
            user.inbox.put(job)


def _pass_window(pool: Pool, began: float, window_s: float) -> list[tuple[float, int, int]]:
    """Blocks for the window; how many requests the pool had had by when, and how many had found it
    empty, told at about the edges of the recorder's intervals."""
    count = interval_count(window_s)
    told = []
    for number in range(count):
        stats = pool.stats()
        told.append((clock(), stats.requests, stats.empty))
        gevent.sleep(max(0.0, began + (number + 1) * window_s / count - clock()))
    return told


def _place_borrows(series: list[dict[str, Any]], told: list[tuple[float, int, int]]) -> None:
    """Write into each interval how many requests asked the pool for a connection in it, and how
    many of them found it empty."""
    at, *counts = zip(*told, strict=True)
    edges = [at[0] + row["at_s"] for row in series] + [at[-1]]
    for name, totals in zip(("borrows", "empty"), counts, strict=True):
        for row, found in zip(series, np.diff(np.interp(edges, at, totals)), strict=True):
            row[name] = float(found)


def _await_drained(job: Job) -> None:
    """Blocks until the last reply, or for `DRAIN_TIMEOUT_S`."""
    if not job.drained.wait(DRAIN_S):
        job.abandon()  # a backlog may take minutes: what is left of it is not served
        job.drained.wait(DRAIN_TIMEOUT_S - DRAIN_S)


def pool_identity(cell: Cell, address: Any) -> tuple[Any, ...]:
    """Cells that agree in this can use one prefilled pool one after the other."""
    return (
        cell.client, cell.resp, cell.pool_size, cell.order, cell.opening,
        cell.test_on_borrow, cell.acquire_timeout_s, cell.max_uses, cell.max_lifetime_s,
        cell.time_phases, cell.local_ports, cell.auth, cell.database, cell.tls, address,
    )  # fmt: skip


def _readings(pool: Pool) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    stats: PoolStats = pool.stats()
    return {
        "at": clock(),
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "used_seconds": stats.used_seconds,
        "used_at": stats.at,
        "requests": stats.requests,
        "empty": stats.empty,
        "created": stats.created,
        "create_time": stats.create_time,
        "peak_used": stats.peak_used,
    }


def _share_of(
    cell: Cell, job: Job, opening: dict[str, Any], closing: dict[str, Any]
) -> dict[str, Any]:
    start, end = opening["at"], closing["at"]
    figures = job.recorder.window(start, end, cell.loop)
    delta = {name: closing[name] - opening[name] for name in closing if name != "peak_used"}
    return {
        **figures,
        **job.offered(start, end),
        "start": start,
        "window_s": delta["at"],
        "user_s": delta["user_s"],
        "system_s": delta["system_s"],
        "in_use_mean": delta["used_seconds"] / delta["used_at"],
        "in_use_peak": closing["peak_used"],
        "borrows": delta["requests"],
        "empty": delta["empty"],
        "created": closing["created"],
        "create_time_s": closing["create_time"],
        "operations": job.recorder.operations(cell.workload.depth),
        "errors": job.recorder.errors,
        "timeouts": job.recorder.timeouts,
        "failures": job.recorder.error_samples,
    }


def _phases_of(pool: Pool, start: float, end: float) -> dict[str, Any]:
    """What opening connections took, where the cell asks."""
    phases = pool.connection_kwargs.get("phases")
    return {} if phases is None else phases.window(start, end)


def _details(cell: Cell, job: Job, start: float, end: float) -> dict[str, Any]:
    rows = {"rows": job.recorder.rows(since=start).tobytes()} if cell.keep_requests else {}
    if cell.loop == "closed":
        return rows
    return {**rows, IN_FLIGHT: job.recorder.in_flight(start, end)}


_agents: dict[Any, Agent] = {}


def agent_of(environment: Any) -> Agent:
    return _agents[environment]


@events.init.add_listener
def _listen(environment: Any, runner: Any, **_: Any) -> None:
    """Answer the master's messages; each in its own greenlet, since a cell takes seconds."""
    agent = _agents.setdefault(environment, Agent(runner))
    verbs = {
        "prepare": agent.prepare,
        "enter": agent.enter,
        "measure": agent.measure,
        "close": agent.close_pool,
        **Keeper().verbs,
    }
    for name, work in verbs.items():

        def handle(environment: Any, msg: Any, work: Any = work, **_: Any) -> None:
            agent.answer(msg, work)

        runner.register_message(f"bench.{name}", handle, concurrent=True)
