"""What became of each loan of a connection: the pool, and the connections, as one lane sees them.

A request borrows by `Loans`, whatever pool lies below, and afterwards finds its `Loan` with the
greenlet it ran in (asyncio's have a place of their own). The connections are redis-py's own and
note their first command's fate.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from time import perf_counter as clock
from typing import Any

from greenlet import getcurrent
from redis.exceptions import MaxConnectionsError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bench.load.pool import AcquireTimeout, TooManyWaiting
from bench.model import OUTCOMES
from bench.rig.sockets import PlainConnection

NEVER_USED = float("nan")
NO_COMMAND = -1
_ERRNO_KINDS = {
    errno.EPIPE: "broken pipe",
    errno.ECONNRESET: "reset",
    errno.ECONNREFUSED: "refused",
    errno.ECONNABORTED: "refused",
    errno.EADDRNOTAVAIL: "refused",
    errno.ENETUNREACH: "refused",
}
_NO_CONNECTION = (AcquireTimeout, TooManyWaiting, MaxConnectionsError)
_BLOCKING_POOL_SAYS = "No connection available."  # redis-py has no class of its own for it
_END_OF_STREAM = "closed by server"


def outcome_of(error: BaseException) -> str:
    """One of `OUTCOMES`, by the operating system's word where there is one."""
    if isinstance(error, _NO_CONNECTION) or str(error) == _BLOCKING_POOL_SAYS:
        return "no connection"
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return "time-out"
    for cause in _causes(error):
        kind = _ERRNO_KINDS.get(getattr(cause, "errno", None) or 0)
        if kind is not None:
            return kind
    return "closed" if _END_OF_STREAM in str(error).lower() else "other"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


class Loan:
    """One borrower's: when it was acquired, and for how long the connection had lain idle before
    (NaN for one that was opened for it); what became of the `first` command on it (a place in
    `OUTCOMES`), and how many `commands` were sent."""

    __slots__ = ("acquired", "commands", "first", "idle_s")

    def __init__(self, connection: Any, asked: float) -> None:
        self.first, self.commands = NO_COMMAND, 0
        self.acquired = clock()
        fresh = connection.opened_at >= asked
        self.idle_s = NEVER_USED if fresh else self.acquired - connection.returned_at


class Watched:
    """A connection that tells its present loan, where there is one, what becomes of commands.
    `opened_at`, `returned_at`: perf_counter seconds."""

    opened_at = 0.0
    returned_at = 0.0
    loan: Loan | None = None

    def is_open(self) -> None:
        self.opened_at = self.returned_at = clock()

    def lend(self, asked: float) -> Loan:
        """To one who asked for a connection then."""
        self.loan = Loan(self, asked)
        return self.loan

    def take_back(self) -> None:
        self.loan, self.returned_at = None, clock()

    def note_sending(self) -> None:
        if self.loan is not None:
            self.loan.commands += 1

    def note(self, outcome: str) -> None:
        """What became of a command."""
        if self.loan is not None and self.loan.first == NO_COMMAND:
            self.loan.first = OUTCOMES.index(outcome)


class WatchedConnection(Watched, PlainConnection):
    """redis-py's own, watched."""

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self._sock is None:
            super().connect_check_health(*args, **kwargs)
            self.is_open()

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        self.note_sending()
        try:
            super().send_packed_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            self.note(outcome_of(error))
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            reply = super().read_response(*args, **kwargs)
        except (RedisError, OSError) as error:
            self.note(outcome_of(error))
            raise
        self.note("ok")
        return reply


class Loans:
    """A pool of `WatchedConnection`s as a `Redis` sees it. Each greenlet's last loan is `loan`."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        greenlet: Any = getcurrent()
        greenlet.loan = None
        asked = clock()
        connection = self._pool.get_connection()
        greenlet.loan = connection.lend(asked)
        return connection

    def release(self, connection: Any) -> None:
        connection.take_back()
        self._pool.release(connection)


def loan() -> Loan | None:
    """This greenlet's last one; None where the pool gave it no connection."""
    return getattr(getcurrent(), "loan", None)
