"""The master's side: Locust's master in this process, its workers as child processes.

Locust brings the processes, their hello and heartbeat, and the users. Everything about a cell goes
through tagged messages of our own, one answer each: `report_to_master` loses the tail of a cell
and `LoadTestShape` ticks in whole seconds. Import this module before anything that imports
`requests`: locust patches the process for gevent.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import subprocess
from collections.abc import Sequence
from time import perf_counter as clock
from typing import IO, Any

import gevent
from gevent.event import AsyncResult
from locust.env import Environment
from locust.runners import MasterRunner

from bench.load.agent import DRAIN_TIMEOUT_S, VirtualUser
from bench.load.worker import worker_command
from bench.model import ApparatusLost, BenchError, Cell
from bench.rig.access import Access
from bench.rig.host import end, last_lines, spawn

HELLO_TIMEOUT_S = 30.0
PREPARE_TIMEOUT_S = 60.0
POLL_S = 0.005

Address = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A cell that is under way, and the tags its answers will carry."""

    cell: Cell
    tags: Sequence[str]


class Swarm:
    """`workers` Locust worker processes holding `users` virtual users in all, until closed.

    A context manager. Entering blocks until every user is spawned; raises ApparatusLost when a
    worker does not come up. `log` receives what the workers print.
    """

    def __init__(self, workers: int, users: int, access: Access, log: IO[bytes]) -> None:
        self._count = workers
        self._users = -(-users // workers) * workers  # so that each can take the larger share
        self._access = access
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []
        self._answers: dict[str, AsyncResult[dict[str, Any]]] = {}
        self._tags = itertools.count()

    def __enter__(self) -> Swarm:
        _quiet_locust()
        self._environment = Environment(user_classes=[VirtualUser])
        self._runner: MasterRunner = self._environment.create_master_runner("127.0.0.1", 0)
        self._runner.register_message("bench.answer", self._on_answer)
        try:
            self._start_workers()
            self._runner.start(self._users, spawn_rate=self._users)
            self._await_users()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def prepare(self, cell: Cell, address: Address | None, seed: int) -> list[dict[str, Any]]:
        """Have the cell's workers open their pools; blocks until all are prefilled. The swarm may
        have more workers: these close theirs.

        Workers share the seed, so that bursts come to all at once; what else is random in them
        differs by their number.
        """
        self._close_pools_of(self._ids[cell.workers :])
        fields = dataclasses.asdict(cell)
        asked = self._ask(
            "prepare",
            [
                {
                    "cell": fields, "address": address, "share": share,
                    "seed": seed, "worker": index,
                }
                for index, share in enumerate(shares(cell.concurrency, cell.workers))
            ],
        )  # fmt: skip
        return self._collect(asked, PREPARE_TIMEOUT_S)

    def enter(self, cell: Cell) -> None:
        """Let the prepared cell's users in; blocks until all are going and warmed up."""
        self._collect(self._ask("enter", [{}] * cell.workers), cell.warmup_s + 2 * DRAIN_TIMEOUT_S)

    def start(self, cell: Cell) -> Running:
        """Begin the window of the cell whose users are going; returns at once."""
        return Running(cell, self._ask("measure", [{}] * cell.workers))

    def collect(self, running: Running) -> list[dict[str, Any]]:
        """Blocks until the cell is over: each worker's share of the figures, but for those of
        workers that were lost meanwhile. Raises ApparatusLost when none is left."""
        answers = [self._answers[tag] for tag in running.tags]
        deadline = clock() + running.cell.measure_s + 2 * DRAIN_TIMEOUT_S
        while sum(map(AsyncResult.ready, answers)) < self._alive(running) and clock() < deadline:
            gevent.wait(answers, timeout=0.1, count=self._alive(running))
        answered = [tag for tag in running.tags if self._answers[tag].ready()]
        if not answered:
            raise self.loss(running.cell.workers)
        return [self._answer(tag) for tag in answered]

    def _alive(self, running: Running) -> int:
        """Of the cell's workers, if those that ended are among them: no other can be waited for."""
        ended = sum(process.poll() is not None for process in self._processes)
        return running.cell.workers - ended

    def order(self, verb: str, arguments: Sequence[dict[str, Any]]) -> list[str]:
        """Sends a message to the first workers, one each; returns the tags of their answers."""
        return self._ask(verb, arguments)

    def answers(self, asked: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
        """Blocks for them. Raises BenchError when one failed, ApparatusLost when a worker is gone
        or late."""
        return self._collect(asked, timeout_s)

    def close_pools(self) -> None:
        """Have every worker close its connections; blocks until they are."""
        self._close_pools_of(self._ids)

    def _close_pools_of(self, workers: Sequence[str]) -> None:
        self._collect(self._ask("close", [{}] * len(workers), workers), PREPARE_TIMEOUT_S)

    def check(self) -> None:
        """Raise ApparatusLost if a worker has ended: Locust itself has no event for it."""
        if any(process.poll() is not None for process in self._processes):
            raise self.loss(0)

    def loss(self, silent: int) -> ApparatusLost:
        """What to raise for a worker that has ended; where none has, for `silent` ones that did not
        answer in time."""
        what = f"{silent} of {self._count} workers did not answer in time{self._last_said()}"
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                how = _ending(process.returncode)
                what = f"worker {index + 1} of {self._count} ended in mid-run ({how})"
                break
        return ApparatusLost(what)

    def close(self) -> None:
        """End the workers and the master. Idempotent."""
        for process in self._processes:
            process.kill()  # it holds nothing worth saving, and Locust's own farewell takes 1.5 s
            end(process)
        self._runner.greenlet.kill(block=True)
        self._runner.server.close(linger=0)

    def _start_workers(self) -> None:
        port = self._runner.server.port
        command = worker_command("127.0.0.1", port)
        environment = self._access.environment()
        for _ in range(self._count):
            self._processes.append(
                spawn(command, env=environment, stdout=self._log, stderr=self._log)
            )
        self._wait_until(lambda: len(self._runner.clients.ready) == self._count, "to say hello")
        self._ids = [node.id for node in self._runner.clients.ready]

    def _await_users(self) -> None:
        self._wait_until(lambda: self._runner.user_count == self._users, "to spawn its users")

    def _wait_until(self, condition: Any, what: str) -> None:
        deadline = clock() + HELLO_TIMEOUT_S
        while not condition():
            self.check()
            if clock() > deadline:
                raise ApparatusLost(f"a worker took more than {HELLO_TIMEOUT_S:g} s {what}")
            gevent.sleep(POLL_S)

    def _ask(
        self, verb: str, arguments: Sequence[dict[str, Any]], workers: Sequence[str] = ()
    ) -> list[str]:
        """One message each for `workers`, or for the first ones."""
        tags = []
        for worker, args in zip(workers or self._ids[: len(arguments)], arguments, strict=True):
            tag = f"{verb}-{next(self._tags)}"
            self._answers[tag] = AsyncResult()
            tags.append(tag)
            self._runner.send_message(f"bench.{verb}", {"tag": tag, "args": args}, worker)
        return tags

    def _collect(self, tags: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
        deadline = clock() + timeout_s
        return [self._await(tag, deadline) for tag in tags]

    def _await(self, tag: str, deadline: float) -> dict[str, Any]:
        while not self._answers[tag].wait(timeout=0.1):
            self.check()
            if clock() > deadline:
                raise ApparatusLost(f"a worker did not answer “{tag}” in time{self._last_said()}")
        return self._answer(tag)

    def _last_said(self) -> str:
        said = last_lines(self._log)
        return f"; the workers' log ends: {said}" if said else ""

    def _answer(self, tag: str) -> dict[str, Any]:
        result: dict[str, Any] = self._answers.pop(tag).get()
        if "error" in result:
            raise BenchError(f"a worker failed: {result['error']}")
        return result

    def _on_answer(self, msg: Any, **_: Any) -> None:
        answer = self._answers.get(msg.data["tag"])
        if answer is not None:
            answer.set(msg.data)


def shares(concurrency: int, workers: int) -> list[int]:
    """Users per worker, as even as whole numbers allow; the first ones take the remainder."""
    each, extra = divmod(concurrency, workers)
    return [each + (index < extra) for index in range(workers)]


def _ending(returncode: int) -> str:
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit status {returncode}"


def _quiet_locust() -> None:
    """Locust logs to the root logger; its chatter would break the progress display."""
    logging.getLogger("locust").setLevel(logging.ERROR)
