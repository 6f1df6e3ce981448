"""What a client's pool does when it is told nothing, and where that becomes a trap.

From each client's source or documentation, at the version that `clients` names; None: there is no
such thing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Defaults:
    """As the client's documentation would say it; times with their unit."""

    most: str
    least_idle: str | None
    acquire_timeout: str | None
    idle_timeout: str | None
    validation: str | None
    keepalive: str | None
    retries: str | None
    trap: str


DEFAULTS = {
    "redis-py": Defaults(
        "50 (BlockingConnectionPool), 100 (ConnectionPool)", "0",
        "20 s (ConnectionPool: raises at once)", None, "a look at the socket", "30/5/3 s",
        "0 with a pool of your own, 10 through Redis()",
        "building the pool yourself turns the retries off",
    ),
    "jedis": Defaults(
        "8", "0", "for ever", "60 s, swept each 30 s", None, "on, the kernel's times", "0",
        "a thread that finds the pool empty waits for ever",
    ),
    "lettuce": Defaults(
        "one shared connection; its pool 8", None, None, None,
        "isOpen(), where asked for", "13/13/3 s", "sends again after it reconnects",
        "a pool nobody needed: one connection carries all but blocking commands",
    ),
    "go-redis": Defaults(
        "10 × GOMAXPROCS", "0", "the read timeout + 1 s", "30 min, seen at the next borrow",
        "a look at the socket, not with TLS", "30/5/3 s", "3",
        "30 min is longer than most paths keep an idle connection",
    ),
    "node-redis": Defaults(
        "one shared connection; its pool 100", "1", "3 s", "3 s", None, "30 s", None,
        "its pool hands out the connection that was idle longest, so all of them stay open",
    ),
    "stackexchange": Defaults(
        "one shared connection", None, None, None, None, "on; a PING each 60 s",
        "3, of connecting",
        "60 s is longer than the shortest of the paths below",
    ),
    "redis-rs": Defaults(
        "10 (bb8)", None, "30 s", "10 min, swept each 30 s", "a PING each time", None, None,
        "without a keepalive a path that forgets in silence is found by the PING's time-out alone",
    ),
}  # fmt: skip
