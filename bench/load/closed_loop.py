"""The closed loop: a user sends its next request after the last reply, without think time."""

from __future__ import annotations

from time import perf_counter as clock

import gevent
from redis.exceptions import RedisError

from bench.load.clients import Session
from bench.load.users import Commands, Job

PAUSE_AFTER_FAILURE_S = 0.01


class ClosedLoop(Job):
    """Each user is always out with one request: it is intended when it is sent."""

    stopping = False

    def stop(self, at: float) -> None:
        self.stopping = True

    def offered(self, start: float, end: float) -> dict[str, int]:
        """Nothing is scheduled here: a request comes when the one before it is done."""
        return {}

    def _serve(self, session: Session, commands: Commands) -> None:
        call = session.call
        for command, record in commands:
            if self.stopping:
                return
            sent = clock()
            try:
                acquired, done = call(command)
            except RedisError as error:
                self._fail(error)
                gevent.sleep(PAUSE_AFTER_FAILURE_S)  # a refused request must not spin
                continue
            record((sent, sent, acquired, done))
