"""Timeouts that follow from the hold times, the waits and the path, each with its reason.

The rules and what they rest on:

- command: twice the p99.9 hold time, and 200 ms more so that a lost packet is no failure (Linux
  retransmits after TCP_RTO_MIN, 200 ms, at the earliest).
- connect: 1 s more than five of those, for a lost SYN is sent again after 1 s (RFC 6298) and a
  connection needs some round trips for TCP, TLS, AUTH and SELECT.
- acquire: three times the p99.9 wait, and no less than 100 ms, the period for which Linux may hold
  back a process that used up its CPU quota (cpu.cfs_period_us, Kubernetes' default).
- idle: half the path's, so that a sweep each quarter of it is still in time; at most 10 min, bb8's
  and HikariCP's default, after which a peak's connections are no longer needed.
- keepalive: three probes within the path's timeout, at most 30/5/3 s as in redis-py and go-redis.
- lifetime: 30 min, bb8's and HikariCP's default: connections follow a failover or new nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.sizing.hops import Hop
from bench.sizing.pools import Load, Size
from bench.sizing.quantities import span

RTO_MIN_S = 0.2
SYN_AGAIN_S = 1.0
ROUND_TRIPS = 5
CPU_PERIOD_S = 0.1
MOST_IDLE_S = 600
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 30, 5, 3
LIFETIME_S, JITTER_SHARE = 1_800, 0.1
_STEPS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `ping_after_idle_s`: whoever cannot close an idle connection at `idle_timeout_s`
    must try one that was idle so long with a PING; `passive_is_enough` where the path closes
    connections so that a look at the socket tells. `held_up_requests`: of one pod, while Redis
    hangs: a request in each connection, and those that wait for one until they time out."""

    acquire_timeout_s: float
    command_timeout_s: float
    connect_timeout_s: float
    idle_timeout_s: int
    sweep_interval_s: int
    keepalive_idle_s: int
    keepalive_interval_s: int
    keepalive_probes: int
    ping_after_idle_s: int
    passive_is_enough: bool
    lifetime_s: int
    lifetime_jitter_s: int
    held_up_requests: int
    reasons: dict[str, str]


def derived(load: Load, size: Size, hop: Hop, connections_total: int) -> Timeouts:
    """The timeouts for a pool of `size` under `load` on a path that `hop` closes first."""
    by_formula_s = size.wait_p999_s or 0
    wait_p999_s = max(by_formula_s, size.simulated_wait_p999_s or 0)
    acquire_s = _rounded_up(max(CPU_PERIOD_S, 3 * wait_p999_s))
    command_s = _rounded_up(RTO_MIN_S + 2 * load.hold.p999_s)
    path_s = hop.closes_after_s or math.inf
    idle_s = int(min(MOST_IDLE_S, path_s // 2))
    keepalive_s = max(1, int(min(KEEPALIVE_IDLE_S, path_s // KEEPALIVE_PROBES)))
    held_up = size.connections + math.ceil(load.rate_per_s * acquire_s)
    return Timeouts(
        acquire_timeout_s=acquire_s,
        command_timeout_s=command_s,
        connect_timeout_s=_rounded_up(SYN_AGAIN_S + ROUND_TRIPS * load.hold.p999_s),
        idle_timeout_s=idle_s,
        sweep_interval_s=idle_s // 2,
        keepalive_idle_s=keepalive_s,
        keepalive_interval_s=min(KEEPALIVE_INTERVAL_S, keepalive_s),
        keepalive_probes=KEEPALIVE_PROBES,
        ping_after_idle_s=idle_s,
        passive_is_enough=hop.sees == "closed",
        lifetime_s=LIFETIME_S,
        lifetime_jitter_s=round(LIFETIME_S * JITTER_SHARE),
        held_up_requests=held_up,
        reasons={
            "acquire timeout": _why_acquire(wait_p999_s, wait_p999_s == by_formula_s, held_up),
            "command timeout": f"2 × the p99.9 hold time of {span(load.hold.p999_s)}, and "
            f"{span(RTO_MIN_S)} in which TCP repairs a lost packet",
            "connect timeout": f"{span(SYN_AGAIN_S)} after which TCP repeats a lost SYN, and "
            f"{ROUND_TRIPS} p99.9 hold times for TCP, TLS and AUTH",
            "idle timeout": _why_idle(hop, idle_s),
            "keepalive": _why_keepalive(hop),
            "validation": _why_validation(hop, idle_s),
            "lifetime": f"± {JITTER_SHARE:.0%}, so that connections follow a failover but do not "
            f"all reconnect at once: one every {span(LIFETIME_S / connections_total)} in all",
        },
    )


def _why_acquire(wait_p999_s: float, by_formula: bool, held_up: int) -> str:
    whose = "Erlang C" if by_formula else "simulated"
    return (
        f"3 × the p99.9 wait of {span(wait_p999_s)} ({whose}), and at least the "
        f"{span(CPU_PERIOD_S)} for which a CPU quota may stop a process; if Redis hangs, it lets "
        f"at most {held_up:,} requests of a pod wait at once"
    )


def _why_idle(hop: Hop, idle_s: int) -> str:
    if hop.closes_after_s is None:
        return f"{hop.name} is off by default and closes none; gives back what a peak opened"
    most = f"at most {span(MOST_IDLE_S)}, and " if idle_s == MOST_IDLE_S else ""
    return (
        f"{most}below the {span(hop.closes_after_s)} after which {hop.name} drops an "
        "idle connection; half of it leaves a sweep its time"
    )


def _why_keepalive(hop: Hop) -> str:
    if hop.refreshed:
        return f"its probes count as traffic at {hop.name}, and find dead peers"
    return "finds dead peers; does not count as traffic for Redis' timeout or for a proxy"


def _why_validation(hop: Hop, idle_s: int) -> str:
    if hop.sees == "closed":
        return f"{hop.name} closes with a FIN or RST, which a look at the socket on borrow sees"
    ends = {
        "reset": "sends its RST only after the next packet",
        "silence": "drops packets in silence",
        "unknown": "may drop packets in silence",
    }
    return (
        f"a look at the socket on borrow sees a FIN or RST; {hop.name} {ends[hop.sees]}, so close "
        f"what was idle for {span(idle_s)}, or try it with a PING where the client cannot"
    )


def _rounded_up(seconds: float) -> float:
    """To the next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten: more digits would claim
    more than is known."""
    power = 10.0 ** math.floor(math.log10(seconds))
    step = next(step for step in _STEPS if step * power >= seconds * (1 - 1e-9))
    return round(step * power, 9)
