"""One cell's work on one worker: what its users send, where they record, and when they stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import hiredis
from gevent.event import Event
from redis.exceptions import RedisError

from bench.load.clients import Session, is_acquire_timeout, new_session
from bench.load.commands import COMMANDS, draw
from bench.load.pool import Pool
from bench.load.recorder import Recorder
from bench.model import Cell

Sink = Callable[[tuple[float, float, float, float]], None]
Commands = Iterator[tuple[Any, Sink]]


class Job:
    """The part that both loops share. `all_in` is set when every user is going, `drained` when the
    last one has its last reply. `worker` is this one's number from 0."""

    def __init__(self, cell: Cell, pool: Pool, users: int, seed: int, worker: int = 0) -> None:
        self.recorder = Recorder(COMMANDS)
        self.all_in = Event()
        self.drained = Event()
        self._outside = self._running = users
        self._pool = pool
        self._cell = cell
        self._commands: Commands = cycle(prepare_commands(cell, self.recorder, seed + worker))
        if not users:
            self.all_in.set()
            self.drained.set()

    def run(self) -> None:
        """Be one virtual user until the job stops. Blocks its greenlet."""
        self._outside -= 1
        if not self._outside:
            self.all_in.set()
        try:
            self._serve(new_session(self._cell, self._pool), self._commands)
        finally:
            self._running -= 1
            if not self._running:
                self.drained.set()

    def begin(self) -> None:
        """All are in: let the load begin. Does not block."""

    def stop(self, at: float) -> None:
        """Let no request begin that is not due before `at`, a perf_counter second that has just
        passed. Does not block; `drained` follows."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Serve nothing more of what waits for a carrier. Does not block; `drained` follows."""

    def offered(self, start: float, end: float) -> dict[str, int]:
        """How many requests were scheduled in [start, end), and how many of these were dropped."""
        raise NotImplementedError

    def _serve(self, session: Session, commands: Commands) -> None:
        raise NotImplementedError

    def _fail(self, error: RedisError) -> None:
        self.recorder.fail(error, timed_out=is_acquire_timeout(error))


def prepare_commands(cell: Cell, recorder: Recorder, seed: int) -> list[tuple[Any, Sink]]:
    """The sequence of `draw` as (command, sink); a pipeline's commands are packed as one."""
    sinks = {name: recorder.sink(name) for name in COMMANDS}
    packed = cell.client in ("lean", "bare")
    pack: Any = hiredis.pack_command  # its stub knows tuples of one word
    return [
        (
            b"".join(pack(words) for words in each) if packed else each[0],
            sinks[name],
        )
        for name, each in draw(cell.workload, seed)
    ]
