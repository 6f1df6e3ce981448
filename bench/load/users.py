"""The closed loop: a user sends its next request after the last reply, without think time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import cycle
from time import perf_counter as clock
from typing import Any

import gevent
import hiredis
from gevent.event import Event
from redis.exceptions import RedisError

from bench.load.clients import SESSIONS, Session, is_acquire_timeout
from bench.load.pool import Pool
from bench.load.recorder import Recorder
from bench.model import Cell, Workload
from bench.rig.server import KEY_PREFIX

COMMANDS_AHEAD = 4096
PAUSE_AFTER_FAILURE_S = 0.01

Sink = Callable[[tuple[float, float, float]], None]


class Job:
    """One cell's work on one worker: what its users send, where they record, and when they stop."""

    def __init__(self, cell: Cell, pool: Pool, users: int, seed: int) -> None:
        self.recorder = Recorder(("GET", "SET"))
        self.stopping = False
        self.all_in = Event()
        self.drained = Event()
        self._outside = self._running = users
        self._pool = pool
        self._cell = cell
        self._commands = cycle(prepare_commands(cell, self.recorder, seed))
        if not users:
            self.all_in.set()
            self.drained.set()

    def run(self) -> None:
        """Be one virtual user until the job stops. Blocks its greenlet."""
        self._outside -= 1
        if not self._outside:
            self.all_in.set()
        try:
            session = SESSIONS[self._cell.client](self._pool)
            closed_loop(self, session, self._commands)
        finally:
            self._running -= 1
            if not self._running:
                self.drained.set()


def prepare_commands(cell: Cell, recorder: Recorder, seed: int) -> list[tuple[Any, Sink]]:
    """A long seeded sequence of (command, sink), which the users share and go round and round:
    building a command costs more than sending it."""
    rng = random.Random(seed)
    work = cell.workload
    sinks = {name: recorder.sink(name) for name in ("GET", "SET")}
    build = hiredis.pack_command if cell.client == "lean" else tuple
    sequence = []
    for _ in range(COMMANDS_AHEAD):
        name = "GET" if rng.random() < work.get_share else "SET"
        arguments = _arguments(name, rng.randrange(work.keys), work)
        sequence.append((build(arguments), sinks[name]))
    return sequence


def _arguments(name: str, key: int, work: Workload) -> tuple[Any, ...]:
    if name == "GET":
        return ("GET", f"{KEY_PREFIX}{key}")
    return ("SET", f"{KEY_PREFIX}{key}", b"x" * work.value_bytes)


def closed_loop(job: Job, session: Session, commands: Iterator[tuple[Any, Sink]]) -> None:
    """Send one command after the other until `job.stopping`; one request at a time."""
    call = session.call
    for command, record in commands:
        if job.stopping:
            return
        sent = clock()
        try:
            acquired, done = call(command)
        except RedisError as error:
            job.recorder.fail(error, timed_out=is_acquire_timeout(error))
            gevent.sleep(PAUSE_AFTER_FAILURE_S)  # a refused request must not spin
            continue
        record((sent, acquired, done))
