"""What is measured: every defence in every trap, with all times shorter by one factor.

The times that stand in this file are those of the world outside; `Scaled` makes of them what is
measured, and refuses a factor at which rounding would put two of them in another order.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.model import (
    SILENT_TRAPS,
    Arrivals,
    Cell,
    Idling,
    Plan,
    PreflightError,
    Profile,
    Trap,
    Workload,
)

NAME = "idle_eviction"
TIME_SCALE = 30.0

PATH_S = 350.0  # AWS NAT gateway, NLB, EC2's tracking (Nitro v6)
SHORT_PATH_S = 240.0  # Azure Load Balancer: below the server's keepalive, which would refresh it
HAPROXY_S = 50.0  # as Debian configures it
REDIS_TIMEOUT_S = 300.0
SERVER_KEEPALIVE_S = 300.0  # Redis' tcp-keepalive
CLIENT_KEEPALIVE_S = 30.0  # redis-py, go-redis
GAP_S = 420.0
# Of the server at its defaults: beyond twice its keepalive, when it has given up whoever is silent.
LONG_GAP_S = 640.0
BELOW_S, ABOVE_S = 200.0, 600.0  # a pool's idle timeout
BELOW_SERVER_S = 290.0  # the one of C12b
SOCKET_TIMEOUT_S = 5.0  # redis-py's
BACKOFF_S = 1.0  # redis-py's longest
RETRIES = 10  # redis-py's, through Redis()
JUST_BELOW = 0.8  # of the trap's time: a gap that it must not mind

# By kind, after how long.
TRAPS: dict[Trap, float] = {
    "redis defaults": 0.0,
    "redis timeout": REDIS_TIMEOUT_S,
    "link fin": PATH_S,
    "envoy": PATH_S,
    "haproxy": PATH_S,
    "link reset": PATH_S,
    "link reset on next": PATH_S,
    "link silence": PATH_S,
    "firewall": SHORT_PATH_S,
}
SMOKE_TRAPS: tuple[Trap, ...] = ("link fin", "link silence", "firewall")
# Where a pool's idle timeout of 290 s is tried beside these: hops that are quicker than it.
QUICKER: tuple[tuple[Trap, float], ...] = (("haproxy", HAPROXY_S), ("link silence", SHORT_PATH_S))

LARGE, SMALL, HUGE = 500, 20, 5_000
VOLLEY = 20  # the peak concurrency, to which SMALL is fit
RATE_QPS = 2_500.0
REQUESTS, SOME, FEWER = 1_000, 500, 250
CYCLES = 2  # of the fix
LANES, SILENT_LANES = 2, 5  # of the fix: ten bursts where the trap is silent
FULL_CYCLES = 3

NONE, FIX, FIX_PING = "none", "full fix", "full fix, ping"
SHORT_GAP, C12B = "none, shorter gap", "idle 290 s"
# The parts of the fix, and what else is tried. Each by what it changes of a cell.
PARTS: dict[str, dict[str, Any]] = {
    NONE: {},
    "fifo": {"order": "fifo"},
    "idle above": {"max_idle_s": ABOVE_S},
    "retries": {"retries": RETRIES, "backoff_s": BACKOFF_S},
    "keepalive": {"keepalive_s": CLIENT_KEEPALIVE_S},
    "passive": {"test_on_borrow": "passive"},
    "ping": {"test_on_borrow": "ping"},
    "shrink": {"pool_size": SMALL},
    "idle below": {"max_idle_s": BELOW_S},
}
_SHRINK, _IDLE, _PASSIVE, _PING = (
    PARTS[name] for name in ("shrink", "idle below", "passive", "ping")
)
PAIRS: dict[str, dict[str, Any]] = {
    "shrink + passive": _SHRINK | _PASSIVE,
    "shrink + idle": _SHRINK | _IDLE,
    "idle + passive": _IDLE | _PASSIVE,
}
FIXES: dict[str, dict[str, Any]] = {FIX: _SHRINK | _IDLE | _PASSIVE}
# Clients as they come: pools by their own code where that is Python's, else by ours, set alike.
CLIENTS: dict[str, dict[str, Any]] = {
    "redis-py ConnectionPool": {
        "maker": "redis-py", "client": "redis-py", "resp": 3, "pool_size": 100,
        "test_on_borrow": "passive", "keepalive_s": CLIENT_KEEPALIVE_S, "retries": RETRIES,
        "backoff_s": BACKOFF_S,
    },
    "redis-py BlockingConnectionPool": {
        "maker": "redis-py blocking", "client": "redis-py", "resp": 3, "pool_size": 50,
        "test_on_borrow": "passive", "keepalive_s": CLIENT_KEEPALIVE_S, "acquire_timeout_s": 20.0,
    },
    "redis-py asyncio ConnectionPool": {
        "maker": "redis-py asyncio", "client": "redis-py", "resp": 3, "pool_size": 100,
        "test_on_borrow": "passive", "keepalive_s": CLIENT_KEEPALIVE_S, "retries": RETRIES,
        "backoff_s": BACKOFF_S,
    },
    "like Jedis": {"pool_size": 8, "max_idle_s": 60.0, "keepalive_s": 7_200.0},
    "like go-redis": {
        "pool_size": 80, "max_idle_s": 1_800.0, "test_on_borrow": "passive",
        "keepalive_s": CLIENT_KEEPALIVE_S, "borrows": 4,
    },
    "like Lettuce": {"pool_size": 8, "keepalive_s": 13.0, "retries": 1},
}  # fmt: skip
TIMES = ("max_idle_s", "backoff_s", "acquire_timeout_s")


class Scaled(NamedTuple):
    """Times of the world, shorter by one factor."""

    scale: float

    def s(self, seconds: float) -> float:
        return round(seconds / self.scale, 4)

    def whole_s(self, seconds: float) -> int:
        """For what the kernel and Redis count: up, and never nothing."""
        return max(1, math.ceil(seconds / self.scale - 1e-9))

    def trap_s(self, trap: Trap, seconds: float) -> float:
        return self.whole_s(seconds) if trap in ("redis timeout", "firewall") else self.s(seconds)

    def check(self, how: str = "") -> None:
        """Raises PreflightError where rounding has put two timers in another order."""
        told = [
            ("the client's keepalive", self.whole_s(CLIENT_KEEPALIVE_S), CLIENT_KEEPALIVE_S),
            ("an idle timeout below the path's", self.s(BELOW_S), BELOW_S),
            ("the firewall's idle time", self.whole_s(SHORT_PATH_S), SHORT_PATH_S),
            ("the server's keepalive", self.whole_s(SERVER_KEEPALIVE_S), SERVER_KEEPALIVE_S),
            ("the path's idle time", self.s(PATH_S), PATH_S),
            ("the gap", self.s(GAP_S), GAP_S),
            ("an idle timeout above the path's", self.s(ABOVE_S), ABOVE_S),
        ]
        for (name, value, true), (other, higher, more) in itertools.pairwise(told):
            if not value < higher:
                raise PreflightError(
                    f"time scale {self.scale:g}{how}: {name} ({true:g} s) becomes {value:g} s, "
                    f"which is not below {other} ({more:g} s, {higher:g} s): they are counted in "
                    "whole seconds; choose a smaller --time-scale"
                )


def plan(
    profile: Profile, workload: Workload, workers: int, time_scale: float = TIME_SCALE
) -> Plan:
    """One block: all lanes sleep side by side. One worker, however many the run has."""
    scaled = Scaled(time_scale if profile != "smoke" else 2 * time_scale)
    scaled.check("" if profile != "smoke" else " (twice what was asked for: the smoke profile)")
    if profile == "smoke":
        rows = {name: PARTS[name] for name in (NONE, "passive", "idle below")} | FIXES
        cells = [_cell(scaled, t, name, row, workload) for t in SMOKE_TRAPS
                 for name, row in rows.items()]  # fmt: skip
        return Plan(tuple(cells), 1)
    cells = [*_matrix(scaled, workload), *_huge(scaled, profile, workload)]
    if profile == "full":
        cells += _factorial(scaled, workload)
    return Plan(tuple(dict.fromkeys(cells)), 1)


def _matrix(scaled: Scaled, workload: Workload) -> Iterator[Cell]:
    """Every defence in every trap; and hops that are quicker than an idle timeout of 290 s."""
    for trap, (name, row) in itertools.product(TRAPS, (PARTS | PAIRS | FIXES | CLIENTS).items()):
        yield _cell(scaled, trap, name, row, workload)
    below_server = {"max_idle_s": BELOW_SERVER_S} | _SHRINK
    for trap, seconds in (*TRAPS.items(), *QUICKER):
        yield _cell(
            scaled, trap, C12B, below_server, workload, trap_s=seconds,
            gap_s=scaled.s(_worst_gap_s(seconds)),
        )  # fmt: skip
    for trap, seconds in TRAPS.items():
        if seconds:
            yield _cell(
                scaled,
                trap,
                SHORT_GAP,
                {},
                workload,
                gap_s=JUST_BELOW * scaled.trap_s(trap, seconds),
            )


def _worst_gap_s(path_s: float) -> float:
    """Where a hop is quicker than an idle timeout of 290 s, a gap between the two: the connection
    is dead by then, and the pool does not close it yet."""
    return (path_s + BELOW_SERVER_S) / 2 if 0 < path_s < BELOW_SERVER_S else GAP_S


def _cell(
    scaled: Scaled,
    trap: Trap,
    name: str,
    row: dict[str, Any],
    workload: Workload,
    **changed: Any,
) -> Cell:
    idling = _idling(scaled, trap, changed.pop("trap_s", TRAPS[trap]))
    # Where CPU is compared (C11, C13): to hold 13,000 idle connections of other lanes costs 1 % of
    # a core, which is all that C13 allows.
    idling = dataclasses.replace(idling, apart=name in (NONE, *FIXES))
    if name in FIXES:
        silent = trap in SILENT_TRAPS
        idling = dataclasses.replace(
            idling,
            lanes=SILENT_LANES if silent else LANES,
            cycles=CYCLES,
            requests=REQUESTS if silent else SOME,
        )
    elif name == NONE:
        gap_s = idling.gap_s if idling.trap_s else scaled.s(LONG_GAP_S)
        idling = dataclasses.replace(idling, lanes=LANES, fresh=True, requests=SOME, gap_s=gap_s)
    else:
        idling = dataclasses.replace(idling, requests=FEWER)
    return _of(scaled, dataclasses.replace(idling, **changed), name, row, workload)


def _idling(scaled: Scaled, trap: Trap, seconds: float) -> Idling:
    return Idling(
        trap=trap,
        trap_s=scaled.trap_s(trap, seconds) if seconds else 0.0,
        gap_s=scaled.s(GAP_S),
        fresh=False,
        volley=VOLLEY,
        requests=REQUESTS,
        scale=scaled.scale,
        server_keepalive_s=scaled.whole_s(SERVER_KEEPALIVE_S),
    )


def _of(
    scaled: Scaled, idling: Idling, name: str, row: dict[str, Any], workload: Workload, **more: Any
) -> Cell:
    # Protocol 2, whose connections say nothing when they are opened: or the worker's own CPU would
    # hold up those who wait while twenty are.
    settings = {"pool_size": LARGE, "client": "tuned", "resp": 2, **row}
    settings |= {time: scaled.s(settings[time]) for time in TIMES if time in settings}
    if "keepalive_s" in settings:
        settings["keepalive_s"] = scaled.whole_s(settings["keepalive_s"])
    return Cell(
        NAME,
        concurrency=idling.requests,
        loop="open",
        offered_qps=RATE_QPS,
        arrivals=Arrivals(),
        workload=workload,
        socket_timeout_s=scaled.s(SOCKET_TIMEOUT_S),
        measure_s=idling.cycles * (idling.gap_s + 1.0),
        warmup_s=0.0,
        idling=idling,
        arm=name,
        **settings,
        **more,
    )


def _huge(scaled: Scaled, profile: Profile, workload: Workload) -> Iterator[Cell]:
    """The incident as it pages people, before the fix and after it, on a server of its own."""
    cycles = FULL_CYCLES if profile == "full" else 1
    for name, row in ((NONE, {"pool_size": HUGE}), (FIX, FIXES[FIX])):
        idling = _idling(scaled, "link silence", PATH_S)
        asked = dataclasses.replace(idling, fresh=True, apart=True, cycles=cycles)
        yield _of(scaled, asked, name, row, workload, keep_requests=True)


FACTORS: dict[str, tuple[dict[str, Any], ...]] = {
    "pool size": ({}, _SHRINK),
    "idle timeout": ({}, PARTS["idle above"], _IDLE),
    "validation": ({}, _PASSIVE, _PING),
    "keepalive": ({}, PARTS["keepalive"]),
    "retries": ({}, PARTS["retries"]),
    "order": ({}, PARTS["fifo"]),
}


def _factorial(scaled: Scaled, workload: Workload) -> Iterator[Cell]:
    """Half of all combinations: those whose levels add up to an even number. Two combinations that
    differ in one or two factors' parity alone are never both left out, so that no factor, and no
    pair of them, is confounded with another (resolution VI, were all of two levels)."""
    for trap in TRAPS:
        for levels in itertools.product(*(range(len(each)) for each in FACTORS.values())):
            if sum(levels) % 2 == 0:
                row: dict[str, Any] = {}
                for level, choices in zip(levels, FACTORS.values(), strict=True):
                    row |= choices[level]
                name = "factorial " + "".join(map(str, levels))
                yield _cell(scaled, trap, name, row, workload)
